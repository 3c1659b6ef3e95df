"""What a database is, looked at from outside and changed in nothing: for `gimle doctor`, before the house is open."""

import msgspec
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from gimle.foundation.database_url import checked
from gimle.foundation.errors import DatabaseUnavailable
from gimle.foundation.migrate import pending

_CONNECT_SECONDS = 5
_FACTS = """
select current_setting('server_version') as postgres,
       (select extversion from pg_extension where extname = 'vector') as vector,
       (select default_version from pg_available_extensions where name = 'vector') as vector_available
"""


class DatabaseFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Versions and migrations of one database. `vector` is the version in use, or else the one that could be."""

    postgres: str
    vector: str | None
    applied: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def postgres_major(self) -> int:
        """15 of "15.4 (Debian …)"."""
        return int(self.postgres.split(".")[0])


async def inspect(url: str) -> DatabaseFacts:
    """Look at a database.

    Raises `ConfigError` when the URL can't be read, `DatabaseUnavailable` when no answer comes within some seconds.
    """
    try:
        async with await AsyncConnection.connect(
            checked(url), autocommit=True, row_factory=dict_row, connect_timeout=_CONNECT_SECONDS
        ) as conn:
            found = await (await conn.execute(_FACTS)).fetchone()
        migrations = await pending(url)
    except psycopg.OperationalError as lost:
        raise DatabaseUnavailable(f"The database does not answer: {str(lost).strip()}") from lost
    assert found is not None
    return DatabaseFacts(
        postgres=found["postgres"],
        vector=found["vector"] or found["vector_available"],
        applied=tuple(each.name for each in migrations if each.applied),
        missing=tuple(each.name for each in migrations if not each.applied),
    )
