"""What a worker does with one round of a job: begin, run the handler, write the outcome. Knows nothing of the engine.

Only the attempt whose token stands in `job.owner` may write. Whoever begins later takes the token over; what the
earlier one still tries to write finds no row. So a worker that was stopped and wakes up can't harm its successor.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from gimle.foundation import logs
from gimle.foundation.db import Connection, Database, Jsonb, queries, row, scalar
from gimle.foundation.errors import TransientError, Unavailable
from gimle.foundation.lifecycle import Tasks
from gimle.jobs.retries import Verdict, judge
from gimle.jobs.run import Run
from gimle.jobs.types import JobKind

T = TypeVar("T")
SQL = queries("gimle.jobs")
log = logs.get("jobs")

# A job whose worker died this often in one round is not started again: it is what kills them.
LIVES = 3


class _Round(msgspec.Struct, frozen=True):
    kind: str
    queue: str
    payload: dict[str, Any]
    attempts: int
    failures: int
    lives: int


class Worker:
    """Runs rounds of jobs on the current loop, as many at once as the engine brings."""

    def __init__(self, db: Database, kinds: dict[str, JobKind]) -> None:
        self._db = db
        self._kinds = kinds
        self._tasks = Tasks()
        self._runs: dict[str, Run] = {}
        self._arrived: set[str] = set()
        self._suspects = asyncio.Lock()
        self._closing = False
        self._idle = asyncio.Event()

    async def work(self, job: str, tenant: str, number: int) -> None:
        """Carry out one round. Returns when its outcome is written, or when it is another's."""
        name, key = f"{job}.{number}", {"id": job, "round": number}
        self._arrived.add(name)
        try:
            found = await self._insist(tenant, lambda conn: row(conn, SQL["peek_job"], key, _Round))
            if found is None:
                return
            if found.lives < 2:
                await self._attempt(job, tenant, number, found)
                return
            # Its worker died twice, perhaps by its doing. Suspects run one at a time, so that the guilty one takes no
            # other suspect with it and the innocent are soon acquitted.
            async with self._suspects:
                await self._attempt(job, tenant, number, found)
        finally:
            self._runs.pop(name, None)
            self._arrived.discard(name)
            if not self._arrived:
                self._idle.set()

    def running(self) -> list[str]:
        """The rounds in this process. Safe to call from another thread."""
        return list(self._arrived)

    def drop(self, rounds: Sequence[str]) -> None:
        """Stop rounds that are no longer this process's: cancelled, or taken over."""
        for name in rounds:
            if name in self._runs:
                self._runs[name].stop("lost")

    async def drain(self, seconds: float) -> None:
        """Wait until all rounds have ended, then hand the rest back; what arrives meanwhile is handed back at once."""
        if self._arrived and seconds > 0:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()
        self._closing = True
        for run in self._runs.values():
            run.stop("shutdown")

    async def close(self) -> None:
        """Cancel the handlers that would not stop."""
        await self._tasks.close()

    async def _attempt(self, job: str, tenant: str, number: int, found: _Round) -> None:
        if found.lives >= LIVES:
            reason = f"The worker process died {found.lives} times while it ran this job."
            burial = {"id": job, "round": number, "reason": reason}
            await self._insist(tenant, lambda conn: conn.execute(SQL["bury_round"], burial))
            log.error("job_buried", job=job, kind=found.kind, lives=found.lives)
            return
        run = Run(self._db, job, tenant, os.urandom(8).hex(), found.payload, found.attempts + 1)
        key = {"id": job, "round": number, "owner": run.owner}
        if await self._insist(tenant, lambda conn: scalar(conn, SQL["begin_attempt"], key)) is None:
            return
        self._runs[f"{job}.{number}"] = run
        if self._closing:
            run.stop("shutdown")
        outcome = await self._perform(run, found)
        if run.stopped != "lost":
            await self._insist(tenant, lambda conn: _finish(conn, run, outcome))

    async def _perform(self, run: Run, found: _Round) -> dict[str, Any] | Verdict | None:
        """The handler's result, or what becomes of its failure, or `None` when the job is handed back."""
        kind = self._kinds.get(found.kind, _UNKNOWN)
        outcome = await self._handle(run, kind)
        if not isinstance(outcome, Exception):
            return outcome
        verdict = judge(outcome, kind, run.attempt, found.failures)
        log.warning("attempt_failed", job=run.id, kind=found.kind, code=verdict.error.code,
                    detail=verdict.error.message, again_in=verdict.after)  # fmt: skip
        return verdict

    async def _handle(self, run: Run, kind: JobKind) -> dict[str, Any] | Exception | None:
        outcomes: list[dict[str, Any] | Exception] = []

        async def handle() -> None:
            try:
                outcomes.append(await kind.handler(run) or {})
            except Exception as failure:
                outcomes.append(failure)

        task = self._tasks.start(handle(), f"{kind.name} {run.id}")
        try:
            await run.perform(task, kind.soft_seconds, kind.hard_seconds)
        except TimeoutError as late:
            return late
        if outcomes:
            return outcomes[0]
        # Nobody stopped it: either the job has another owner, and then nothing is written; or it cancelled itself.
        return TransientError("The work was cancelled from within.") if run.stopped is None else None

    async def _insist(self, tenant: str, step: Callable[[Connection], Awaitable[T]]) -> T:
        """Make a short transaction succeed: without the database a worker can only wait for it."""
        wait = 0.1
        while True:
            try:
                async with self._db.tenant(tenant) as conn:
                    return await step(conn)
            except TransientError:
                await asyncio.sleep(wait)
                wait = min(wait * 2, 2.0)


async def _unknown(run: Run) -> None:
    raise Unavailable("This worker knows no such kind of job: it is older or newer than the sender.")


_UNKNOWN = JobKind(
    name="?", queue="default", handler=_unknown, soft_seconds=1, hard_seconds=1, tries=6, backoff_seconds=10
)


async def _finish(conn: Connection, run: Run, outcome: dict[str, Any] | Verdict | None) -> None:
    key = {"id": run.id, "owner": run.owner}
    if isinstance(outcome, dict):
        await conn.execute(SQL["finish_done"], key | {"result": Jsonb(outcome)})
        return
    error = None if outcome is None else Jsonb(msgspec.to_builtins(outcome.error))
    if outcome is not None and outcome.after is None:
        await conn.execute(SQL["finish_failed"], key | {"error": error})
        return
    cursor = await conn.execute(SQL["finish_again"], key | {"error": error})
    moved = await cursor.fetchone()
    if moved is not None:
        after_ms = None if outcome is None or outcome.after is None else int(outcome.after * 1000)
        await conn.execute(SQL["dispatch"], {"id": run.id, "after_ms": after_ms} | moved)
