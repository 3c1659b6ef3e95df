"""One HTTP/1.1 connection to a server: a request at a time, its answer read only as fast as it is taken.

llhttp parses (by httptools); what it refuses, such as conflicting lengths, ends the connection. Nothing here knows of
pools, names or certificates: that is `outbound`. Time runs on one timer that is moved only when it rings, because to
set and cancel one for each wait costs more than the wait itself.
"""

import asyncio
import math
from collections.abc import Callable
from typing import cast

import httptools

from gimle.foundation.errors import UpstreamError, UpstreamTimeout

# Takes a piece of a body. Returns the deadline of the next on the loop's clock, None to take no more.
Taker = Callable[[bytes], float | None]

# What may wait for its reader before the peer is stopped, and how large the head of an answer may be. In bytes.
_HIGH = 256 * 1024
_LARGEST_HEAD = 256 * 1024


class Connection(asyncio.Protocol):
    """Speaks HTTP on one transport to `peer`, as errors call it.

    `reusable` says that the last answer came whole, and that another request may follow as far as one can know.
    """

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._full = False
        self._fault: UpstreamError | None = None
        self._closed = False
        self._until = math.inf
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._rings = math.inf
        # Who takes pieces as they come, and whether he wants the reader to look.
        self._taker: Taker | None = None
        self._enough = False
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self._fields: list[tuple[bytes, bytes]] = []
        self.answered = False  # whether any byte of an answer has come
        self._head_size = 0
        self._head_done = False
        self._complete = False
        self._surplus = False
        self.reusable = False
        self._pieces: list[bytes] = []
        self._buffered = 0

    # -- what the owner calls

    @property
    def headers(self) -> dict[str, str]:
        """The headers, their names in lower case; those that came twice are joined. Made anew at each call."""
        made: dict[str, str] = {}
        for name, value in self._fields:
            key, said = name.decode("latin-1").lower(), value.decode("latin-1")
            made[key] = f"{made[key]}, {said}" if key in made else said
        return made

    async def ask(self, head: bytes, body: bytes, sending: Callable[[], None], until: float) -> None:
        """Send a request, and wait for the head of its answer. Raises `UpstreamError`, and what `sending` raises, which
        is called before.

        Whatever ends the wait, the server learns of it at once: the connection is cut unless a head has come.
        """
        assert self._transport is not None
        try:
            sending()
            self._reset()
            self._until, self._since = until, self._loop.time()
            self._parser = self._parser or httptools.HttpResponseParser(self)
            if len(body) < 16_384:
                self._transport.write(head + body)
            else:
                self._transport.writelines((head, body))
            while self._full or not self._head_done:
                await self._news()
                self._waiting = None
        except BaseException:
            self.abort()
            raise

    async def read(self, until: float | None = None, taker: Taker | None = None) -> bytes:
        """What has come of the body, at least a byte; empty at its end.

        While it waits, each piece goes to the `taker` instead, until he wants no more: then it is empty too, though the
        body is not `exhausted`. Raises `UpstreamError` when it was cut, and `UpstreamTimeout` if nothing has come by
        the moment `until` of the loop's clock, or by the one that was given before.
        """
        if until is not None:
            self._until, self._since = until, self._loop.time()
        self._taker, self._enough = taker, False
        while not self._pieces:
            if self._complete or self._enough:
                return b""
            await self._news()
            self._waiting = None
        return self._gathered()

    def _gathered(self) -> bytes:
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if self._buffered > _HIGH:
            self._reading(on=True)
        self._buffered = 0
        return data

    def _taken(self) -> bool:
        """Whether a taker has taken what came and goes on, so that nobody need be woken."""
        if self._taker is None or self._complete or not self._pieces or self._waiting is None or self._waiting.done():
            return False
        until = self._taker(self._gathered())
        if until is None:
            self._taker, self._enough = None, True
            return False
        self._until, self._since = until, self._loop.time()
        return True

    def abort(self) -> None:
        """Cut the connection at once."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def _reading(self, *, on: bool) -> None:
        transport = self._transport
        if transport is None or self._closed or transport.is_closing():
            return
        if on:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def _news(self) -> asyncio.Future[None]:
        """Done as soon as anything has happened. Raises what has gone wrong."""
        if self._fault is not None:
            raise self._fault
        if self._until < self._rings:
            self._set_timer()
        self._waiting = self._loop.create_future()
        return self._waiting

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = self._until
        self._timer = self._loop.call_at(self._until, self._ring)

    def _ring(self) -> None:
        self._timer, self._rings = None, math.inf
        if self._waiting is None:
            return
        if self._until > self._loop.time():
            self._set_timer()
            return
        waited = self._loop.time() - self._since
        self._fault = self._fault or UpstreamTimeout(f"{self._peer} failed: nothing came within {waited:.1f} s.")
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _fail(self, why: str) -> None:
        if self._fault is None and not self._complete:
            self._fault = UpstreamError(f"{self._peer} failed: {why}.")
        self.reusable = False
        self._wake()

    # -- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        # uvloop's transports do all that asyncio's do, and are none of its classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came; what nobody asked for ends the connection."""
        if self._parser is None or self._complete:
            self.abort()
            return
        self.answered = True
        if not self._head_done:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as wrong:
            self._fail(f"the answer is not valid HTTP ({type(wrong).__name__})")
            self.abort()
            return
        if not self._head_done and self._head_size > _LARGEST_HEAD:
            self._fail("the head of the answer is too large")
            self.abort()
        if self._surplus:
            self.abort()
        if self._buffered > _HIGH and not self._complete:
            self._reading(on=False)
        if not self._taken():
            self._wake()

    def eof_received(self) -> bool:
        """The server has said all: the end of a body whose length it did not tell."""
        told = {name.lower() for name, _ in self._fields} & {b"content-length", b"transfer-encoding"}
        if self._head_done and not self._complete and not told:
            self._complete = True
            self._wake()
        self.reusable = False
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Wake whoever waits; they find the fault, unless the answer was whole."""
        self._closed = True
        self._taker = None
        if self._timer is not None:
            self._timer.cancel()
        self._fail("the connection was closed before the answer was complete")

    def pause_writing(self) -> None:
        """The transport is full."""
        self._full = True

    def resume_writing(self) -> None:
        """The transport takes more."""
        self._full = False
        self._wake()

    # -- what the parser calls

    def on_message_begin(self) -> None:
        """The beginning of an answer; a second one, right behind the first, answers nothing that was asked."""
        self._surplus = self._complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        if not self._surplus:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is there, unless it is that of an interim answer."""
        assert self._parser is not None
        if self._surplus:
            return
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self._head_done = True

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._surplus:
            return
        self._pieces.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        """The answer is whole; an interim one only makes way for the real one."""
        assert self._parser is not None
        if self._surplus:
            return
        if self.status < 200:
            self._fields = []
            return
        self._complete = True
        self.reusable = self._parser.should_keep_alive()

    @property
    def exhausted(self) -> bool:
        """Whether it has come whole, and been read."""
        return self._complete and not self._pieces
