"""One HTTP request and its answer: what every route needs, without a framework.

It counts and times the body while it arrives, adds the headers that every answer carries, and notices when the caller
has left. It wraps the ASGI callables, so Litestar may drive it as well as the routes that write their own answers.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Self

import msgspec

from gimle.foundation import ids
from gimle.foundation.errors import InvalidRequest, PayloadTooLarge, RequestTimeout
from gimle.foundation.lifecycle import Tasks
from gimle.interfaces.http import problems
from gimle.interfaces.http.problems import Problem
from gimle.trust.types import Principal

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")

_MEGABYTE = 1024 * 1024
_SANE_ID = re.compile(rb"^[A-Za-z0-9._:-]{1,128}$")
# A refused body is read to its end within these bounds, since a caller who is still writing sees no answer before.
_LINGER_BYTES = 64 * _MEGABYTE
_LINGER_SECONDS = 5.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a caller may send, and how slowly. Sizes in bytes, times in seconds."""

    body: int = 32 * _MEGABYTE
    upload: int = 256 * _MEGABYTE
    idle_seconds: float = 30.0
    total_seconds: float = 300.0


class ClientGone(Exception):
    """The caller left before the answer was complete."""


class Exchange:
    """A request in flight. `status` is 0 until an answer begins; `principal` is None on routes that need no key."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.started = time.perf_counter()
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = _request_id(self.headers.get(b"x-request-id"))
        self.dialect = dialect_of(self.path, self.headers)
        self.principal: Principal | None = None
        self.route = "other"
        self.status = 0
        self.sent = 0
        self.gone = False
        self.complete = False
        self._receive = receive
        self._send = send
        self._limits = limits
        self._limit = limits.upload if self.path == UPLOADS else limits.body
        self._taken = 0
        self._body_ended = False
        self._streams_events = False
        self._content_type = b""

    # -- taking the request in

    async def receive(self) -> Message:
        """ASGI `receive`, with the body counted and timed. Raises `PayloadTooLarge` or `RequestTimeout`."""
        if self._body_ended or self.gone:
            message = await self._receive()
            # A server says "disconnect" too when the answer is complete: that caller has not left.
            self.gone = self.gone or (message["type"] == "http.disconnect" and not self.complete)
            return message
        if self._taken == 0 and int(self.headers.get(b"content-length", b"0")) > self._limit:
            raise self._too_large()
        message = await self._next_piece()
        if message["type"] == "http.disconnect":
            self.gone = True
            return message
        self._taken += len(message.get("body", b""))
        if self._taken > self._limit:
            raise self._too_large()
        self._body_ended = not message.get("more_body", False)
        return message

    async def body(self) -> bytes:
        """The whole body. Raises `ClientGone` when the caller left in the middle of it."""
        pieces: list[bytes] = []
        while not self._body_ended:
            message = await self.receive()
            if self.gone:
                raise ClientGone
            pieces.append(message.get("body", b""))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _next_piece(self) -> Message:
        left = self.started + self._limits.total_seconds - time.perf_counter()
        with _Alarm(min(self._limits.idle_seconds, left)) as alarm:
            try:
                return await self._receive()
            except asyncio.CancelledError:
                if not alarm.is_mine():
                    raise
        raise RequestTimeout(
            f"The body did not arrive in time: {self._taken} bytes came.",
            field="body",
            hint=f"Within {self._limits.total_seconds:g} s, with no pause over {self._limits.idle_seconds:g} s.",
        )

    def _too_large(self) -> PayloadTooLarge:
        setting = "server.max_upload_mb" if self.path == UPLOADS else "server.max_body_mb"
        return PayloadTooLarge(
            f"The body is larger than the {self._limit / _MEGABYTE:g} MB allowed here.",
            field="body",
            hint=f"Send less, or raise the setting {setting}.",
        )

    # -- sending the answer

    async def send(self, message: Message) -> None:
        """ASGI `send`, which adds the headers that every answer carries."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = self._with_ours(message.get("headers", ()))
        else:
            self.sent += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        await self._send(message)

    async def reply(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (JSON,)) -> None:
        """A whole answer in one go."""
        await self.begin(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.write(body, more=False)

    async def begin(self, status: int, headers: Headers) -> None:
        """The head of an answer."""
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """A piece of the answer. Waits while the caller reads slower than we write."""
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

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
            headers.append((b"retry-after", b"%d" % max(1, round(problem.retry_after))))
        body = problems.render(problem, self.dialect, self.request_id)
        if problem.status in (408, 413):
            await self._refuse(problem.status, headers, body)
        else:
            await self.reply(problem.status, body, headers)

    async def _refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer first, then its end only after the rest of the body has come or enough time has passed."""
        head = [*headers, (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await self.begin(status, head)
        await self.write(body)
        if status == 413:
            await self._discard()
        await self.write(b"", more=False)

    async def _discard(self) -> None:
        left = _LINGER_BYTES
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while left > 0:
                    message = await self._receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
                    left -= len(message.get("body", b""))
        except TimeoutError:
            return

    def _with_ours(self, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
        ours: Headers = [*headers, (b"x-request-id", self.request_id.encode()), *_ALWAYS]
        if self.dialect == "anthropic":
            ours.append((b"request-id", self.request_id.encode()))
        given = {name for name, _ in headers}
        for name, value in headers:
            if name == b"content-type":
                self._streams_events = value.startswith(b"text/event-stream")
        ours.extend(header for header in _UNLESS_GIVEN if header[0] not in given)
        return ours

    # -- the caller's presence

    def while_connected(self, tasks: Tasks) -> "Presence":
        """Cancel this block as soon as the caller leaves, and raise `ClientGone`. The body must be read before."""
        return Presence(self, tasks)


class _Alarm:
    """Cancels the task that sets it after so many seconds: `asyncio.timeout` for a path where its price counts."""

    __slots__ = ("_rung", "_timer", "_work")

    def __init__(self, seconds: float) -> None:
        self._work = _this_task()
        self._rung = False
        self._timer = asyncio.get_running_loop().call_later(seconds, self._ring)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _ring(self) -> None:
        self._rung = True
        self._work.cancel()

    def is_mine(self) -> bool:
        """Whether the cancellation that has arrived is this alarm's, which is thereby taken back."""
        return self._rung and self._work.uncancel() == 0


class Presence:
    """A block that lasts as long as the caller is there; see `Exchange.while_connected`."""

    __slots__ = ("_exchange", "_tasks", "_watcher", "_work")

    def __init__(self, exchange: Exchange, tasks: Tasks) -> None:
        self._exchange = exchange
        self._tasks = tasks
        self._work = _this_task()

    async def __aenter__(self) -> None:
        self._watcher = self._tasks.start(self._watch(), "http.watch")

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._watcher.cancel()
        if isinstance(error, asyncio.CancelledError) and self._exchange.gone and self._work.uncancel() == 0:
            raise ClientGone from None

    async def _watch(self) -> None:
        while not (self._exchange.gone or self._exchange.complete):
            await self._exchange.receive()
        if self._exchange.gone:
            self._work.cancel()


def _this_task() -> "asyncio.Task[object]":
    task = asyncio.current_task()
    assert task is not None
    return task


UPLOADS = "/api/v1/knowledge/documents"

_ALWAYS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_UNLESS_GIVEN: tuple[tuple[bytes, bytes], ...] = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


_MESSAGES = "/v1/messages"
_MODELS = "/v1/models"


def dialect_of(path: str, headers: Mapping[bytes, bytes]) -> problems.Dialect:
    """In whose shapes a request is answered. Anthropic's clients say theirs where two vendors share a path."""
    if not is_inference(path):
        return "gimle"
    theirs = path.startswith(_MESSAGES) or (path.startswith(_MODELS) and b"anthropic-version" in headers)
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
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise InvalidRequest(
            f"The body is not valid UTF-8 (byte {wrong.start}).", field="body", hint="Send UTF-8 encoded JSON."
        ) from None
