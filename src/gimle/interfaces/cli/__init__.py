"""The command line: click reads, rich draws, and the calls go through `gimle.client` to a server like any other's.

Only `up`, `serve`, `worker`, `migrate`, `setup` and `doctor` open Gimle itself. No other door is imported from here.
"""
