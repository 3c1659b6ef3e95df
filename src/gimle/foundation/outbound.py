"""The one HTTP client: pooled connections, bodies read piece by piece, and the same few errors for all faults.

Certificates are verified, redirects are not followed (a provider must not send our key elsewhere), and no compression
is asked for: bytes come as the provider meant them, and no small answer swells in memory. Leaving the block of a
request cuts its connection at once unless the answer has come whole, whatever it was waiting for: a caller who left
costs nothing more.
"""

import asyncio
import math
import re
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache
from typing import Self
from urllib.parse import urlsplit

import msgspec

from gimle.foundation import certificates
from gimle.foundation.connection import Connection
from gimle.foundation.errors import ConfigError, UpstreamError, UpstreamTimeout

_IDLE_SECONDS = 30.0
_IDLE_CONNECTIONS = 1024
# A kept connection that its server has closed tells so at once; what breaks off later has been worked on.
_STALE_SECONDS = 1.0
_TOKEN = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
_VALUE = re.compile(r"^[\t\x20-\x7e\x80-\xff]*$")
_TARGET = re.compile(r"^[!-~]+$")


def _nothing() -> None:
    """Nobody wants to know."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. `headers` may hold a secret, so a Request is never logged.

    With an `address`, the connection leads there, and the name in the URL is asked for and proven, but not looked up.

    `sending` is called when there is a connection and the request is about to go out on it; a second time should a
    kept connection turn out to be closed. What it raises ends the call.
    """

    url: str
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    address: str | None = None
    sending: Callable[[], None] = _nothing


