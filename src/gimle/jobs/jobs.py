"""Jobs as the other rooms use them: send one with the data it concerns, look at it, stop it, replay it."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from gimle.foundation import ids
from gimle.foundation.config import JobSettings
from gimle.foundation.db import Connection, Database, Jsonb, queries, row, rows, scalar
from gimle.foundation.errors import ConfigError, Conflict, JobNotFound
from gimle.foundation.lifecycle import Tasks
from gimle.jobs.engine import Engine, migrate
from gimle.jobs.reaper import Pace
from gimle.jobs.types import FINAL, Job, JobKind, Status
from gimle.jobs.worker import Worker

SQL = queries("gimle.jobs")

# A watcher looks again after this many seconds even if nobody told it of a change.
_LOOK_AGAIN_SECONDS = 5.0


class Jobs:
    """The durable jobs of this process's database. Sending needs no worker; `start` makes this process one."""

    def __init__(self, db: Database, kinds: Sequence[JobKind], settings: JobSettings, pace: Pace) -> None:
        self._db = db
        self._kinds = {kind.name: kind for kind in kinds}
        self._settings = settings
        self._pace = pace
        self._engine: Engine | None = None
        self._tasks = Tasks()
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._ear: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, db: Database, kinds: Sequence[JobKind], settings: JobSettings, pace: Pace | None = None
    ) -> Self:
        """Know these kinds of jobs, and have the engine's tables ready."""
        async with db.shared() as conn:
            ready = await scalar(conn, "select to_regnamespace('jobs') is not null", {})
        if not ready:
            await migrate(db.url)
        return cls(db, kinds, settings, pace or Pace())

    async def close(self) -> None:
        """End what listens for watchers, and the worker if one runs."""
        await self.stop()
        await self._tasks.close()

    def register(self, *kinds: JobKind) -> None:
        """Know more kinds; for rooms that open after this one, before `start`."""
        self._kinds |= {kind.name: kind for kind in kinds}

    async def start(self) -> None:
        """Make this process a worker on the running loop. Raises `Conflict` when it is one already."""
        if self._engine is None:
            queues = sorted({kind.queue for kind in self._kinds.values()})
            worker = Worker(self._db, self._kinds)
            engine = Engine(self._db.url, worker, queues, self._settings.slots, self._pace)
            await engine.launch()
            self._engine = engine

    async def stop(self, drain_seconds: float | None = None) -> None:
        """Take no more jobs, give those that run some seconds to end (the setting's by default), hand back the rest."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.stop(self._settings.drain_seconds if drain_seconds is None else drain_seconds)

    async def enqueue(
        self,
        conn: Connection,
        tenant: str,
        kind: JobKind | str,
        payload: dict[str, Any],
        *,
        idempotency_key: str | None = None,
    ) -> str:
        """Send a job in the transaction of `conn` (one of `db.tenant(tenant)`), and return its id.

        It runs if that transaction commits and never existed if it does not. A key used in the last 24 h returns the
        job that it was first used for. The payload is plain JSON: ids rather than contents. Raises `ConfigError` for an
        unknown kind.
        """
        name = kind if isinstance(kind, str) else kind.name
        if name not in self._kinds:
            raise ConfigError(f"There is no job of kind {name}.", hint=f"Known: {', '.join(sorted(self._kinds))}.")
        values: dict[str, Any] = {"id": ids.new("job"), "tenant": tenant, "kind": name, "payload": Jsonb(payload)}
        values["queue"] = self._kinds[name].queue
        if idempotency_key is not None:
            claim = {"key": idempotency_key, "job": values["id"]}
            if await scalar(conn, SQL["claim_key"], claim) is None:
                return str(await scalar(conn, SQL["find_key"], claim))
        await conn.execute(SQL["insert_job"], values)
        await conn.execute(SQL["dispatch"], values | {"round": 0, "after_ms": None})
        return str(values["id"])

    async def get(self, tenant: str, job: str) -> Job:
        """One job. Raises `JobNotFound`, also for another tenant's."""
        async with self._db.tenant(tenant) as conn:
            found = await row(conn, SQL["get_job"], {"id": job}, Job)
        if found is None:
            raise JobNotFound(f"There is no job {job}.", field="job")
        return found

    async def list(
        self, tenant: str, status: Status | None = None, limit: int = 50, after: str | None = None
    ) -> tuple[list[Job], str | None]:
        """A page of jobs, newest first, and the cursor of the next page (`None` after the last)."""
        values = {"status": status, "limit": limit + 1, "after": after}
        async with self._db.tenant(tenant) as conn:
            found = await rows(conn, SQL["list_jobs"], values, Job)
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    async def cancel(self, tenant: str, job: str) -> Job:
        """End a job: a waiting one never starts, a running one is stopped at the next heartbeat.

        Does nothing to a job that has ended. Raises `JobNotFound`.
        """
        async with self._db.tenant(tenant) as conn:
            number = await scalar(conn, SQL["cancel_job"], {"id": job})
            if number is not None:
                await conn.execute(SQL["withdraw"], {"id": job, "round": number})
        return await self.get(tenant, job)

    async def retry(self, tenant: str, job: str) -> Job:
        """Replay a dead letter or a cancelled job; what it did stays done. Raises `JobNotFound`, `Conflict`."""
        async with self._db.tenant(tenant) as conn:
            cursor = await conn.execute(SQL["replay_job"], {"id": job})
            moved = await cursor.fetchone()
            if moved is not None:
                await conn.execute(SQL["dispatch"], {"id": job, "after_ms": None} | moved)
        found = await self.get(tenant, job)
        if moved is None:
            raise Conflict(f"The job {job} is {found.status}, not failed or cancelled.", field="job")
        return found

    async def discard(self, tenant: str, job: str) -> None:
        """Forget a job that has ended. Raises `JobNotFound`, `Conflict` when it has not."""
        async with self._db.tenant(tenant) as conn:
            gone = await scalar(conn, SQL["delete_job"], {"id": job})
        if gone is None:
            found = await self.get(tenant, job)
            raise Conflict(f"The job {job} is {found.status}: cancel it first.", field="job")

    async def watch(self, tenant: str, job: str) -> AsyncIterator[Job]:
        """The job now and after each change, until it has ended. Raises `JobNotFound`."""
        with self._told_of(job) as changed:
            last = None
            while last is None or last.status not in FINAL:
                changed.clear()
                now = await self.get(tenant, job)
                if now != last:
                    yield now
                last = now
                if now.status not in FINAL:
                    await _wait(changed, _LOOK_AGAIN_SECONDS)

    @contextmanager
    def _told_of(self, job: str) -> Iterator[asyncio.Event]:
        if self._ear is None or self._ear.done():
            self._ear = self._tasks.start(self._listen(), "jobs listen")
        changed = asyncio.Event()
        self._watchers[job].add(changed)
        try:
            yield changed
        finally:
            self._watchers[job].discard(changed)
            if not self._watchers[job]:
                del self._watchers[job]

    async def _listen(self) -> None:
        """For all watchers; an empty note means that some may have been missed."""
        async for job in self._db.listener.hear("gimle_job"):
            told = self._watchers.get(job, set()) if job else set().union(*self._watchers.values())
            for changed in told:
                changed.set()


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return
