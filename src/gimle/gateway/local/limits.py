"""What is started, stopped and started again. Pure: times and sizes come in, decisions go out."""

from collections import deque
from collections.abc import Sequence

import msgspec

from gimle.gateway.local.types import Entry, Facts

# A server that dies so often within so many seconds will not come right by itself.
LIVES = 3
LIVES_SECONDS = 300.0
# How long it is waited after a death, by how many there were.
_PAUSES = (0.0, 1.0)
# What a server takes beside weights and cache, in bytes: its code, buffers for a batch, the heads of requests.
_AROUND = 400 << 20
# So much of the machine's memory may be filled with models where nothing else is set.
_SHARE = 0.8


class Lives:
    """The deaths of one server within the last minutes, and whether it may be started again."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque()

    def died(self, now: float) -> None:
        """Count a death, and forget those of long ago."""
        self._deaths.append(now)
        self._forget(now)

    def wait(self, now: float) -> float | None:
        """Seconds until it may be started again; None when it is left alone."""
        self._forget(now)
        if len(self._deaths) >= LIVES:
            return None
        if not self._deaths:
            return 0.0
        return max(0.0, self._deaths[-1] + _PAUSES[len(self._deaths) - 1] - now)

    def _forget(self, now: float) -> None:
        while self._deaths and self._deaths[0] <= now - LIVES_SECONDS:
            self._deaths.popleft()


class Resident(msgspec.Struct, frozen=True):
    """A server that runs: what it takes in bytes, when it was last used, and whether it answers somebody now."""

    name: str
    memory: int
    used_at: float
    busy: bool


def room(needed: int, budget: int, resident: Sequence[Resident]) -> list[str] | None:
    """Which servers must stop so that one more fits, the longest unused first. None: it fits in no case now."""
    free = budget - sum(each.memory for each in resident)
    stopped: list[str] = []
    for each in sorted(resident, key=lambda each: each.used_at):
        if free >= needed:
            break
        if not each.busy:
            stopped.append(each.name)
            free += each.memory
    return stopped if free >= needed else None


def budget(set_mb: int, total: int, free: int) -> int:
    """The bytes that all models together may take: as set, else a share of the machine, no more than others leave."""
    return set_mb << 20 if set_mb else min(int(total * _SHARE), free)


def copies(size: int, available: int) -> bool:
    """Whether the weights may be held twice: some processors read the second copy faster, and it is as large."""
    return available >= 2 * size + _AROUND


def needed(size: int, facts: Facts, context: int, slots: int, *, twice: bool) -> int:
    """The bytes that a server takes: weights, the cache of all slots, and what stands around them."""
    return size * (2 if twice else 1) + facts.cache * context * slots + min(_AROUND, max(size // 4, 64 << 20))


def slots(set_slots: int, cores: float) -> int:
    """How many answers a server writes at once."""
    return set_slots or (1 if cores <= 2 else 2 if cores <= 4 else 4)


def threads(set_threads: int, cores: float) -> int:
    """The threads of a server: one processor is left for Gimle itself."""
    return set_threads or max(1, int(cores) - 1)


def choose(entries: Sequence[Entry], available: int, cores: float) -> Entry | None:
    """The best model that this machine can run: the first of the manifest which fits."""
    for entry in entries:
        if entry.fault is None and entry.memory <= available and entry.cores <= cores:
            return entry
    return None
