"""One attempt at a job, as its handler sees it."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

from gimle.foundation.db import Connection, Database, Jsonb, queries, scalar
from gimle.foundation.errors import DatabaseUnavailable

T = TypeVar("T")
SQL = queries("gimle.jobs")

# A bar that moves twice a second is smooth, and cheap.
_PROGRESS_SECONDS = 0.5

Stop = Literal["timeout", "lost", "shutdown"]


class Run:
    """What a handler gets: the payload, the tenant, the database, and a way to do each thing only once."""

    def __init__(self, db: Database, job: str, tenant: str, owner: str, payload: dict[str, Any], attempt: int) -> None:
        self.db = db
        self.id = job
        self.tenant = tenant
        self.payload = payload
        self.attempt = attempt
        self.owner = owner
        self.stopped: Stop | None = None
        self._task: asyncio.Task[None] | None = None
        self._told = ("", 0.0)

    @property
    def cancelled(self) -> bool:
        """Whether this attempt should end: cancelled, out of time, or taken over by another worker."""
        return self.stopped is not None

    async def once(self, effect: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do `work` in a transaction of the tenant, at most once in the life of the job, and return its result.

        The guard row commits together with what `work` wrote; a later attempt gets the stored result and does
        nothing. `effect` names the effect within the job ("chunks", "vectors:3"); the result must be plain JSON. Ends
        the attempt when it no longer owns the job. An effect outside the database takes `{run.id}:{effect}` as its
        own idempotency key.
        """
        key = {"id": self.id, "owner": self.owner, "effect": effect}
        async with self.db.tenant(self.tenant) as conn:
            if await scalar(conn, SQL["claim_effect"], key) is not None:
                result = await work(conn)
                await conn.execute(SQL["store_effect"], key | {"result": Jsonb(result)})
                return result
            found = await (await conn.execute(SQL["effect_result"], key)).fetchone()
            if found is None:
                raise asyncio.CancelledError
            stored: T = found["result"]
            return stored

    async def progress(self, phase: str, done: int = 0, total: int = 0) -> None:
        """Tell watchers how far the work is, twice a second at most. Ends the attempt when it was cancelled."""
        now = time.monotonic()
        if phase == self._told[0] and now - self._told[1] < _PROGRESS_SECONDS and done != total:
            return
        self._told = (phase, now)
        values = {"id": self.id, "owner": self.owner, "phase": phase, "done": done, "total": total}
        # A bar that can't be drawn is no reason to fail the work behind it.
        with contextlib.suppress(DatabaseUnavailable):
            async with self.db.tenant(self.tenant) as conn:
                still_ours = await scalar(conn, SQL["write_progress"], values)
            if still_ours is None:
                raise asyncio.CancelledError

    def stop(self, why: Stop) -> None:
        """Cancel the handler; it may tidy up until its hard time-out."""
        self.stopped = self.stopped or why
        if self._task is not None:
            self._task.cancel()

    async def perform(self, task: asyncio.Task[None], soft: float, hard: float) -> None:
        """Wait for the handler: cancel it after `soft` seconds, abandon it after `hard`. Raises `TimeoutError`."""
        self._task = task
        if self.stopped is not None:
            task.cancel()
        await asyncio.wait({task}, timeout=soft)
        if not task.done():
            self.stop("timeout")
            await asyncio.wait({task}, timeout=hard - soft)
        if self.stopped == "timeout":
            ending = "stopped" if task.done() else "did not stop and was abandoned"
            raise TimeoutError(f"The work took longer than {soft:g} s and {ending}.")
