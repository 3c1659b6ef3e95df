"""The one door to DBOS Transact: launch and stop it around a `Worker`, with the remedies it needs.

One workflow, `gimle.job`, carries out one round of one job and never raises: errors, retries and results are rows of
our own. DBOS keeps the queues, the claims and the waits. `docs/adr/0003-dbos-behind-jobs.md` says why.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ClassVar

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, error

from gimle.foundation.errors import Conflict
from gimle.jobs.reaper import Pace, Reaper
from gimle.jobs.types import POLL_SECONDS
from gimle.jobs.worker import Worker

SCHEMA = "jobs"
APPLICATION = "gimle"
WORKFLOW = "gimle.job"


async def migrate(url: str) -> None:
    """Create or update the engine's own tables (schema `jobs`). Safe when several nodes start together."""
    _quieten()
    await asyncio.to_thread(DBOS.migrate, _driver_url(url), schema=SCHEMA)


class Engine:
    """DBOS in this process, from `launch` to `stop`. It is a singleton of the process: one engine at a time."""

    _launched: ClassVar[bool] = False

    def __init__(self, url: str, worker: Worker, queues: Sequence[str], slots: int, pace: Pace) -> None:
        self._url = url
        self._worker = worker
        self._queues = list(queues)
        self._slots = slots
        # Never the default id: two processes with one id take each other's rounds at start.
        self._me = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._pool = _pool(url, size=5)
        self._watch = _pool(url, size=2).execution_options(isolation_level="AUTOCOMMIT")
        self._reaper = Reaper(self._watch, self._me, pace, worker.running, worker.drop, _forget)

    async def launch(self) -> None:
        """Take work from now on, on the running loop, which this holds up for some 0.3 s. Raises `Conflict`."""
        if Engine._launched:
            raise Conflict(
                "This process already works on jobs.", hint="Stop the first worker, or start another process."
            )
        Engine._launched = True
        _quieten()
        try:
            await self._launch()
        except BaseException:
            await self.stop(0)
            raise

    async def _launch(self) -> None:
        DBOS(config=self._config())
        # A recovered round is judged by our own count of lives; the engine's is only the last fence.
        DBOS.workflow(name=WORKFLOW, max_recovery_attempts=50)(_round(self._worker))
        DBOS.listen_queues(self._queues)
        DBOS.launch()
        for queue in self._queues:
            await DBOS.register_queue_async(
                queue,
                worker_concurrency=self._slots,
                polling_interval_sec=POLL_SECONDS[queue],
                on_conflict="always_update",
            )
        self._reaper.start()

    async def stop(self, drain_seconds: float) -> None:
        """Take no more work, give what runs `drain_seconds` to end, and hand the rest back to the queue."""
        busy = bool(self._worker.running())
        loop = asyncio.get_running_loop()
        # A pool of its own: DBOS takes the loop's default pool along when it goes.
        with ThreadPoolExecutor(1, "gimle-engine-stop") as alone:
            patience = int(drain_seconds) + 5 if busy else 0
            going = loop.run_in_executor(alone, lambda: _destroy(patience))
            await self._worker.drain(drain_seconds if busy else 0)
            await going
        loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="gimle"))
        await self._worker.close()
        await asyncio.to_thread(self._reaper.stop)
        self._watch.dispose()
        # What DBOS's last threads give back from now on is closed, and not kept in a pool that is gone.
        sa.event.listen(self._pool, "checkin", lambda _, record: record.invalidate())
        self._pool.dispose()
        Engine._launched = False

    def _config(self) -> DBOSConfig:
        return {
            "name": APPLICATION,
            "application_version": APPLICATION,  # pinned, else an upgrade would strand what older nodes left
            "executor_id": self._me,
            "system_database_url": _driver_url(self._url),
            "system_database_engine": self._pool,
            "dbos_system_schema": SCHEMA,
            "serializer": DBOSPortableJSONSerializer(),  # never pickle from a database
            "max_executor_threads": 32,
            "scheduler_polling_interval_sec": 30.0,
            "log_level": "WARNING",
        }


def _round(worker: Worker) -> Any:
    async def carry_out(job: str, tenant: str, number: int) -> None:
        await worker.work(job, tenant, number)

    return carry_out


def _forget(rounds: list[str]) -> None:
    # While this engine stops there is none to ask: the next sweep, here or elsewhere, finds them again.
    with suppress(error.DBOSException):
        DBOS.delete_workflows(rounds)


def _destroy(patience: int) -> None:
    DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=patience)


def _driver_url(url: str) -> str:
    return sa.make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def _pool(url: str, size: int) -> sa.Engine:
    """A pool whose failed connects DBOS takes for what they are.

    DBOS decides by the text "connection failed" or by SQLSTATE class 08 whether to try again. For an absent unix socket
    psycopg says "connection is bad" and gives no SQLSTATE: the task that met it would end, its round stay PENDING.
    """
    engine = sa.create_engine(
        _driver_url(url),
        pool_size=size,
        max_overflow=0,
        pool_pre_ping=True,
        pool_timeout=30,
        connect_args={"application_name": "gimle-jobs", "options": "-c idle_in_transaction_session_timeout=60000"},
    )

    def connect(dialect: Any, _record: Any, args: Any, params: Any) -> Any:
        driver = dialect.loaded_dbapi
        try:
            return dialect.connect(*args, **params)
        except driver.OperationalError as failed:
            raise driver.errors.ConnectionFailure(str(failed)) from failed

    sa.event.listen(engine, "do_connect", connect)
    return engine


class _Terse(logging.Filter):
    """One line instead of a traceback, and each line once in ten seconds: DBOS logs each failed look at each queue."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage().split("\n", 1)[0][:200]
        record.msg, record.args, record.exc_info, record.exc_text = text, (), None, None
        now = time.monotonic()
        if now - self._said.get(text[:60], -60.0) < 10.0:
            return False
        self._said = {line: at for line, at in self._said.items() if now - at < 10.0} | {text[:60]: now}
        return True


_TERSE = _Terse()


def _quieten() -> None:
    logger = logging.getLogger("dbos")
    logger.setLevel(logging.WARNING)
    if _TERSE not in logger.filters:
        logger.addFilter(_TERSE)
