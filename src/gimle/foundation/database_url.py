"""Whether a database URL can be read: libraries put one that they can't read into their errors, password and all."""

from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from gimle.foundation.errors import ConfigError


def checked(url: str) -> str:
    """The URL, when libpq and Python read the same in it. Raises `ConfigError`, which quotes nothing of it."""
    if not _is_readable(url):
        raise ConfigError(
            "The database URL can't be read.",
            field="database.url",
            hint="postgresql://USER:PASSWORD@HOST/NAME; % @ / [ in a password are written %25 %40 %2F %5B.",
        )
    return url


def _is_readable(url: str) -> bool:
    try:
        urlsplit(url)
        parts = conninfo_to_dict(url)
    except (psycopg.ProgrammingError, ValueError):
        return False
    # A bare @ or / in a password makes its rest a host or a port.
    host, port = str(parts.get("host", "")), str(parts.get("port", ""))
    return "://" in url and ("@" not in host or host.startswith("/")) and not port.strip("0123456789,")
