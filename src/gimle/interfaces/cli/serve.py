"""`gimle up`, `serve`, `worker` and `migrate`: the commands that are Gimle, rather than ask it."""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import click
import msgspec

from gimle.foundation import config, logs, machine, postgres
from gimle.foundation.config import Settings
from gimle.foundation.database_url import checked
from gimle.foundation.errors import ConfigError, GimleError
from gimle.interfaces.cli import options
from gimle.interfaces.cli.output import note, out, print_json, say

if TYPE_CHECKING:
    from gimle.app import App
    from gimle.interfaces.crew import Orders
    from gimle.selection.types import Model

_host = click.option("--host", "server__host", metavar="HOST", help="Where to listen.  [default: 127.0.0.1]")
_port = click.option("--port", "server__port", type=click.IntRange(0, 65535), help="0: a free one.  [default: 8080]")

_workers = click.option(
    "--workers", "server__workers", type=click.IntRange(1), help="How many processes answer.  [default: 1]"
)
_tls_cert = click.option("--tls-cert", "server__tls_cert", metavar="FILE", help="Speak TLS, with this certificate.")
_tls_key = click.option("--tls-key", "server__tls_key", metavar="FILE", help="The certificate's key (PEM).")

_WEAK = frozenset({"postgres", "password", "secret", "changeme", "change-me", "admin", "gimle", "test", "example"})
_SHORTEST_PASSWORD = 12


@click.command()
@_host
@_port
@click.option("--setup/--no-setup", default=True, show_default=True, help="Fetch missing models on the first start.")
@options.as_json
@options.with_settings
def up_command(settings: Settings, setup: bool, as_json: bool) -> None:
    """Start everything here, in the foreground: server, worker, and a PostgreSQL of its own. Ctrl-C stops it.

    The first start creates the data directory and an admin key in it. With --json it prints one JSON document when
    it is ready.

    \b
    Examples:
      gimle up
      gimle up --port 9000 --data ~/gimle
      gimle up --database-url postgresql://gimle@db/gimle
    """
    options.check_data(settings.data)
    if setup:
        _fetch_weights(settings)
    _run(_serve(settings, _tell_programs if as_json else _tell_people), settings)
    note("Gimle has stopped.")


@click.command()
@_host
@_port
@_workers
@_tls_cert
@_tls_key
@options.as_json
@options.with_settings
def serve_command(settings: Settings, as_json: bool) -> None:
    """Start a production server: like `up`, on a database of yours, and without guessing.

    It needs a database URL with a password worth the name, and never fetches anything. With more than one worker, one
    process more does the jobs; a process that dies is replaced.

    \b
    Examples:
      gimle serve --host 0.0.0.0 --config /etc/gimle.toml
      gimle serve --workers 4 --tls-cert /etc/gimle/cert.pem --tls-key /etc/gimle/key.pem
      GIMLE_DATABASE__URL=postgresql://… gimle serve
    """
    _require_database(settings)
    if settings.server.workers > 1:
        _run(_serve_by_many(settings, as_json), settings)
    else:
        _run(_serve(settings, _tell_programs if as_json else _tell_log), settings)


@click.command(hidden=True)
def member_command() -> None:
    """Be one process of `gimle serve --workers`: what to do stands on the standard input."""
    from gimle.interfaces.crew import Orders

    orders = msgspec.json.decode(sys.stdin.readline(), type=Orders)
    settings = config.restored(orders.settings)
    _run(_be_member(orders, settings), settings)


@click.command()
@click.option("--slots", "jobs__slots", type=click.IntRange(1), help="How many jobs run at once.  [default: 4]")
@options.as_json
@options.with_settings
def worker_command(settings: Settings, as_json: bool) -> None:
    """Do jobs and nothing else, beside a server on the same database. Ctrl-C lets the running ones finish.

    \b
    Examples:
      gimle worker --slots 8
      gimle worker --database-url postgresql://gimle@db/gimle
    """
    _require_database(settings)
    working = msgspec.structs.replace(settings, jobs=msgspec.structs.replace(settings.jobs, in_process=True))

    def ready() -> None:
        if as_json:
            print_json({"slots": settings.jobs.slots})
        else:
            note(f"Working, {settings.jobs.slots} jobs at once. Ctrl-C stops it.")

    _run(_work(working, ready), working)


@click.command()
@options.as_json
@options.with_settings
def migrate_command(settings: Settings, as_json: bool) -> None:
    """Bring the database up to date. `up` does it by itself; before `serve` and `worker` it is a step of its own.

    \b
    Examples:
      gimle migrate
      gimle migrate --database-url postgresql://gimle@db/gimle
    """
    applied = _migrate(settings)
    if as_json:
        print_json({"applied": applied})
        return
    for name in applied:
        say(f"applied {name}")
    say("The database is up to date.")


def _fetch_weights(settings: Settings) -> None:
    """The first start fetches the models. Without them Gimle serves all the same, so a failure is only told."""
    from gimle.gateway import weights
    from gimle.interfaces.cli.setup import fetch

    if weights.locate(settings) is not None:
        return
    note("First start: fetching the models that run inside Gimle (once, 150 MB).")
    try:
        fetch(settings)
    except GimleError as failed:
        note(f"The models could not be fetched: {failed.message}", "yellow")
        note("Search goes by words alone until `gimle setup` has succeeded.", "yellow")


def _run(work: Coroutine[Any, Any, None], settings: Settings) -> None:
    import uvloop

    logs.configure(settings.log.level, as_json=settings.log.json)
    machine.open_files()
    uvloop.run(work)


