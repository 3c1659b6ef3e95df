"""Speech to text: a form goes to a provider with only its model changed, and what comes back passes as it is."""

import time

from gimle.foundation.errors import InvalidRequest, Unavailable
from gimle.foundation.outbound import Request
from gimle.gateway.catalog import Access
from gimle.gateway.gateway import Gateway
from gimle.gateway.multipart import Form
from gimle.gateway.replies import passed, reply_of
from gimle.gateway.streams import Relay
from gimle.gateway.types import Attempt, ChatReply, ChatStream, Fault, Headers, Purpose
from gimle.gateway.upstream import Refusal, Upstream
from gimle.selection.types import Need
from gimle.trust.types import Principal


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

    async def attempt(one: Attempt, access: Access, upstream: Upstream) -> ChatReply | ChatStream | Fault:
        spoken = access.dialect.transcription
        if spoken is None:
            raise Unavailable(f"{one.target.provider} does not write down speech.", field="model")
        form.put("model", one.target.name)
        request = Request(
            url=access.url(spoken.path, one.target.name),
            headers=_headers(access, form.content_type),
            body=form.body,
            sending=one.slip.begin,
        )
        started = time.perf_counter()
        # Not every model streams that is asked to.
        answer, kind = await upstream.either(one, access, request, Relay(spoken.watch(), show_usage=True))
        reply: ChatReply | ChatStream | Fault
        match answer:
            case Refusal():
                reply = passed(one, answer, same=True)
            case bytes():
                usage, seconds = spoken.read_usage(answer), time.perf_counter() - started
                one.settle(usage, seconds)
                reply = reply_of(one, 200, answer, usage, seconds)
            case _:
                reply = answer
        if not isinstance(reply, Fault):
            reply.told = (("content-type", kind),)
        return reply

    return await gateway.pass_on(principal, model, Need(kind="transcription"), attempt, purpose)


def _headers(access: Access, content_type: str) -> Headers:
    kept = tuple((name, value) for name, value in access.headers if name != "content-type")
    return (("content-type", content_type), *kept)
