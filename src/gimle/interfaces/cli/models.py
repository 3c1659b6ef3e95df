"""`gimle models`: what can answer, and models for this machine: fetched, shown, tried and removed.

All but the list work without a server, on the data directory; a server that runs on it sees a change within a second.
"""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import msgspec

from gimle.client import Client
from gimle.foundation import logs
from gimle.foundation.config import Settings
from gimle.foundation.errors import GimleError, LicenceNotAccepted, ModelNotFound, PermanentError
from gimle.interfaces.cli import options
from gimle.interfaces.cli.chat import messages
from gimle.interfaces.cli.output import Json, complain, err, note, out, plain, print_json, say, table

if TYPE_CHECKING:
    from gimle.foundation.download import Progress
    from gimle.gateway.gateway import Gateway
    from gimle.gateway.local.pull import Pull, Wanted
    from gimle.gateway.local.types import Entry, Installed, Licence

_TURNS_KEPT = 12
_accept = click.option("--accept-licence", is_flag=True, help="Agree to the model's terms, without being asked.")


@click.group(cls=options.ListFirst)
def models_command() -> None:
    """List the models that can answer; fetch, show, try and remove those of this machine.

    \b
    Examples:
      gimle models
      gimle models auto
      gimle models pull bonsai-4b
      gimle models run bonsai-4b
    """


@models_command.command("list")
@options.as_json
@options.connected
def list_models(client: Client, as_json: bool) -> None:
    """List the models that the server can use.

    \b
    Examples:
      gimle models
      gimle models --json | jq -r '.items[] | select(.kind == "chat") | .name'
    """
    models = list(client.models())
    if as_json:
        print_json({"items": models})
        return
    lines = (
        (
            f"{m['provider']}/{m['name']}",
            m["kind"],
            m["context_window"],
            "here" if m["local"] else "remote",
            m["unavailable"] or "ready",
        )
        for m in models
    )
    table(("model", "kind", "window", "runs", "state"), lines, "The server has no models.")


@models_command.command("pull")
@click.argument("what", metavar="NAME|URL|hf:OWNER/REPOSITORY/FILE")
@click.option("--name", metavar="NAME", help="What it shall be called here: local/NAME.")
@click.option("--sha256", metavar="DIGEST", help="Refuse the file if it has another digest.")
@click.option("--projector", metavar="URL|hf:…", help="The file through which the model sees pictures (mmproj).")
@_accept
@options.as_json
@options.with_settings
def pull_model(
    settings: Settings,
    what: str,
    name: str | None,
    sha256: str | None,
    projector: str | None,
    accept_licence: bool,
    as_json: bool,
) -> None:
    """Fetch a model for this machine. What broke off is resumed; what is not the expected file is deleted.

    `gimle models show` lists the names. A token for the hub is read from HF_TOKEN, a mirror from engines.hub or
    HF_ENDPOINT.

    \b
    Examples:
      gimle models pull llama-3-8b-instruct
      gimle models pull hf:Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf --name qwen3-4b
      gimle models pull https://example.com/models/own.gguf --sha256 53aa51172d…
    """
    pull = _pull(settings)
    wanted = asyncio.run(pull.find(what, name=name, sha256=sha256, projector=projector))
    _install(pull, wanted, accepted=accept_licence, as_json=as_json)


@models_command.command("auto")
@click.option("--dry-run", is_flag=True, help="Only say which.")
@_accept
@options.as_json
@options.with_settings
def auto_model(settings: Settings, dry_run: bool, accept_licence: bool, as_json: bool) -> None:
    """Fetch the best model that this machine can run, by its memory and its processors.

    \b
    Examples:
      gimle models auto --dry-run
      gimle models auto --accept-licence
    """
    from gimle.foundation import machine
    from gimle.gateway.local import limits, manifest

    memory, cores = machine.memory(), machine.cores()
    entry = limits.choose(manifest.entries(), memory.available, cores)
    has = f"{memory.available / 1e9:.1f} GB of memory are free, for {cores:g} processors"
    if entry is None:
        least = min(each.memory for each in manifest.entries() if each.fault is None)
        raise PermanentError(
            f"No model fits here: {has}; the smallest needs {least / 1e9:.1f} GB.",
            hint="builtin/extract answers from documents on any machine.",
        )
    if dry_run and as_json:
        print_json({"model": entry.name, "memory": memory.available, "cores": cores, "size": entry.model.size})
        return
    note(f"{has}: {entry.name}, {_size(entry.model.size)} to fetch.")
    if not dry_run:
        pull = _pull(settings)
        wanted = asyncio.run(pull.find(entry.name))
        _install(pull, wanted, accepted=accept_licence, as_json=as_json)


