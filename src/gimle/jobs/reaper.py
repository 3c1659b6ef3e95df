"""The watchman of a worker: a thread that says "I live", and puts back what the dead and the forgetful have left.

A thread and not a task, because a handler that blocks the loop must not look dead. It has a connection of its own,
because an empty pool must not look dead either. Nothing here does harm when it is wrong: a round that is put back while
somebody still runs it changes the owner of the job, and the earlier one can write no more (see `worker.py`).
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from gimle.foundation import logs
from gimle.foundation.db import queries

SQL = queries("gimle.jobs")
log = logs.get("jobs.reaper")


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds between beats, of silence that mean death, between sweeps, of grace for ended rounds; days kept."""

    beat: float = 1.0
    stale: float = 10.0
    sweep: float = 10.0
    grace: float = 600.0
    keep_days: int = 7


class Reaper(threading.Thread):
    """Beats, watches and sweeps until `stop`. `running` and `drop` are the worker's; `forget` deletes ended rounds."""

    def __init__(
        self,
        engine: sa.Engine,
        me: str,
        pace: Pace,
        running: Callable[[], list[str]],
        drop: Callable[[Sequence[str]], None],
        forget: Callable[[list[str]], None],
    ) -> None:
        super().__init__(name="gimle-reaper", daemon=True)
        self._engine = engine
        self._me = me
        self._pace = pace
        self._running = running
        self._drop = drop
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._answered = 0.0
        self._suspects: set[str] = set()
        self._ended = threading.Event()

    def run(self) -> None:
        """Keep a connection for as long as it lasts, and get another when it is gone."""
        while not self._ended.is_set():
            try:
                with self._engine.connect() as conn:
                    self._watch(conn)
            except sa.exc.SQLAlchemyError as lost:
                log.warning("reaper_lost_database", error=type(lost).__name__)
                self._ended.wait(min(self._pace.beat, 0.5))

    def stop(self) -> None:
        """End the thread and hand back what the engine still books on this worker."""
        self._ended.set()
        if self.is_alive():
            self.join(10.0)
        try:
            with self._engine.connect() as conn:
                self._hand_back(conn, [self._me], None, "shutdown")
        except sa.exc.SQLAlchemyError as lost:
            log.warning("hand_back_left_to_others", error=type(lost).__name__)

    def _watch(self, conn: sa.Connection) -> None:
        since = last = swept = time.monotonic()
        while not self._ended.is_set():
            _rows(conn, "beat", {"me": self._me})
            now = time.monotonic()
            if now - last > max(self._pace.stale / 2, self._pace.beat * 3):
                since = now  # We ourselves were stopped, and so perhaps was everybody: judge nobody yet.
            last = now
            self._check_own(conn)
            if now - since > self._pace.stale:
                self._check_others(conn)
            if now - swept > self._pace.sweep:
                swept = now
                self._sweep(conn)
            self._ended.wait(self._pace.beat)

    def _check_own(self, conn: sa.Connection) -> None:
        running = self._running()
        key = {"running": running, "me": self._me}
        lost = [row["workflow_uuid"] for row in _rows(conn, "lost_rounds", key)] if running else []
        self._loop.call_soon_threadsafe(self._pulse, lost)
        if time.monotonic() - self._answered > self._pace.beat * 2:
            self._suspects = set()  # A blocked loop has not begun what it was given: that is no orphan.
            return
        found = {row["workflow_uuid"] for row in _rows(conn, "orphaned_rounds", key)}
        orphans = found & self._suspects
        self._suspects = found - orphans
        if orphans:
            self._hand_back(conn, [self._me], sorted(orphans), "orphan")

    def _pulse(self, lost: list[str]) -> None:
        self._answered = time.monotonic()
        self._drop(lost)

    def _check_others(self, conn: sa.Connection) -> None:
        silent = [row["executor_id"] for row in _rows(conn, "silent_executors", {"stale": self._pace.stale})]
        if silent:
            self._hand_back(conn, silent, None, "silent")

    def _hand_back(self, conn: sa.Connection, executors: list[str], rounds: list[str] | None, why: str) -> None:
        back = _rows(conn, "hand_back", {"executors": executors, "rounds": rounds})
        if back:
            log.warning("rounds_put_back", why=why, executors=executors, rounds=len(back))

    def _sweep(self, conn: sa.Connection) -> None:
        """Settle the jobs whose round the engine gave up, drop ended rounds, and forget old jobs."""
        ended = _rows(conn, "ended_rounds", {"grace": self._pace.grace})
        for row in ended:
            if row["status"] not in ("SUCCESS", "CANCELLED"):
                reason = f"The job engine gave this job up: {row['status']}."
                job, _, number = row["name"].partition(".")
                self._in_tenant(row["tenant"], "bury_round", {"id": job, "round": int(number), "reason": reason})
        if ended:
            self._forget([row["name"] for row in ended])
        _rows(conn, "forget_executors", {})
        for row in _rows(conn, "known_tenants", {}):
            self._in_tenant(row["tenant"], "forget_jobs", {"days": self._pace.keep_days})

    def _in_tenant(self, tenant: str, query: str, params: Mapping[str, Any]) -> None:
        with self._engine.connect().execution_options(isolation_level="READ COMMITTED") as conn, conn.begin():
            _rows(conn, "as_tenant", {"tenant": tenant})
            _rows(conn, query, params)


def _rows(conn: sa.Connection, query: str, params: Mapping[str, Any]) -> Sequence[sa.RowMapping]:
    result = conn.exec_driver_sql(SQL[query], dict(params))
    return result.mappings().all() if result.returns_rows else []
