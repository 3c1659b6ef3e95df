"""What a picture is and how large it is drawn, by its first bytes: nothing is decoded. Pure.

A small file can stand for a picture of billions of pixels; who asks the header first never has to hold them.
"""

from collections.abc import Callable

import msgspec

from gimle.foundation.errors import InvalidImage

_PNG = b"\x89PNG\r\n\x1a\n"
# Of a JPEG: frames (all SOF markers), markers without a body, and the marker behind which the pixels come.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset(range(0xD0, 0xD8)) | {0x01}
_PIXELS = 0xDA
_MOST_SEGMENTS = 1000


class Shape(msgspec.Struct, frozen=True):
    """The type of a picture, and its size in pixels."""

    media_type: str
    width: int
    height: int


def shape(data: bytes) -> Shape:
    """The shape of a picture, of which the header must be there whole. Raises `InvalidImage`."""
    for begins, media_type, read in _FORMATS:
        if data.startswith(begins):
            size = read(data)
            if size is None or 0 in size:
                raise InvalidImage(f"This {media_type} is damaged: its header does not tell its size.")
            return Shape(media_type, *size)
    raise InvalidImage(hint="Send PNG, JPEG, GIF or WebP.")


def _png(data: bytes) -> tuple[int, int] | None:
    if len(data) < 24 or data[8:16] != b"\x00\x00\x00\x0dIHDR":
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _gif(data: bytes) -> tuple[int, int] | None:
    if len(data) < 10:
        return None
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """Segment after segment up to the frame: cameras put previews and profiles of many kilobytes before it."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker in _FRAMES:
            size = data[at + 5 : at + 9]
            return (int.from_bytes(size[2:], "big"), int.from_bytes(size[:2], "big")) if len(size) == 4 else None
        if marker == 0xFF:
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker < 0xC0 or marker in (_PIXELS, 0xD8, 0xD9):
            return None
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    kind, body = data[8:16], data[20:30]
    if kind == b"WEBPVP8X" and len(body) == 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"WEBPVP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"WEBPVP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) == 10:
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return None


_FORMATS: tuple[tuple[bytes, str, Callable[[bytes], tuple[int, int] | None]], ...] = (
    (_PNG, "image/png", _png),
    (b"\xff\xd8\xff", "image/jpeg", _jpeg),
    (b"GIF87a", "image/gif", _gif),
    (b"GIF89a", "image/gif", _gif),
    (b"RIFF", "image/webp", _webp),
)
