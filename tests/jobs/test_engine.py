"""The contract with DBOS: what of its inside the room leans on. When one fails, read the ADR before you upgrade."""

import logging

import psycopg
import pytest
import sqlalchemy as sa
from dbos import DBOS

from gimle.foundation.config import JobSettings
from gimle.foundation.db import Database
from gimle.jobs import engine
from gimle.jobs.jobs import Jobs

# Every column of the engine's table that our SQL reads or writes.
COLUMNS = {
    "workflow_uuid", "name", "status", "executor_id", "queue_name", "priority", "owner_xid", "started_at_epoch_ms",
    "updated_at", "completed_at", "authenticated_user",
}  # fmt: skip


async def test_the_tables_are_those_that_our_sql_names(db: Database) -> None:
    await Jobs.open(db, [], JobSettings())
    await engine.migrate(db.url)  # a second time changes nothing
    async with await psycopg.AsyncConnection.connect(db.url) as conn:
        cursor = await conn.execute(
            "select column_name from information_schema.columns "
            "where table_schema = 'jobs' and table_name = 'workflow_status'"
        )
        assert {row[0] for row in await cursor.fetchall()} >= COLUMNS
        cursor = await conn.execute(
            "select proargnames::text[] from pg_proc where proname = 'enqueue_workflow' "
            "and pronamespace = 'jobs'::regnamespace"
        )
        (found,) = await cursor.fetchall()
        used = {"workflow_name", "queue_name", "positional_args", "workflow_id", "priority", "delay_until_epoch_ms"}
        assert used | {"authenticated_user", "application_name"} <= set(found[0])


def test_the_states_are_those_that_our_sql_names() -> None:
    from dbos._sys_db import WorkflowStatusString

    assert {state.value for state in WorkflowStatusString} == {
        "PENDING", "SUCCESS", "ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "CANCELLED", "ENQUEUED", "DELAYED",
    }  # fmt: skip


def test_a_failed_connect_is_transient_for_the_engine() -> None:
    from dbos._utils import retriable_postgres_exception

    pool = engine._pool("postgresql://nobody@/none?host=/nonexistent", size=1)
    with pytest.raises(sa.exc.OperationalError) as failed:
        pool.connect()
    assert retriable_postgres_exception(failed.value)
    assert failed.value.orig is not None
    assert isinstance(failed.value.orig, psycopg.errors.ConnectionFailure)


def test_deleting_rounds_is_public() -> None:
    assert callable(DBOS.delete_workflows)


def test_the_log_says_each_thing_once_in_one_line() -> None:
    terse = engine._Terse()

    def record(text: str) -> logging.LogRecord:
        return logging.LogRecord("dbos", logging.WARNING, __file__, 1, text, (), (OSError, OSError(), None))

    first = record("Exception in queue thread: lost\nTraceback\n  many lines")
    assert terse.filter(first)
    assert (first.getMessage(), first.exc_info) == ("Exception in queue thread: lost", None)
    assert not terse.filter(record("Exception in queue thread: lost\nTraceback"))
    assert terse.filter(record("Something else"))
