"""Markdown, as people write it."""

from gimle.knowledge import layout, markup, sniff
from gimle.knowledge.types import Parsed

READS = {"text/markdown": ("md", "markdown", "mdown")}
ISOLATED = False


def parse(data: bytes, media_type: str) -> Parsed:
    """Headings, paragraphs, items, rows and code, without the marks."""
    return layout.assemble(markup.pieces(sniff.decode(data)))
