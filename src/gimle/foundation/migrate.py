"""Migrations: numbered SQL files, applied in order, once, forward only, safe when several nodes start together."""

import hashlib
import importlib.resources
from importlib.resources.abc import Traversable

import msgspec
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from gimle.foundation.database_url import checked
from gimle.foundation.errors import ConfigError, DatabaseUnavailable

# Any constant will do, as long as all nodes take the same lock.
_LOCK = 0x67696D6C65
_OLDEST_VECTOR = (0, 8, 0)


class Migration(msgspec.Struct, frozen=True):
    """One file of `foundation/migrations/`, and whether this database has it."""

    name: str
    sha256: str
    applied: bool = False


async def migrate(url: str) -> list[Migration]:
    """Bring the database up to date, one transaction a file, and return what was applied now.

    Raises `ConfigError` when the URL can't be read, an applied file was changed afterwards or pgvector is missing,
    `DatabaseUnavailable` when the database does not answer.
    """
    try:
        async with await AsyncConnection.connect(checked(url), autocommit=True, row_factory=dict_row) as conn:
            await conn.execute("select pg_advisory_lock(%s)", (_LOCK,))
            await _prepare(conn)
            applied = await _applied(conn)
            return [await _apply(conn, file) for file in _files() if not _is_applied(file, applied)]
    except psycopg.OperationalError as lost:
        raise DatabaseUnavailable(f"The database does not answer: {str(lost).strip()}") from lost


async def pending(url: str) -> list[Migration]:
    """All migrations, each with whether it is applied; changes nothing."""
    async with await AsyncConnection.connect(url, autocommit=True, row_factory=dict_row) as conn:
        known = await (await conn.execute("select to_regclass('gimle.migration') as name")).fetchone()
        applied = await _applied(conn) if known and known["name"] else {}
        return [Migration(file.name, _sha256(file), file.name in applied) for file in _files()]


async def _prepare(conn: AsyncConnection[dict[str, object]]) -> None:
    found = await (
        await conn.execute("select default_version as v from pg_available_extensions where name = 'vector'")
    ).fetchone()
    if found is None or tuple(int(part) for part in str(found["v"]).split(".")) < _OLDEST_VECTOR:
        raise ConfigError(
            "This PostgreSQL has no pgvector ≥ 0.8.", field="database.url", hint="Install the extension pgvector."
        )
    await conn.execute("create schema if not exists gimle")
    await conn.execute(
        "create table if not exists gimle.migration "
        "(name text primary key, sha256 text not null, applied_at timestamptz not null default now())"
    )


async def _applied(conn: AsyncConnection[dict[str, object]]) -> dict[str, str]:
    found = await (await conn.execute("select name, sha256 from gimle.migration")).fetchall()
    return {str(row["name"]): str(row["sha256"]) for row in found}


def _is_applied(file: Traversable, applied: dict[str, str]) -> bool:
    if file.name not in applied:
        return False
    if applied[file.name] != _sha256(file):
        raise ConfigError(
            f"The migration {file.name} was changed after this database applied it.",
            hint="Put the file back as it was released; new changes go into a new file.",
        )
    return True


async def _apply(conn: AsyncConnection[dict[str, object]], file: Traversable) -> Migration:
    async with conn.transaction():
        await conn.execute("set local search_path to gimle, public")
        await conn.execute(file.read_bytes())
        await conn.execute("insert into gimle.migration (name, sha256) values (%s, %s)", (file.name, _sha256(file)))
    return Migration(file.name, _sha256(file), applied=True)


def _files() -> list[Traversable]:
    folder = importlib.resources.files("gimle.foundation").joinpath("migrations")
    return sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)


def _sha256(file: Traversable) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