async def _serve(settings: Settings, tell: "Callable[[App, str], None]") -> None:
    # The whole house comes with these imports: only the commands that run it shall wait for it.
    from gimle.app import App
    from gimle.interfaces.server import listen, serve, url_of

    async with await App.open(settings) as app:
        _settle()
        listening = listen(settings.server.host, settings.server.port)
        url = url_of(listening, secure=settings.server.tls_cert is not None)
        await serve(app, settings, lambda: tell(app, url), listening=listening)


def _settle() -> None:
    """What is there by now stays until the end. The collector need not look through it again and again: each time all
    requests would stand still for a tenth of a second.
    """
    gc.collect()
    gc.freeze()


async def _serve_by_many(settings: Settings, as_json: bool) -> None:
    from gimle.interfaces.crew import Crew, Role, reserved
    from gimle.interfaces.server import url_of

    with reserved(settings.server.host, settings.server.port) as held:
        roles: list[Role] = ["server"] * settings.server.workers
        if settings.jobs.in_process:
            roles.append("jobs")
        server = msgspec.structs.replace(settings.server, port=held.getsockname()[1])
        crew = Crew(config.written(msgspec.structs.replace(settings, server=server)), tuple(roles))
        url = url_of(held, secure=settings.server.tls_cert is not None)

        def ready() -> None:
            if as_json:
                print_json({"url": url, "key_file": _key_file(settings), "data": str(settings.data)})
            else:
                note(f"Gimle serves at {url} with {settings.server.workers} workers.")

        await crew.run(ready)


async def _be_member(orders: "Orders", settings: Settings) -> None:
    from gimle.app import App
    from gimle.foundation.telemetry import REGISTRY
    from gimle.interfaces.crew import complete
    from gimle.interfaces.server import listen, serve

    REGISTRY.share(Path(orders.folder))
    in_process = orders.role == "jobs"
    own = msgspec.structs.replace(settings, jobs=msgspec.structs.replace(settings.jobs, in_process=in_process))
    if in_process:
        await _work(own, lambda: say("ready"))
        return
    async with await App.open(own) as app:
        app.health.register("processes", complete(orders.crew), required=False)
        _settle()
        listening = listen(settings.server.host, settings.server.port, shared=True)
        await serve(app, own, lambda: say("ready"), listening=listening)


async def _work(settings: Settings, ready: Callable[[], None]) -> None:
    from gimle.app import App

    async with await App.open(settings):
        stop = asyncio.Event()
        for each in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(each, stop.set)
        ready()
        await stop.wait()
        note("Stopping: the running jobs may finish.")


def _migrate(settings: Settings) -> list[str]:
    from gimle.foundation.migrate import migrate

    url = settings.database.url or postgres.running(settings.data)
    if url is not None:
        return [each.name for each in asyncio.run(migrate(url))]
    embedded = postgres.Embedded.start(settings.data)
    try:
        return [each.name for each in asyncio.run(migrate(embedded.url))]
    finally:
        embedded.stop()


def _tell_programs(app: "App", url: str) -> None:
    print_json({"url": url, "key_file": _key_file(app.settings), "data": str(app.settings.data)})


def _tell_people(app: "App", url: str) -> None:
    out.print("Gimle is ready.", style="bold green")
    out.print(f"  Look around   {url}/docs")
    out.print(f'  OpenAI SDK    base_url="{url}/v1"')
    out.print(f"  API key       {_key_file(app.settings) or 'the one that was made with this database'}")
    out.print()
    answers_with = _answers_with(app)
    if answers_with.provider == "builtin":
        out.print(f"It answers by quoting your documents ({answers_with.id}): no account, nothing leaves this machine.")
        out.print("For a language model on this machine: gimle models auto. For one elsewhere set OPENAI_API_KEY.")
    else:
        policy = app.settings.selection.policy
        out.print(f"`auto` tries {answers_with.id} first, by the policy {policy}; `gimle models` lists all.")
        out.print("Answers from your documents are checked against them, sentence by sentence.")
    out.print()
    out.print('Next, in another terminal:  gimle upload PATH…  and  gimle ask "…"     (Ctrl-C here stops it)')


def _tell_log(app: "App", url: str) -> None:
    note(f"Gimle serves at {url}; `auto` tries {_answers_with(app).id} first.")
    if key := _key_file(app.settings):
        note(f"The first key is in {key}.")


def _answers_with(app: "App") -> "Model":
    """The model that `auto` begins with now, for tenants without providers of their own."""
    from gimle.trust.types import Principal

    return app.gateway.resolve(Principal(tenant="", key=""), "auto")[0]


def _key_file(settings: Settings) -> str | None:
    """Where the first key lies. On a database of many nodes only the first one has it."""
    file = settings.data / "admin.key"
    return str(file) if file.exists() else None


def _require_database(settings: Settings) -> None:
    """Raises `ConfigError` without a database URL that can be read, or with a password that anybody would try."""
    if settings.database.url is None:
        raise ConfigError(
            "This needs a database that others can reach.",
            field="database.url",
            hint="Give --database-url or GIMLE_DATABASE__URL; `gimle up` brings a database of its own.",
        )
    if reason := weak_password(checked(settings.database.url)):
        raise ConfigError(
            f"The database's password {reason}.",
            field="database.url",
            hint="Choose a random one: python -c 'import secrets; print(secrets.token_urlsafe(24))'",
        )


def weak_password(url: str) -> str | None:
    """Why the password in a database URL is no secret, or `None`. A URL without one relies on files or certificates."""
    parts = urlsplit(url)
    if parts.password is None:
        return None
    password = unquote(parts.password)
    if password.lower() in _WEAK or password == parts.username:
        return "is one that everybody tries first"
    if len(password) < _SHORTEST_PASSWORD:
        return f"has fewer than {_SHORTEST_PASSWORD} characters"
    return None
