"""Markdown into pieces: headings, paragraphs, list items, table rows, code. Pure.

What we keep is what a reader sees: emphasis marks, link targets and HTML comments go, words stay. Reads Markdown that
people write and what the extraction library makes of HTML and Office files. Every step is linear in the text.
"""

import re
from collections.abc import Callable, Iterator

from gimle.knowledge.layout import Piece, rows

_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.*)")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,9}[.)])[ \t]+\S")
_RULE = re.compile(r" {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_TABLE = re.compile(r"\s*\|.*\|\s*$")
_YAML = re.compile(r"#|[\w.-]+[ \t]*:(?:\s|$)")
_TABLE_RULE = re.compile(r"[\s|:\-]+$")

_INLINE = (
    (re.compile(r"<!--(?:[^<>]|<(?!!--))*-->"), ""),
    (re.compile(r"!\[([^\[\]]{0,300})\]\([^()\s]{0,2000}(?:\s\"[^\"]{0,300}\")?\)"), r"\1"),
    (re.compile(r"\[([^\[\]]{1,500})\]\([^()\s]{0,2000}(?:\s\"[^\"]{0,300}\")?\)"), r"\1"),
    (re.compile(r"<(https?://[^<>\s]{1,2000})>"), r"\1"),
    (re.compile(r"</?(?:b|i|em|strong|u|sub|sup|span|br|a|p|div|font)(?:\s[^<>]{0,500})?/?>", re.IGNORECASE), ""),
    (re.compile(r"(?<![\w*\\])\*{1,3}(?=\S)([^*\n]{1,500}?)(?<=\S)\*{1,3}(?![\w*])"), r"\1"),
    (re.compile(r"(?<![\w_\\])_{1,3}(?=\S)([^_\n]{1,500}?)(?<=\S)_{1,3}(?![\w_])"), r"\1"),
    (re.compile(r"~~([^~\n]{1,500})~~"), r"\1"),
    (re.compile(r"`([^`\n]{1,500})`"), r"\1"),
    (re.compile(r"\\([\\`*_{}\[\]()#+\-.!|>~])"), r"\1"),
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&nbsp;": " "}
_ENTITY = re.compile("|".join(_ENTITIES))


def pieces(markdown: str, table: Callable[[list[list[str]]], list[Piece]] = rows) -> Iterator[Piece]:
    """The blocks of a Markdown text in order; `table` says what becomes of the cells of a table."""
    lines = _without_front_matter(markdown.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    at = 0
    while at < len(lines):
        line = lines[at]
        if fence := _FENCE.match(line):
            end = _closing(lines, at + 1, fence.group(1))
            yield Piece("code", "\n".join(lines[at + 1 : end]))
            at = end + 1
        elif heading := _HEADING.match(line):
            yield Piece("heading", inline(heading.group(2).rstrip().rstrip("#")), level=len(heading.group(1)))
            at += 1
        elif _TABLE.match(line):
            end = _while(lines, at, _TABLE)
            yield from table([_cells(row) for row in lines[at:end] if not _TABLE_RULE.match(row)])
            at = end
        elif not line.strip() or _RULE.match(line):
            at += 1
        else:
            at, piece = _paragraph(lines, at)
            yield piece


def inline(text: str) -> str:
    """A run of text without its inline marks; what is escaped stays as the character meant."""
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return _ENTITY.sub(lambda found: _ENTITIES[found.group()], text)


def _paragraph(lines: list[str], at: int) -> tuple[int, Piece]:
    """A paragraph or a list item, up to an empty line or another block's begin; underlined, it is a heading."""
    is_item = _ITEM.match(lines[at]) is not None
    end = at + 1
    while end < len(lines) and not _begins(lines[end]):
        if not is_item and (line := _UNDERLINE.match(lines[end])):
            level = 1 if line.group(1)[0] == "=" else 2
            return end + 1, Piece("heading", inline(" ".join(lines[at:end])), level=level)
        end += 1
    text = inline("\n".join(line.lstrip(" >\t") for line in lines[at:end]))
    return end, Piece("item" if is_item else "text", text.replace("\n", " ") if is_item else text)


def _begins(line: str) -> bool:
    if not line.strip():
        return True
    return any(pattern.match(line) for pattern in (_HEADING, _FENCE, _ITEM, _TABLE)) or (
        _RULE.match(line) is not None and _UNDERLINE.match(line) is None
    )


def _closing(lines: list[str], at: int, fence: str) -> int:
    while at < len(lines) and not lines[at].strip().startswith(fence):
        at += 1
    return at


def _while(lines: list[str], at: int, pattern: re.Pattern[str]) -> int:
    while at < len(lines) and pattern.match(lines[at]):
        at += 1
    return at


def _cells(row: str) -> list[str]:
    inner = row.strip().removeprefix("|").removesuffix("|")
    return [inline(cell.replace("\x00", "|").strip()) for cell in inner.replace("\\|", "\x00").split("|")]


def _without_front_matter(lines: list[str]) -> list[str]:
    """Leave out a YAML block between `---` lines at the very top; it is about the text, not of it."""
    if len(lines) < 2 or lines[0].strip() != "---" or not _YAML.match(lines[1]):
        return lines
    for at, line in enumerate(lines[1:60], start=1):
        if line.strip() == "---":
            return lines[at + 1 :]
    return lines
