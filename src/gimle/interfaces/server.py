"""The server: uvicorn on uvloop and httptools, run as a part of this program and stopped in an orderly way.

On SIGINT or SIGTERM it takes no new connection, lets what runs finish for a while, and cuts the rest with a typed
error. A second Ctrl-C does not wait.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from gimle.app import App
from gimle.foundation import logs
from gimle.foundation.config import Settings
from gimle.foundation.errors import ConfigError
from gimle.interfaces.http.edge import Edge
from gimle.interfaces.http.wire import Wire

log = logs.get("server")

GRACE_SECONDS = 20.0
_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 75
# How long cancelled requests get to say goodbye.
_LAST_WORDS_SECONDS = 2.0


async def serve(
    app: App,
    settings: Settings,
    ready: Callable[[], None],
    *,
    listening: socket.socket | None = None,
    stop: asyncio.Event | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> None:
    """Serve `app` until a signal comes, or `stop` is set; closing `app` is the caller's.

    `ready` is called once, when it takes connections. `listening` is a socket to use instead of the settings' address.
    Run it on uvloop (`uvloop.run`): the standard loop works, slower. Raises `ConfigError` when the address is taken.
    """
    with listening or listen(settings.server.host, settings.server.port) as taken:
        edge = Edge(app)
        server = _Server(_config(edge, grace_seconds), ready)
        log.info("listening", url=url_of(taken))
        with _signals(server):
            async with asyncio.TaskGroup() as group:
                stopping = group.create_task(_obey(server, stop))
                await server.serve(sockets=[taken])
                stopping.cancel()
        if left := [task for task in server.server_state.tasks if not task.done()]:
            await asyncio.wait(left, timeout=_LAST_WORDS_SECONDS)
        await edge.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `ConfigError` when the address is taken, or is not this machine's."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise ConfigError(
            f"{host!r} is not an address of this machine: {error.strerror}.", field="server.host"
        ) from None
    # The protocol is named, because asyncio turns Nagle's delay off only for sockets that say they are TCP.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"Can't listen on {host} port {port}: {error.strerror}.",
            field="server.port",
            hint="Is Gimle running already? Choose another port with --port or GIMLE_SERVER__PORT.",
        ) from None
    listening.setblocking(False)
    return listening


def _config(edge: Edge, grace_seconds: float) -> uvicorn.Config:
    return uvicorn.Config(
        edge,
        http=Wire,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(grace_seconds)),
    )


class _Server(uvicorn.Server):
    """uvicorn's server. It tells when it is ready, and leaves the signals to us: it would raise them at its end."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _signals(server: _Server) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    handled = (signal.SIGINT, signal.SIGTERM)
    try:
        for each in handled:
            loop.add_signal_handler(each, on_signal)
    except (RuntimeError, ValueError):
        # Not the main thread: whoever runs us there stops us by the event.
        yield
        return
    try:
        yield
    finally:
        for each in handled:
            loop.remove_signal_handler(each)


async def _obey(server: _Server, stop: asyncio.Event | None) -> None:
    if stop is not None:
        await stop.wait()
        server.should_exit = True


def url_of(listening: socket.socket) -> str:
    """The address of a listening socket, for a person to click on."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