@models_command.command("show")
@click.argument("name", required=False)
@options.as_json
@options.with_settings
def show_model(settings: Settings, name: str | None, as_json: bool) -> None:
    """Show a model of this machine or one that can be fetched: its file, terms and needs. Without NAME, list them all.

    \b
    Examples:
      gimle models show
      gimle models show llama-3-8b-instruct
    """
    from gimle.gateway.local import manifest
    from gimle.gateway.local.store import Store

    kept, known = Store(settings).all(), {entry.name: entry for entry in manifest.entries()}
    if name is None:
        _show_all({each: one.installed for each, one in kept.items()}, known, as_json)
        return
    shown = kept[name].installed if name in kept else known.get(name)
    if shown is None:
        raise ModelNotFound(f"There is no model {name!r} here, and none to fetch.", hint="`gimle models show`")
    told: Json = msgspec.to_builtins(shown)
    if as_json:
        print_json(told | {"installed": name in kept})
        return
    state = "installed" if name in kept else "not offered" if told["fault"] else "can be fetched"
    say(f"{name}: {state}", "bold")
    table(("", ""), _facts(told), "")


@models_command.command("remove")
@click.argument("name")
@options.as_json
@options.with_settings
def remove_model(settings: Settings, name: str, as_json: bool) -> None:
    """Delete a model from this machine. A server that runs stops using it.

    \b
    Example:
      gimle models remove llama-3-8b-instruct
    """
    from gimle.gateway.local.store import Store

    removed = Store(settings).remove(name)
    if as_json:
        print_json({"name": name, "removed": True, "freed": removed.size})
    else:
        say(f"Removed {name}; {_size(removed.size)} are free again.")


@models_command.command("run")
@click.argument("name")
@click.argument("prompt", required=False)
@options.as_json
@options.with_settings
def run_model(settings: Settings, name: str, prompt: str | None, as_json: bool) -> None:
    """Talk with a model of this machine, without a server. /quit or Ctrl-D ends it; with PROMPT it answers once.

    \b
    Examples:
      gimle models run bonsai-4b
      gimle models run bonsai-4b "Why do bees dance?"
    """
    from gimle.gateway.local.store import Store

    Store(settings).get(name)
    logs.configure("warning", as_json=settings.log.json)
    asyncio.run(_talk(settings, name, [prompt] if prompt else None, as_json=as_json))


def _pull(settings: Settings) -> "Pull":
    # Imported here, since the gateway comes with it: `--help` shall not wait for it.
    from gimle.gateway.local.pull import Pull
    from gimle.gateway.local.store import Store

    return Pull(settings, Store(settings))


def _install(pull: "Pull", wanted: "Wanted", *, accepted: bool, as_json: bool) -> None:
    try:
        pull.check_terms(wanted, accepted=accepted)
    except LicenceNotAccepted as terms:
        if as_json or not sys.stdin.isatty():
            raise
        note(terms.message, "")
        click.confirm("Do you agree to these terms?", abort=True, err=True)
        accepted = True
    with _Bar() as show:
        installed = asyncio.run(pull.run(wanted, show, accepted=accepted))
    if as_json:
        print_json(msgspec.to_builtins(installed))
        return
    say(f"local/{installed.name} is ready: {_size(installed.size)}, sha256 {installed.sha256[:12]}…")
    if installed.digest == "none":
        note("Nobody vouches for this file: give its digest with --sha256 to have it checked.", "yellow")
    if installed.licence:
        note(f"Licence: {installed.licence.name}, {installed.licence.url}")
    note(f"Try it: gimle models run {installed.name}")


