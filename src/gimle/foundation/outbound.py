"""The one HTTP client: pooled connections, bodies read piece by piece, and the same few errors for all faults.

Certificates are verified, redirects are not followed (a provider must not send our key elsewhere), and no compression
is asked for: bytes come as the provider meant them, and no small answer swells in memory. Hosts on this machine are
reached directly, all others by way of the proxy that the environment names, if any.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import msgspec
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import BuilderError, ConnectTimeoutError, PyreqwestError, RequestTimeoutError
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from gimle.foundation.errors import ConfigError, UpstreamError, UpstreamTimeout

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Reply(msgspec.Struct, frozen=True):
    """A whole answer. Names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. `headers` may hold a secret, so a Request is never logged."""

    url: str
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Incoming:
    """An answer whose head has come and whose body is still to be read. `headers` names are in lower case."""

    def __init__(self, response: Response, host: str) -> None:
        self.status: int = response.status
        self.headers: dict[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._reader = response.body_reader
        self._host = host

    async def read(self) -> bytes:
        """The next piece of the body as soon as it has come; empty at its end. Nothing is read ahead of the reader."""
        try:
            piece = await self._reader.read_chunk()
        except PyreqwestError as error:
            raise _explained(error, self._host) from None
        return b"" if piece is None else bytes(piece)

    async def whole(self, limit: int) -> bytes:
        """The rest of the body. Raises `UpstreamError` when it is larger than `limit` bytes."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.read():
            size += len(piece)
            if size > limit:
                raise UpstreamError(f"The answer of {self._host} is larger than {limit / 1e6:g} MB.")
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Outbound:
    """The connections of one process to the world."""

    def __init__(self, connect_seconds: float = 5.0, connections: int = 1024) -> None:
        self._direct = _builder(connect_seconds, connections).no_proxy().build()
        self._world = _builder(connect_seconds, connections).build()

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Incoming]:
        """Send, and hand over the answer to be read in the block; what is not read at its end is cut off.

        Raises `UpstreamError` when no connection comes or it breaks, `UpstreamTimeout` when it takes too long to
        connect, `ConfigError` when the address or a header is not valid.
        """
        host = _shown(request.url)
        try:
            async with self._prepared(request, host) as response:
                yield Incoming(response, host)
        except PyreqwestError as error:
            raise _explained(error, host) from None

    def _prepared(self, request: Request, host: str) -> StreamRequest:
        try:
            local = urlsplit(request.url).hostname in _LOOPBACK
            builder = (self._direct if local else self._world).request(request.method, request.url)
            for name, value in request.headers:
                builder = builder.header(name, value)
            # With the library's own buffer, a slow stream would be held back until 64 KiB of it have come.
            return builder.body_bytes(request.body).streamed_read_buffer_limit(0).build_streamed()
        except (BuilderError, ValueError):
            raise ConfigError(f"The address or a header for {host} is not valid.") from None

    async def send(self, request: Request, *, seconds: float, limit: int) -> Reply:
        """Send, and read the whole answer, at most `limit` bytes within `seconds`."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(seconds), self.stream(request) as incoming:
                return Reply(incoming.status, incoming.headers, await incoming.whole(limit))
        except TimeoutError:
            waited = time.perf_counter() - started
            raise UpstreamTimeout(f"{_shown(request.url)} did not answer within {waited:.1f} s.") from None

    async def close(self) -> None:
        """Close all connections."""
        await self._direct.close()
        await self._world.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _builder(connect_seconds: float, connections: int) -> ClientBuilder:
    return (
        ClientBuilder()
        .user_agent("gimle")
        .follow_redirects(False)
        .referer(False)
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .connect_timeout(timedelta(seconds=connect_seconds))
        .pool_timeout(timedelta(seconds=connect_seconds))
        .pool_idle_timeout(timedelta(seconds=30))
        .max_connections(connections)
    )


def _shown(url: str) -> str:
    """The part of an address that may be told: no path, no query, no user."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    except ValueError:
        return "the provider"


def _explained(error: PyreqwestError, host: str) -> UpstreamError:
    """The library's causes name the whole address, so only the innermost one is told."""
    details = error.args[1] if len(error.args) > 1 else None
    causes = (details or {}).get("causes") or [{"message": error.message}]
    innermost = str(causes[-1]["message"])
    if isinstance(error, ConnectTimeoutError):
        return UpstreamTimeout(f"No connection to {host} came in time.")
    if isinstance(error, RequestTimeoutError):
        return UpstreamTimeout(f"{host} did not answer in time.")
    reason = "" if "url (" in innermost else f" ({innermost})"
    return UpstreamError(f"{host} can't be reached, or the connection broke{reason}.")
