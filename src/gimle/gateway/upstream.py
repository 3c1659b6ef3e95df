"""One attempt at one provider: send, and read the answer whole or as a stream, each within its time."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from gimle.foundation.config import GatewaySettings
from gimle.foundation.errors import GimleError, UpstreamError, UpstreamTimeout
from gimle.foundation.outbound import Incoming, Outbound, Request
from gimle.gateway import metrics
from gimle.gateway.catalog import Access, redacted
from gimle.gateway.neutral import Usage
from gimle.gateway.streams import Carrier
from gimle.gateway.types import Attempt, ChatStream, Fault

# In bytes: an answer, a refusal, and what comes before the first content of a stream.
LARGEST_REPLY = 64 * 1024 * 1024
_LARGEST_REFUSAL = 256 * 1024
_LARGEST_OPENING = 1024 * 1024
# The end of a connection's answer follows the end of its stream at once, or is not waited for.
_LINGER_SECONDS = 0.1


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

    async def whole(self, attempt: Attempt, access: Access, request: Request) -> bytes | Refusal:
        """The body of an answer, or what a provider said instead of one."""
        async with _until(attempt.deadline, attempt), self._outbound.stream(request) as incoming:
            if not _succeeded(incoming):
                return await _refusal(incoming, access)
            return await incoming.whole(LARGEST_REPLY)

    async def stream(self, attempt: Attempt, access: Access, request: Request, relay: Carrier) -> ChatStream | Refusal:
        """A stream whose first content has come, or what a provider said instead of one.

        Raises `UpstreamTimeout` when the first content is late, `UpstreamError` when the stream dies before it.
        """
        started = time.perf_counter()
        patience = access.provider.first_token_seconds or self._first_seconds
        first = min(attempt.deadline, asyncio.get_running_loop().time() + patience)
        async with AsyncExitStack() as opening:
            async with _until(first, attempt):
                incoming = await opening.enter_async_context(self._outbound.stream(request))
                if not _succeeded(incoming):
                    return await _refusal(incoming, access)
                held = await _opening(incoming, relay)
            seconds = time.perf_counter() - started
            flow = _Flow(attempt, access, relay, started, self._idle_seconds)
            # From here on the connection is the stream's, and closes with it.
            owned = opening.pop_all()
            owned.callback(flow.settle)
        metrics.of(attempt.target).first_seconds.observe(seconds)
        return ChatStream(flow.events(incoming, held), owned.aclose, flow.usage, attempt, seconds)


class _Flow:
    """The rest of a stream after its first content, and its account."""

    def __init__(self, attempt: Attempt, access: Access, relay: Carrier, started: float, idle_seconds: float) -> None:
        self._attempt = attempt
        self._access = access
        self._relay = relay
        self._started = started
        self._idle_seconds = idle_seconds
        self._outcome = "abandoned"

    def usage(self) -> Usage | None:
        return self._relay.usage

    async def events(self, incoming: Incoming, held: bytes) -> AsyncGenerator[bytes, None]:
        """Whole events, a piece from the provider at a time: the next is read when the caller has taken this one."""
        yield held
        try:
            while not self._relay.over:
                piece = await self._next(incoming)
                passed = self._relay.feed(piece) if piece else self._relay.end()
                if passed:
                    yield passed
                if self._relay.fault is not None:
                    raise self._relay.fault
                if not piece:
                    break
        except GimleError as error:
            self._outcome = error.code
            error.message = redacted(error.message, self._access.key)
            raise
        self._outcome = "complete"
        await _linger(incoming)

    async def _next(self, incoming: Incoming) -> bytes:
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(min(self._attempt.deadline, now + self._idle_seconds)):
                return await incoming.read()
        except TimeoutError:
            waited = asyncio.get_running_loop().time() - now
            raise UpstreamTimeout(f"The provider's stream stood still for {waited:.1f} s.") from None

    def settle(self) -> None:
        """Count the stream, however it ended: what was told of its usage until then is used."""
        meters = metrics.of(self._attempt.target)
        if self._outcome == "abandoned":
            meters.abandoned.inc()
        elif self._outcome != "complete":
            meters.failed(self._outcome)
        meters.settle(self._relay.usage, time.perf_counter() - self._started)


def _succeeded(incoming: Incoming) -> bool:
    return 200 <= incoming.status < 300


async def _refusal(incoming: Incoming, access: Access) -> Refusal:
    body = await incoming.whole(_LARGEST_REFUSAL)
    if access.key:
        # Some providers quote the key that they refuse.
        body = body.replace(access.key.encode(), b"[key]")
    return Refusal(access.dialect.read_fault(incoming.status, incoming.headers, body), incoming.status, body)


async def _opening(incoming: Incoming, relay: Carrier) -> bytes:
    """All that comes up to the first content. Until then nobody has seen anything of this attempt."""
    held = bytearray()
    while not relay.begun:
        piece = await incoming.read()
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
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            await incoming.read()
    except (TimeoutError, UpstreamError):
        return


@asynccontextmanager
async def _until(moment: float, attempt: Attempt) -> AsyncIterator[None]:
    started = time.perf_counter()
    try:
        async with asyncio.timeout_at(moment):
            yield
    except TimeoutError:
        waited = time.perf_counter() - started
        raise UpstreamTimeout(f"{attempt.target.id} did not answer within {waited:.1f} s.") from None
