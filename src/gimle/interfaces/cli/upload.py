"""`gimle upload`: files and folders go to the server; each is followed until it can be searched, or says why not."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.progress import Progress

from gimle.client import Client, Refused
from gimle.interfaces.cli import options
from gimle.interfaces.cli.output import Json, bars, err, note, plain, print_json, say, shorten


class Sent(NamedTuple):
    """A file on its way: its name at the server, and the job that reads it, or why it was refused."""

    name: str
    job: str | None
    document: str | None
    reason: str | None


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@options.collection
@click.option("--no-wait", is_flag=True, help="Don't wait until the documents are ready.")
@options.as_json
@options.connected
def upload_command(client: Client, paths: tuple[Path, ...], collection: str, no_wait: bool, as_json: bool) -> None:
    """Give documents to a collection: files, or folders with all that is in them.

    A file that comes again under the same name becomes the newer version of its document; hidden files are left out.
    Ends with code 1 when any file failed.

    \b
    Examples:
      gimle upload handbook.pdf prices.csv
      gimle upload ~/contracts -c contracts
      gimle upload notes --no-wait --json | jq -r '.items[].job'
    """
    files = by_name(found(paths))
    if not files:
        raise click.UsageError("There is no file in what you named.")
    with bars() as progress:
        sent = send(client, files, collection, progress)
        ended = [] if no_wait else follow(client, sent, progress)
    items = [_item(each, None) for each in sent] if no_wait else ended
    failed = [item for item in items if item["error"]]
    if as_json:
        print_json({"collection": collection, "items": items, "failed": len(failed)})
    else:
        _report(collection, items, failed, no_wait)
    if failed:
        raise click.exceptions.Exit(1)


def found(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """The files to send, with their names: a folder's files keep their path within it, so that no two are one."""
    for path in paths:
        if path.is_file():
            yield path.name, path
            continue
        for file in sorted(path.rglob("*")):
            inside = file.relative_to(path)
            if file.is_file() and not any(part.startswith(".") for part in inside.parts):
                yield inside.as_posix(), file


def by_name(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """The files by their names. Raises `click.UsageError` where one would become the newer version of another."""
    named = dict[str, Path]()
    for name, file in files:
        other = named.setdefault(name, file)
        if not other.samefile(file):
            raise click.UsageError(
                f"{other} and {file} would both be {name}. Upload their common folder, or each into its own collection."
            )
    return named


def send(client: Client, files: dict[str, Path], collection: str, progress: Progress) -> list[Sent]:
    """Send every file; a refused one stops no other. A collection that is not there yet is created."""
    bar = progress.add_task("Sending ", total=len(files), phase="")
    sent = list[Sent]()
    for name, file in files.items():
        progress.update(bar, phase=shorten(plain(name), 40))
        sent.append(_send(client, name, file, collection))
        progress.advance(bar)
    progress.update(bar, phase="")
    return sent


def follow(client: Client, sent: Sequence[Sent], progress: Progress) -> list[Json]:
    """Wait for every job, in the order of sending: they run beside each other, so most have ended when asked for."""
    bar = progress.add_task("Reading ", total=len(sent), phase="")
    items = list[Json]()
    for each in sent:
        last: Json | None = None
        if each.job is not None:
            for last in client.watch(each.job):
                progress.update(bar, phase=_phase(each.name, last))
        items.append(_item(each, last))
        progress.advance(bar)
    progress.update(bar, phase="")
    return items


def _send(client: Client, name: str, file: Path, collection: str) -> Sent:
    shown = name.encode("utf-8", "replace").decode()
    if shown != name:
        return Sent(shown, None, None, "Its name is not UTF-8.")
    try:
        (item,) = _upload(client, {name: file}, collection)
    except Refused as refused:
        if refused.status in (401, 403):
            raise
        return Sent(name, None, None, _reason(refused.message, refused.hint))
    except OSError as unreadable:
        return Sent(name, None, None, f"The file can't be read: {unreadable.strerror}.")
    document: dict[str, Any] = item["document"]
    return Sent(name, item["job"], document["id"], None)


def _upload(client: Client, files: dict[str, Path | bytes], collection: str) -> list[Json]:
    try:
        return client.upload(files, collection)
    except Refused as refused:
        if refused.code != "collection_not_found":
            raise
    client.create_collection(collection)
    note(f"Created the collection {collection!r}.")
    return client.upload(files, collection)


def _phase(name: str, job: Json) -> str:
    steps = f" {job['done']}/{job['total']}" if job["total"] else ""
    return f"{shorten(plain(name), 40)}: {job['phase'] or job['status']}{steps}"


def _item(sent: Sent, job: Json | None) -> Json:
    """What became of a file: its document and job, the job's last state, and why it failed."""
    reason = sent.reason
    if job is not None and job["status"] != "done":
        reason = (job["error"] or {}).get("message") or f"The job was {job['status']}."
    status = job["status"] if job else ("refused" if reason else "queued")
    return {"name": sent.name, "document": sent.document, "job": sent.job, "status": status, "error": reason}


def _report(collection: str, items: list[Json], failed: list[Json], no_wait: bool) -> None:
    good = len(items) - len(failed)
    if no_wait:
        say(f"{good} of {len(items)} files accepted into {collection!r}. `gimle jobs` shows how far they are.")
    else:
        say(f"{good} of {len(items)} documents in {collection!r} can be asked now.", "green" if not failed else "")
    for item in failed:
        err.print(f"  [red]failed[/red] {_escaped(item['name'])}: {_escaped(item['error'])}")


def _escaped(text: str) -> str:
    """Text in which rich finds no markup."""
    return plain(text).replace("[", "\\[")


def _reason(message: str, hint: str | None) -> str:
    return f"{message} {hint}" if hint else message
