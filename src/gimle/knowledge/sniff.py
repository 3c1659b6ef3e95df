"""What a file really is: decided by its first bytes, and by its name only where bytes can't tell. Pure.

A PDF called `notes.txt` is read as the PDF that it is. A name that promises a format which the bytes break (a program
called `report.pdf`) is refused with both facts.
"""

import io
import re
import zipfile
from collections.abc import Mapping

from gimle.foundation.errors import InvalidRequest, UnreadableDocument, UnsupportedDocument

TEXT = "text/plain"
PDF = "application/pdf"
HTML = "text/html"
_OFFICE = "application/vnd.openxmlformats-officedocument."
DOCX = _OFFICE + "wordprocessingml.document"
XLSX = _OFFICE + "spreadsheetml.sheet"
PPTX = _OFFICE + "presentationml.presentation"
EPUB = "application/epub+zip"
RTF = "application/rtf"

# An archive may hold this much when unpacked; a file above it is refused before anything unpacks it.
MOST_UNPACKED = 512 << 20
_MOST_ENTRIES = 20_000

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"{\\rtf", RTF),
    (b"\x7fELF", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"II*\x00", "a picture"),
    (b"MM\x00*", "a picture"),
    (b"\x1f\x8b", "a compressed archive"),
    (b"\xfd7zXZ", "a compressed archive"),
    (b"7z\xbc\xaf", "a compressed archive"),
    (b"\x28\xb5\x2f\xfd", "a compressed archive"),
    (b"\xd0\xcf\x11\xe0", "a file of an old Office program, or an encrypted one"),
)
# With these letters a text may begin too.
_LETTERS: tuple[tuple[bytes, str], ...] = (
    (b"MZ", "a Windows program"),
    (b"GIF8", "a picture"),
    (b"BZh", "a compressed archive"),
    (b"Rar!", "a compressed archive"),
    (b"ID3", "a sound file"),
    (b"OggS", "a sound file"),
    (b"SQLite format 3", "a database"),
)
# What was taken for a comment stays one (`?>`): who tries it in all ways needs twice the time for each comment more.
_HTML = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?><!--.{0,2000}?-->\s*)*<(?:!doctype\s+html|html)\b", re.I | re.S)


def media_type(name: str, declared: str | None, data: bytes, known: Mapping[str, str]) -> str:
    """The media type by which `data` is to be parsed; `known` maps extensions (without the dot) to media types.

    Raises `InvalidRequest` for an empty file, `UnsupportedDocument` for what no parser reads or what is not what its
    name says, and `UnreadableDocument` for an archive that would unpack to too much.
    """
    if not data:
        raise InvalidRequest("The file is empty.", field="file", hint="Upload a file that has content.")
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    named = known.get(extension) or (declared.partition(";")[0].strip() if declared else None)
    found = _by_content(data)
    if found is not None:
        if found in known.values():
            return found
        raise _unsupported(name, f"is {found}", known)
    if not _is_text(data):
        raise _unsupported(name, "holds bytes that are neither text nor a known format", known)
    if _HTML.match(data[:4096]):
        return HTML
    if named in known.values() and named is not None and _is_textual(named):
        return named
    if extension in known:
        raise _unsupported(name, f"is plain text and no {extension.upper()} file", known)
    return TEXT


def decode(data: bytes) -> str:
    """The text of a text file: UTF-8 or UTF-16 by its mark, else UTF-8, else Windows-1252. Never raises.

    A few broken bytes in what is otherwise UTF-8 become U+FFFD; a file whose only non-ASCII bytes are broken UTF-8 was
    written in the old Western encoding.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    text = data.decode("utf-8-sig", "replace")
    broken = text.count("\ufffd")
    if not broken:
        return text
    sound = sum(1 for char in text if char > "\x7f") - broken
    return text if sound >= broken else data.decode("cp1252", "replace")


def check_archive(data: bytes) -> None:
    """Refuse an archive whose own table of contents says that it unpacks to too much. Reads nothing else."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as broken:
        raise UnreadableDocument("The file is damaged: its archive has no valid table of contents.") from broken
    if len(entries) > _MOST_ENTRIES or sum(entry.file_size for entry in entries) > MOST_UNPACKED:
        raise bomb()
    if any(entry.flag_bits & 1 for entry in entries):
        raise UnreadableDocument("The file is encrypted.", hint="Save it without a password and upload it again.")


def bomb() -> UnreadableDocument:
    """The refusal of an archive that unpacks to more than anyone would write."""
    return UnreadableDocument(
        f"The file unpacks to more than {MOST_UNPACKED >> 20} MB or {_MOST_ENTRIES} parts; it was not opened.",
        hint="Split the document.",
    )


def _by_content(data: bytes) -> str | None:
    """A media type, a few words for what no parser reads, or `None` when the bytes have no mark."""
    if data.startswith(b"%PDF-") or (b"%PDF-" in data[:1024] and not _is_text(data)):
        return PDF
    if data.startswith(b"PK\x03\x04") or data.startswith(b"PK\x05\x06"):
        return _in_archive(data)
    if kind := next((kind for mark, kind in _MAGIC if data.startswith(mark)), None):
        return kind
    return next((kind for mark, kind in _LETTERS if data.startswith(mark) and not _is_text(data)), None)


def _in_archive(data: bytes) -> str:
    check_archive(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = set(archive.namelist())
        if "mimetype" in names and archive.getinfo("mimetype").file_size < 200:
            return archive.read("mimetype").decode("ascii", "replace").strip()
    for part, kind in (("word/document.xml", DOCX), ("xl/workbook.xml", XLSX), ("ppt/presentation.xml", PPTX)):
        if part in names:
            return kind
    return "a ZIP archive"


def _is_text(data: bytes) -> bool:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return len(data) % 2 == 0
    control = sum(data.count(byte) for byte in (*range(9), 11, *range(14, 27), *range(28, 32), 127))
    return b"\x00" not in data and control * 100 <= len(data)


def _is_textual(kind: str) -> bool:
    return kind.startswith("text/") or kind in ("application/xhtml+xml", "message/rfc822")


def _unsupported(name: str, what: str, known: Mapping[str, str]) -> UnsupportedDocument:
    return UnsupportedDocument(
        f"{name!r} {what}.", field="file", hint=f"Supported: {', '.join(sorted(known))}, and any plain text."
    )
