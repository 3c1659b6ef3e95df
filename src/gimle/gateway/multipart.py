"""Forms as browsers and SDKs send them (`multipart/form-data`): where each field stands in bytes that stay. Pure."""

import re
from collections.abc import Mapping

import msgspec

from gimle.foundation.errors import InvalidRequest

_BOUNDARY = re.compile(r'^multipart/form-data\s*;.*?\bboundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.I | re.S)
_PARAMETER = re.compile(r';\s*(name|filename)\*?=(?:"((?:[^"\\]|\\.)*)"|([^\s;]+))', re.I)
_MOST_FIELDS = 64
_LARGEST_HEAD = 8192


class Field(msgspec.Struct, frozen=True):
    """One field: its bytes are those from `start` to `end`. `filename` is told where it carries a file."""

    start: int
    end: int
    filename: str | None = None

    @property
    def file(self) -> bool:
        """Whether it carries a file."""
        return self.filename is not None


class Form:
    """A form, and where its fields stand. Raises `InvalidRequest` for a body that is none."""

    def __init__(self, body: bytes, content_type: str) -> None:
        named = _BOUNDARY.match(content_type.strip())
        if named is None:
            raise InvalidRequest(
                f"The body must be multipart/form-data with a boundary, not {content_type[:80] or 'nothing'!r}.",
                field="content-type",
                hint="curl -F model=whisper-1 -F file=@speech.mp3",
            )
        self.content_type = content_type
        self.body = body
        self._fields: Mapping[str, tuple[Field, ...]] = _fields(body, (named[1] or named[2]).encode("latin-1"))

    def field(self, name: str) -> Field | None:
        """The field of a name, which must not come twice. Raises `InvalidRequest`."""
        found = self._fields.get(name, ())
        if len(found) > 1:
            raise InvalidRequest(f"The form has {len(found)} fields named {name}.", field=name)
        return found[0] if found else None

    def text(self, name: str) -> str | None:
        """The text of a field, None where there is none. Raises `InvalidRequest` when it is no text."""
        field = self.field(name)
        if field is None:
            return None
        try:
            return self.body[field.start : field.end].decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest(f"{name} is not valid UTF-8.", field=name) from None

    def put(self, name: str, text: str) -> None:
        """Give a field that is there another text. The form is held once: the body before it is let go."""
        field, new = self.field(name), text.encode("utf-8")
        if field is None or self.body[field.start : field.end] == new:
            return
        old = memoryview(self.body)
        self.body = b"".join((old[: field.start], new, old[field.end :]))
        grown = len(new) - (field.end - field.start)
        self._fields = {
            key: tuple(_moved(each, field, grown) for each in fields) for key, fields in self._fields.items()
        }


def _moved(field: Field, changed: Field, by: int) -> Field:
    """Where a field stands when another, or it itself, has grown."""
    if field.start < changed.start:
        return field
    start = field.start if field is changed else field.start + by
    return Field(start, field.end + by, field.filename)


def _fields(body: bytes, boundary: bytes) -> dict[str, tuple[Field, ...]]:
    fields: dict[str, tuple[Field, ...]] = {}
    border = b"\r\n--" + boundary
    # The first border has no line before it, unless there is a preamble.
    at = len(border) - 2 if body.startswith(border[2:]) else _border(body, border, 0) + len(border)
    for _ in range(_MOST_FIELDS):
        if body[at : at + 2] == b"--":
            return fields
        begin = body.find(b"\r\n\r\n", at, at + _LARGEST_HEAD)
        if body[at : at + 2] != b"\r\n" or begin < 0:
            raise _broken()
        end = _border(body, border, begin + 2)
        name, filename = _named(body[at + 2 : begin])
        fields[name] = (*fields.get(name, ()), Field(begin + 4, max(end, begin + 4), filename))
        at = end + len(border)
    raise InvalidRequest(f"The form has more than {_MOST_FIELDS} fields.", field="body")


def _border(body: bytes, border: bytes, start: int) -> int:
    """Where the next border begins: after it comes a line's end, or the mark of the form's end."""
    found = body.find(border, start)
    while found >= 0:
        behind = found + len(border)
        if body[behind : behind + 2] in (b"\r\n", b"--"):
            return found
        found = body.find(border, behind)
    raise _broken()


def _named(head: bytes) -> tuple[str, str | None]:
    """The name in the head of a field, and that of a file where it stands there too."""
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"content-disposition":
            text = value.decode("utf-8", "replace")
            told = {found[1].lower(): found[2] or found[3] or "" for found in _PARAMETER.finditer(text)}
            if "name" in told:
                return told["name"], told.get("filename")
    raise InvalidRequest("A field of the form has no name.", field="body")


def _broken() -> InvalidRequest:
    return InvalidRequest("The form is cut short, or not what its boundary says.", field="body")
