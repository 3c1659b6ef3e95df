"""One HTTP request and its answer: what every route needs, without a framework.

The connection (`wire`) feeds it the body as it arrives; routes take the body and write the answer. It counts and times
the body, adds the headers that every answer carries, and tells when the caller has left.
"""

import asyncio
import math
import re
import time
from collections.abc import Iterable, Mapping
from functools import cache
from http.client import responses

import msgspec

from gimle.foundation import ids
from gimle.foundation.errors import GimleError, InvalidRequest, PayloadTooLarge, RequestTimeout
from gimle.interfaces.http import problems
from gimle.interfaces.http.line import Line
from gimle.interfaces.http.problems import Problem
from gimle.trust.types import Principal

Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")

_MEGABYTE = 1024 * 1024
_SANE_ID = re.compile(rb"^[A-Za-z0-9._:-]{1,128}\Z")
# What may wait for a reader before the caller is stopped.
_HIGH = 256 * 1024
# A refused body is read to its end within these bounds, since a caller who is still writing sees no answer before.
_LINGER_BYTES = 64 * _MEGABYTE
LINGER_SECONDS = 5.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a caller may send, and how slowly. Sizes in bytes, times in seconds."""

    body: int = 32 * _MEGABYTE
    upload: int = 256 * _MEGABYTE
    idle_seconds: float = 30.0
    total_seconds: float = 300.0


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The head of a request. `path` is decoded, `target` as it came; names of headers are in lower case.

    `fields` are the headers by name, of those that came twice the last. `persistent` says that the caller would send
    another request on this connection; `chunks` that it speaks HTTP/1.1.
    """

    method: str
    path: str
    target: bytes
    headers: Headers
    fields: dict[bytes, bytes]
    persistent: bool = True
    chunks: bool = True


class ClientGone(Exception):
    """The caller left before the answer was complete."""


