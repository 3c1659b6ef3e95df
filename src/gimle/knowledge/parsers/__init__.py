"""Parsers: one file a family of formats, and the file's name is the parser's name.

A parser has `READS` (media type -> extensions), `ISOLATED` (whether a small file too is read in the sandbox) and
`parse(data: bytes, media_type: str) -> Parsed`. Modules are also imported only to learn what they read, so a heavy
library is imported inside `parse`.
"""
