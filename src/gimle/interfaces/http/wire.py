"""HTTP/1.1 on one connection: llhttp takes the requests apart (by httptools), one task answers them in their order.

What is no HTTP, too large a head, or one that comes too slowly is answered here, in our shape; every request that has a
whole head goes to `Traffic.answer`. A caller who leaves ends the work that is done for him at once.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from types import SimpleNamespace
from urllib.parse import unquote

import httptools

from gimle.foundation import ids
from gimle.foundation.errors import InvalidRequest
from gimle.foundation.lifecycle import Tasks
from gimle.interfaces.http import problems
from gimle.interfaces.http.exchange import LINGER_SECONDS, Exchange, Head, Headers, Limits
from gimle.interfaces.http.line import Line
from gimle.interfaces.http.problems import Problem

# More than any client sends; nginx's default for all of a head is 32 kB, llhttp's 80 kB.
HEAD_BYTES = 64 * 1024
# A caller may send requests ahead; so many wait for their turn before he has to.
_AHEAD = 8

_NO_HTTP = Problem(status=400, code="invalid_request", message="This is not valid HTTP.", hint="Send HTTP/1.1.")
_LARGE_HEAD = problems.of_status(431, "The head of the request is too large.", hint=f"Stay under {HEAD_BYTES} bytes.")


class Traffic:
    """What the connections of one server share: who answers, the limits, and which connections there are."""

    def __init__(self, answer: Callable[[Exchange], Awaitable[None]], limits: Limits) -> None:
        self.answer = answer
        self.limits = limits
        self.tasks = Tasks()
        self.wires: set[Wire] = set()
        self.stopping = False

    def stop(self) -> None:
        """Let what has begun be answered, and close each connection behind it."""
        self.stopping = True
        for wire in list(self.wires):
            wire.stop()

    def cut(self) -> None:
        """Cancel what is still being answered."""
        for wire in list(self.wires):
            wire.cut()


class Wire(Line):
    """One connection."""

    head_seconds: float = 15.0
    idle_seconds: float = 75.0

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self._traffic = traffic
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._queue: deque[Exchange] = deque()
        self._current: Exchange | None = None  # being answered
        self._taking: Exchange | None = None  # whose body is on its way
        self._refusal: Problem | None = None  # what is said when the queue has been answered, before the end
        self._next: asyncio.Future[None] | None = None
        self._in_head = False
        # Of a head, or of trailers.
        self._head_taken = 0
        self._head_timed = False
        self._url = b""
        self._headers: Headers = []

    # -- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve. A connection that sends nothing is closed like one that stops halfway."""
        super().connection_made(transport)
        self._traffic.wires.add(self)
        self._work = self._traffic.tasks.start(self._serve(), "http")
        self._time_head()

    def connection_lost(self, error: Exception | None) -> None:
        """End the work that nobody waits for any more."""
        super().connection_lost(error)
        self._traffic.wires.discard(self)
        self._parser = None
        if self._current is None:
            self._work.cancel()
            return
        for exchange in (self._current, *self._queue):
            exchange.leave()
        if self._current.gone and self._current.attended:
            self._work.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse what came. Behind the last request that this connection takes, nothing is read."""
        if self._parser is None:
            return
        self._head_taken += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as asked:
            self._stay(data[asked.args[0] :])
        except httptools.HttpParserError:
            self._malformed(_LARGE_HEAD if self._head_taken > HEAD_BYTES and self._in_head else _NO_HTTP)
        self._watch_head()

    def _stay(self, rest: bytes) -> None:
        """Answer a request to change the protocol as if it had not asked.

        The parser has left it behind its head: a body is read by another, and what follows it is no HTTP of ours.
        """
        self._parser = None
        if self._taking is not None:
            body = SimpleNamespace(on_body=self.on_body, on_message_complete=self.on_message_complete)
            self._parser = httptools.HttpRequestParser(body)
            self._parser.feed_data(_framing(self._taking.head))
            self.data_received(rest)

    def eof_received(self) -> bool:
        """Half a connection is none: whoever has closed his side has left."""
        return False

    def late(self) -> None:
        """Give up on a body, a head, or a connection that says nothing."""
        if self._taking is not None:
            if not self._taking.late():
                self.close()
        elif self._in_head:
            self._refuse(
                problems.of_status(
                    408, "The head of the request did not arrive in time.", hint=f"Within {self.head_seconds:g} s."
                )
            )
        else:
            self.close()

    def _watch_head(self) -> None:
        """Count a head or trailers that go on, and time the head."""
        if self._parser is None or not (self._in_head or self._taking):
            return
        if self._head_taken > HEAD_BYTES:
            self._malformed(_LARGE_HEAD)
        elif self._in_head and self._current is None and not self._head_timed:
            self._time_head()

    def _time_head(self) -> None:
        self._head_timed = True
        self.expect(self.head_seconds)

    @property
    def _busy(self) -> bool:
        return self._current is not None or bool(self._queue)

    def _malformed(self, problem: Problem) -> None:
        """Read no more; say why when it is this caller's turn to be answered."""
        self._parser = None
        if self._taking is not None and self._taking.complete:
            self.close()
        elif self._taking is not None:
            self._taking.spoil(InvalidRequest(problem.message, field="body", hint=problem.hint))
        elif self._busy:
            self._refusal = problem
        else:
            self._refuse(problem)

    # -- what the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; those behind the body say nothing that anyone reads."""
        if self._in_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole: its turn comes when those before it have been answered.

        What this raises the parser takes for an error of its own.
        """
        parser = self._parser
        assert parser is not None
        if self._head_taken > HEAD_BYTES and sum(len(n) + len(v) + 4 for n, v in self._headers) > HEAD_BYTES:
            raise ValueError("too large")
        path, target = _path_of(self._url)
        fields = dict(self._headers)
        modern = _is_modern(parser.get_http_version(), self._headers)
        head = Head(
            method=parser.get_method().decode("ascii"),
            path=path,
            target=target,
            headers=self._headers,
            fields=fields,
            persistent=parser.should_keep_alive() and not parser.should_upgrade() and modern,
            chunks=modern,
        )
        self._in_head = self._head_timed = False
        self._head_taken = 0
        self._taking = Exchange(self, self._traffic.limits, head)
        self._queue.append(self._taking)
        if self._next is not None and not self._next.done():
            self._next.set_result(None)
        elif len(self._queue) > _AHEAD:
            self.hold()

    def on_body(self, piece: bytes) -> None:
        """A piece of a body."""
        self._head_taken = 0
        if self._taking is not None:
            self._taking.feed(piece)

    def on_message_complete(self) -> None:
        """The request is whole."""
        exchange = self._taking
        if exchange is None or (self._parser is not None and self._parser.should_upgrade() and _framing(exchange.head)):
            return
        self._taking = None
        exchange.end()
        if not exchange.persistent:
            self._parser = None
        if exchange.complete:
            # It was answered before it had come whole, and its rest thrown away.
            self.expect(self.idle_seconds if exchange.persistent else 0)

    # -- answering

    async def _serve(self) -> None:
        """Answer until the last. The rest of its body may come before the end: a caller who is still writing would see
        no answer.
        """
        lingers = False
        try:
            while self.open and (exchange := await self._take()) is not None:
                await self._traffic.answer(exchange)
                self._current = None
                if self._ends_with(exchange):
                    lingers = exchange.lingers and self.open
                    return
            if self._refusal is not None:
                self._refuse(self._refusal)
        finally:
            if not lingers:
                self.close()

    async def _take(self) -> Exchange | None:
        """The next request; None when there is only a refusal left to be said."""
        while not self._queue:
            if self._refusal is not None:
                return None
            self._next = self.loop.create_future()
            await self._next
        self._current = self._queue.popleft()
        self.expect_nothing()
        return self._current

    def _ends_with(self, exchange: Exchange) -> bool:
        """Whether a request that has been answered was the last. If not, the next may take its time."""
        if self.lost:
            return True
        self.go_on()
        if exchange.lingers:
            self.expect(LINGER_SECONDS)
        elif self._in_head:
            self._time_head()
        else:
            self.expect(self.idle_seconds)
        stopping = self._traffic.stopping and not self._queue
        return stopping or not (exchange.complete and exchange.persistent)

    def stop(self) -> None:
        """Close now if nothing is being answered, else behind it."""
        if self._current is None and not self._queue:
            self.close()
        elif not self._queue:
            assert self._current is not None
            self._current.persistent = False
        else:
            self._queue[-1].persistent = False

    def cut(self) -> None:
        """Cancel the answer."""
        self._work.cancel()

    def _refuse(self, problem: Problem) -> None:
        self._parser = None
        request_id = ids.new("req")
        body = problems.render(problem, "gimle", request_id)
        self.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %s\r\n"
            b"x-content-type-options: nosniff\r\nconnection: close\r\n\r\n%s"
            % (problem.status, HTTPStatus(problem.status).phrase.encode(), len(body), request_id.encode(), body)
        )
        self.close()


def _framing(head: Head) -> bytes:
    """A head that says no more than where the body ends; empty where there is none."""
    told = [name + b": " + value for name, value in head.headers if name in (b"content-length", b"transfer-encoding")]
    return b"\r\n".join((b"POST / HTTP/1.1", *told, b"\r\n")) if told else b""


def _is_modern(version: str, headers: Headers) -> bool:
    """Whether this is HTTP/1.1. Raises `ValueError` for other versions than that and 1.0, and for a body whose end
    another reader might see elsewhere.
    """
    if version not in ("1.1", "1.0"):
        raise ValueError("not a version of ours")
    encodings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if encodings and (encodings != [b"chunked"] or version == "1.0"):
        raise ValueError("not an encoding of ours")
    return version == "1.1"


def _path_of(url: bytes) -> tuple[str, bytes]:
    """The decoded path, and the target as it came without the server's name. Raises `ValueError`."""
    if not url.startswith(b"/"):
        parts = httptools.parse_url(url)
        url = (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")
    path = url.partition(b"?")[0].decode("ascii")
    return (unquote(path) if "%" in path else path), url
