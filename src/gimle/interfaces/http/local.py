"""`/api/v1/models/local`: the models of this machine. To fetch one takes a while, and is told as a stream of events."""

import asyncio
from collections.abc import AsyncGenerator

import msgspec
from litestar import delete, get, post
from litestar.params import JSONBody
from litestar.response import Stream

from gimle.app import App
from gimle.foundation.download import Progress
from gimle.foundation.errors import GimleError, Unavailable
from gimle.gateway.local.host import Host
from gimle.gateway.local.pull import Pull, Wanted
from gimle.gateway.local.types import Installed, Load
from gimle.interfaces.http import sse
from gimle.interfaces.http.admin import require_admin
from gimle.interfaces.http.given import Caller, Page, PathText, Rooms

_BASE = "/api/v1/models/local"


class LocalModel(Installed, frozen=True, kw_only=True):
    """A model on this disk: where it came from, under which terms, and how its server does now."""

    load: Load


class PullRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model to fetch: a name of the manifest, `hf:OWNER/REPOSITORY/FILE.gguf[@REVISION]`, or an address.

    `projector`, in the same words, is the file through which the model sees pictures.
    """

    model: str
    name: str | None = None
    sha256: str | None = None
    projector: str | None = None
    accept_licence: bool = False


class Coming(Progress, frozen=True, kw_only=True):
    """How far a file is: bytes, bytes a second, and seconds until the end."""

    file: str


@get(_BASE, summary="List the models of this machine", tags=["models"])
async def list_local(rooms: Rooms, principal: Caller) -> Page[LocalModel]:
    """Each with its file, terms, and what its server does. Needs an admin key."""
    require_admin(principal)
    host = _host(rooms)
    kept = host.store.all()
    return Page([_shown(each.installed, host) for each in kept.values()])


@post(_BASE, summary="Fetch a model", tags=["models"], status_code=200)
async def pull_local(rooms: Rooms, principal: Caller, data: JSONBody[PullRequest]) -> Stream:
    """Server-sent events: `progress` with bytes, rate and time left, then `done` with the model, or `error`.

    Who leaves stops it; the same request later goes on where it was. Needs an admin key.
    """
    require_admin(principal)
    pull = Pull(rooms.settings, _host(rooms).store)
    wanted = await pull.find(data.model, name=data.name, sha256=data.sha256, projector=data.projector)
    pull.check_terms(wanted, accepted=data.accept_licence)
    return sse.stream(_events(rooms, pull, wanted, accepted=data.accept_licence))


@delete(f"{_BASE}/{{name:str}}", summary="Remove a model", tags=["models"])
async def remove_local(rooms: Rooms, principal: Caller, name: PathText) -> None:
    """Stop its server and delete its files. Needs an admin key."""
    require_admin(principal)
    host = _host(rooms)
    host.store.get(name)
    await host.stop(name)
    await asyncio.to_thread(host.store.remove, name)
    rooms.gateway.catalog.refresh()


async def _events(rooms: App, pull: Pull, wanted: Wanted, *, accepted: bool) -> AsyncGenerator[bytes, None]:
    # What the reader has not taken yet is replaced: only the newest state is of interest.
    news: asyncio.Queue[Coming | None] = asyncio.Queue(maxsize=1)

    def tell(coming: Coming | None) -> None:
        if news.full():
            news.get_nowait()
        news.put_nowait(coming)

    def report(file: str, progress: Progress) -> None:
        tell(Coming(file=file, **msgspec.structs.asdict(progress)))

    async def run() -> Installed | GimleError:
        try:
            return await pull.run(wanted, report, accepted=accepted)
        except GimleError as failed:
            return failed
        finally:
            tell(None)

    async with asyncio.TaskGroup() as group:
        running = group.create_task(run())
        try:
            while (coming := await news.get()) is not None:
                yield sse.event("progress", coming)
            ended = await running
        finally:
            running.cancel()
    if isinstance(ended, GimleError):
        raise ended
    rooms.gateway.catalog.refresh()
    yield sse.event("done", _shown(ended, _host(rooms)))


def _shown(installed: Installed, host: Host) -> LocalModel:
    return LocalModel(**msgspec.structs.asdict(installed), load=host.load(installed.name))


def _host(rooms: App) -> Host:
    if rooms.gateway.local is None:
        raise Unavailable("This server has no models of its own.")
    return rooms.gateway.local


HANDLERS = (list_local, pull_local, remove_local)
