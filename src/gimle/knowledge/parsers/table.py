"""Tables in text files: CSV with comma, semicolon or tab."""

import csv
import io

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
    """The candidate that cuts the first lines into the most cells."""
    head = text.split("\n", 5)[:5]
    return max(
        ",;\t|", key=lambda candidate: min(line.count(candidate) for line in head if line.strip() or len(head) == 1)
    )
