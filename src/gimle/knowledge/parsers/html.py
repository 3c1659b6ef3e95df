"""HTML, without navigation, scripts and styles."""

import codecs
import re

from gimle.knowledge import extraction, layout, markup, sniff
from gimle.knowledge.types import Parsed

READS = {"text/html": ("html", "htm"), "application/xhtml+xml": ("xhtml",)}
ISOLATED = True

_CHARSET = re.compile(rb"<meta[^>]{1,200}charset=[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.I)
# As browsers do: who names Latin 1 writes Windows-1252, and a page in which this name can be read is not UTF-16.
_MISNAMED = ("iso8859-1", "utf-16", "utf-16-le", "utf-16-be")
# The library writes these into the text as a YAML head; they are about the page, not of it.
_ABOUT = re.compile(r"<title\b[^>]*>[^<]*</title\s*>|<meta\b[^>]*>", re.I)


def parse(data: bytes, media_type: str) -> Parsed:
    """The page's own text with its headings, lists and tables."""
    page = _ABOUT.sub("", _decode(data))
    result = extraction.extract(page.encode("utf-8", "replace"), "text/html")
    return layout.assemble(markup.pieces(result.content))


def _decode(data: bytes) -> str:
    """By the charset which the page names, if it holds; the library itself takes everything for UTF-8."""
    named = _CHARSET.search(data[:4096])
    if named is None:
        return sniff.decode(data)
    try:
        name = codecs.lookup(named.group(1).decode("ascii")).name
        return sniff.decode(data) if name in _MISNAMED else data.decode(name)
    except (LookupError, UnicodeDecodeError):
        return sniff.decode(data)
