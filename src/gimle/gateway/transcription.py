"""Speech to text: a form goes to a provider with only its model changed, and what comes back passes as it is."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import msgspec

from gimle.foundation.errors import InvalidRequest, Unavailable, UpstreamTimeout
from gimle.foundation.outbound import Incoming, Outbound, Request
from gimle.gateway.catalog import Access
from gimle.gateway.gateway import Gateway
from gimle.gateway.multipart import Form
from gimle.gateway.streams import Relay
from gimle.gateway.types import Attempt, ChatReply, ChatStream, Fault, Headers, Transcription
from gimle.gateway.upstream import LARGEST_REPLY, refused
from gimle.selection.types import Need
from gimle.trust.types import Principal

_EVENTS = "text/event-stream"


class Transcript(msgspec.Struct, frozen=True):
    """What came back, whole or as a stream, of which type it is, and why from this model."""

    reply: ChatReply | ChatStream
    content_type: str
    why: str = ""


async def transcribe(gateway: Gateway, principal: Principal, form: Form) -> Transcript:
    """Have speech written down by the model that the form names.

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

    async def attempt(one: Attempt, access: Access, outbound: Outbound) -> Transcript | Fault:
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
                    if incoming.status == 200 and _type(incoming).startswith(_EVENTS):
                        return await _stream(one, spoken, incoming, opening)
                    body = await incoming.whole(LARGEST_REPLY)
            except TimeoutError:
                raise UpstreamTimeout(f"{one.target.id} did not answer in time.") from None
            return _whole(one, access, incoming, body, time.perf_counter() - started)

    transcript, why = await gateway.walk(principal, model, Need(kind="transcription"), attempt)
    return msgspec.structs.replace(transcript, why=why)


def _whole(one: Attempt, access: Access, incoming: Incoming, body: bytes, seconds: float) -> Transcript | Fault:
    """A whole answer: a transcript, a refusal that is the caller's fault, or a fault."""
    spoken = access.dialect.transcription
    usage = None
    if not 200 <= incoming.status < 300:
        refusal = refused(incoming, body, access)
        if not refusal.fault.passable:
            return refusal.fault
        body = refusal.body
        one.ticket.left()
        one.slip.settle("refused")
    elif spoken is not None:
        usage = spoken.read_usage(body)
        one.settle(usage, seconds)
    reply = ChatReply(
        status=incoming.status,
        body=body,
        model=one.target.name,
        provider=one.target.provider,
        attempts=one.number,
        usage=usage,
        upstream_seconds=seconds,
    )
    return Transcript(reply, _type(incoming))


async def _stream(one: Attempt, spoken: Transcription, incoming: Incoming, opening: AsyncExitStack) -> Transcript:
    """A stream that passes. From here on the connection is the stream's, and closes with it."""
    started = time.perf_counter()
    relay = Relay(spoken.watch(), show_usage=True)
    owned = opening.pop_all()

    async def events() -> AsyncGenerator[bytes, None]:
        while not relay.over:
            piece = await _next(one, incoming)
            passed = relay.feed(piece) if piece else relay.end()
            if passed:
                yield passed
            if relay.fault is not None:
                raise relay.fault
            if not piece:
                break

    async def close() -> None:
        one.settle(relay.usage, time.perf_counter() - started)
        await owned.aclose()

    return Transcript(ChatStream(events(), close, lambda: relay.usage, one), _type(incoming))


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
