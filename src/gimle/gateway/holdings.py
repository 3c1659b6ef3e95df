"""What a process holds of budgets, where others can read it after a kill -9: one number a lease, in a mapped file.

    <root>/<holder>     held locked as long as its process lives; 64 bytes a lease: used, then the lease's id

`used` is what was spent and what is reserved. It is one store of eight bytes, so it is right at any moment at which the
process may die. The page cache outlives the process; with the machine's power the file may be lost, and then the most
that a lease could have spent counts as spent.
"""

import fcntl
import mmap
import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from gimle.foundation import locks

_SLOT = 64
_SLOTS = 64 * 1024
_WORDS = _SLOT // 8
_LONGEST_ID = _SLOT - 8
_USED = struct.Struct("<q")


class Holdings:
    """The leases of this process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, _SLOT * _SLOTS)
        self._free: list[int] = []
        self._next = 0
        # `used` of a lease stands at its place; whoever holds the lease writes it there.
        self.cells: memoryview[int] = memoryview(self._map).cast("q")

    @classmethod
    def open(cls, root: Path) -> Self:
        """A file of its own under `root`. Raises `OSError`."""
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Hidden until it is locked, so that nobody takes it for a dead one's.
        name = secrets.token_hex(8)
        hidden = root / f".{name}"
        descriptor = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, _SLOT * _SLOTS)
        hidden.rename(root / name)
        return cls(root / name, descriptor)

    def add(self, lease: str) -> int:
        """The place of a new lease in `cells`. Raises `MemoryError` when there are far too many."""
        written = lease.encode()
        if self._free:
            slot = self._free.pop()
        elif self._next < _SLOTS:
            slot, self._next = self._next, self._next + 1
        else:
            raise MemoryError("There are too many leases of budgets.")
        self.cells[slot * _WORDS] = 0
        begin = slot * _SLOT + 8
        self._map[begin : begin + _LONGEST_ID] = written.ljust(_LONGEST_ID, b"\0")
        return slot * _WORDS

    def remove(self, place: int) -> None:
        """Forget a lease that has ended."""
        begin = place * 8 + 8
        self._map[begin : begin + _LONGEST_ID] = bytes(_LONGEST_ID)
        self._free.append(place // _WORDS)

    def close(self, *, delete: bool) -> None:
        """Let go of the file: for good when all leases have ended, else for others to find."""
        self.cells.release()
        self._map.close()
        if delete:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


class Left:
    """The leases of a process that has died, each with what it had used; locked by us, so that nobody else has them."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self.used = dict(_read(path.read_bytes()))

    def close(self, *, delete: bool) -> None:
        """Let go of it: for good when all leases are swept, else for another time."""
        if delete:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def left(root: Path) -> Iterator[Left]:
    """What the dead have left under `root`."""
    for path in sorted(root.glob("[0-9a-f]*")):
        try:
            descriptor = locks.take(path)
        except FileNotFoundError:
            # Another process has just swept it.
            continue
        if descriptor is not None:
            yield Left(path, descriptor)


def _read(data: bytes) -> Iterator[tuple[str, int]]:
    for begin in range(0, len(data), _SLOT):
        lease = data[begin + 8 : begin + _SLOT].rstrip(b"\0")
        if lease:
            yield lease.decode(), _USED.unpack_from(data, begin)[0]
