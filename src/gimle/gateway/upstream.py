"""One attempt at one provider: send, and read the answer whole or as a stream, each within its time."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress

import msgspec

from gimle.foundation.config import GatewaySettings
from gimle.foundation.errors import GimleError, UpstreamError
from gimle.foundation.lifecycle import Tasks
from gimle.foundation.outbound import Incoming, Outbound, Request
from gimle.gateway import faults
from gimle.gateway.catalog import Access, redacted
from gimle.gateway.neutral import Usage
from gimle.gateway.streams import Carrier
from gimle.gateway.types import Attempt, ChatStream, Fault, Take

# In bytes: an answer, a refusal, and what comes before the first content of a stream.
_LARGEST_REPLY = 64 * 1024 * 1024
_LARGEST_REFUSAL = 256 * 1024
_LARGEST_OPENING = 1024 * 1024
_EVENTS = "text/event-stream"
# The end of a connection's answer follows the end of its stream at once, or is not waited for.
_LINGER_SECONDS = 0.1
# What is read of a stream whose caller has left, where that is asked for. Seconds and bytes.
_DRAIN_SECONDS = 120.0
_LARGEST_DRAIN = 16 * 1024 * 1024


class Refusal(msgspec.Struct, frozen=True):
    """An answer that is no success: what it means, and its status and body for the caller whose fault it is."""

    fault: Fault
    status: int
    body: bytes


class Upstream:
    """Carries requests to providers."""

    def __init__(self, outbound: Outbound, settings: GatewaySettings) -> None:
        self._outbound = outbound
        self._first_seconds = settings.first_token_seconds
        self._idle_seconds = settings.idle_seconds
        self._drains = settings.on_disconnect == "drain"
        self._tasks = Tasks()
        self._draining: set[_Flow] = set()

    async def close(self) -> None:
        """Cut off what is still read for callers who have left."""
        draining = tuple(self._draining)
        await self._tasks.close()
        # A task that was cancelled before its first step has closed nothing.
        for flow in draining:
            await flow.close()

    async def whole(self, attempt: Attempt, access: Access, request: Request) -> bytes | Refusal:
        """The body of an answer, or what a provider said instead of one."""
        return await _read(attempt, access, await self._outbound.open(request, attempt.deadline))

    async def stream(self, attempt: Attempt, access: Access, request: Request, relay: Carrier) -> ChatStream | Refusal:
        """A stream whose first content has come, or what a provider said instead of one.

        Raises `UpstreamTimeout` when the first content is late, `UpstreamError` when the stream dies before it.
        """
        started = time.perf_counter()
        first = self._first(attempt, access)
        incoming = await self._outbound.open(request, first)
        return await self._begin(attempt, access, incoming, relay, (started, first))

    async def either(
        self, attempt: Attempt, access: Access, request: Request, relay: Carrier
    ) -> tuple[ChatStream | bytes | Refusal, str]:
        """A stream or a whole body, whichever the provider gives, or what it said instead; and its content type.

        Whichever it is begins by the deadline; the first content of a stream is waited for as in `stream`.
        """
        started = time.perf_counter()
        incoming = await self._outbound.open(request, attempt.deadline)
        kind = incoming.headers.get("content-type", "application/json")
        if kind.startswith(_EVENTS):
            return await self._begin(attempt, access, incoming, relay, (started, self._first(attempt, access))), kind
        return await _read(attempt, access, incoming), kind

    def _first(self, attempt: Attempt, access: Access) -> float:
        """The moment by which the first content must come that is asked for now."""
        patience = access.provider.first_token_seconds or self._first_seconds
        return min(attempt.deadline, asyncio.get_running_loop().time() + patience)

    async def _begin(
        self, attempt: Attempt, access: Access, incoming: Incoming, relay: Carrier, times: tuple[float, float]
    ) -> ChatStream | Refusal:
        """A stream whose head has come. `times`: when it was asked for, and until when its first content may take."""
        started, first = times
        flow: _Flow | None = None
        try:
            attempt.slip.heard(incoming)
            if not incoming.succeeded:
                return await _refusal(incoming, access)
            held = await _opening(incoming, relay, first)
            seconds = time.perf_counter() - started
            # From here on the connection is the stream's, and closes with it.
            flow = _Flow(attempt, access, relay, incoming, (started, seconds), self._idle_seconds)
        finally:
            if flow is None:
                await incoming.close()
        attempt.ticket.answered()
        attempt.meters.first_seconds.observe(seconds)
        close = self._drained(flow) if self._drains else flow.close
        stream = ChatStream(flow.events(held), close, flow.usage, attempt, seconds)
        stream.straight = flow.straight
        return stream

    def _drained(self, flow: "_Flow") -> Callable[[], Awaitable[None]]:
        """A way to close a stream which has its provider say all, though the caller has left."""

        async def close() -> None:
            if flow.ended:
                await flow.close()
            elif not flow.left:
                flow.left = True
                self._draining.add(flow)
                task = self._tasks.start(flow.drain(), "gateway.drain")
                task.add_done_callback(lambda _: self._draining.discard(flow))

        return close


class _Flow:
    """The rest of a stream after its first content, and its account. `begun`: when it was asked for, and how long its
    first content took.
    """

    def __init__(
        self,
        attempt: Attempt,
        access: Access,
        relay: Carrier,
        incoming: Incoming,
        begun: tuple[float, float],
        idle_seconds: float,
    ) -> None:
        # Whether the caller has left, and it is read on without him.
        self.left = False
        self._begun = begun
        self._idle_seconds = idle_seconds
        self._attempt = attempt
        self._access = access
        self._relay = relay
        self._incoming = incoming
        self._clock = asyncio.get_running_loop().time
        self._outcome = "abandoned"
        self._closed = False
        self._take: Take | None = None

    def usage(self) -> Usage | None:
        return self._relay.usage

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to read."""
        return self._closed or self._outcome != "abandoned"

    def straight(self, take: Take) -> None:
        """From now on events go to `take` in the moment when they come, past `events`: that costs a quarter less."""
        self._take = take

    async def events(self, held: bytes) -> AsyncGenerator[bytes, None]:
        """Whole events, a piece from the provider at a time: the next is read when the caller has taken this one.

        An empty one means that others went straight, and that the caller should be waited for.
        """
        if held:
            yield held
        try:
            while not self._relay.over:
                cut: UpstreamError | None = None
                try:
                    piece = await self._incoming.read(self._until(), None if self._take is None else self._pass)
                except UpstreamError as error:
                    piece, cut = b"", error
                ended = not piece and (cut is not None or self._incoming.exhausted)
                passed = self._end(cut) if ended else piece and self._relay.feed(piece)
                if passed or not (piece or ended):
                    yield passed
                if self._relay.fault is not None:
                    raise self._relay.fault
                if ended:
                    break
        except GimleError as error:
            self._outcome = error.code
            error.message = redacted(error.message, self._access.key)
            raise
        self._outcome = "complete"
        await _linger(self._incoming)

    def _pass(self, piece: bytes) -> float | None:
        """Hand events on straight, unless something has to be waited for or has come to its end."""
        passed = self._relay.feed(piece)
        has_room = self._take is not None and (not passed or self._take(passed))
        goes_on = has_room and not self._relay.over and self._relay.fault is None
        return self._until() if goes_on else None

    def _until(self) -> float:
        return min(self._attempt.deadline, self._clock() + self._idle_seconds)

    async def drain(self) -> None:
        """Read to the end for the sake of the usage alone, within bounds, and close."""
        self._take = None
        read = 0
        try:
            async with asyncio.timeout(_DRAIN_SECONDS), aclosing(self.events(b"")) as rest:
                async for piece in rest:
                    read += len(piece)
                    if read > _LARGEST_DRAIN:
                        return
            self._attempt.meters.drained.inc()
        except (GimleError, TimeoutError):
            # The outcome tells; nobody is there to hear it.
            return
        finally:
            await self.close()

    def _end(self, cut: UpstreamError | None) -> bytes:
        """What is left at the end. Raises `UpstreamError` when the answer was not over: what `cut` it, if known."""
        try:
            # An answer that lacks nothing but the closing event of its format counts as complete.
            return self._relay.end()
        except UpstreamError as wrong:
            raise (cut or wrong) from None

    async def close(self) -> None:
        """Close the connection, and count: what was told of the usage until then is used. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._settle()
        await self._incoming.close()

    def _settle(self) -> None:
        attempt = self._attempt
        started, first_seconds = self._begun
        said: int | None = None
        if self._outcome == "complete" or (self._outcome == "abandoned" and self._relay.over):
            attempt.ticket.succeeded()
            said = self._relay.said
        elif self._outcome == "abandoned":
            attempt.ticket.left()
            attempt.flight.left()
            attempt.meters.abandoned.inc()
            # What was told so far is not what it comes to.
            attempt.slip.settle("cancelled", None, first_seconds)
        else:
            attempt.ticket.failed(self._clock())
            attempt.flight.failed(time.time())
            attempt.meters.failed(self._outcome)
            attempt.slip.settle("broken", None, first_seconds)
        # What was entered already is not entered again.
        attempt.settle(self._relay.usage, time.perf_counter() - started, first_seconds, said=said)


async def _read(attempt: Attempt, access: Access, incoming: Incoming) -> bytes | Refusal:
    try:
        attempt.slip.heard(incoming)
        if incoming.succeeded:
            return await incoming.whole(_LARGEST_REPLY)
        return await _refusal(incoming, access)
    finally:
        await incoming.close()


async def _refusal(incoming: Incoming, access: Access) -> Refusal:
    """What an answer that is no success means."""
    body = await incoming.whole(_LARGEST_REFUSAL)
    if access.key:
        # Some providers quote the key that they refuse.
        body = body.replace(access.key.encode(), b"[key]")
    fault = access.dialect.read_fault(incoming.status, incoming.headers, body)
    fault = faults.held(fault, incoming.status, faults.waiting(incoming.headers, time.time()))
    return Refusal(fault, incoming.status, body)


async def _opening(incoming: Incoming, relay: Carrier, until: float) -> bytes:
    """All that comes up to the first content, by the moment `until`; nobody has seen anything of this attempt then."""
    held = bytearray()
    while not relay.begun:
        piece = await incoming.read(until)
        held += relay.feed(piece) if piece else relay.end()
        if relay.fault is not None:
            raise relay.fault
        if len(held) > _LARGEST_OPENING:
            raise UpstreamError("The provider's stream has no content.")
        if not piece:
            break
    return bytes(held)


async def _linger(incoming: Incoming) -> None:
    """Read the end of the answer, so that the connection serves again; a provider who keeps it open is cut off."""
    with suppress(UpstreamError):
        await incoming.read(asyncio.get_running_loop().time() + _LINGER_SECONDS)
