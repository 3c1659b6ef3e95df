"""What a fault costs the jobs: lost, doubled, stuck, and whether the workers live on.

    python -m bench.recovery                     every fault once, 500 jobs each; one JSON line a fault
    python -m bench.recovery kill storm          only these
    python -m bench.recovery --jobs 60 restart    smaller

Each job writes effect rows without a unique key, so each repetition shows. Four jobs of five have one step, the fifth
has five; a step is an effect and 20 ms of work (200 ms in the storm). Two worker processes, four slots each. All counts
but `done` must be 0: they are the result, the seconds depend on the machine.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from gimle.foundation import logs
from gimle.foundation.config import JobSettings
from gimle.foundation.db import Connection, Database
from gimle.foundation.migrate import migrate
from gimle.foundation.postgres import Embedded
from gimle.jobs.jobs import Jobs
from gimle.jobs.reaper import Pace
from gimle.jobs.run import Run
from gimle.jobs.types import JobKind

TENANT = "ten_recovery"
EFFECTS = """create table gimle.bench_effect (
    job text not null, step int not null, pid int not null, at timestamptz not null default clock_timestamp())"""


class Figures(msgspec.Struct, kw_only=True):
    """What one fault did. Seconds count from the fault to the last job."""

    fault: str
    jobs: int
    done: int
    seconds: float
    lost: int
    doubled: int
    stuck: int
    failed: int
    incomplete: int
    idle_workers: int
    log_lines: int


# The worker process


async def _steps(run: Run) -> dict[str, Any]:
    for step in range(run.payload["steps"]):

        async def effect(conn: Connection, step: int = step) -> None:
            await conn.execute("insert into bench_effect values (%s, %s, %s)", (run.id, step, os.getpid()))

        await run.once(f"step:{step}", effect)
        await asyncio.sleep(run.payload["sleep"])
    return {}


async def _poison(run: Run) -> None:
    os._exit(9)


def kinds() -> list[JobKind]:
    """The kinds of the scenario."""
    facts: Mapping[str, Any] = {"queue": "agents-high", "soft_seconds": 60, "hard_seconds": 90, "backoff_seconds": 0.2}
    return [JobKind(name="steps", handler=_steps, **facts), JobKind(name="poison", handler=_poison, **facts)]


async def serve(url: str, stale: float) -> None:
    """A worker process until SIGTERM."""
    logs.configure("warning", as_json=True)
    db = await Database.open(url, size=4)
    pace = Pace(beat=min(1.0, stale / 5), stale=stale, sweep=2.0)
    jobs = await Jobs.open(db, kinds(), JobSettings(slots=4, drain_seconds=2.0), pace)
    await jobs.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print("ready", flush=True)
    await ended.wait()
    await jobs.close()
    await db.close()


# The rig around it


class Rig:
    """A database with the scenario's tables, and worker processes on it."""

    def __init__(self, url: str, stale: float = 5.0) -> None:
        self.url = url
        self.stale = stale
        self.workers: list[subprocess.Popen[str]] = []
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the rig)

    def prepare(self) -> None:
        """Bring a fresh database to where workers can start."""
        asyncio.run(migrate(self.url))
        self.sql(EFFECTS)
        self.sql("grant select, insert on gimle.bench_effect to gimle_app")
        self.sql("insert into gimle.tenant (id, name) values (%s, 'recovery')", TENANT)
        asyncio.run(self._send([]))

    def sql(self, statement: str, *values: object) -> list[Any]:
        """Run a statement as the owner, and as the tenant as far as policies are concerned."""
        with psycopg.connect(self.url, autocommit=True, application_name="bench") as conn:
            conn.execute("select set_config('app.tenant', %s, false)", (TENANT,))
            cursor = conn.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def spawn(self, wait: bool = True) -> subprocess.Popen[str]:
        """Start a worker process."""
        command = [sys.executable, "-m", "bench.recovery", "--serve", self.url, "--stale", str(self.stale)]
        root = Path(__file__).resolve().parent.parent
        worker = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.workers.append(worker)
        if wait and worker.stdout is not None and "ready" not in worker.stdout.readline():
            raise RuntimeError(f"The worker did not start: {self.logged()}")
        return worker

    def logged(self) -> str:
        """What the workers have written to standard error."""
        self.log.seek(0)
        return self.log.read()

    def kill(self, worker: subprocess.Popen[str]) -> None:
        """End a worker as `kill -9` does."""
        worker.kill()
        worker.wait()
        if worker.stdout is not None:
            worker.stdout.close()
        self.workers.remove(worker)

    def send(self, count: int, sleep: float = 0.02, kind: str = "steps") -> list[str]:
        """Enqueue jobs in one transaction."""
        payloads = [{"steps": 5 if number % 5 == 0 else 1, "sleep": sleep} for number in range(count)]
        return asyncio.run(self._send(payloads, kind))

    async def _send(self, payloads: list[dict[str, Any]], kind: str = "steps") -> list[str]:
        db = await Database.open(self.url, size=1)
        jobs = await Jobs.open(db, kinds(), JobSettings())
        async with db.tenant(TENANT) as conn:
            sent = [await jobs.enqueue(conn, TENANT, kind, payload) for payload in payloads]
        await jobs.close()
        await db.close()
        return sent

    def effects(self, jobs: list[str]) -> int:
        """How many effects of these jobs are written."""
        return int(self.sql("select count(*) from gimle.bench_effect where job = any(%s)", jobs)[0][0])

    def open(self, jobs: list[str]) -> int:
        """How many of these jobs have not ended."""
        statement = "select count(*) from gimle.job where id = any(%s) and status in ('queued', 'running')"
        return int(self.sql(statement, jobs)[0][0])

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition; whether it came in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if condition():
                    return True
            except psycopg.OperationalError:
                pass  # The server is away: that is the fault.
            time.sleep(0.05)
        return False

    def measure(self, fault: str, jobs: list[str], patience: float = 60.0) -> Figures:
        """Wait until the jobs have ended, or do so no more, and count."""
        began = time.monotonic()
        self.until(lambda: self.open(jobs) == 0, patience)
        seconds = time.monotonic() - began
        counts = dict(self.sql("select status, count(*) from gimle.job where id = any(%s) group by 1", jobs))
        doubled = self.sql(
            "select count(distinct job) from (select job from gimle.bench_effect where job = any(%s) "
            "group by job, step having count(*) > 1) as twice",
            jobs,
        )[0][0]
        incomplete = self.sql(
            "select count(*) from gimle.job j where id = any(%s) and status = 'done' and (payload->>'steps')::int > "
            "(select count(distinct step) from gimle.bench_effect e where e.job = j.id)",
            jobs,
        )[0][0]
        return Figures(
            fault=fault,
            jobs=len(jobs),
            done=counts.get("done", 0),
            seconds=round(seconds, 1),
            lost=len(jobs) - sum(counts.values()),
            doubled=doubled,
            stuck=counts.get("queued", 0) + counts.get("running", 0),
            failed=counts.get("failed", 0) + counts.get("cancelled", 0),
            incomplete=incomplete,
            idle_workers=self._idle(),
            log_lines=self.logged().count("\n"),
        )

    def _idle(self) -> int:
        """How many living workers take no new jobs, the dead that nobody killed among them."""
        alive = {worker.pid for worker in self.workers}
        taken: set[int] = set()

        def all_at_work() -> bool:
            jobs = self.send(12, sleep=0.1)
            self.until(lambda: self.open(jobs) == 0, 10)
            taken.update(row[0] for row in self.sql("select pid from gimle.bench_effect where job = any(%s)", jobs))
            return alive <= taken

        self.until(all_at_work, 15)
        return len(alive - taken)

    def close(self) -> None:
        """Stop the workers."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()
        self.workers.clear()
        self.log.close()


# The faults: each gets the rig while the jobs run


def kill(rig: Rig) -> None:
    """`kill -9` of a worker; a new one comes."""
    rig.kill(rig.workers[0])
    rig.spawn(wait=False)


def backends(rig: Rig) -> None:
    """All connections are terminated, twice."""
    for _ in range(2):
        rig.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        time.sleep(0.5)


def storm(rig: Rig, kills: int = 10) -> None:
    """A worker is killed every three seconds; each time a new one comes."""
    for _ in range(kills):
        rig.kill(rig.workers[0])
        rig.spawn(wait=False)
        time.sleep(3)


def pause(rig: Rig) -> None:
    """A worker is stopped for longer than it takes to be declared dead, and wakes up."""
    rig.workers[0].send_signal(signal.SIGSTOP)
    time.sleep(rig.stale * 2.4)
    rig.workers[0].send_signal(signal.SIGCONT)


def crowd(rig: Rig) -> None:
    """All connections are terminated, and all slots of the server are taken for eight seconds."""
    held: list[psycopg.Connection[Any]] = []
    rig.sql(
        "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname is not null"
    )
    end = time.monotonic() + 8
    while time.monotonic() < end:
        try:
            held.append(psycopg.connect(rig.url, application_name="crowd"))
        except psycopg.OperationalError:
            time.sleep(0.02)
    for conn in held:
        conn.close()


FAULTS: Mapping[str, Callable[[Rig], None]] = {
    "none": lambda rig: None,
    "kill": kill,
    "backends": backends,
    "storm": storm,
    "pause": pause,
    "crowd": crowd,
}


def main() -> None:
    """Run the faults that were named, or all, and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", default=[], help=", ".join([*FAULTS, "restart"]))
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument(
        "--stale", type=float, default=5.0, help="seconds of silence after which a worker counts as dead"
    )
    parser.add_argument("--serve", metavar="URL", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        asyncio.run(serve(chosen.serve, chosen.stale))
        return
    for fault in chosen.faults or [*FAULTS, "restart"]:
        print(json.dumps(msgspec.to_builtins(_bench(fault, chosen.jobs, chosen.stale))), flush=True)


def _bench(fault: str, count: int, stale: float) -> Figures:
    folder = Path(tempfile.mkdtemp(prefix="gimle-recovery-"))
    server = Embedded.start(folder)
    rig = Rig(server.url, stale)
    try:
        rig.prepare()
        for _ in range(2):
            rig.spawn()
        jobs = rig.send(count, sleep=0.2 if fault == "storm" else 0.02)
        rig.until(lambda: rig.effects(jobs) >= count // 8, 40)
        if fault == "restart":
            server.stop()
            time.sleep(2)
            server = Embedded.start(folder)
        else:
            FAULTS[fault](rig)
        return rig.measure(fault, jobs, patience=120)
    finally:
        rig.close()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
