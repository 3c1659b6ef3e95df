"""Whole answers: a provider's `response` object read, and another dialect's answer written as one."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from gimle.foundation.errors import UpstreamError
from gimle.gateway import faults, openai_wire
from gimle.gateway.dialects.responses.fields import (
    NAME,
    TokenLogprob,
    kept,
    own,
    read_logprobs,
    rest,
    write_logprobs,
)
from gimle.gateway.dialects.responses.parts import write_said
from gimle.gateway.dialects.responses.thoughts import told_thought, write_thought
from gimle.gateway.neutral import (
    Choice,
    Finish,
    Foreign,
    Json,
    Logprob,
    Part,
    Refusal,
    Reply,
    Text,
    Thinking,
    ToolCall,
    Usage,
)
from gimle.gateway.openai_wire import InputDetails, OutputDetails, usage_of
from gimle.gateway.wire import MALFORMED, NULL, Count, lenient, no_answer

# -- a provider's


class ToldUsage(msgspec.Struct, frozen=True):
    """Usage as this format tells it: the details are parts of the sums."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


_USAGE = msgspec.json.Decoder(ToldUsage | None, strict=False)


class _Incomplete(msgspec.Struct, frozen=True):
    reason: str | None = None


class ToldError(msgspec.Struct, frozen=True):
    """An error inside an answer or a stream."""

    message: str | None = None
    code: str | None = None


class Head(msgspec.Struct, frozen=True):
    """What a `response` object says besides its output."""

    id: str = ""
    model: str = ""
    created_at: float = 0
    status: str | None = None
    error: ToldError | None = None
    incomplete_details: _Incomplete | None = None
    usage: msgspec.Raw = NULL


class _Response(Head, frozen=True):
    output: list[dict[str, Any]] | None = None


class _Message(msgspec.Struct, frozen=True):
    content: list[dict[str, Any]] = []


class _Said(msgspec.Struct, frozen=True):
    type: str
    text: str = ""
    refusal: str = ""
    logprobs: list[TokenLogprob] | None = None


class _Call(msgspec.Struct, frozen=True):
    name: str
    call_id: str = ""
    id: str = ""
    arguments: str = ""


_RESPONSE = msgspec.json.Decoder(_Response)
_INCOMPLETE: dict[str | None, Finish] = {"content_filter": "filter"}


def read_usage(body: bytes) -> Usage | None:
    """Check an answer that passes as it came; its usage, if it tells it. Raises `UpstreamError`."""
    return usage_in(_response(body).usage)


def read_reply(body: bytes) -> Reply:
    """An answer for a caller of another dialect. Raises `UpstreamError` when it is malformed or has failed."""
    response = _response(body)
    try:
        parts = [part for item in response.output or () for part in read_item(item)]
        logprobs = [one for item in response.output or () for one in _logprobs_in(item)]
    except MALFORMED as wrong:
        raise UpstreamError(f"The provider's answer holds an item that is malformed: {wrong}.") from None
    choice = Choice(parts=tuple(parts), finish=finish(response, parts), logprobs=tuple(logprobs) or None)
    return Reply(
        id=response.id,
        model=response.model,
        choices=(choice,),
        usage=usage_in(response.usage),
        created=int(response.created_at),
    )


def _response(body: bytes) -> _Response:
    try:
        response = _RESPONSE.decode(body)
    except MALFORMED as wrong:
        raise no_answer(body, "a response", wrong) from None
    check(response)
    if response.output is None:
        raise UpstreamError("The provider's answer has no output.")
    if response.status not in ("completed", "incomplete", None):
        raise UpstreamError(f"The provider's answer is not complete: {response.status[: faults.LONGEST]}.")
    return response


def check(response: Head) -> None:
    """Raise `UpstreamError` for an answer that tells of a failure."""
    if response.error is not None or response.status in ("failed", "cancelled"):
        raise told_error(response.error or ToldError())


def told_error(error: ToldError) -> UpstreamError:
    """The error that a provider tells inside a success or in the middle of a stream."""
    return faults.reported(error.message or error.code or "")


def usage_in(raw: msgspec.Raw) -> Usage | None:
    """The usage that an answer tells, if it tells any that makes sense."""
    return usage(lenient(raw, _USAGE))


def usage(told: ToldUsage | None) -> Usage | None:
    """Usage in classes that share no token."""
    if told is None:
        return None
    return usage_of(
        openai_wire.ToldUsage(
            prompt_tokens=told.input_tokens,
            completion_tokens=told.output_tokens,
            prompt_tokens_details=told.input_tokens_details,
            completion_tokens_details=told.output_tokens_details,
        )
    )


def finish(response: Head, parts: Sequence[Part]) -> Finish:
    """Why an answer ended, which this format tells by its status and by what it holds."""
    if response.status == "incomplete":
        return _INCOMPLETE.get(response.incomplete_details.reason if response.incomplete_details else None, "length")
    if any(isinstance(part, ToolCall) for part in parts):
        return "tools"
    return "refusal" if any(isinstance(part, Refusal) for part in parts) else "stop"


