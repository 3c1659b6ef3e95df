"""From pieces of text to one text with blocks: the last step of every parser. Pure."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import msgspec

from gimle.knowledge.types import Block, BlockKind, Parsed

_BLANKS = re.compile(r"[^\S\n]+")
# All control characters but tab and line feed, which PostgreSQL or a terminal would choke on, and lone surrogates.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufeff]")


class Piece(msgspec.Struct, frozen=True):
    """One block of a document on its way, still with its own text."""

    kind: BlockKind
    text: str
    level: int = 0
    page: int | None = None


def assemble(pieces: Iterable[Piece], pages: int | None = None) -> Parsed:
    """Join the pieces: list items by a line feed, all else by an empty line, so that a row of a table, which may be
    long and has no full stop, is never taken for a line of a paragraph. Empty pieces vanish.
    """
    parts: list[str] = []
    blocks: list[Block] = []
    length = 0
    for piece in pieces:
        text = _clean(piece)
        if not text:
            continue
        if blocks:
            separator = "\n" if piece.kind == blocks[-1].kind == "item" else "\n\n"
            parts.append(separator)
            length += len(separator)
        parts.append(text)
        blocks.append(Block(piece.kind, length, length + len(text), piece.level, piece.page))
        length += len(text)
    return Parsed("".join(parts), tuple(blocks), pages)


def records(cells: Sequence[Sequence[str]]) -> list[Piece]:
    """A table of data, such as CSV, as one line a row. With a header, each row says its column names, so that it can be
    read and found alone: `Month: June; Hours: 5`. Empty cells are left out.
    """
    table = _squeezed(cells)
    if len(table) < 2 or not _is_header(table[0]):
        return rows(cells)
    return [Piece("row", _record(table[0], row)) for row in table[1:]]


def rows(cells: Sequence[Sequence[str]], page: int | None = None) -> list[Piece]:
    """A table in a text as one line a row, as it stands there: `June | 5`. A header has the level 1."""
    table = _squeezed(cells)
    level = 1 if len(table) > 1 and _is_header(table[0]) else 0
    return [
        Piece("row", " | ".join(cell for cell in row if cell), level=level if at == 0 else 0, page=page)
        for at, row in enumerate(table)
    ]


def _squeezed(cells: Sequence[Sequence[str]]) -> list[list[str]]:
    table = ([" ".join(cell.split()) for cell in row] for row in cells)
    return [row for row in table if any(row)]


def _is_header(row: Sequence[str]) -> bool:
    """A header names every column, and no name is a number or a sentence."""
    return all(cell and len(cell) <= 80 and not re.fullmatch(r"[\d.,%€$ +-]+", cell) for cell in row)


def _record(header: Sequence[str], row: Sequence[str]) -> str:
    named = [f"{name}: {cell}" for name, cell in zip(header, row, strict=False) if cell]
    return "; ".join([*named, *(cell for cell in row[len(header) :] if cell)])


def _clean(piece: Piece) -> str:
    text = _CONTROL.sub("", unicodedata.normalize("NFC", piece.text.replace("\r\n", "\n").replace("\r", "\n")))
    if piece.kind == "code":
        return text.strip("\n").rstrip()
    lines = (_BLANKS.sub(" ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)
