"""Cut along the structure: a chunk never crosses a heading or a page, and breaks inside a block only when it must.

A chunk is one stretch of the text, so it can be checked and shown by its offsets. It begins with the headings right
above it; those further up stand in its heading path. What is too long is cut between sentences, words, or characters.
"""

import re
from collections.abc import Callable, Iterator

from gimle.knowledge.types import PATH, Block, Cut, Parsed

Count = Callable[[str], int]
Span = tuple[int, int]

# After the mark that ends a sentence comes a blank and something that begins one; or the line ends.
_SENTENCE = re.compile(r"(?:(?<=[.!?…])|(?<=[.!?…][\"'”’»)\]]))\s+(?=[\"'“„«(\[]?[A-ZÀ-ÖØ-Þ0-9])|\n")
_BLANK = re.compile(r"\s+")
_LONGEST_PATH = 300


def cut(parsed: Parsed, limit: int, count: Count) -> list[Cut]:
    """The chunks of a document; `limit` is in tokens as `count` counts them, at least 1."""
    cuts: list[Cut] = []
    for run, path in _sections(parsed):
        for start, end in _packed(parsed.text, run, limit, count):
            cuts.append(Cut(start, end, run[0].page, _with_header(parsed.text, run, start, path)))
    return cuts


def _sections(parsed: Parsed) -> Iterator[tuple[list[Block], str | None]]:
    """Runs of blocks on one page under one heading, each with its heading path. Headings in a row stay together."""
    trail: list[tuple[int, str]] = []
    run: list[Block] = []
    path: str | None = None
    for block in parsed.blocks:
        new_section = block.kind == "heading" and any(other.kind != "heading" for other in run)
        if run and (new_section or block.page != run[-1].page):
            yield run, path
            run = []
        if block.kind == "heading":
            trail = [step for step in trail if step[0] < block.level]
            trail.append((block.level, " ".join(parsed.text[block.start : block.end].split())))
            path = PATH.join(name for _, name in trail)[:_LONGEST_PATH]
        run.append(block)
    if run:
        yield run, path


def _with_header(text: str, run: list[Block], start: int, path: str | None) -> str | None:
    """A chunk that begins amid a table has the table's header as the last step of its path."""
    header: Block | None = None
    for block in run:
        if block.end > start:
            in_table = block.kind == "row" and header is not None and block is not header
            return (
                PATH.join(filter(None, (path, text[header.start : header.end][:200]))) if in_table and header else path
            )
        header = block if block.kind == "row" and block.level else (header if block.kind == "row" else None)
    return path


def _packed(text: str, run: list[Block], limit: int, count: Count) -> Iterator[Span]:
    """Fill chunks with whole units up to the limit. Counts add up nearly, so each chunk is counted as a whole too."""
    start, end, used = run[0].start, run[0].start, 0
    for unit_start, unit_end in _units(text, run, limit, count):
        size = count(text[unit_start:unit_end])
        if used and (used + size > limit or count(text[start:unit_end]) > limit):
            yield start, end
            start, used = unit_start, 0
        end, used = unit_end, used + size
    yield start, end


def _units(text: str, run: list[Block], limit: int, count: Count) -> Iterator[Span]:
    for block in run:
        span = (block.start, block.end)
        if count(text[block.start : block.end]) <= limit:
            yield span
        else:
            yield from _broken(text, span, limit, count, _SENTENCE)


def _broken(text: str, span: Span, limit: int, count: Count, at: re.Pattern[str]) -> Iterator[Span]:
    """The parts of a span between the places that match; a part still too long is broken between words, or anywhere."""
    for start, end in _between(text, span, at):
        if count(text[start:end]) <= limit:
            yield start, end
        elif at is _SENTENCE:
            yield from _broken(text, (start, end), limit, count, _BLANK)
        else:
            yield from _halves(text, start, end, limit, count)


def _between(text: str, span: Span, at: re.Pattern[str]) -> Iterator[Span]:
    start, stop = span
    for gap in at.finditer(text, start, stop):
        if text[start : gap.start()].strip():
            yield start, gap.start()
        start = gap.end()
    if text[start:stop].strip():
        yield start, stop


def _halves(text: str, start: int, end: int, limit: int, count: Count) -> Iterator[Span]:
    """A word longer than a chunk (a key, a line of an image in base64) is cut in two until it fits."""
    if end - start == 1 or count(text[start:end]) <= limit:
        yield start, end
        return
    middle = (start + end) // 2
    yield from _halves(text, start, middle, limit, count)
    yield from _halves(text, middle, end, limit, count)
