"""Child processes that never outlive the process which started them, however that one ends."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def bind(parent: int, number: signal.Signals, libc: ctypes.CDLL | None = None) -> None:
    """In a child: get this signal when the thread ends that started us (on Linux), or leave if it has ended."""
    if sys.platform == "linux":
        (libc or ctypes.CDLL(None)).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def bound(number: signal.Signals) -> Callable[[], None]:
    """The same as a `preexec_fn`: the library is loaded before the fork, after which little may be done."""
    libc, parent = ctypes.CDLL(None), os.getpid()
    return lambda: bind(parent, number, libc)
