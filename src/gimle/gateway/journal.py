"""A local append-only journal: what was written is there after a kill -9 of its writer, and others may take it over.

    <root>/<writer>/lock            held locked as long as the writer lives
    <root>/<writer>/00000001.log    segments: a head, then frames

A write(2) reaches the page cache before it returns, and the page cache outlives the process. A power cut takes what the
kernel has not written yet, which is why journals are posted within a second. A frame is a mark, the length, a checksum,
and the record. The checksum begins with a random number of its segment, so that no caller's text can pass for a frame.
A frame that was cut off is left out.
"""

import errno
import fcntl
import os
import secrets
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec

from gimle.foundation import locks

_HEAD = struct.Struct("<8sI")
_NAME = b"GIMLEJ1\n"
_FRAME = struct.Struct("<HHI")
_MARK = 0xA7C3
_MARK_BYTES = _MARK.to_bytes(2, "little")
LARGEST_RECORD = 0xFFFF
_SEGMENT_BYTES = 1024 * 1024
_FEWEST_SEGMENTS = 4
_PIECE = 64 * 1024


class Frames(msgspec.Struct, frozen=True):
    """What stands in a piece of a segment: the records, where the last whole one ends, and the bytes passed over."""

    records: list[bytes]
    end: int
    damaged: int = 0


def framed(record: bytes, salt: int) -> bytes:
    """A record as it stands in a segment with this salt."""
    return _FRAME.pack(_MARK, len(record), zlib.crc32(record, salt)) + record


def frames(data: bytes, salt: int, at: int = 0) -> Frames:
    """The whole records from a place on. What is no frame is passed over; what is cut off at the end is left."""
    records: list[bytes] = []
    end, damaged = at, 0
    while 0 <= at <= len(data) - _FRAME.size:
        mark, length, checksum = _FRAME.unpack_from(data, at)
        begin = at + _FRAME.size
        record = data[begin : begin + length]
        if mark == _MARK and len(record) == length and zlib.crc32(record, salt) == checksum:
            records.append(record)
            damaged += at - end
            at = end = begin + length
        else:
            at = data.find(_MARK_BYTES, at + 1)
    return Frames(records, end, damaged)


class Segment:
    """One file of a journal that is being written. `size` counts whole frames only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.salt = secrets.randbits(32)
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND, 0o600)
        self.size = 0
        self.whole = True
        try:
            self.write(_HEAD.pack(_NAME, self.salt))
        except OSError:
            self.delete()
            raise
        self.read_up_to = self.size

    def write(self, data: bytes) -> None:
        """Add a frame, whole or not at all. Raises `OSError`, as when the disk is full."""
        size = len(data)
        try:
            written = os.write(self._descriptor, data)
            while written < size:
                # A write that falls short is followed by one that says why.
                written += os.write(self._descriptor, data[written:])
        except OSError:
            # Until the part of a frame is gone again, nothing may stand behind it.
            self.whole = False
            os.ftruncate(self._descriptor, self.size)
            self.whole = True
            raise
        self.size += size

    def unread(self) -> list[bytes]:
        """The next records, some thousand at most; empty when all are read."""
        wanted = min(self.size - self.read_up_to, _PIECE)
        if not wanted:
            return []
        found = frames(os.pread(self._descriptor, wanted, self.read_up_to), self.salt)
        if not found.records:
            # Some other hand was in the file: what is there can't be read.
            self.read_up_to = self.size
            return []
        self.read_up_to += found.end
        return found.records

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def delete(self) -> None:
        """Let go of the file, and remove it."""
        self.close()
        self.path.unlink(missing_ok=True)


class Journal:
    """The journal of this process. `segments` are those not deleted yet, the last is being written."""

    def __init__(self, folder: Path, lock: int, limit_bytes: int) -> None:
        self._folder = folder
        self._lock = lock
        self._segment_bytes = min(_SEGMENT_BYTES, max(1, limit_bytes // _FEWEST_SEGMENTS))
        self._most = limit_bytes // self._segment_bytes
        self._number = 0
        self.segments: list[Segment] = []
        self.rotate()

    @classmethod
    def open(cls, root: Path, limit_bytes: int) -> Self:
        """A journal of its own under `root`, which grows to about `limit_bytes` at most. Raises `OSError`."""
        name = secrets.token_hex(8)
        # Hidden until it is locked, so that nobody takes it for a dead writer's.
        hidden, folder = root / f".{name}", root / name
        hidden.mkdir(parents=True, mode=0o700)
        lock = os.open(hidden / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hidden.rename(folder)
        return cls(folder, lock, limit_bytes)

    def append(self, record: bytes) -> Segment:
        """Add a record of up to 64 kB, which survives the death of this process, or raise `OSError`."""
        segment = self.segments[-1]
        if segment.size >= self._segment_bytes or not segment.whole:
            segment = self.rotate()
        segment.write(framed(record, segment.salt))
        return segment

    def rotate(self) -> Segment:
        """Begin another segment. Raises `OSError`, also when there are as many as there may be."""
        if len(self.segments) >= self._most:
            raise OSError(errno.EDQUOT, "The journal has reached its limit")
        segment = Segment(self._folder / f"{self._number + 1:08d}.log")
        self._number += 1
        self.segments.append(segment)
        return segment

    @property
    def size(self) -> int:
        """Bytes that are still to be posted, about."""
        return sum(segment.size - segment.read_up_to for segment in self.segments)

    def delete(self, segment: Segment) -> None:
        """Forget a segment of which nothing is needed any more; never the one that is being written."""
        self.segments.remove(segment)
        segment.delete()

    def close(self, *, delete: bool) -> None:
        """Let go of the folder: for good when all of it is posted, else for others to take over."""
        for segment in self.segments:
            segment.close()
        if delete:
            shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)


class Abandoned:
    """The journal of a process that has died, locked by us now: nobody else takes it over meanwhile."""

    def __init__(self, folder: Path, lock: int) -> None:
        self._folder = folder
        self._lock = lock
        self.damaged = 0

    def records(self) -> Iterator[bytes]:
        """All its whole records, oldest first."""
        for path in sorted(self._folder.glob("*.log")):
            data = path.read_bytes()
            if len(data) < _HEAD.size:
                continue
            name, salt = _HEAD.unpack_from(data)
            found = frames(data, salt, _HEAD.size) if name == _NAME else Frames([], _HEAD.size)
            self.damaged += found.damaged + (len(data) - found.end)
            yield from found.records

    def close(self, *, delete: bool) -> None:
        """Let go of it: for good when all of it is posted, else for another time."""
        if delete:
            shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)


def abandoned(root: Path) -> Iterator[Abandoned]:
    """The journals under `root` whose writers are gone, each locked when it is given out."""
    for folder in sorted(root.glob("[0-9a-f]*")):
        try:
            lock = locks.take(folder / "lock")
        except FileNotFoundError:
            # Another process has taken it over and is done with it; if it died over that, here is the rest.
            shutil.rmtree(folder, ignore_errors=True)
            continue
        if lock is not None:
            yield Abandoned(folder, lock)
