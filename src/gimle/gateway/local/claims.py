"""Several processes of Gimle on one data directory share one server a model: whoever holds the lock runs it.

The lock goes with its process, and the server with it; the next process that needs the model then takes the lock. Where
the server is reached stands beside the lock; the time of that file's last change is when another process last used it.
"""

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from gimle.foundation import locks
from gimle.foundation.outbound import Origin

# The use of a server by another process is told no more often than that.
_TOUCH_SECONDS = 1.0


class _Place(msgspec.Struct):
    port: int
    pid: int


class Claim:
    """The right to serve one model. Not taken yet."""

    def __init__(self, folder: Path, name: str) -> None:
        self._lock_file = folder / f"{name}.lock"
        self._place = folder / f"{name}.json"
        self._lock: int | None = None
        self._touched = 0.0

    def take(self) -> bool:
        """Whether it is ours, now or already."""
        if self._lock is not None:
            return True
        self._lock = locks.take(self._lock_file, make=True)
        if self._lock is None:
            return False
        # What an owner who was killed has left behind leads nowhere.
        self.silence()
        return True

    def tell(self, origin: Origin) -> None:
        """Say where the server is. No other process has used it yet."""
        unfinished = self._place.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(msgspec.json.encode(_Place(origin.port, os.getpid())))
        os.utime(unfinished, (0, 0))
        unfinished.rename(self._place)

    def told(self) -> Origin | None:
        """Where the server of another process is; None while there is none."""
        try:
            place = msgspec.json.decode(self._place.read_bytes(), type=_Place)
        except (OSError, msgspec.DecodeError):
            return None
        return Origin("127.0.0.1", place.port, secure=False)

    def touch(self) -> None:
        """Say that the server of another process is used."""
        now = time.monotonic()
        if now - self._touched >= _TOUCH_SECONDS:
            self._touched = now
            with suppress(OSError):
                os.utime(self._place)

    def unused(self) -> float:
        """For how many seconds no other process has used it."""
        try:
            return max(0.0, time.time() - self._place.stat().st_mtime)
        except OSError:
            return 0.0

    def silence(self) -> None:
        """Say that there is no server for now."""
        self._place.unlink(missing_ok=True)

    def release(self) -> None:
        """Let another process serve it."""
        if self._lock is not None:
            self.silence()
            os.close(self._lock)
            self._lock = None


def key(folder: Path) -> tuple[str, Path]:
    """The key that servers of this data directory ask for, and its file; made when there is none."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = folder / "key"
    if not file.exists():
        unfinished = folder / f"key.{os.getpid()}"
        unfinished.touch(mode=0o600)
        unfinished.write_text(secrets.token_urlsafe(32), "utf-8")
        with suppress(FileExistsError):
            # A link is not replaced, so that of two who make one the first wins.
            os.link(unfinished, file)
        unfinished.unlink()
    return file.read_text("utf-8").strip(), file
