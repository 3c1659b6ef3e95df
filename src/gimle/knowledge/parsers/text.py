"""Plain text: paragraphs are what stands between empty lines."""

import re

from gimle.knowledge import layout, sniff
from gimle.knowledge.types import Parsed

READS = {"text/plain": ("txt", "text", "log")}
ISOLATED = False

_GAP = re.compile(r"\n[^\S\n]*\n\s*")
_ITEM = re.compile(r"\s*(?:[-*•]|\d{1,3}[.)])\s+\S")


def parse(data: bytes, media_type: str) -> Parsed:
    """Keep the words and the paragraphs; a line that begins like a list item is one."""
    text = sniff.decode(data).replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n")
    return layout.assemble(piece for part in _GAP.split(text) for piece in _pieces(part))


def _pieces(part: str) -> list[layout.Piece]:
    lines = part.split("\n")
    if not any(_ITEM.match(line) for line in lines):
        return [layout.Piece("text", part)]
    pieces: list[list[str]] = []
    for line in lines:
        if _ITEM.match(line) or not pieces:
            pieces.append([line])
        else:
            pieces[-1].append(line)
    return [layout.Piece("item" if _ITEM.match(piece[0]) else "text", "\n".join(piece)) for piece in pieces]
