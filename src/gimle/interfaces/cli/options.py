"""The options that many commands share, and what they become: settings, or a client that is connected to a server."""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click

from gimle.client import Client, Unreachable
from gimle.foundation import config
from gimle.foundation.config import Settings
from gimle.foundation.errors import ConfigError

P = ParamSpec("P")
Command = Callable[..., None]

# `main` renders an error as JSON when the command that failed was asked for JSON.
JSON_ASKED = "gimle.json"
CHOWN = "chown it, or choose another --data directory."


def _remember(context: click.Context, _: click.Parameter, asked: bool) -> bool:
    context.meta[JSON_ASKED] = asked
    return asked


as_json = click.option("--json", "as_json", is_flag=True, callback=_remember, help="Print JSON, for programs.")
collection = click.option(
    "--collection", "-c", default="default", show_default=True, metavar="NAME", help="The collection of documents."
)
_data = click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="The data directory.")
_config = click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="The configuration file.")
_database_url = click.option("--database-url", metavar="URL", help="A PostgreSQL to use instead of the embedded one.")
_url = click.option("--url", metavar="URL", help="The server. Else GIMLE_URL, else this machine.")
_key = click.option("--key", metavar="KEY", help="The API key. Else GIMLE_KEY, else the data directory's.")


class ListFirst(click.Group):
    """A group that lists when it isn't told what to do: `gimle jobs --json` is `gimle jobs list --json`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `list` before options that aren't the group's own."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def with_settings(run: Callable[Concatenate[Settings, P], None]) -> Command:
    """Give the command the settings: flags over environment over `gimle.toml` over defaults."""

    @_config
    @_data
    @_database_url
    @wraps(run)
    def command(config: Path | None, data: Path | None, database_url: str | None, **given: Any) -> None:
        settings = _settings(config, data, {"database.url": database_url} | _dotted(given))
        run(settings, **given)  # type: ignore[call-arg] # click passes what the decorators of `run` declared.

    return command


def connected(run: Callable[Concatenate[Client, P], None]) -> Command:
    """Give the command a client of the running server. A key is looked for, but only the server says what needs one."""

    @_config
    @_data
    @_key
    @_url
    @wraps(run)
    def command(config: Path | None, data: Path | None, url: str | None, key: str | None, **given: Any) -> None:
        settings = _settings(config, data, {})
        with Client(server_url(settings, url), api_key(settings, key)) as client:
            run(client, **given)  # type: ignore[call-arg] # click passes what the decorators of `run` declared.

    return command


def check_data(data: Path) -> None:
    """Raise `ConfigError` where the data directory can't be made or written by who runs this."""
    there = next(path for path in (data, *data.parents) if os.access(path, os.F_OK))
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return
    why = f"belongs to {_owner(there)} and can't be written" if there.is_dir() else "is no directory"
    raise ConfigError(f"{data} can't be used: {there} {why}.", field="data", hint=CHOWN)


def server_url(settings: Settings, given: str | None = None) -> str:
    """Where the server should be."""
    if named := given or config.secret("GIMLE_URL"):
        return named
    # A server that listens on every address is reached through the loopback one.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.server.host, settings.server.host)
    scheme = "https" if settings.server.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.server.port}"


def api_key(settings: Settings, given: str | None = None) -> str | None:
    """The key to show, or `None` when there is none to be found (or it may not be read)."""
    if named := given or config.secret("GIMLE_KEY"):
        return named.strip()
    try:
        return (settings.data / "admin.key").read_text().strip() or None
    except OSError:
        return None


def require_server(client: Client) -> None:
    """Raise `Unreachable` now rather than after the user has typed something."""
    if not client.ready():
        raise Unreachable(f"The server at {client.url} is not ready.", hint="`gimle doctor` says what is missing.")


def _settings(file: Path | None, data: Path | None, flags: dict[str, object]) -> Settings:
    return config.load({"config": file, "data": None if data is None else str(data), **flags})


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:  # As in a container, which has no name for it.
        return f"the user {path.stat().st_uid}"


def _dotted(given: dict[str, Any]) -> dict[str, object]:
    """The flags of a command that are settings: their parameters are named `section__key`."""
    settings = [name for name in given if "__" in name]
    return {name.replace("__", "."): given.pop(name) for name in settings}
