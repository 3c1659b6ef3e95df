"""Tables in text files: CSV with comma, semicolon or tab."""

import csv
import io
from collections import Counter

from gimle.foundation.errors import UnreadableDocument
from gimle.knowledge import layout, sniff
from gimle.knowledge.types import Parsed

READS = {"text/csv": ("csv",), "text/tab-separated-values": ("tsv", "tab")}
ISOLATED = False


def parse(data: bytes, media_type: str) -> Parsed:
    """One row a block; with a header, each row names its columns."""
    text = sniff.decode(data)
    delimiter = "\t" if media_type == "text/tab-separated-values" else _delimiter(text)
    try:
        cells = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as wrong:
        raise UnreadableDocument(
            f"The table can't be read: {wrong}.", hint="Quote cells that hold line breaks."
        ) from wrong
    return layout.assemble(layout.records(cells))


def _delimiter(text: str) -> str:
    """The candidate that cuts the most of the first lines into as many cells; of equals the first, and the comma, which
    stands in texts and numbers too, last.
    """
    head = [line for line in text.split("\n", 20)[:20] if line.strip()]
    cuts = {candidate: [line.count(candidate) for line in head if candidate in line] for candidate in "\t;|,"}
    return max(cuts, key=lambda candidate: (max(Counter(cuts[candidate]).values(), default=0), len(cuts[candidate])))
