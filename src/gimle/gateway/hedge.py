"""Hedging: where the first target is slow, a second one is asked too, the first answer counts, the other is cut off.

Only for calls which may be made twice without harm, and for at most every twentieth of them.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from gimle.gateway.retries import Budget
from gimle.gateway.types import Attempt, ChatStream, Fault

T = TypeVar("T")
Tried = Callable[[Attempt], Awaitable[T | Fault]]

_SHARE = 0.05
# How many answers of a model are remembered, and how many it takes to know how long one usually takes.
_REMEMBERED = 200
_ENOUGH = 20


class Hedging:
    """When to ask a second target: after so many seconds, or with 0 when 95 of 100 answers would be there."""

    def __init__(self, after: float) -> None:
        self._after = after
        self._budget = Budget(_SHARE, 1.0)
        self._seconds: dict[str, deque[float]] = {}

    def patience(self, model: str) -> float | None:
        """How long to wait for a model, in seconds; None while that is not known."""
        if self._after > 0:
            return self._after
        known = self._seconds.get(model, ())
        return sorted(known)[int(len(known) * 0.95)] if len(known) >= _ENOUGH else None

    def learn(self, model: str, seconds: float) -> None:
        """An answer took so long."""
        self._seconds.setdefault(model, deque(maxlen=_REMEMBERED)).append(seconds)

    async def race(
        self, first: Attempt, tried: Tried[T], another: Callable[[], Attempt | None]
    ) -> tuple[T | Fault, Attempt]:
        """The better of one attempt or two, and which it was. `another` gives the second one, if there can be any."""
        self._budget.call()
        patience = self.patience(first.meters.labels[1])
        running: dict[asyncio.Task[T | Fault], Attempt] = {}
        winner: asyncio.Task[T | Fault] | None = None
        try:
            async with asyncio.TaskGroup() as group:
                running[group.create_task(self._timed(first, tried))] = first
                await asyncio.wait(running, timeout=patience)
                if not any(task.done() for task in running) and (second := self._second(another)) is not None:
                    running[group.create_task(self._timed(second, tried))] = second
                sound = await _first_sound(running)
                for task, one in running.items():
                    if task is not sound:
                        one.slip.settle("overtaken")
                    task.cancel()
            # Not before the loser has ended: until then the caller may leave, and nobody takes what was won.
            winner = sound
        finally:
            for task in running:
                if task is not winner:
                    await _close(task)
        for one in list(running.values())[1:]:
            one.meters.hedged(won=one is running[sound])
        return sound.result(), running[sound]

    def _second(self, another: Callable[[], Attempt | None]) -> Attempt | None:
        return another() if self._budget.take(time.monotonic()) else None

    async def _timed(self, one: Attempt, tried: Tried[T]) -> T | Fault:
        started = time.monotonic()
        result = await tried(one)
        if not isinstance(result, Fault):
            self.learn(one.meters.labels[1], time.monotonic() - started)
        return result


async def _first_sound(running: "Mapping[asyncio.Task[T | Fault], Attempt]") -> "asyncio.Task[T | Fault]":
    """The first attempt that has an answer; the last one when none has."""
    waiting = set(running)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        # Both may have ended at the very same time.
        sound = [task for task in done if not isinstance(task.result(), Fault)]
        if sound or not waiting:
            return (sound or list(done))[0]


async def _close(loser: "asyncio.Task[T | Fault]") -> None:
    """A loser that had its answer at the very same time still holds a connection."""
    if not loser.cancelled() and loser.exception() is None and isinstance(stream := loser.result(), ChatStream):
        await stream.close()
