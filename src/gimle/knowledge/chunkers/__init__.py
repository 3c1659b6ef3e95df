"""Chunkers: one file a way of cutting, and the file's name is the chunker's name.

A chunker is pure and has `cut(parsed: Parsed, limit: int, count: Callable[[str], int]) -> list[Cut]`: stretches of the
text in order, none longer than `limit` tokens by `count`, which together hold every word.
"""
