"""Locks between processes that go with their holder: a file stays locked as long as its descriptor is open."""

import fcntl
import os
from pathlib import Path


def take(path: Path, *, make: bool = False) -> int | None:
    """The descriptor of a file that is locked now; None while another process has it. Close it to let go.

    Raises `OSError`: `FileNotFoundError` where there is no such file and none is to be made.
    """
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if make else 0), 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