class Reply(msgspec.Struct, frozen=True):
    """A whole answer. Names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Origin(msgspec.Struct, frozen=True):
    """Where connections lead: only those of the same origin are shared."""

    host: str
    port: int
    secure: bool
    address: str | None = None

    def __str__(self) -> str:
        usual = 443 if self.secure else 80
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == usual else f"{host}:{self.port}"


# Holds, by its name, a server of this machine that runs only while it is needed, and says where it is.
Hold = Callable[[str], AbstractAsyncContextManager[Origin]]


class Incoming:
    """An answer whose head has come and whose body is still to be read; to be closed, whatever happens.

    `succeeded` says that its status tells of no fault. `read` gives the next piece of the body as soon as it has come,
    as `Connection.read` does.
    """

    __slots__ = ("_connection", "_held", "_origin", "_outbound", "read", "status", "succeeded")

    def __init__(
        self,
        connection: Connection,
        origin: Origin,
        outbound: "Outbound",
        held: AbstractAsyncContextManager[Origin] | None,
    ) -> None:
        self.status = connection.status
        self.succeeded = 200 <= connection.status < 300
        self.read = connection.read
        self._connection = connection
        self._origin = origin
        self._outbound = outbound
        self._held = held

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, their names in lower case."""
        return self._connection.headers

    @property
    def exhausted(self) -> bool:
        """Whether the body has come whole, and been read."""
        return self._connection.exhausted

    async def whole(self, limit: int) -> bytes:
        """The rest of the body. Raises `UpstreamError` when it is larger than `limit` bytes."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.read():
            size += len(piece)
            if size > limit:
                # The error's traceback would hold them, through all further attempts.
                pieces.clear()
                raise UpstreamError(f"The answer of {self._origin} is larger than {limit / 1e6:g} MB.")
            pieces.append(piece)
            if self._connection.exhausted:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def close(self) -> None:
        """Keep the connection if the answer has come whole, else cut it."""
        self._outbound.release(self._connection, self._origin)
        if self._held is not None:
            await self._held.__aexit__(None, None, None)


class Outbound:
    """The connections of one process to the world, at most `connections` at a time."""

    def __init__(
        self, connect_seconds: float = 5.0, connections: int = 1024, tls: ssl.SSLContext | None = None
    ) -> None:
        self._connect_seconds = connect_seconds
        self._free = connections
        # Who waits for one of them, in their order.
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._tls = tls
        self._holds: dict[str, Hold] = {}
        # The one that was used last stands last, and is used first.
        self._idle: dict[Origin, list[Connection]] = {}
        self._swept = 0.0

    @asynccontextmanager
    async def stream(self, request: Request, *, until: float = math.inf) -> AsyncGenerator[Incoming, None]:
        """A block in which an answer can be read; what is not read by its end is cut off. Raises as `open` does."""
        incoming = await self.open(request, until)
        try:
            yield incoming
        finally:
            await incoming.close()

    async def send(self, request: Request, *, seconds: float, limit: int) -> Reply:
        """Send, and read the whole answer, at most `limit` bytes within `seconds`."""
        until = asyncio.get_running_loop().time() + seconds
        async with self.stream(request, until=until) as incoming:
            return Reply(incoming.status, incoming.headers, await incoming.whole(limit))

    def route(self, domain: str, hold: Hold) -> None:
        """Have requests to `NAME.domain` go to the server that `hold` gives for NAME, held until they are done."""
        self._holds[f".{domain}"] = hold

    async def close(self) -> None:
        """Close the connections that nobody uses; those in use close with their block."""
        for kept in self._idle.values():
            for connection in kept:
                connection.abort()
        self._idle.clear()
        # The transports tell their protocols in the next turn of the loop.
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- connections

    async def open(self, request: Request, until: float) -> Incoming:
        """The answer to a request, whose head has come, to be closed by whoever asked for it.

        Raises `UpstreamError` when no connection comes or it breaks, `UpstreamTimeout` when it takes too long to
        connect or the head has not come by the moment `until` of the loop's clock, and `ConfigError` when the address
        or a header is not valid.
        """
        origin, head = _written(request)
        held = self._hold(origin)
        if held is not None:
            origin = await _entered(held, origin, until)
        try:
            return Incoming(await self._ask(origin, head, request, until), origin, self, held)
        except BaseException:
            if held is not None:
                await held.__aexit__(None, None, None)
            raise

    async def _ask(self, origin: Origin, head: bytes, request: Request, until: float) -> Connection:
        """Send on a kept connection, or on a new one when there is none or the server has just closed it."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(origin, until)
        try:
            if (connection := self._kept(origin)) is not None:
                asked = time.monotonic()
                try:
                    await connection.ask(head, request.body, request.sending, until)
                    return connection
                except UpstreamError as error:
                    # Who says nothing in time has not closed it.
                    late = isinstance(error, UpstreamTimeout) or time.monotonic() - asked > _STALE_SECONDS
                    if connection.answered or late:
                        raise
            connection = await self._connect(origin, until)
            await connection.ask(head, request.body, request.sending, until)
            return connection
        except BaseException:
            self._give_back()
            raise

    def release(self, connection: Connection, origin: Origin) -> None:
        """Keep a connection whose answer has come whole; cut any other."""
        self._give_back()
        if not connection.reusable:
            connection.abort()
            return
        now = connection.idle_since = asyncio.get_running_loop().time()
        kept = self._idle.setdefault(origin, [])
        kept.append(connection)
        if len(kept) > _IDLE_CONNECTIONS:
            kept.pop(0).abort()
        if now - self._swept > _IDLE_SECONDS:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        """Close what has been idle for long, or was closed by its server."""
        self._swept = now
        for origin, kept in list(self._idle.items()):
            fresh = [each for each in kept if each.reusable and each.idle_since > now - _IDLE_SECONDS]
            for connection in set(kept).difference(fresh):
                connection.abort()
            if fresh:
                self._idle[origin] = fresh
            else:
                del self._idle[origin]

    def _give_back(self) -> None:
        """One connection fewer is in use: it is the next one's who waits."""
        while self._waiting:
            if not (turn := self._waiting.popleft()).done():
                turn.set_result(None)
                return
        self._free += 1

    def _hold(self, origin: Origin) -> AbstractAsyncContextManager[Origin] | None:
        """The hold on the server which a name stands for; None where the name is an address."""
        for domain, hold in self._holds.items():
            if origin.host.endswith(domain):
                return hold(origin.host.removesuffix(domain))
        return None

    async def _wait(self, origin: Origin, until: float) -> None:
        """Take a connection's place when one becomes free."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(None if until == math.inf else until):
                await turn
        except BaseException as wrong:
            if turn.done() and not turn.cancelled():
                # It came in the same moment.
                self._give_back()
            if isinstance(wrong, TimeoutError):
                raise UpstreamTimeout(f"No connection to {origin} was free in time.") from None
            raise

    async def _connect(self, origin: Origin, until: float) -> Connection:
        loop = asyncio.get_running_loop()
        tls = self._context() if origin.secure else None
        try:
            async with asyncio.timeout_at(min(until, loop.time() + self._connect_seconds)):
                _, connection = await loop.create_connection(
                    lambda: Connection(str(origin)),
                    origin.address or origin.host,
                    origin.port,
                    ssl=tls,
                    server_hostname=origin.host if tls else None,
                )
        except TimeoutError:
            raise UpstreamTimeout(f"No connection to {origin} came within {self._connect_seconds:g} s.") from None
        except ssl.SSLCertVerificationError as wrong:
            raise UpstreamError(f"The certificate of {origin} is not valid: {wrong.verify_message}.") from None
        except (OSError, ssl.SSLError) as wrong:
            raise UpstreamError(f"{origin} can't be reached ({wrong.strerror or type(wrong).__name__}).") from None
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = certificates.verifying()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    def _kept(self, origin: Origin) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - _IDLE_SECONDS
        kept = self._idle.get(origin)
        while kept:
            connection = kept.pop()
            if connection.reusable and connection.idle_since > oldest:
                return connection
            connection.abort()
        return None


async def _entered(held: AbstractAsyncContextManager[Origin], named: Origin, until: float) -> Origin:
    """Have a server started, and learn where it is."""
    try:
        async with asyncio.timeout_at(None if until == math.inf else until):
            return await held.__aenter__()
    except TimeoutError:
        raise UpstreamTimeout(f"{named} did not start in time.") from None


def _written(request: Request) -> tuple[Origin, bytes]:
    """The origin and the head of a request. Raises `ConfigError` for an address or a header that is not valid."""
    origin, head = _beginning(request.url, request.method, request.headers, request.address)
    return origin, b"%scontent-length: %d\r\n\r\n" % (head, len(request.body))


@lru_cache(maxsize=512)
def _beginning(
    url: str, method: str, headers: tuple[tuple[str, str], ...], address: str | None
) -> tuple[Origin, bytes]:
    """What is the same for all requests to one place."""
    try:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        host = (parts.hostname or "").encode("idna").decode("ascii")
        origin = Origin(host, parts.port or (443 if secure else 80), secure, address)
    except (ValueError, UnicodeError):
        raise ConfigError("The address of a provider is not valid.", field="base_url") from None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    sound = parts.scheme in ("http", "https") and origin.host and _TARGET.match(target) and _TOKEN.match(method)
    if not sound or not all(_TOKEN.match(name) and _VALUE.match(value) for name, value in headers):
        raise ConfigError(f"The address or a header for {origin} is not valid.", field="base_url")
    lines = [f"{method} {target} HTTP/1.1", f"host: {origin}", "user-agent: gimle", "accept: */*"]
    lines += [f"{name}: {value}" for name, value in headers]
    return origin, "\r\n".join([*lines, ""]).encode("latin-1")