class _Bar:
    """A progress bar on standard error with rate and time left; where that is no terminal, a line now and then."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, DownloadColumn, TextColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(),
            TextColumn("{task.fields[speed]}", style="dim", markup=False), console=err,
        )  # fmt: skip
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "Callable[[str, Progress], None]":
        self._bars.start()
        return self._show

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def _show(self, file: str, progress: "Progress") -> None:
        if file not in self._tasks:
            self._tasks[file] = self._bars.add_task(file, total=progress.total, speed="")
        left = "" if progress.eta is None else f", {_seconds(progress.eta)} left"
        speed = f"{progress.rate / 1e6:.1f} MB/s{left}"
        self._bars.update(self._tasks[file], completed=progress.done, total=progress.total, speed=speed)


async def _talk(settings: Settings, name: str, asked: list[str] | None, *, as_json: bool) -> None:
    from gimle.gateway.gateway import Gateway

    gateway = await Gateway.open(None, settings)
    history: list[Json] = []
    try:
        if asked is None and not as_json:
            note(f"Talking to local/{name}. /quit ends it.")
        lines: Iterator[str] = iter(asked) if asked is not None else messages(quiet=as_json)
        while (line := await _next(lines)) is not None:
            history.append({"role": "user", "content": line})
            try:
                text = await _answer(gateway, name, history, silent=as_json)
            except GimleError as failed:
                if asked is not None:
                    raise
                complain(failed.message, failed.hint, code=failed.code, as_json=as_json)
                history.pop()
                continue
            if as_json:
                print_json({"question": line, "text": text})
            history.append({"role": "assistant", "content": text})
            del history[:-_TURNS_KEPT]
    finally:
        await gateway.close()


async def _next(lines: Iterator[str]) -> str | None:
    """The next line, waited for in a thread: else the loop would stop, and with it the watch over the model.

    It is a thread that nobody waits for at the end, since nothing but a line wakes it.
    """
    loop = asyncio.get_running_loop()
    read = loop.create_future()

    def wait() -> None:
        try:
            told = partial(read.set_result, next(lines, None))
        except (OSError, ValueError) as failed:
            told = partial(read.set_exception, failed)
        with suppress(RuntimeError):  # The loop has closed meanwhile.
            loop.call_soon_threadsafe(lambda: read.done() or told())

    threading.Thread(target=wait, name="gimle.lines", daemon=True).start()
    line: str | None = await read
    return line


async def _answer(gateway: "Gateway", name: str, history: list[Json], *, silent: bool) -> str:
    """Have the model write, and show it word by word."""
    from gimle.gateway.types import ChatCall, ChatStream
    from gimle.trust.types import Principal

    model = f"local/{name}"
    body = {"model": model, "messages": history, "stream": True}
    raw = {field: msgspec.Raw(msgspec.json.encode(value)) for field, value in body.items()}
    answer = await gateway.chat(Principal(tenant="", key=""), ChatCall(body=raw, model=model, stream=True))
    if not isinstance(answer, ChatStream):
        raise PermanentError(f"The model refused: {plain(answer.body.decode('utf-8', 'replace'))}")
    words: list[str] = []
    try:
        async for events in answer:
            for word in _words(events):
                words.append(word)
                if not silent:
                    out.file.write(plain(word))
                    out.file.flush()
    finally:
        await answer.close()
        if not silent:
            out.file.write("\n")
    return "".join(words)


def _words(events: bytes) -> Iterator[str]:
    for line in events.splitlines():
        if line.startswith(b"data: {"):
            for choice in msgspec.json.decode(line[6:])["choices"]:
                if content := choice.get("delta", {}).get("content"):
                    yield content


def _show_all(kept: "dict[str, Installed]", known: "dict[str, Entry]", as_json: bool) -> None:
    if as_json:
        installed = [msgspec.to_builtins(each) for each in kept.values()]
        print_json({"installed": installed, "known": [msgspec.to_builtins(each) for each in known.values()]})
        return
    lines = [(name, "installed", _size(one.size), _terms(one.licence), "") for name, one in kept.items()]
    for name, entry in known.items():
        if name not in kept:
            state = "not offered" if entry.fault else "can be fetched"
            needs = f"{entry.memory / 1e9:.1f} GB of memory"
            lines.append((name, state, _size(entry.model.size), entry.licence.name, entry.fault or needs))
    table(("model", "state", "size", "licence", ""), lines, "There are no models.")


def _terms(licence: "Licence | None") -> str:
    return licence.name if licence else "not known"


def _facts(told: Json, before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in told.items():
        if isinstance(value, dict):
            yield from _facts(value, f"{before}{name} ")
        elif value not in (None, "", 0, False):
            yield f"{before}{name}", value


def _size(count: int | None) -> str:
    if count is None:
        return "?"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _seconds(count: float) -> str:
    minutes, seconds = divmod(round(count), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
