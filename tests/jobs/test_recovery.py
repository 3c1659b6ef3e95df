"""Faults, in short: nothing lost, nothing doubled, nothing stuck, workers alive. Long form: `bench/recovery.py`."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import recovery

from gimle.foundation.postgres import Embedded

JOBS, STALE = 60, 2.0


class Stage:
    """Two workers on a server of their own, because one test stops it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = Embedded.start(folder, durable=False)
        self.rig = recovery.Rig(self.server.url, STALE)
        self.rig.prepare()

    def two_workers(self) -> None:
        """Have two living workers again."""
        starting = [self.rig.spawn(wait=False) for _ in range(2 - len(self.rig.workers))]
        for worker in starting:
            assert worker.stdout is not None
            assert "ready" in worker.stdout.readline(), self.rig.logged()

    def begin(self) -> list[str]:
        """Send the jobs, and wait until they are under way."""
        self.two_workers()
        jobs = self.rig.send(JOBS)
        assert self.rig.until(lambda: self.rig.effects(jobs) >= JOBS // 6, 20)
        return jobs

    def restart(self) -> None:
        """Stop the server fast, and start it again on the same data."""
        self.server.stop()
        time.sleep(1)
        self.server = Embedded.start(self.folder, durable=False)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    folder = Path(tempfile.mkdtemp(prefix="gimle-recovery-"))
    found = Stage(folder)
    yield found
    found.rig.close()
    found.server.stop()
    shutil.rmtree(folder, ignore_errors=True)


def unharmed(figures: recovery.Figures) -> bool:
    return figures == recovery.Figures(
        fault=figures.fault,
        jobs=JOBS,
        done=JOBS,
        seconds=figures.seconds,
        lost=0,
        doubled=0,
        stuck=0,
        failed=0,
        incomplete=0,
        idle_workers=0,
        log_lines=figures.log_lines,
    )


@pytest.mark.parametrize("fault", ["kill", "backends", "pause"])
def test_a_fault_harms_no_job(stage: Stage, fault: str) -> None:
    jobs = stage.begin()
    recovery.FAULTS[fault](stage.rig)
    figures = stage.rig.measure(fault, jobs, patience=30)
    assert unharmed(figures), f"{figures}\n{stage.rig.logged()[-4000:]}"


def test_a_restart_of_the_database_harms_no_job(stage: Stage) -> None:
    jobs = stage.begin()
    stage.restart()
    figures = stage.rig.measure("restart", jobs, patience=30)
    assert unharmed(figures), f"{figures}\n{stage.rig.logged()[-4000:]}"


def test_a_job_that_kills_its_worker_becomes_a_dead_letter(stage: Stage) -> None:
    stage.two_workers()
    poison, neighbours = stage.rig.send(1, kind="poison"), stage.rig.send(10)

    def settled() -> bool:
        for worker in list(stage.rig.workers):
            if worker.poll() is not None:
                stage.rig.kill(worker)
                stage.rig.spawn(wait=False)
        return stage.rig.open(poison + neighbours) == 0

    assert stage.rig.until(settled, 45), stage.rig.logged()[-4000:]
    statement = "select status, error->>'code', attempts from gimle.job where id = %s"
    assert stage.rig.sql(statement, poison[0]) == [("failed", "worker_lost", 3)]
    assert stage.rig.sql("select distinct status from gimle.job where id = any(%s)", neighbours) == [("done",)]
