"""Who may go to a provider now, who waits, and who is told at once that waiting is of no use.

A lane lets so many calls through at once, as fast as its provider's limits allow. The others wait in a bounded queue
(`queueing`) until somebody leaves: whoever leaves wakes the next, and nobody looks again and again. A call whose wait
would be longer than its deadline is refused at once, with the time after which there may be room.
"""

import asyncio
from collections.abc import Callable

from gimle.foundation.config import AdmissionSettings
from gimle.foundation.errors import Overloaded
from gimle.gateway import limit_metrics
from gimle.gateway.limits import Taken, Wait
from gimle.gateway.queueing import Entry, FairQueue

# The provider's limits: takes so many tokens of them, or says how long to wait.
Gate = Callable[[int], Taken | Wait]

_MOST_LANES = 10_000
_WEIGHT = 0.1
_SHORTEST_WAIT = 1.0


class Pass:
    """Leave to go to a provider. `leave` when the attempt has ended, however it did; a second time changes nothing.

    `taken` is what it took of the provider's limits, to be settled with the tokens used.
    """

    __slots__ = ("_lane", "_since", "taken")

    def __init__(self, lane: "Lane", taken: Taken, now: float) -> None:
        self._lane: Lane | None = lane
        self._since = now
        self.taken = taken

    def leave(self, tokens: int | None = None) -> None:
        """The attempt has ended, and has used so many tokens, where that is known."""
        lane, self._lane = self._lane, None
        if lane is not None:
            self.taken.settle(tokens)
            lane.left(self._since)


class _Waiter:
    __slots__ = ("future", "timer", "tokens")

    def __init__(self, future: "asyncio.Future[Pass]", tokens: int) -> None:
        self.future = future
        self.tokens = tokens
        self.timer: asyncio.TimerHandle | None = None


class Lane:
    """The way to one provider, with one key, for one model."""

    def __init__(self, settings: AdmissionSettings, gate: Gate) -> None:
        self._settings = settings
        self._gate = gate
        self._queue: FairQueue[_Waiter] = FairQueue(settings.ageing_seconds)
        self._active = 0
        self._seconds = 0.0
        self._gated = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._queue.count

    @property
    def active(self) -> int:
        """How many are through."""
        return self._active

    def enter(self, tokens: int) -> Pass | None:
        """Leave to go at once; None: `wait` for it."""
        if self._queue.count or self._active >= self._settings.at_once:
            return None
        taken = self._gate(tokens)
        if isinstance(taken, Wait):
            self._gated = taken.seconds
            return None
        return self._passed(taken)

    async def wait(self, tenant: str, level: int, tokens: int, deadline: float) -> Pass:
        """Leave to go, as soon as it is this call's turn. `deadline` is a moment of the loop's clock.

        Raises `Overloaded` at once when the queue is full or the turn would come too late, and at the deadline.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        expected = self.expected(tenant, level)
        if self._queue.count >= self._settings.waiting:
            raise self._refused("Too many calls are waiting.", expected)
        if now + expected > deadline:
            raise self._refused("This call would wait longer than its deadline.", expected)
        waiter = _Waiter(loop.create_future(), tokens)
        entry = self._queue.put(waiter, tenant, level, now)
        limit_metrics.WAITING.inc()
        waiter.timer = loop.call_at(deadline, self._late, entry)
        self._wake()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                # The turn came in the same moment: it goes to the next.
                waiter.future.result().leave(0)
            raise
        finally:
            self._gone(entry)
            limit_metrics.WAITING.inc(-1)
            limit_metrics.WAITED_SECONDS.observe(loop.time() - now)

    def expected(self, tenant: str, level: int) -> float:
        """The seconds that a newcomer will wait, as far as can be told: 0 where nothing is known yet."""
        ahead = self._queue.ahead(tenant, level)
        by_room = (
            (ahead + 1) * self._seconds / self._settings.at_once if self._active >= self._settings.at_once else 0.0
        )
        return max(by_room, self._gated * (ahead + 1) if self._gated else 0.0)

    def left(self, since: float) -> None:
        """Somebody has left who came in at that moment: the next one's turn."""
        self._active -= 1
        took = asyncio.get_running_loop().time() - since
        self._seconds += (took - self._seconds) * (_WEIGHT if self._seconds else 1.0)
        if self._queue.count:
            self._wake()

    # -- inside

    def _passed(self, taken: Taken) -> Pass:
        self._active += 1
        self._gated = 0.0
        return Pass(self, taken, asyncio.get_running_loop().time())

    def _wake(self) -> None:
        """Let in as many as there is room for, each in his turn."""
        now = asyncio.get_running_loop().time()
        while self._active < self._settings.at_once and (entry := self._queue.first(now)) is not None:
            if entry.item.future.done():
                # Its caller has left in the same moment.
                self._queue.remove(entry)
                continue
            taken = self._gate(entry.item.tokens)
            if isinstance(taken, Wait):
                self._gated = taken.seconds
                self._wake_later(taken.seconds)
                return
            self._queue.serve(entry)
            entry.item.future.set_result(self._passed(taken))

    def _wake_later(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._again)

    def _again(self) -> None:
        self._timer = None
        self._wake()

    def _gone(self, entry: Entry[_Waiter]) -> None:
        self._queue.remove(entry)
        if entry.item.timer is not None:
            entry.item.timer.cancel()

    def _late(self, entry: Entry[_Waiter]) -> None:
        if not entry.item.future.done():
            self._queue.remove(entry)
            said = "This call's deadline came before its turn."
            entry.item.future.set_exception(self._refused(said, self.expected(entry.tenant, entry.level)))

    def _refused(self, said: str, expected: float) -> Overloaded:
        limit_metrics.REFUSED_WAITING.inc()
        return Overloaded(said, after=max(_SHORTEST_WAIT, expected))


class Admission:
    """The lanes of this process."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        # Those that there are, by name.
        self.lanes: dict[str, Lane] = {}

    def lane(self, name: str, gate: Gate) -> Lane:
        """The lane of this name; the first who asks for it says what limits it."""
        lane = self.lanes.get(name)
        if lane is None:
            if len(self.lanes) >= _MOST_LANES:
                self.lanes = {name: each for name, each in self.lanes.items() if each.active or each.waiting}
            lane = self.lanes[name] = Lane(self._settings, gate)
        return lane