def read_item(item: Json) -> Sequence[Part]:
    """The parts of one item of the output. Raises `msgspec.ValidationError`."""
    match item.get("type"):
        case "message":
            said = msgspec.convert(item, _Message).content
            return [_read_said(part) for part in said]
        case "function_call":
            return [read_call(item)]
        case "reasoning":
            return [told_thought(item)]
        case _:
            return [Foreign(dialect=NAME, raw=item)]


def read_call(item: Json) -> ToolCall:
    """A tool call of a provider. Raises `msgspec.ValidationError`."""
    call = msgspec.convert(item, _Call)
    more = rest(item, "type", "call_id", "name", "arguments", "status")
    return ToolCall(id=call.call_id or call.id, name=call.name, arguments=call.arguments, extra=kept(more))


def _read_said(raw: Json) -> Part:
    said = msgspec.convert(raw, _Said)
    if said.type == "refusal":
        return Refusal(text=said.refusal)
    if said.type != "output_text":
        return Foreign(dialect=NAME, raw=raw)
    annotations = raw.get("annotations")
    return Text(text=said.text, extra=kept({"annotations": annotations} if annotations else {}))


def _logprobs_in(item: Json) -> Iterable[Logprob]:
    if item.get("type") != "message":
        return
    for part in msgspec.convert(item, _Message).content:
        yield from read_logprobs(msgspec.convert(part, _Said).logprobs) or ()


# -- another dialect's, for a caller of this one

_PLAIN = re.compile(r"[^A-Za-z0-9]+")


def own_id(prefix: str, given: str, number: int | None = None) -> str:
    """An id with this format's prefix, made from the id of another."""
    plain = _PLAIN.sub("", given.partition("_")[2] or given) or "0"
    return f"{prefix}_{plain}" if number is None else f"{prefix}_{plain}{number:02}"


def write_reply(reply: Reply) -> bytes:
    """A `response` object. A caller of this format can't ask for more than one choice."""
    choice = reply.choices[0]
    finish = choice.finish or "stop"
    output = write_output(choice, reply.id)
    output[-1:] = [ended(item, finish) for item in output[-1:]]
    return msgspec.json.encode(response_of(reply, finish, output))


def ended(item: Json, finish: Finish) -> Json:
    """The last item of an answer: not complete where the answer is not, if it is of a kind that can say so."""
    return {**item, "status": "incomplete"} if finish not in _WHOLE and "status" in item else item


def response_of(reply: Reply, finish: Finish | None, output: Sequence[Json]) -> Json:
    """A `response` object with an output; without an end it is one in progress."""
    status = "in_progress" if finish is None else "completed" if finish in _WHOLE else "incomplete"
    return {
        "id": own_id("resp", reply.id),
        "object": "response",
        "created_at": reply.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": _REASONS[finish]} if finish in _REASONS else None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": reply.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": None,
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "usage": None if reply.usage is None else write_usage(reply.usage),
        "user": None,
    }


_WHOLE = ("stop", "tools", "refusal")
# A vendor that wants to be called again has stopped short of the end, for a reason that this format does not know.
_REASONS: dict[Finish | None, str | None] = {"length": "max_output_tokens", "filter": "content_filter", "pause": None}


def write_usage(told: Usage) -> Json:
    """Usage as this format tells it."""
    return {
        "input_tokens": told.input_tokens,
        "input_tokens_details": {"cached_tokens": told.cache_read, "cache_write_tokens": told.cache_write},
        "output_tokens": told.output_tokens,
        "output_tokens_details": {"reasoning_tokens": told.reasoning},
        "total_tokens": told.input_tokens + told.output_tokens,
    }


def write_output(choice: Choice, reply_id: str) -> list[Json]:
    """The items of an answer: texts and refusals that follow each other are one message."""
    output: list[Json] = []
    logprobs = choice.logprobs
    for part in choice.parts:
        match part:
            case Text() | Refusal():
                if not output or output[-1]["type"] != "message":
                    output.append(message(own_id("msg", reply_id, len(output)), "completed"))
                said = write_said(part)
                if isinstance(part, Text):
                    said["logprobs"], logprobs = write_logprobs(logprobs), None
                output[-1]["content"].append(said)
            case Thinking():
                output.append(write_thought(part, own_id("rs", reply_id, len(output))))
            case ToolCall():
                output.append(call(part, own_id("fc", reply_id, len(output)), "completed"))
            case Foreign(dialect=dialect, raw=raw) if dialect == NAME:
                output.append(raw)
            case _:
                # What another vendor's own tools have said on the way, this format has no place for.
                continue
    return output


def message(id_: str, status: str) -> Json:
    """A message of the model without content yet."""
    return {"id": id_, "type": "message", "status": status, "role": "assistant", "content": []}


def call(part: ToolCall, id_: str, status: str) -> Json:
    """A tool call for a caller. Another vendor's signature travels with it, for the call's way back."""
    item: Json = {
        "id": id_,
        "type": "function_call",
        "status": status,
        "call_id": part.id,
        "name": part.name,
        "arguments": part.arguments,
        **own(part.extra),
    }
    return item if part.signature is None else {**item, "gimle": {"signature": part.signature}}
