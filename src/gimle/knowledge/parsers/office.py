"""Office files, books and mail: whatever the extraction library turns into Markdown. Archives are unpacked in a dry run
first, so that a bomb is refused by what it really holds and not by what it says.
"""

import io
import zipfile
import zlib

from gimle.foundation.errors import UnreadableDocument
from gimle.knowledge import extraction, layout, markup, sniff
from gimle.knowledge.types import Parsed

_ODS = "application/vnd.oasis.opendocument.spreadsheet"
_SHEETS = (sniff.XLSX, _ODS)
READS = {
    sniff.DOCX: ("docx",),
    sniff.XLSX: ("xlsx",),
    sniff.PPTX: ("pptx",),
    "application/vnd.oasis.opendocument.text": ("odt",),
    _ODS: ("ods",),
    sniff.EPUB: ("epub",),
    sniff.RTF: ("rtf",),
    "message/rfc822": ("eml",),
}
ISOLATED = True


def parse(data: bytes, media_type: str) -> Parsed:
    """Headings, paragraphs, lists and tables. Raises `UnreadableDocument` for a bomb, a locked or a broken file."""
    if data.startswith(b"PK"):
        _unpack_dry(data)
    table = layout.records if media_type in _SHEETS else layout.rows
    return layout.assemble(markup.pieces(extraction.extract(data, media_type).content, table))


def _unpack_dry(data: bytes) -> None:
    sniff.check_archive(data)
    total = 0
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            try:
                with archive.open(entry) as part:
                    while block := part.read(1 << 20):
                        total += len(block)
                        if total > sniff.MOST_UNPACKED:
                            raise sniff.bomb()
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as broken:
                raise UnreadableDocument("The file is damaged: a part of its archive can't be unpacked.") from broken