class Exchange:
    """A request in flight. `status` is 0 until an answer begins; `principal` is None on routes that need no key.

    `gone` says that the caller left before the answer was `complete`, and `attended` that its work ends with him.
    """

    principal: Principal | None = None
    route = "other"
    status = 0
    sent = 0
    gone = False
    attended = False
    complete = False
    whole = False
    _buffered = 0
    _taken = 0
    _broken: GimleError | None = None
    _waiting: asyncio.Future[None] | None = None
    _over: asyncio.Future[None] | None = None
    _chunked = False
    _streams_events = False

    def __init__(self, line: Line, limits: Limits, head: Head) -> None:
        self.started = time.perf_counter()
        self.head = head
        self.method = head.method
        self.path = head.path
        self.headers = head.fields
        self.request_id = _request_id(self.headers.get(b"x-request-id"))
        self.dialect = dialect_of(head.path, self.headers)
        self.persistent = head.persistent
        self.line = line
        self._limits = limits
        self._limit = limits.upload if head.path == UPLOADS else limits.body
        self._pieces: list[bytes] = []
        self._continues = b"expect" in self.headers

    # -- what the connection tells

    def feed(self, piece: bytes) -> None:
        """A piece of the body has come. What comes behind a finished answer is thrown away, within bounds."""
        self._taken += len(piece)
        if self.complete:
            if self._taken > _LINGER_BYTES + self._limit:
                self.line.close()
            return
        self._pieces.append(piece)
        self._buffered += len(piece)
        if self._buffered > _HIGH:
            self.line.hold()
        self._wake()

    def end(self) -> None:
        """The body has come whole."""
        self.whole = True
        self._wake()

    def spoil(self, error: GimleError) -> None:
        """What comes is not HTTP any more."""
        self._broken = error
        self._wake()

    def late(self) -> bool:
        """The next piece has not come in time. False if nobody waits for one."""
        if self._waiting is None:
            return False
        self._broken = RequestTimeout(
            f"The body did not arrive in time: {self._taken} bytes came.",
            field="body",
            hint=f"Within {self._limits.total_seconds:g} s, with no pause over {self._limits.idle_seconds:g} s.",
        )
        self._wake()
        return True

    def leave(self) -> None:
        """The caller is gone: whoever waits for him learns it."""
        self.gone = not self.complete
        self._wake()
        self._tell_over()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _tell_over(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    # -- taking the request in

    @property
    def taken(self) -> bool:
        """Whether the body has been read to its end."""
        return self.whole and not self._pieces

    async def read(self) -> bytes:
        """What has come of the body, at least a byte; empty at its end.

        Raises `PayloadTooLarge`, `RequestTimeout`, `InvalidRequest` when it is not HTTP, or `ClientGone`.
        """
        if self._taken > self._limit or int(self.headers.get(b"content-length", b"0")) > self._limit:
            raise self._too_large()
        while not (self._pieces or self.whole):
            await self._more()
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._buffered > _HIGH:
            self.line.go_on()
        self._pieces, self._buffered = [], 0
        if self._taken > self._limit:
            raise self._too_large()
        return data

    @property
    def lingers(self) -> bool:
        """Whether it was answered before the rest of its body has come, which is still to be read and thrown away."""
        return self.complete and not self.whole and self._broken is None

    async def body(self) -> bytes:
        """The whole body. Raises as `read` does."""
        pieces = [await self.read()]
        while not self.taken:
            pieces.append(await self.read())
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _more(self) -> None:
        if self._broken is None and not self.gone:
            await self._next_piece()
        if self.gone:
            raise ClientGone
        if self._broken is not None:
            self.persistent = False
            raise self._broken

    async def _next_piece(self) -> None:
        if self._continues and self.head.chunks:
            self.line.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._continues = False
        left = self.started + self._limits.total_seconds - time.perf_counter()
        self.line.expect(max(0.0, min(self._limits.idle_seconds, left)))
        self._waiting = self.line.loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None
            self.line.expect_nothing()

    def _too_large(self) -> PayloadTooLarge:
        setting = "server.max_upload_mb" if self.path == UPLOADS else "server.max_body_mb"
        return PayloadTooLarge(
            f"The body is larger than the {self._limit / _MEGABYTE:g} MB allowed here.",
            field="body",
            hint=f"Send less, or raise the setting {setting}.",
        )

    # -- sending the answer

    async def reply(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (JSON,)) -> None:
        """A whole answer in one go."""
        head = self._written(status, [*headers, (b"content-length", b"%d" % len(body))])
        if self.gone:
            return
        self.sent += len(body)
        # In one piece, so that nobody sees half of it.
        self.line.write(head if self.method == "HEAD" else head + body)
        self._end()
        if self.line.drained is not None:
            await self.line.room()

    async def begin(self, status: int, headers: Headers) -> None:
        """The head of an answer."""
        self.line.write(self._written(status, headers))

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """A piece of the answer. Waits while the caller reads slower than we write."""
        if not self.push(body, more=more):
            await self.line.room()

    def push(self, body: bytes, *, more: bool = True) -> bool:
        """A piece of the answer, at once; whether the caller is ready for the next."""
        data = body
        if self.method == "HEAD":
            data = b""
        elif self._chunked:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            data = data if more else data + b"0\r\n\r\n"
        if not self.gone:
            self.sent += len(body)
            self.line.write(data)
            if not more:
                self._end()
        return self.line.drained is None

    def _end(self) -> None:
        self.complete = True
        self._tell_over()

    async def fail(self, problem: Problem) -> None:
        """Answer with a problem. Once a stream has begun, its last event tells of it; other answers are cut short."""
        if self.complete or self.gone:
            return
        if self.status:
            if self._streams_events:
                await self.write(problems.render_event(problem, self.dialect, self.request_id), more=False)
            return
        headers: Headers = [JSON]
        if problem.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if problem.retry_after is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(problem.retry_after))))
        if problem.limit is not None:
            after = math.ceil(problem.retry_after or 0.0)
            headers += [(b"ratelimit-limit", b"%d" % problem.limit), (b"ratelimit-remaining", b"0")]
            headers.append((b"ratelimit-reset", b"%d" % after))
        if problem.status in (408, 413):
            self.persistent = False
        await self.reply(problem.status, problems.render(problem, self.dialect, self.request_id), headers)

    async def over(self) -> None:
        """Wait until the answer is complete or the caller has left."""
        if not (self.gone or self.complete):
            self._over = self._over or self.line.loop.create_future()
            await asyncio.shield(self._over)

    def _written(self, status: int, headers: Headers) -> bytes:
        """The head of the answer on the wire. Raises `ValueError` for a header that holds a line's end."""
        self.status = status
        given = dict(headers)
        lines = [*map(b": ".join, headers), b"x-request-id: " + self.request_id.encode()]
        if self.dialect == "anthropic":
            lines.append(b"request-id: " + self.request_id.encode())
        # What has neither a length nor chunks ends with the connection.
        self._chunked = b"content-length" not in given and status not in (204, 304) and self.head.chunks
        self.persistent &= self.head.chunks or b"content-length" in given
        if self._chunked:
            lines.append(b"transfer-encoding: chunked")
        if not self.persistent:
            lines.append(b"connection: close")
        self._streams_events = given.get(b"content-type", b"").startswith(b"text/event-stream")
        said = b"".join(lines)
        if b"\n" in said or b"\r" in said:
            raise ValueError("A header of the answer holds a line's end.")
        opening = _opening(status, kept=b"cache-control" in given, policed=b"content-security-policy" in given)
        return b"\r\n".join((opening, *lines, b"\r\n"))

    def attend(self) -> None:
        """From now on the work for this request is cancelled as soon as its caller leaves. Raises `ClientGone` if he
        has.
        """
        if self.gone:
            raise ClientGone
        self.attended = True


