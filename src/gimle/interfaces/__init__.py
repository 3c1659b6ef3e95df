"""The doors: HTTP, command line. Protocol work only: parse, authorise, call a room, shape the answer.

May import every room.
"""
