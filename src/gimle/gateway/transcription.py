"""Speech to text: a form goes to a provider with only its model changed, and what comes back passes as it is."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from gimle.foundation.errors import GimleError, InvalidRequest, Unavailable, UpstreamTimeout
from gimle.foundation.outbound import Incoming, Outbound, Request
from gimle.gateway.catalog import Access
from gimle.gateway.facts import End
from gimle.gateway.gateway import Gateway
from gimle.gateway.multipart import Form
from gimle.gateway.neutral import Usage
from gimle.gateway.replies import reply_of
from gimle.gateway.streams import Relay
from gimle.gateway.types import Attempt, ChatReply, ChatStream, Fault, Headers, Purpose, Transcription
from gimle.gateway.upstream import LARGEST_REPLY, refused
from gimle.selection.types import Need
from gimle.trust.types import Principal

_EVENTS = "text/event-stream"


async def transcribe(gateway: Gateway, principal: Principal, form: Form, purpose: Purpose) -> ChatReply | ChatStream:
    """Have speech written down by the model that the form names. What is told with the reply has its content type.

    A reply whose status is 4xx carries a provider's own refusal. Raises `InvalidRequest`, `ModelNotFound`,
    `Unavailable`, `RateLimitedError` or `UpstreamError`.
    """
    model = (form.text("model") or "").strip()
    if not model:
        raise InvalidRequest("The form has no model.", field="model", hint="-F model=whisper-1")
    if (file := form.field("file")) is None or not file.file:
        raise InvalidRequest("The form has no file.", field="file", hint="-F file=@speech.mp3")
    if file.start == file.end:
        raise InvalidRequest("The file is empty.", field="file")

    async def attempt(one: Attempt, access: Access, outbound: Outbound) -> ChatReply | ChatStream | Fault:
        spoken = access.dialect.transcription
        if spoken is None:
            raise Unavailable(f"{one.target.provider} does not write down speech.", field="model")
        form.put("model", one.target.name)
        url = access.provider.base_url.rstrip("/") + spoken.path
        request = Request(url=url, headers=_headers(access, form.content_type), body=form.body, sending=one.slip.begin)
        async with AsyncExitStack() as opening:
            started = time.perf_counter()
            try:
                async with asyncio.timeout_at(one.deadline):
                    incoming = await opening.enter_async_context(outbound.stream(request))
                    one.slip.heard(incoming)
                    if incoming.status == 200 and _type(incoming).startswith(_EVENTS):
                        return await _stream(one, spoken, incoming, opening, started)
                    body = await incoming.whole(LARGEST_REPLY)
            except TimeoutError:
                raise UpstreamTimeout(f"{one.target.id} did not answer in time.") from None
            return _whole(one, access, incoming, body, time.perf_counter() - started)

    return await gateway.walk(principal, model, Need(kind="transcription"), attempt, purpose)


def _whole(one: Attempt, access: Access, incoming: Incoming, body: bytes, seconds: float) -> ChatReply | Fault:
    """A whole answer: a transcript, a refusal that is the caller's fault, or a fault."""
    spoken = access.dialect.transcription
    usage = None
    if not incoming.succeeded:
        refusal = refused(incoming, body, access)
        if not refusal.fault.passable:
            return refusal.fault
        body = refusal.body
        one.ticket.left()
        one.slip.settle("refused")
    elif spoken is not None:
        usage = spoken.read_usage(body)
        one.settle(usage, seconds)
    reply = reply_of(one, incoming.status, body, usage, seconds)
    reply.told = (("content-type", _type(incoming)),)
    return reply


async def _stream(
    one: Attempt, spoken: Transcription, incoming: Incoming, opening: AsyncExitStack, started: float
) -> ChatStream:
    """A stream that passes. From here on the connection is the stream's, and closes with it."""
    relay = Relay(spoken.watch(), show_usage=True)
    owned = opening.pop_all()
    end: End = "cancelled"

    async def events() -> AsyncGenerator[bytes, None]:
        nonlocal end
        try:
            while not relay.over:
                piece = await _next(one, incoming)
                passed = relay.feed(piece) if piece else relay.end()
                if passed:
                    yield passed
                if relay.fault is not None:
                    raise relay.fault
                if not piece:
                    break
        except GimleError:
            end = "broken"
            raise
        end = "done"

    async def close() -> None:
        _settle(one, "done" if relay.over else end, relay.usage, time.perf_counter() - started)
        await owned.aclose()

    stream = ChatStream(events(), close, lambda: relay.usage, one, time.perf_counter() - started)
    stream.told = (("content-type", _type(incoming)),)
    return stream


def _settle(one: Attempt, end: End, usage: Usage | None, seconds: float) -> None:
    """The end of a stream. May be told twice."""
    if end == "done":
        one.ticket.succeeded()
        one.settle(usage, seconds)
        return
    if end == "broken":
        one.ticket.failed(asyncio.get_running_loop().time())
    else:
        one.ticket.left()
    one.slip.settle(end)


async def _next(one: Attempt, incoming: Incoming) -> bytes:
    try:
        async with asyncio.timeout_at(one.deadline):
            return await incoming.read()
    except TimeoutError:
        raise UpstreamTimeout(f"The stream of {one.target.id} did not end in time.") from None


def _headers(access: Access, content_type: str) -> Headers:
    kept = tuple((name, value) for name, value in access.headers if name != "content-type")
    return (("content-type", content_type), *kept)


def _type(incoming: Incoming) -> str:
    return incoming.headers.get("content-type", "application/json")
