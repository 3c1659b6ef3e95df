"""Numbers that all processes of a node share, under names: a mapped file, and a lock that dies with its holder.

One name takes 16 bytes. A number that lies in the past (all are moments, in nanoseconds) says nothing any more: when a
new name finds no room, it takes the place of the oldest. Where a number is found is checked at each use, so nobody
counts on another's place.
"""

import fcntl
import hashlib
import mmap
import os
from pathlib import Path

_SLOTS = 64 * 1024
_PROBES = 16
# A process that was stopped while it held the lock must not stop the others for long.
_LOCK_TRIES = 200


class Tally:
    """The numbers under a file; with `path` None they are this process's own."""

    def __init__(self, path: Path | None) -> None:
        self._descriptor = -1
        if path is None:
            self._cells = memoryview(bytearray(16 * _SLOTS)).cast("q")
            return
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        if os.fstat(self._descriptor).st_size < 16 * _SLOTS:
            os.ftruncate(self._descriptor, 16 * _SLOTS)
        self._cells = memoryview(mmap.mmap(self._descriptor, 16 * _SLOTS)).cast("q")

    def close(self) -> None:
        """Let go of the file; the numbers stay."""
        self._cells.release()
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def lock(self) -> bool:
        """Nobody else changes a number until `unlock`. Never waits long: better a number that is a little wrong.

        False when there is nothing to unlock.
        """
        if self._descriptor < 0:
            return False
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.sched_yield()
            else:
                return True
        return False

    def unlock(self) -> None:
        """Let the others."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def get(self, name: int) -> int:
        """The number under a name (`key`); 0 where there is none."""
        cells, at = self._cells, name % _SLOTS * 2
        if cells[at] != name:
            at = self._find(name)
        return cells[at + 1] if at >= 0 else 0

    def set(self, name: int, value: int) -> None:
        """Keep a number under a name. Call it between `lock` and `unlock`."""
        at = name % _SLOTS * 2
        if self._cells[at] != name:
            at = self._find(name)
        if at < 0:
            at = self._room(name)
            self._cells[at] = name
        self._cells[at + 1] = value

    def _find(self, name: int) -> int:
        for probe in range(_PROBES):
            at = (name + probe) % _SLOTS * 2
            if self._cells[at] == name:
                return at
        return -1

    def _room(self, name: int) -> int:
        places = [(name + probe) % _SLOTS * 2 for probe in range(_PROBES)]
        return min(places, key=lambda at: self._cells[at + 1])


def key(text: str) -> int:
    """The name of a number, from words."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True) or 1
