"""The walk of a call over its targets: one after the other, in rounds, until one answers or the time is over.

A target whose breaker is open is passed by. A fault goes to the next target, and after the last one to another round
with a pause, as far as the retry budget and the one deadline allow. The caller's own faults go back at once.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from gimle.foundation import logs
from gimle.foundation.config import GatewaySettings
from gimle.foundation.errors import GimleError, RateLimitedError, Unavailable
from gimle.gateway import faults, metrics
from gimle.gateway.breaker import MOST, Breaker, Breakers, Way
from gimle.gateway.catalog import Access, Snapshot, redacted
from gimle.gateway.hedge import Hedging
from gimle.gateway.metrics import Meters
from gimle.gateway.retries import Budget
from gimle.gateway.tab import Tab
from gimle.gateway.types import Attempt, ChatStream, Fault
from gimle.selection.board import Board
from gimle.selection.table import key_of
from gimle.selection.types import Model

T = TypeVar("T")
Try = Callable[[Attempt], Awaitable[T | Fault]]
log = logs.get("gateway")

# Where little is asked: so many retries at once, and so many more a second.
_RESERVE = 10.0
_RESERVE_A_SECOND = 0.5


class Track(NamedTuple):
    """What is the same for all attempts at a model at a provider, as long as its provider is as it is: the breaker and
    the counters, the lane in which its calls wait, and its key on the board.
    """

    access: Access | None
    breaker: Breaker
    meters: Meters
    lane: str
    key: str


class _Course(Generic[T]):
    """One call on its way: the targets still worth asking, and what came of the others."""

    __slots__ = ("attempt", "clock", "deadline", "fault", "left", "number", "snapshot", "tab")

    def __init__(self, targets: Sequence[Model], attempt: Try[T], snapshot: Snapshot, tab: Tab) -> None:
        self.tab = tab
        self.left = list(targets)
        self.attempt = attempt
        self.snapshot = snapshot
        self.clock = asyncio.get_running_loop().time
        self.deadline = 0.0
        self.number = 0
        self.fault: Fault | None = None


class Walk:
    """Takes calls to their targets, and remembers from call to call which of these fail."""

    def __init__(self, settings: GatewaySettings) -> None:
        # What calls show of the models; where nobody chooses by it, it is kept all the same.
        self.board = Board()
        self._total_seconds = settings.total_seconds
        self._breakers = Breakers(settings.breaker_failures, settings.breaker_seconds)
        # By provider, model, and the identity of the access, which a track that is kept holds.
        self._tracks: dict[tuple[str, str, int], Track] = {}
        self._retries = Budget(settings.retry_share, _RESERVE, _RESERVE_A_SECOND)
        self._hedging = None if settings.hedge_after is None else Hedging(settings.hedge_after)

    async def __call__(
        self, targets: Sequence[Model], attempt: Try[T], snapshot: Snapshot, tab: Tab, *, hedged: bool = False
    ) -> T:
        """What the first target that answers says. Raises the last fault, or `Unavailable` when nobody may be asked.

        `hedged` says that it does no harm to ask two targets.
        """
        self._retries.call()
        course = _Course(targets, attempt, snapshot, tab)
        course.deadline = course.clock() + self._total_seconds
        for round_ in range(1 + faults.RETRIES):
            for target in tuple(course.left):
                result = await self._ask(course, target, retry=round_ > 0, hedged=hedged)
                if not (result is None or isinstance(result, Fault)):
                    return result
                if course.fault is not None and faults.ends(course.fault):
                    raise course.fault.error
            if not await self._paused(course, round_):
                break
        raise self._nobody(course, targets) if course.fault is None else course.fault.error

    def held(self, snapshot: Snapshot) -> dict[str, str]:
        """The models that are not asked now, by id, and whether that is for their `breaker` or for a `quota`."""
        found = self._breakers.held(asyncio.get_running_loop().time())
        models = {
            way: f"{way[0]}/{way[1]}" for way in found if way == _way(way[0], way[1], snapshot.access.get(way[0]))
        }
        return {model: "quota" if found[way] == "quota" else "breaker" for way, model in models.items()}

    def close(self) -> None:
        """Forget which targets fail."""
        self._tracks.clear()
        self._breakers.close()

    async def go_on(
        self, since: Attempt, targets: Sequence[Model], attempt: Try[T], snapshot: Snapshot, tab: Tab
    ) -> T | None:
        """What the first target that answers says to a call that was answered already, in part, by the attempt `since`.

        Its deadline holds, and it is a retry. None when nobody answers: what is refused here is no caller's fault.
        """
        course = _Course(targets, attempt, snapshot, tab)
        course.deadline, course.number = since.deadline, since.number
        for target in targets:
            if course.clock() >= course.deadline:
                # Who would be asked now would seem to fail.
                return None
            result = await self._ask(course, target, retry=True, hedged=False)
            if not (result is None or isinstance(result, Fault)):
                return result
        return None

    async def _ask(self, course: _Course[T], target: Model, *, retry: bool, hedged: bool) -> T | Fault | None:
        """The answer of one target; None where it was not asked."""
        if target not in course.left or (course.fault is not None and course.clock() >= course.deadline):
            return None
        one = self._enter(course, target)
        if one is None:
            breaker = self._track(course.snapshot, target).breaker
            course.tab.fault = course.tab.fault or _shut(target.id, breaker, course.clock())
            return None
        if retry and not self._retries.take(course.clock()):
            one.ticket.left()
            one.slip.settle("unsent")
            one.flight.left()
            metrics.RETRIES_REFUSED.inc()
            return None
        if retry:
            one.meters.retries.inc()
        if hedged and self._hedging is not None:
            result, one = await self._hedging.race(
                one, lambda each: self._tried(course, each), lambda: self._another(course, target)
            )
        else:
            result = await self._tried(course, one)
        if isinstance(result, Fault):
            course.fault = result
            course.left = faults.remaining(course.left, one.target, result)
        elif one.number > 1 and not retry:
            one.meters.fallbacks.inc()
        return result

    def _enter(self, course: _Course[T], target: Model) -> Attempt | None:
        """An attempt at a target, if its breaker lets it pass."""
        track = self._track(course.snapshot, target)
        ticket = track.breaker.enter(course.clock())
        if ticket is None:
            return None
        course.number += 1
        slip = course.tab.slip(target, track.lane)
        flight = self.board.take_off(track.key)
        return Attempt(target, course.number, course.deadline, ticket, track.meters, slip, flight)

    def _another(self, course: _Course[T], slow: Model) -> Attempt | None:
        """An attempt at another target than the slow one, or else at that one again."""
        for target in (*(each for each in course.left if each is not slow), slow):
            if (one := self._enter(course, target)) is not None:
                return one
        return None

    def _track(self, snapshot: Snapshot, target: Model) -> Track:
        access = snapshot.access.get(target.provider)
        name = target.provider, target.name, id(access)
        track = self._tracks.get(name)
        if track is None:
            if len(self._tracks) >= MOST:
                self._tracks.clear()
            way, meters = _way(target.provider, target.name, access), metrics.of(target)
            breaker = self._breakers.of(way, meters.open_breakers.inc)
            track = self._tracks[name] = Track(access, breaker, meters, _lane(target, access), key_of(target))
        return track

    async def _tried(self, course: _Course[T], one: Attempt) -> T | Fault:
        one.meters.attempts.inc()
        try:
            await one.slip.admit(course.deadline)
            if one.target.dialect is None:
                one.slip.begin()
            result = await course.attempt(one)
        except GimleError as error:
            one.slip.settle("broken")
            result = faults.weigh(error)
        except BaseException:
            one.ticket.left()
            one.slip.settle("cancelled")
            one.flight.left()
            raise
        if isinstance(result, Fault):
            one.slip.settle("refused")
            self._failed(course, one, result)
        elif not isinstance(result, ChatStream):
            # The return of a stream is not its end: what carries it tells the ticket.
            one.ticket.succeeded()
            one.slip.settle("done")
            one.flight.left()
        return result

    def _failed(self, course: _Course[T], one: Attempt, fault: Fault) -> None:
        access = course.snapshot.access.get(one.target.provider)
        fault.error.message = redacted(fault.error.message, access.key if access else None)
        faults.tell(one.ticket, fault, course.clock())
        course.tab.fault = fault.error
        if faults.kind(fault) == "quota":
            one.slip.refused(fault.after)
        if faults.kind(fault) in ("key", "transient"):
            one.flight.failed(time.time())
        else:
            one.flight.left()
        one.meters.failed(faults.label(fault))
        log.info(
            "attempt_failed",
            model=one.target.id,
            attempt=one.number,
            error=fault.error.code,
            detail=fault.error.message,
        )

    async def _paused(self, course: _Course[T], round_: int) -> bool:
        """Wait before another round; False where there shall be none."""
        now = course.clock()
        if not course.left or round_ == faults.RETRIES or self._retries.spent(now):
            return False
        soonest = min(self._track(course.snapshot, target).breaker.until for target in course.left) - now
        wait = max(faults.pause(round_, random.random()), soonest)
        if soonest > faults.LONGEST_WAIT or now + wait >= course.deadline:
            return False
        await asyncio.sleep(wait)
        return True

    def _nobody(self, course: _Course[T], targets: Sequence[Model]) -> GimleError:
        """Why nobody was asked: all breakers are open, and this is the one that closes first."""
        breakers = {target.id: self._track(course.snapshot, target).breaker for target in targets}
        name, first = min(breakers.items(), key=lambda each: each[1].until)
        return _shut(name, first, course.clock())


def _shut(name: str, breaker: Breaker, now: float) -> GimleError:
    """Why a model is not asked: its breaker is open."""
    after = max(1.0, breaker.until - now)
    hint = f"Try again in {after:.0f} s, or name another model."
    if breaker.reason == "quota":
        return RateLimitedError(f"The provider of {name} limits the rate of requests.", after=after, hint=hint)
    why = "its provider refuses Gimle's key" if breaker.reason == "key" else "it failed several times in a row"
    return Unavailable(f"{name} is not asked for now: {why}.", hint=hint, after=after)


def _lane(target: Model, access: Access | None) -> str:
    """The lane on the way to a model: of its key and its address only a digest is told."""
    way = msgspec.json.encode(_way(target.provider, target.name, access))
    return f"{target.provider}:{hashlib.sha256(way).hexdigest()[:16]}:{target.name}"


def _way(provider: str, model: str, access: Access | None) -> Way:
    """The way to a model, as breakers know it: two tenants may have a provider of one name."""
    return (provider, model) if access is None else (provider, model, access.key or "", access.provider.base_url)
