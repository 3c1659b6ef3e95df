"""Background tasks with an owner: who starts one holds it here, and it is gone when the owner closes."""

import asyncio
from collections.abc import Coroutine

from gimle.foundation import logs

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
