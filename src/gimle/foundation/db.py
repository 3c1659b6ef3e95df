"""The one door to PostgreSQL: a pool whose connections can't bypass row-level security, SQL by name, rows as types."""

import importlib.resources
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, LiteralString, Self, TypeVar, cast

import msgspec
import psycopg
from pgvector.psycopg import register_vector_async
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Json, Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from gimle.foundation.errors import DatabaseUnavailable, InvalidRequest
from gimle.foundation.listener import Listener

T = TypeVar("T")
Connection = AsyncConnection[DictRow]
Params = Mapping[str, Any]

__all__ = ["Connection", "Database", "Json", "Jsonb", "queries", "row", "rows", "scalar"]

# A transaction that sits idle longer than this holds locks for a dead owner: PostgreSQL ends it.
_SESSION = "-c search_path=gimle,public -c idle_in_transaction_session_timeout=60000 -c timezone=UTC"


class Database:
    """A pool of connections in the role `gimle_app`, which owns nothing and is subject to every policy.

    `listener` hears what other processes announce, over a connection of its own.
    """

    def __init__(self, url: str, pool: AsyncConnectionPool[Connection]) -> None:
        self.url = url
        self._pool = pool
        self.listener = Listener(url, _SESSION)

    @classmethod
    async def open(cls, url: str, size: int = 10) -> Self:
        """Connect. Raises `DatabaseUnavailable` when no connection comes within 30 s."""
        pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            url,
            connection_class=Connection,
            min_size=1,
            max_size=size,
            open=False,
            timeout=30,
            configure=_configure,
            check=AsyncConnectionPool.check_connection,
            kwargs={"row_factory": dict_row, "options": _SESSION, "application_name": "gimle"},
        )
        try:
            await pool.open(wait=True, timeout=30)
        except PoolTimeout as late:
            await pool.close()
            raise DatabaseUnavailable("The database did not answer within 30 s.") from late
        return cls(url, pool)

    async def close(self) -> None:
        """Give all connections back to the server."""
        await self.listener.close()
        await self._pool.close()

    @asynccontextmanager
    async def tenant(self, tenant: str) -> AsyncIterator[Connection]:
        """One transaction that sees the rows of one tenant. Commits at the end, rolls back on any exception."""
        async with self.shared() as conn:
            await conn.execute("select set_config('app.tenant', %s, true)", (tenant,))
            yield conn

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[Connection]:
        """One transaction without a tenant: it sees the global tables and no tenant's rows."""
        try:
            async with self._pool.connection() as conn, conn.transaction():
                yield conn
        except PoolTimeout as late:
            raise DatabaseUnavailable("No database connection became free within 30 s.") from late
        except (psycopg.OperationalError, psycopg.InternalError) as lost:
            # An internal error is what a server gives that can only be read, as in a fail-over.
            raise DatabaseUnavailable(f"The database connection failed: {type(lost).__name__}.") from lost
        except psycopg.DataError as wrong:
            # A text with U+0000, a number or a moment out of all range.
            raise InvalidRequest(f"A value can't be stored: {str(wrong).partition(chr(10))[0]}.") from wrong


async def _configure(conn: Connection) -> None:
    await register_vector_async(conn)
    await conn.execute("set role gimle_app")
    await conn.commit()


async def rows(conn: Connection, sql: LiteralString, params: Params, kind: type[T]) -> list[T]:
    """All rows of a query, each read into the Struct `kind` by column name."""
    cursor = await conn.execute(sql, params)
    return msgspec.convert(await cursor.fetchall(), list[kind])  # type: ignore[valid-type] # A type that is a value.


async def row(conn: Connection, sql: LiteralString, params: Params, kind: type[T]) -> T | None:
    """The first row of a query as `kind`, or `None`."""
    cursor = await conn.execute(sql, params)
    found = await cursor.fetchone()
    return None if found is None else msgspec.convert(found, kind)


async def scalar(conn: Connection, sql: LiteralString, params: Params) -> Any:
    """The first column of the first row, or `None` when there is no row."""
    cursor = await conn.execute(sql, params)
    found = await cursor.fetchone()
    return None if found is None else next(iter(found.values()))


@cache
def queries(package: str, file: str = "queries.sql") -> Mapping[str, LiteralString]:
    """The named statements of a room's SQL file. Each begins with `-- name: NAME` and a line that describes it."""
    text = importlib.resources.files(package).joinpath(file).read_text("utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    # The file is part of the program, as much as a literal in a module is.
    return {name: cast("LiteralString", body.strip()) for name, body in zip(parts[::2], parts[1::2], strict=True)}
