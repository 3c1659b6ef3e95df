"""Small pictures for the tests of this room, written by hand from their formats' specifications."""

import struct
import zlib


def png(width: int = 2, height: int = 3) -> bytes:
    """A PNG with this size in its header."""
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + _end()


def gif(width: int = 2, height: int = 3) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x00\x00\x00;"


def jpeg(width: int = 2, height: int = 3, before: bytes = b"", frame: int = 0xC0) -> bytes:
    """A JPEG up to its pixels; `before` stands in an application's segment before the frame."""
    segments = b"".join(
        b"\xff\xe1" + struct.pack(">H", 2 + len(part)) + part
        for part in (before[at : at + 60_000] for at in range(0, len(before), 60_000))
    )
    header = struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00"
    return (
        b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
        + segments
        + bytes([0xFF, 0xFF, frame])
        + struct.pack(">H", 2 + len(header))
        + header
        + b"\xff\xda\x00\x02\xff\xd9"
    )


def webp(width: int = 2, height: int = 3, kind: bytes = b"VP8 ") -> bytes:
    if kind == b"VP8X":
        body = b"\x00" * 4 + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        body = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little") + b"\x00" * 4
    else:
        body = b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", width, height)
    inside = b"WEBP" + kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(inside)) + inside


def _end() -> bytes:
    return _chunk(b"IDAT", zlib.compress(b"\x00" * 21)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