UPLOADS = "/api/v1/knowledge/documents"

_ALWAYS = (b"x-content-type-options: nosniff", b"referrer-policy: no-referrer")
_NOT_KEPT = b"cache-control: no-store"
_POLICY = b"content-security-policy: default-src 'none'; frame-ancestors 'none'"

_MESSAGES = "/v1/messages"
# Paths that two vendors share.
_SHARED = ("/v1/models", "/v1/files")


@cache
def _opening(status: int, *, kept: bool, policed: bool) -> bytes:
    """The first line, and the headers that every answer carries, save those which it says otherwise itself."""
    first = b"HTTP/1.1 %d %b" % (status, responses.get(status, "").encode())
    return b"\r\n".join((first, *_ALWAYS, *(() if kept else (_NOT_KEPT,)), *(() if policed else (_POLICY,))))


def dialect_of(path: str, headers: Mapping[bytes, bytes]) -> problems.Dialect:
    """In whose shapes a request is answered. Anthropic's clients say theirs where two vendors share a path."""
    if not is_inference(path):
        return "gimle"
    theirs = path.startswith(_MESSAGES) or (path.startswith(_SHARED) and b"anthropic-version" in headers)
    return "anthropic" if theirs else "openai"


def is_inference(path: str) -> bool:
    """Whether a path belongs to the surface that speaks the vendors' dialects."""
    return path.startswith("/v1/") or path == "/v1"


def _request_id(given: bytes | None) -> str:
    """The caller's id when it is short and plain, so that it can't forge a line in the log; else one of our own."""
    if given is not None and _SANE_ID.match(given):
        return given.decode("ascii")
    return ids.new("req")


def decode_utf8(body: bytes) -> None:
    """Refuse a body that is not UTF-8, with the place. msgspec alone would pass on what it does not decode."""
    if body.isascii():
        return
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise InvalidRequest(
            f"The body is not valid UTF-8 (byte {wrong.start}).", field="body", hint="Send UTF-8 encoded JSON."
        ) from None
