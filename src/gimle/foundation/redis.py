"""A Redis or Valkey that is asked politely: a few milliseconds, and then one does without.

RESP2 over one connection, many calls at a time. After a failure nobody asks for a while, so that a dead server costs
one wait a second and not one a call; a server that has been silent too long is left and connected to anew.
"""

import asyncio
import ssl
import time
from collections import deque
from urllib.parse import unquote, urlsplit

from gimle.foundation import logs
from gimle.foundation.errors import ConfigError, Unavailable
from gimle.foundation.lifecycle import Tasks

log = logs.get("redis")

Value = bytes | int | None | list["Value"]

_DOWN_SECONDS = 1.0
_CONNECT_SECONDS = 1.0
_MOST_PENDING = 10_000


class _Refusal(Exception):
    """The server has understood a command and refused it."""


class _Wire(asyncio.Protocol):
    """One connection: commands go out in order, and their answers come back in that order."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._pending: deque[asyncio.Future[Value]] = deque()
        self._data = bytearray()
        self.open = False
        self.silent_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.open = True

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        while self._pending:
            if not (waiter := self._pending.popleft()).done():
                waiter.set_exception(Unavailable("The connection to Redis was lost."))

    def ask(self, command: bytes) -> "asyncio.Future[Value]":
        assert self.transport is not None
        waiter: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        if not self._pending:
            self.silent_since = time.monotonic()
        self._pending.append(waiter)
        self.transport.write(command)
        return waiter

    @property
    def pending(self) -> int:
        return len(self._pending)

    def data_received(self, data: bytes) -> None:
        self._data += data
        self.silent_since = time.monotonic()
        try:
            at = 0
            while (found := _parse(self._data, at)) is not None and self._pending:
                value, at = found
                waiter = self._pending.popleft()
                if not waiter.done():
                    if isinstance(value, _Refusal):
                        waiter.set_exception(value)
                    else:
                        waiter.set_result(value)
            del self._data[:at]
        except ValueError:
            assert self.transport is not None
            self.transport.abort()


class Redis:
    """One server, by its URL: `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS.

    It has `patience` seconds for an answer.
    """

    def __init__(self, url: str, patience: float = 0.005) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise ConfigError(
                "This is not the address of a Redis.", field="shared.redis_url", hint="redis://host:6379/0"
            )
        self._host, self._port = parts.hostname, parts.port or 6379
        self._tls = ssl.create_default_context() if parts.scheme == "rediss" else None
        self._hello: list[tuple[bytes | str | int, ...]] = []
        if parts.password:
            user = (unquote(parts.username),) if parts.username else ()
            self._hello.append(("AUTH", *user, unquote(parts.password)))
        if db := parts.path.strip("/"):
            self._hello.append(("SELECT", db))
        self._wire: _Wire | None = None
        self._tasks = Tasks()
        self._connecting: asyncio.Task[None] | None = None
        self._down_until = 0.0
        self._patience = patience

    @property
    def is_down(self) -> bool:
        """Whether it has failed a moment ago and is not asked for now."""
        return time.monotonic() < self._down_until

    async def call(self, *command: bytes | str | int, seconds: float | None = None) -> Value:
        """What it answers, within so many seconds or its patience. Raises `Unavailable`."""
        seconds = self._patience if seconds is None else seconds
        if self.is_down:
            raise Unavailable("Redis did not answer a moment ago.")
        try:
            async with asyncio.timeout(seconds):
                wire = self._wire
                if wire is None or not wire.open:
                    wire = await self._connected()
                if wire.pending >= _MOST_PENDING:
                    raise Unavailable("Redis is too slow.")
                return await wire.ask(_command(command))
        except TimeoutError:
            self._fail()
            raise Unavailable(f"Redis did not answer within {seconds * 1000:g} ms.") from None
        except Unavailable:
            self._fail()
            raise
        except _Refusal as refusal:
            raise Unavailable(f"Redis refused: {refusal}.") from None

    async def close(self) -> None:
        """Close the connection."""
        await self._tasks.close()
        if self._wire is not None and self._wire.transport is not None:
            self._wire.transport.abort()
        await asyncio.sleep(0)

    def _fail(self) -> None:
        now = time.monotonic()
        self._down_until = now + _DOWN_SECONDS
        wire = self._wire
        if wire is not None and wire.transport is not None and now - wire.silent_since > _DOWN_SECONDS:
            wire.transport.abort()

    async def _connected(self) -> _Wire:
        """The connection; it goes on being made though this caller's patience ends."""
        if self._connecting is None or self._connecting.done():
            self._connecting = self._tasks.start(self._connect(), "redis")
        await asyncio.wait({self._connecting})
        if self._wire is None or not self._wire.open:
            raise Unavailable("Redis can't be reached.")
        return self._wire

    async def _connect(self) -> None:
        wire: _Wire | None = None
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                loop = asyncio.get_running_loop()
                _, wire = await loop.create_connection(_Wire, self._host, self._port, ssl=self._tls)
                for command in self._hello:
                    await wire.ask(_command(command))
            self._wire = wire
        except (OSError, TimeoutError, Unavailable, _Refusal) as wrong:
            log.warning("redis_not_reached", host=self._host, error=type(wrong).__name__, detail=str(wrong))
        finally:
            if wire is not None and wire is not self._wire and wire.transport is not None:
                wire.transport.abort()


def _command(parts: tuple[bytes | str | int, ...]) -> bytes:
    written = [b"*%d\r\n" % len(parts)]
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        written.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(written)


def _parse(data: bytearray, at: int) -> "tuple[Value | _Refusal, int] | None":
    """One value and where it ends; None while it is not whole. Raises `ValueError` for what is no RESP."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None
    kind, rest, after = data[at : at + 1], bytes(data[at + 1 : end]), end + 2
    if kind == b"+":
        return rest, after
    if kind == b"-":
        return _Refusal(rest.decode("utf-8", "replace")), after
    if kind == b":":
        return int(rest), after
    if kind == b"$":
        return _text(data, after, int(rest))
    if kind == b"*":
        return _list(data, after, int(rest))
    raise ValueError("no RESP")


def _text(data: bytearray, at: int, size: int) -> "tuple[Value | _Refusal, int] | None":
    if size < 0:
        return None, at
    return (bytes(data[at : at + size]), at + size + 2) if len(data) >= at + size + 2 else None


def _list(data: bytearray, at: int, count: int) -> "tuple[Value | _Refusal, int] | None":
    values: list[Value] = []
    for _ in range(max(count, 0)):
        found = _parse(data, at)
        if found is None:
            return None
        value, at = found
        values.append(None if isinstance(value, _Refusal) else value)
    return (values if count >= 0 else None), at
