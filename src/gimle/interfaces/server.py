"""The server: it takes connections on one port, and stops in an orderly way.

On SIGINT or SIGTERM it takes no new connection, lets what runs finish for a while, and cuts the rest with a typed
error. A second Ctrl-C does not wait.
"""

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from gimle.app import App
from gimle.foundation import logs
from gimle.foundation.config import Settings
from gimle.foundation.errors import ConfigError
from gimle.interfaces.http.edge import Edge
from gimle.interfaces.http.wire import Traffic, Wire

log = logs.get("server")

GRACE_SECONDS = 20.0
_BACKLOG = 2048
# How long a caller may take over the handshake of TLS.
_HANDSHAKE_SECONDS = 10.0
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
    Run it on uvloop (`uvloop.run`): the standard loop works, slower. Raises `ConfigError` when the address is taken or
    the certificate can't be used.
    """
    tls = _tls(settings)
    stop, hurry = stop or asyncio.Event(), asyncio.Event()
    with listening or listen(settings.server.host, settings.server.port) as taken:
        edge = Edge(app)
        traffic = Traffic(edge.answer, edge.limits)
        handshake = _HANDSHAKE_SECONDS if tls else None
        server = await asyncio.get_running_loop().create_server(
            lambda: Wire(traffic), sock=taken, ssl=tls, ssl_handshake_timeout=handshake, backlog=_BACKLOG
        )
        ready()
        log.info("listening", url=url_of(taken, secure=tls is not None))
        with _signals(stop, hurry):
            await stop.wait()
            server.close()
            await _wind_down(traffic, hurry, grace_seconds)
        edge.close()


async def _wind_down(traffic: Traffic, hurry: asyncio.Event, grace_seconds: float) -> None:
    traffic.stop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace_seconds), asyncio.TaskGroup() as group:
            hurried = group.create_task(hurry.wait())
            answered = group.create_task(traffic.tasks.idle())
            await asyncio.wait({hurried, answered}, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            answered.cancel()
    traffic.cut()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS_SECONDS):
            await traffic.tasks.idle()
    await traffic.tasks.close()


def _tls(settings: Settings) -> ssl.SSLContext | None:
    """The context of the settings' certificate. Raises `ConfigError` when it can't be used."""
    certificate, key = settings.server.tls_cert, settings.server.tls_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        lacking = "server.tls_key" if certificate else "server.tls_cert"
        raise ConfigError("A certificate and its key go together.", field=lacking)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(Path(certificate), Path(key))
    except (OSError, ssl.SSLError) as wrong:
        said = wrong.strerror or type(wrong).__name__
        raise ConfigError(
            f"The certificate {certificate} or its key can't be used: {said}.",
            field="server.tls_cert",
            hint="Give PEM files: the certificate with its chain, and the key without a passphrase.",
        ) from None
    return context


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; several `shared` ones may take connections on one port, in turn.

    Raises `ConfigError` when the address is taken, or is not this machine's.
    """
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
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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


@contextlib.contextmanager
def _signals(stop: asyncio.Event, hurry: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

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


def url_of(listening: socket.socket, *, secure: bool = False) -> str:
    """The address of a listening socket, for a person to click on."""
    host, port = listening.getsockname()[:2]
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
