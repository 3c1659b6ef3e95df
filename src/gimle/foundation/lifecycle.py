"""Background tasks with an owner: who starts one holds it here, and it is gone when the owner closes."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

from gimle.foundation import logs
from gimle.foundation.errors import GimleError

log = logs.get("lifecycle")

_TELL_AGAIN_SECONDS = 1.0


class Tasks:
    """The background tasks of one owner. A task that fails is logged; none outlives `close`."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        """Run `work` in the background until it ends or the owner closes."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def idle(self) -> None:
        """Wait until none runs."""
        while self._running:
            await asyncio.wait(self._running)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_failed", task=task.get_name(), error=type(error).__name__, detail=str(error))

    async def close(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        while self._running:
            for task in self._running:
                task.cancel()
            # Python 3.11's wait_for may swallow a cancellation: who still runs after a while is told again.
            await asyncio.wait(self._running, timeout=_TELL_AGAIN_SECONDS)


async def every(seconds: float, work: Callable[[], Awaitable[None]], event: str, *, first: float = 0.0) -> None:
    """Do `work` again and again with so many seconds between, until cancelled; `first`: the seconds before the first.

    A failure is logged as this event, and the work tried again at its next time.
    """
    await asyncio.sleep(first)
    while True:
        try:
            await work()
        except GimleError as error:
            log.warning(event, error=error.code, detail=error.message)
        await asyncio.sleep(seconds)
