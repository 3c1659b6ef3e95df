import asyncio
from typing import LiteralString

import msgspec
import psycopg
import pytest
from psycopg.types.json import Jsonb

from gimle.foundation.db import Database, queries, row, rows, scalar
from gimle.foundation.errors import ConfigError, DatabaseUnavailable, InvalidRequest
from gimle.foundation.lifecycle import Tasks
from gimle.foundation.migrate import migrate, pending
from gimle.trust.types import Tenant


async def test_our_connections_can_not_by_pass_policies(db: Database) -> None:
    async with db.shared() as conn:
        found = await (
            await conn.execute("select rolname, rolsuper, rolbypassrls from pg_roles where rolname = current_user")
        ).fetchone()
    assert found == {"rolname": "gimle_app", "rolsuper": False, "rolbypassrls": False}


async def test_the_tenant_ends_with_its_transaction(db: Database) -> None:
    async with db.tenant("ten_a") as conn:
        assert await scalar(conn, "select current_setting('app.tenant', true)", {}) == "ten_a"
    async with db.shared() as conn:
        assert await scalar(conn, "select current_setting('app.tenant', true)", {}) in (None, "")


async def test_an_exception_rolls_back(db: Database, tenants: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="stop"):
        async with db.shared() as conn:
            await conn.execute("update tenant set name = 'changed' where id = %s", (tenants[0],))
            raise ValueError("stop")
    async with db.shared() as conn:
        assert await scalar(conn, "select name from tenant where id = %(id)s", {"id": tenants[0]}) == "first"


async def test_rows_become_types(db: Database, tenants: tuple[str, str]) -> None:
    async with db.shared() as conn:
        found = await rows(conn, "select * from tenant order by name", {}, Tenant)
        assert [tenant.id for tenant in found] == list(tenants)
        assert await row(conn, "select * from tenant where id = 'no'", {}, Tenant) is None
        with pytest.raises(msgspec.ValidationError):
            await row(conn, "select 1 as id, 'x' as name, now() as created_at", {}, Tenant)


async def test_a_killed_backend_costs_one_transaction_only(db: Database, database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
        with pytest.raises(DatabaseUnavailable):
            async with db.shared() as conn:
                await admin.execute("select pg_terminate_backend(%s)", (conn.info.backend_pid,))
                await conn.execute("select 1")
    async with db.shared() as conn:
        assert await scalar(conn, "select 1", {}) == 1


@pytest.mark.parametrize(
    "sql, value",
    [
        ("select %s::text", "a\0b"),
        ("select %s::jsonb", Jsonb({"it": "a\0b"})),
        ("select %s::bigint", 10**30),
        ("select %s::timestamptz", "9999999-01-01"),
    ],
)
async def test_a_value_that_nothing_can_hold_is_the_callers_fault(
    db: Database, sql: LiteralString, value: object
) -> None:
    with pytest.raises(InvalidRequest, match="can't be stored"):
        async with db.shared() as conn:
            await conn.execute(sql, (value,))


async def test_a_server_that_can_only_be_read_is_away(db: Database) -> None:
    with pytest.raises(DatabaseUnavailable):
        async with db.shared() as conn:
            await conn.execute("set transaction read only")
            await conn.execute("create table never (it int)")


async def test_a_notification_arrives_and_a_lost_listener_connects_anew(db: Database, database_url: str) -> None:
    heard = db.listener.hear("gimle_test")
    async with asyncio.timeout(20):
        assert await anext(heard) == ""
        async with db.shared() as conn:
            await conn.execute("select pg_notify('gimle_test', 'one')")
        assert await anext(heard) == "one"
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen gimle_test%'"
            )
        assert await anext(heard) == ""
    await heard.aclose()


async def test_all_channels_share_one_connection_also_those_that_join_later(db: Database, database_url: str) -> None:
    async with asyncio.timeout(20):
        first = db.listener.hear("gimle_one")
        assert await anext(first) == ""
        both = [db.listener.hear("gimle_two"), db.listener.hear("gimle_three"), db.listener.hear("gimle_one")]
        # All at once: the first of them interrupts a wait that the others find interrupted.
        assert await asyncio.gather(*map(anext, both)) == [""] * 3
        async with db.shared() as conn:
            await conn.execute("select pg_notify('gimle_two', 'two'), pg_notify('gimle_one', 'one')")
        assert [await anext(each) for each in (first, both[0], both[2])] == ["one", "two", "one"]
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
            found = await admin.execute(
                "select count(*) from pg_stat_activity where application_name = 'gimle listener'"
                " and datname = current_database()"
            )
            assert await found.fetchone() == (1,)


async def test_who_follows_a_channel_reads_again_what_could_not_be_read(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gimle.foundation.listener._AGAIN_SECONDS", 0.01)
    seen: asyncio.Queue[str] = asyncio.Queue()
    fails = iter((False, True, True, False))

    async def read(note: str) -> None:
        seen.put_nowait(note)
        if next(fails):
            raise DatabaseUnavailable

    tasks = Tasks()
    tasks.start(db.listener.follow("gimle_test", read), "follow")
    async with asyncio.timeout(20):
        assert await seen.get() == ""
        async with db.shared() as conn:
            await conn.execute("select pg_notify('gimle_test', 'one')")
        assert [await seen.get() for _ in range(3)] == ["one"] * 3
    await tasks.close()


async def test_migrating_twice_changes_nothing_and_a_changed_file_stops(database_url: str) -> None:
    assert await migrate(database_url) == []
    assert all(migration.applied for migration in await pending(database_url))
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
        await admin.execute("update gimle.migration set sha256 = 'other' where name like '0001%'")
    with pytest.raises(ConfigError, match=r"0001_foundation_roles\.sql was changed"):
        await migrate(database_url)


async def test_many_nodes_may_migrate_an_empty_database_at_once(server_url: str, database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
        await admin.execute("drop schema gimle cascade")
    applied = await asyncio.gather(*(migrate(database_url) for _ in range(4)))
    assert sorted(len(files) > 0 for files in applied) == [False, False, False, True]


async def test_no_database_is_said_clearly() -> None:
    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        await migrate("postgresql://nobody@127.0.0.1:1/none?connect_timeout=2")


def test_each_named_query_is_read_with_its_text() -> None:
    found = queries("gimle.trust")
    assert found["announce"].startswith("-- Tell every node")
    assert "select pg_notify" in found["announce"]
