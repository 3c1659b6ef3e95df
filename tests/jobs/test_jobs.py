"""Jobs end to end in one process: a real database, the real engine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from gimle.foundation.config import JobSettings
from gimle.foundation.db import Connection, Database, scalar
from gimle.foundation.errors import ConfigError, Conflict, JobNotFound, PermanentError, RateLimitedError, TransientError
from gimle.jobs.engine import Engine
from gimle.jobs.jobs import Jobs
from gimle.jobs.reaper import Pace
from gimle.jobs.run import Run
from gimle.jobs.types import Job, JobKind
from gimle.jobs.worker import SQL, Worker

Tenants = tuple[str, str]
Handler = Callable[[Run], Awaitable[dict[str, Any] | None]]
Working = Callable[..., AbstractAsyncContextManager[Jobs]]
QUICK = Pace(beat=0.2, stale=2.0, sweep=1.0, grace=0.0)


def kind(name: str, handler: Handler, **more: Any) -> JobKind:
    facts: dict[str, Any] = {"queue": "agents-high", "soft_seconds": 20, "hard_seconds": 30, "backoff_seconds": 0.05}
    return JobKind(name=name, handler=handler, **(facts | more))


@pytest.fixture
def working(db: Database) -> Working:
    @asynccontextmanager
    async def open_jobs(*kinds: JobKind, slots: int = 4, start: bool = True, drain: float = 0.0) -> AsyncIterator[Jobs]:
        jobs = await Jobs.open(db, kinds, JobSettings(slots=slots, drain_seconds=drain), QUICK)
        if start:
            await jobs.start()
        try:
            yield jobs
        finally:
            await jobs.close()

    return open_jobs


async def send(db: Database, jobs: Jobs, tenant: str, name: str, payload: dict[str, Any], **more: Any) -> str:
    async with db.tenant(tenant) as conn:
        return await jobs.enqueue(conn, tenant, name, payload, **more)


async def ended(jobs: Jobs, tenant: str, job: str, seconds: float = 20) -> Job:
    async with asyncio.timeout(seconds):
        states = [state async for state in jobs.watch(tenant, job)]
    return states[-1]


async def test_a_job_runs_and_keeps_its_result(db: Database, tenants: Tenants, working: Working) -> None:
    async def double(run: Run) -> dict[str, Any]:
        await run.progress("doubling", 1, 1)
        return {"twice": run.payload["n"] * 2, "tenant": run.tenant}

    async with working(kind("double", double)) as jobs:
        job = await ended(jobs, tenants[0], await send(db, jobs, tenants[0], "double", {"n": 21}))
    assert job.status == "done"
    assert job.result == {"twice": 42, "tenant": tenants[0]}
    assert (job.attempts, job.phase, job.done, job.total) == (1, "done", 1, 1)
    assert job.started_at is not None
    assert job.finished_at is not None


async def test_a_job_exists_only_if_its_transaction_commits(db: Database, tenants: Tenants, working: Working) -> None:
    async def nothing(run: Run) -> None:
        return None

    async with working(kind("nothing", nothing), start=False) as jobs:
        with pytest.raises(ZeroDivisionError):
            async with db.tenant(tenants[0]) as conn:
                await jobs.enqueue(conn, tenants[0], "nothing", {})
                raise ZeroDivisionError
        assert await jobs.list(tenants[0]) == ([], None)
        with pytest.raises(ConfigError, match="no job of kind nothin."):
            await send(db, jobs, tenants[0], "nothin", {})


async def test_another_tenant_finds_nothing(db: Database, tenants: Tenants, working: Working) -> None:
    async def nothing(run: Run) -> None:
        return None

    async with working(kind("nothing", nothing), start=False) as jobs:
        job = await send(db, jobs, tenants[0], "nothing", {})
        assert (await jobs.list(tenants[1]))[0] == []
        for call in (jobs.get, jobs.cancel, jobs.retry, jobs.discard):
            with pytest.raises(JobNotFound):
                await call(tenants[1], job)
        assert (await jobs.get(tenants[0], job)).status == "queued"


async def test_the_application_role_does_not_reach_the_engine(db: Database, tenants: Tenants, working: Working) -> None:
    async with working(start=False), db.shared() as conn:
        reach = "select has_schema_privilege('gimle_app', 'jobs', 'usage')"
        assert await scalar(conn, reach, {}) is False
        assert await scalar(conn, "select has_table_privilege('gimle_app', 'job_share', 'select')", {}) is False


async def test_a_transaction_of_another_tenant_is_refused(db: Database, tenants: Tenants, working: Working) -> None:
    async def nothing(run: Run) -> None:
        return None

    async with working(kind("nothing", nothing), start=False) as jobs:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with db.tenant(tenants[0]) as conn:
                await jobs.enqueue(conn, tenants[1], "nothing", {})


async def test_one_worker_a_process(working: Working) -> None:
    async def nothing(run: Run) -> None:
        return None

    async with working(kind("nothing", nothing)), working(kind("nothing", nothing), start=False) as second:
        with pytest.raises(Conflict, match="already works"):
            await second.start()


async def test_a_worker_that_finds_no_database_can_be_started_later(db: Database) -> None:
    with pytest.raises(sa.exc.OperationalError):
        await Engine("postgresql://nobody@/none?host=/nonexistent", Worker(db, {}), [], 1, QUICK).launch()
    jobs = await Jobs.open(db, [], JobSettings())
    await jobs.start()
    await jobs.close()


async def test_a_key_joins_duplicates(db: Database, tenants: Tenants, working: Working) -> None:
    async def nothing(run: Run) -> None:
        return None

    async with working(kind("nothing", nothing), start=False) as jobs:
        first = await send(db, jobs, tenants[0], "nothing", {}, idempotency_key="k")
        assert await send(db, jobs, tenants[0], "nothing", {}, idempotency_key="k") == first
        assert await send(db, jobs, tenants[1], "nothing", {}, idempotency_key="k") != first
        async with db.tenant(tenants[0]) as conn:
            await conn.execute("update job_key set expires_at = now() - interval '1 second'")
        assert await send(db, jobs, tenants[0], "nothing", {}, idempotency_key="k") != first


async def test_errors_decide_about_retries(db: Database, tenants: Tenants, working: Working) -> None:
    async def flaky(run: Run) -> dict[str, Any]:
        match run.payload["fault"], run.attempt:
            case "transient", 1 | 2:
                raise TransientError("not yet")
            case "rate", 1:
                raise RateLimitedError("slow down", after=1.5)
            case "permanent", _:
                raise PermanentError("no way")
            case "bug", _:
                raise ZeroDivisionError
        return {}

    async with working(kind("flaky", flaky, tries=2), kind("patient", flaky, tries=4)) as jobs:
        sent = {fault: await send(db, jobs, tenants[0], "patient", {"fault": fault}) for fault in ("transient", "rate")}
        sent |= {fault: await send(db, jobs, tenants[0], "flaky", {"fault": fault}) for fault in ("permanent", "bug")}
        jobs_ended = {fault: await ended(jobs, tenants[0], job) for fault, job in sent.items()}
    assert {fault: (job.status, job.attempts) for fault, job in jobs_ended.items()} == {
        "transient": ("done", 3),
        "rate": ("done", 2),
        "permanent": ("failed", 1),
        "bug": ("failed", 2),
    }
    assert [error.message for error in jobs_ended["transient"].history] == ["not yet", "not yet"]
    rate = jobs_ended["rate"]
    assert rate.finished_at is not None
    assert (rate.finished_at - rate.history[0].at).total_seconds() >= 1.5
    assert jobs_ended["permanent"].error == jobs_ended["permanent"].history[-1]
    assert [error.code for error in jobs_ended["bug"].history] == ["internal_error", "internal_error"]


async def test_once_is_once_over_attempts_and_replays(db: Database, tenants: Tenants, working: Working) -> None:
    done: list[str] = []

    async def steps(run: Run) -> dict[str, Any]:
        async def effect(conn: Connection) -> list[int]:
            done.append("effect")
            return [run.attempt]

        first = await run.once("effect", effect)
        done.append("attempt")
        if run.attempt == 1:
            raise TransientError
        if run.attempt == 2:
            raise PermanentError
        return {"first": first}

    async with working(kind("steps", steps)) as jobs:
        job = await send(db, jobs, tenants[0], "steps", {})
        assert (await ended(jobs, tenants[0], job)).status == "failed"
        await jobs.retry(tenants[0], job)
        assert (await ended(jobs, tenants[0], job)).result == {"first": [1]}
        with pytest.raises(Conflict):
            await jobs.retry(tenants[0], job)
        await jobs.discard(tenants[0], job)
        with pytest.raises(JobNotFound):
            await jobs.get(tenants[0], job)
    assert done == ["effect", "attempt", "attempt", "attempt"]


async def test_an_effect_that_fails_leaves_no_guard(db: Database, tenants: Tenants, working: Working) -> None:
    async def half(run: Run) -> dict[str, Any]:
        async def effect(conn: Connection) -> int:
            if run.attempt == 1:
                raise TransientError
            return run.attempt

        return {"by": await run.once("effect", effect)}

    async with working(kind("half", half)) as jobs:
        assert (await ended(jobs, tenants[0], await send(db, jobs, tenants[0], "half", {}))).result == {"by": 2}


async def test_cancel_stops_what_runs_and_what_waits(db: Database, tenants: Tenants, working: Working) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def long(run: Run) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            assert run.cancelled
            stopped.set()

    async with working(kind("long", long), slots=1) as jobs:
        running = await send(db, jobs, tenants[0], "long", {})
        waiting = await send(db, jobs, tenants[0], "long", {})
        async with asyncio.timeout(10):
            await started.wait()
        for job in (waiting, running):
            assert (await jobs.cancel(tenants[0], job)).status == "cancelled"
        async with asyncio.timeout(5):
            await stopped.wait()
        started.clear()
        await jobs.retry(tenants[0], waiting)
        async with asyncio.timeout(10):
            await started.wait()
        await jobs.cancel(tenants[0], waiting)
        found, cursor = await jobs.list(tenants[0], status="cancelled", limit=1)
        assert [job.id for job in found] == [waiting]
        assert cursor == waiting
        assert [job.id for job in (await jobs.list(tenants[0], after=cursor))[0]] == [running]


async def test_time_outs_soft_and_hard(db: Database, tenants: Tenants, working: Working) -> None:
    release = asyncio.Event()

    async def slow(run: Run) -> None:
        try:
            await release.wait()
        except asyncio.CancelledError:
            if run.payload["stubborn"]:
                await release.wait()
            raise

    bounded = kind("slow", slow, soft_seconds=0.3, hard_seconds=0.6, tries=1)
    async with working(bounded) as jobs:
        sent = [await send(db, jobs, tenants[0], "slow", {"stubborn": stubborn}) for stubborn in (False, True)]
        endings = [await ended(jobs, tenants[0], job) for job in sent]
        release.set()
    assert [job.status for job in endings] == ["failed", "failed"]
    texts = [job.error.message for job in endings if job.error is not None and job.error.code == "timeout"]
    assert [text.rsplit(" s and ")[1] for text in texts] == ["stopped.", "did not stop and was abandoned."]


async def test_a_stop_hands_back_what_runs(db: Database, tenants: Tenants, working: Working) -> None:
    started = asyncio.Event()

    async def interrupted(run: Run) -> dict[str, Any]:
        started.set()
        if run.attempt == 1:
            await asyncio.sleep(60)
        return {"attempt": run.attempt}

    steady = kind("interrupted", interrupted)
    async with working(steady) as jobs:
        job = await send(db, jobs, tenants[0], "interrupted", {})
        async with asyncio.timeout(10):
            await started.wait()
    async with working(steady) as jobs:
        found = await ended(jobs, tenants[0], job)
    assert found.result == {"attempt": 2}
    assert found.history == []


async def test_a_stop_waits_for_what_runs(db: Database, tenants: Tenants, working: Working) -> None:
    started = asyncio.Event()

    async def brief(run: Run) -> dict[str, Any]:
        started.set()
        await asyncio.sleep(0.5)
        return {"attempt": run.attempt}

    async with working(kind("brief", brief), drain=20) as jobs:
        job = await send(db, jobs, tenants[0], "brief", {})
        async with asyncio.timeout(10):
            await started.wait()
    assert (await jobs.get(tenants[0], job)).result == {"attempt": 1}


async def test_a_bulk_sender_does_not_starve_another(db: Database, tenants: Tenants, working: Working) -> None:
    order: list[str] = []

    async def note(run: Run) -> None:
        order.append(run.payload["who"])

    async with working(kind("note", note), slots=2, start=False) as jobs:
        async with db.tenant(tenants[0]) as conn:
            for _ in range(30):
                await jobs.enqueue(conn, tenants[0], "note", {"who": "bulk"})
        async with db.tenant(tenants[1]) as conn:
            last = [await jobs.enqueue(conn, tenants[1], "note", {"who": "small"}) for _ in range(3)][-1]
        await jobs.start()
        await ended(jobs, tenants[1], last)
        async with asyncio.timeout(20):
            while (await jobs.list(tenants[0], status="queued"))[0]:
                await asyncio.sleep(0.1)
        assert max(index for index, who in enumerate(order) if who == "small") < 12


async def test_past_work_and_past_idleness_weigh_nothing(db: Database, tenants: Tenants, working: Working) -> None:
    async def nothing(run: Run) -> None:
        return None

    async def place(jobs: Jobs, tenant: str) -> int:
        job = await send(db, jobs, tenant, "nothing", {})
        found = await _as_owner(db, f"select priority from jobs.workflow_status where workflow_uuid = '{job}.0'")
        return int(found[0][0])

    async with working(kind("nothing", nothing), start=False) as jobs:
        assert [await place(jobs, tenants[0]) for _ in range(5)] == [1, 2, 3, 4, 5]
        assert [await place(jobs, tenants[1]) for _ in range(2)] == [1, 2]
        # The queue serves what is at 4 now: a newcomer starts there, not at 1, and not behind the bulk.
        await _as_owner(db, "update jobs.workflow_status set status = 'SUCCESS' where priority < 4")
        assert await place(jobs, tenants[1]) == 4
        # After the queue ran dry all begin together, whoever sent how much before.
        await _as_owner(db, "update jobs.workflow_status set status = 'SUCCESS'")
        assert [await place(jobs, tenants[1]) for _ in range(3)] == [6, 7, 8]
        assert await place(jobs, tenants[0]) == 6


async def test_a_kind_that_no_worker_knows_is_tried_later(db: Database, tenants: Tenants, working: Working) -> None:
    async def nothing(run: Run) -> None:
        return None

    async with working(kind("old", nothing), kind("new", nothing), start=False) as newer:
        job = await send(db, newer, tenants[0], "new", {})
        async with working(kind("old", nothing)) as older:
            async with asyncio.timeout(10):
                async for state in older.watch(tenants[0], job):
                    if state.history:
                        break
            assert state.status == "queued"
            assert "no such kind" in state.history[0].message


async def test_the_job_of_a_round_that_the_engine_gave_up_is_a_dead_letter(
    db: Database, tenants: Tenants, working: Working
) -> None:
    async def nothing(run: Run) -> None:
        return None

    async with working(kind("nothing", nothing), start=False) as jobs:
        job = await send(db, jobs, tenants[0], "nothing", {})
        await _as_owner(db, "update jobs.workflow_status set status = 'ERROR', completed_at = 1")
        await jobs.start()
        found = await ended(jobs, tenants[0], job)
        assert found.status == "failed"
        assert found.error is not None
        assert found.error.message == "The job engine gave this job up: ERROR."
        # Ended rounds are forgotten, so that the engine's tables don't grow.
        async with asyncio.timeout(10):
            while await _as_owner(db, "select from jobs.workflow_status"):
                await asyncio.sleep(0.1)


async def _as_owner(db: Database, sql: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(db.url, autocommit=True) as conn:
        cursor = await conn.execute(sql.encode())
        return await cursor.fetchall() if cursor.description else []


async def test_a_worker_that_was_overtaken_can_write_no_more(db: Database, tenants: Tenants, working: Working) -> None:
    async def nothing(run: Run) -> None:
        return None

    async def effect(conn: Connection) -> str:
        return "written"

    async with working(kind("nothing", nothing), start=False) as jobs:
        job = await send(db, jobs, tenants[0], "nothing", {})
        early, late = (Run(db, job, tenants[0], owner, {}, 1) for owner in ("early", "late"))
        for run in (early, late):
            async with db.tenant(tenants[0]) as conn:
                await scalar(conn, SQL["begin_attempt"], {"id": job, "round": 0, "owner": run.owner})
        assert await late.once("effect", effect) == "written"
        with pytest.raises(asyncio.CancelledError):
            await early.once("another", effect)
        with pytest.raises(asyncio.CancelledError):
            await early.progress("still here", 1, 2)
        assert (await jobs.get(tenants[0], job)).phase == "running"


@pytest.mark.parametrize("executor", ["itself", "the dead"])
async def test_what_nobody_runs_is_put_back(db: Database, tenants: Tenants, working: Working, executor: str) -> None:
    async def nothing(run: Run) -> None:
        return None

    async with working(kind("nothing", nothing, queue="default")) as jobs:
        beats: list[tuple[Any, ...]] = []
        while not beats:
            beats = await _as_owner(db, "select id from gimle.job_executor")
        holder = beats[0][0] if executor == "itself" else executor
        steal = (
            f"update jobs.workflow_status set status = 'PENDING', executor_id = '{holder}', started_at_epoch_ms = 1, "
            "application_version = 'gimle' where status = 'ENQUEUED' returning 1"
        )
        stolen: list[tuple[Any, ...]] = []
        while not stolen:  # until we were faster than the worker
            job = await send(db, jobs, tenants[0], "nothing", {})
            stolen = await _as_owner(db, steal)
        assert (await ended(jobs, tenants[0], job)).status == "done"
