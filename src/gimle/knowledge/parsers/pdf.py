"""PDF: text with the page it stands on, headings by size of type, without running headers and page numbers."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from gimle.knowledge import extraction, layout
from gimle.knowledge.layout import Piece
from gimle.knowledge.types import Parsed

READS = {"application/pdf": ("pdf",)}
ISOLATED = True

_ITEM = re.compile(r"(?:[-*•‣◦▪]|\d{1,3}[.)]|[a-z]\))\s+\S")
_PAGE_NUMBER = re.compile(
    r"(?:(?:page|seite|p\.|s\.)\s*)?[-–—]?\s*\d{1,4}\s*[-–—]?(?:\s*(?:of|von|/)\s*\d{1,4})?", re.I
)
# A word broken at the end of a line: what is left is U+0002 or a soft hyphen. Before a capital the hyphen was real.
_BROKEN = re.compile(r"[\x02\xad]\s*(?=[a-zà-öø-ÿ])")
_KEPT_HYPHEN = re.compile(r"[\x02\xad]\s*")


def parse(data: bytes, media_type: str) -> Parsed:
    """The blocks of all pages in order. Raises `UnreadableDocument` when the file is locked or broken."""
    import kreuzberg

    result = extraction.extract(
        data, media_type, include_document_structure=True, pages=kreuzberg.PageConfig(extract_pages=True)
    )
    # The library's own types leave open what a PDF always has.
    document: Mapping[str, Any] = msgspec.to_builtins(result.document)
    about: Mapping[str, Any] = msgspec.to_builtins(result.metadata)
    nodes: Sequence[Mapping[str, Any]] = document["nodes"]
    heights = {page["number"]: page["dimensions"][1] for page in about["pages"]["pages"]}
    contents = {page["page_number"]: page["content"] for page in result.pages or ()}
    placed = [(piece, _in_margin(node, heights)) for node in nodes for piece in _pieces(node)]
    return layout.assemble(_without_furniture(list(_complete(placed, contents)), len(heights)), len(heights))


def _pieces(node: Mapping[str, Any]) -> Iterator[Piece]:
    content, page = node["content"], node.get("page")
    kind, text = content["node_type"], _joined(content.get("text") or "")
    if kind == "table":
        yield from layout.rows(_cells(content["grid"]), page)
    elif kind == "heading" and _heads(text):
        yield Piece("heading", text, level=content.get("level", 1), page=page)
    elif kind == "code":
        yield Piece("code", text, page=page)
    elif text and kind != "group":
        yield Piece("item" if kind == "list_item" or _ITEM.match(text) else "text", text, page=page)


def _heads(text: str) -> bool:
    """The library takes type size for rank, and in a short document takes sentences and items for headings too."""
    return len(text) <= 200 and not text.endswith((".", ",", ";")) and not _ITEM.match(text)


def _joined(text: str) -> str:
    """A paragraph in one line, with the words whole that the end of a line had broken."""
    return " ".join(_unbroken(text).split())


def _unbroken(text: str) -> str:
    return _KEPT_HYPHEN.sub("-", _BROKEN.sub("", text))


def _cells(grid: Mapping[str, Any]) -> list[list[str]]:
    table = [["" for _ in range(grid["cols"])] for _ in range(grid["rows"])]
    for cell in grid["cells"]:
        table[cell["row"]][cell["col"]] = cell["content"]
    return table


def _in_margin(node: Mapping[str, Any], heights: Mapping[int, float]) -> bool:
    """Whether a block stands wholly in the top or bottom tenth of its page (the origin is at the bottom left)."""
    box, height = node.get("bbox"), heights.get(node.get("page", 0))
    if box is None or height is None:
        return False
    return bool(box["y0"] > 0.9 * height or box["y1"] < 0.1 * height)


def _complete(placed: Sequence[tuple[Piece, bool]], contents: Mapping[int, str]) -> Iterator[tuple[Piece, bool]]:
    """The pieces page by page. The library's structure loses blocks, of short letters most of all: a page of whose
    letters and digits more than a tenth is missing, page numbers aside, is taken as it stands, as one piece.
    """
    found: dict[int | None, list[tuple[Piece, bool]]] = defaultdict(list)
    for piece, in_margin in placed:
        found[piece.page].append((piece, in_margin))
    for page in dict.fromkeys([*contents, *found]):
        content = contents.get(page or 0, "")
        there = _letters(line for line in content.splitlines() if not _PAGE_NUMBER.fullmatch(_joined(line)))
        if 10 * (there - _letters(piece.text for piece, _ in found[page])).total() > there.total():
            yield Piece("text", _unbroken(content), page=page), False
        else:
            yield from found[page]


def _letters(texts: Iterable[str]) -> Counter[str]:
    return Counter(char for text in texts for char in text if char.isalnum())


def _without_furniture(placed: Sequence[tuple[Piece, bool]], pages: int) -> Iterator[Piece]:
    """Leave out what stands in the margin of most pages word for word, and bare page numbers there."""
    often = Counter(piece.text for piece, in_margin in placed if in_margin)
    repeated = {text for text, count in often.items() if count >= 3 and 2 * count > pages}
    for piece, in_margin in placed:
        if not (in_margin and (piece.text in repeated or _PAGE_NUMBER.fullmatch(piece.text))):
            yield piece
