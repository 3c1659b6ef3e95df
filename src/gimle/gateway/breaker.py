"""A breaker for each way to a model: who keeps failing is left alone for a while. Pure: every moment is the caller's.

    closed ──(failures in a row, or a refused key)──> open ──(time)──> half open ──(probe succeeds)──> closed
                                                       ^                   │
                                                       └──(probe fails: twice as long)

Half open, exactly one attempt passes as a probe. A provider's `Retry-After` only cools: until then nobody asks, and
it is the later of two moments that counts. What is the caller's own fault is no failure.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

Reason = Literal["failures", "quota", "key"]
# The provider, its model, and where it has them its key and its address.
Way = tuple[str, ...]

LONGEST_SECONDS = 600.0
# How long a key that was refused is not shown again: nobody mends one within a minute.
KEY_SECONDS = 300.0
# A provider that asks for a longer pause is asked again all the same.
PAUSE_SECONDS = 3600.0
# So many ways are remembered; those that are at rest are forgotten first.
MOST = 4096


def _unseen(_: object) -> None:
    return


class Breaker:
    """The state of one way: `tripped` from opening to closing; before `until` it is not asked, for a `reason`."""

    __slots__ = (
        "_failures", "_limit", "_openings", "_probing", "_seconds", "_shown", "_waiting", "reason", "tripped", "until",
    )  # fmt: skip

    def __init__(
        self,
        limit: int = 5,
        seconds: float = 60.0,
        shown: Callable[[int], None] = _unseen,
        waiting: Callable[["Breaker"], None] = _unseen,
    ) -> None:
        self.until = 0.0
        self.reason: Reason = "failures"
        self._limit = limit
        self._seconds = seconds
        # Told +1 when it opens and -1 when it closes.
        self._shown = shown
        # Told when there is something to wait for.
        self._waiting = waiting
        self._failures = 0
        self._openings = 0
        self.tripped = False
        self._probing = False

    def enter(self, now: float) -> "Ticket | None":
        """Leave for one attempt, whose end the ticket must be told; None where nobody may ask now."""
        if now < self.until:
            return None
        if not self.tripped:
            return Ticket(self)
        if self._probing:
            return None
        self._probing = True
        return Ticket(self, probe=True)

    def state(self, now: float) -> Literal["closed", "open", "half_open"]:
        """What it would say at this moment."""
        if now < self.until:
            return "open"
        return "half_open" if self.tripped else "closed"

    @property
    def at_rest(self) -> bool:
        """Whether nothing would be lost if it were forgotten, save a pause that was asked for."""
        return not self.tripped and self._failures == 0

    def succeed(self) -> None:
        """The way works."""
        self._failures = self._openings = 0
        if self.tripped:
            self._close()

    def answer(self) -> None:
        """The probe was answered, and its end is still to come: others may pass, and one more failure opens anew."""
        self._failures = self._limit - 1
        if self.tripped:
            self._close()

    def fail(self, now: float, after: float, *, probe: bool) -> None:
        """One more failure; `after` is the least number of seconds to wait. Who was sent before it opened adds none."""
        self._cool(now + min(after, PAUSE_SECONDS), "failures")
        if self.tripped and not probe:
            return
        self._failures += 1
        if probe or self._failures >= self._limit:
            self._openings += 1
            seconds = min(self._seconds * 2 ** (self._openings - 1), LONGEST_SECONDS)
            self._open(now + seconds, "failures")

    def limit(self, now: float, after: float) -> None:
        """The provider asks to wait so many seconds."""
        self._cool(now + min(after, PAUSE_SECONDS), "quota")

    def refuse(self, now: float) -> None:
        """The provider refuses the key."""
        self._open(now + KEY_SECONDS, "key")

    def free(self) -> None:
        """The probe ended without telling anything: the next one may go."""
        self._probing = False

    def _cool(self, until: float, reason: Reason) -> None:
        if until > self.until:
            self.until, self.reason = until, reason
            self._waiting(self)

    def _open(self, until: float, reason: Reason) -> None:
        self._cool(until, reason)
        self._probing = False
        if not self.tripped:
            self.tripped = True
            self._shown(1)

    def _close(self) -> None:
        self._probing = self.tripped = False
        self._shown(-1)


class Ticket:
    """One attempt's leave to ask, to be told how it ended. The first telling counts, later ones change nothing."""

    __slots__ = ("_breaker", "_probe", "_used")

    def __init__(self, breaker: Breaker, *, probe: bool = False) -> None:
        self._breaker = breaker
        self._probe = probe
        self._used = False

    def answered(self) -> None:
        """A stream has begun. Not its end, but a probe has shown what it should."""
        if self._probe and not self._used:
            self._probe = False
            self._breaker.answer()

    def succeeded(self) -> None:
        """The whole answer has come. Only a probe closes an open breaker: an older success says nothing of now."""
        if not self._use() and (self._probe or not self._breaker.tripped):
            self._breaker.succeed()

    def failed(self, now: float, after: float = 0.0) -> None:
        """It was the way's own fault."""
        if not self._use():
            self._breaker.fail(now, after, probe=self._probe)

    def limited(self, now: float, after: float) -> None:
        """The provider is there, and asks to wait."""
        if not self._use():
            self._breaker.limit(now, after)
            self._freed()

    def refused(self, now: float) -> None:
        """The key was refused."""
        if not self._use():
            self._breaker.refuse(now)

    def left(self) -> None:
        """It ended by nobody's fault, or by the caller's."""
        if not self._use():
            self._freed()

    def _use(self) -> bool:
        used, self._used = self._used, True
        return used

    def _freed(self) -> None:
        if self._probe:
            self._breaker.free()


class Breakers:
    """All breakers of a process, one for each (provider, address, key, model)."""

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._known: dict[Way, Breaker] = {}
        self._waiting: dict[Way, Breaker] = {}

    def of(self, way: Way, shown: Callable[[int], None]) -> Breaker:
        """The breaker of a way; a new one tells `shown` when it opens and closes."""
        known = self._known.get(way)
        if known is None:
            if len(self._known) >= MOST:
                self._forget()
            known = self._known[way] = Breaker(
                self._limit, self._seconds, shown, partial(self._waiting.__setitem__, way)
            )
        return known

    def held(self, now: float) -> Mapping[Way, Reason]:
        """The ways that nobody may go now, and why; none, as a rule."""
        for way in [way for way, breaker in self._waiting.items() if breaker.until <= now]:
            del self._waiting[way]
        return {way: breaker.reason for way, breaker in self._waiting.items()}

    def close(self) -> None:
        """Forget all: whoever is told of them counts none as open any more."""
        for breaker in self._known.values():
            breaker.succeed()
        self._known.clear()
        self._waiting.clear()

    def _forget(self) -> None:
        """Drop what has nothing to remember; without any, the oldest half."""
        unrest = [way for way, breaker in self._known.items() if not breaker.at_rest]
        kept = unrest[-MOST // 2 :]
        for way in unrest[: -MOST // 2]:
            self._known[way].succeed()
        self._known = {way: self._known[way] for way in kept}
        for way in self._waiting.keys() - self._known.keys():
            del self._waiting[way]
