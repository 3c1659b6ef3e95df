"""Whole answers: a provider's into the neutral form, and out of it for a caller."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gimle.foundation.errors import Unsayable, UpstreamError
from gimle.gateway.dialects.anthropic import blocks
from gimle.gateway.dialects.anthropic.faults import told_error
from gimle.gateway.dialects.anthropic.shapes import NAME, Misshapen, own, rest
from gimle.gateway.neutral import (
    Choice,
    Finish,
    Foreign,
    Json,
    Part,
    Refusal,
    Reply,
    Text,
    Thinking,
    ToolCall,
    Usage,
)
from gimle.gateway.wire import MALFORMED, NULL, Count, lenient, no_answer

# -- what a provider answers


class _Details(msgspec.Struct, frozen=True):
    thinking_tokens: Count | None = None


class ToldUsage(msgspec.Struct, frozen=True):
    """Usage as the vendor tells it: the tokens that went in are in classes that share none."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    output_tokens_details: _Details | None = None


# Some count in floats or text.
USAGE = msgspec.json.Decoder(ToldUsage | None, strict=False)


class StopDetails(msgspec.Struct, frozen=True):
    """Why the vendor refused."""

    explanation: str | None = None


class _Message(msgspec.Struct, frozen=True):
    content: list[msgspec.Raw] | None = None
    id: str = ""
    model: str = ""
    type: str = ""
    role: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


class _Passed(msgspec.Struct, frozen=True):
    """As much of an answer as we must know of one that passes as it came."""

    content: list[msgspec.Raw] | None = None
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


_MESSAGE = msgspec.json.Decoder(_Message)
_PASSED = msgspec.json.Decoder(_Passed)
_FINISHES: Mapping[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tools",
    "pause_turn": "pause",
    "refusal": "refusal",
}


def read_usage(body: bytes) -> Usage | None:
    """Check a whole answer; its usage, if it tells it. Raises `UpstreamError` when it is not one."""
    try:
        told = _PASSED.decode(body)
    except MALFORMED as wrong:
        raise no_answer(body, "a message", wrong) from None
    _check(told)
    return usage_of(lenient(told.usage, USAGE))


def read_reply(body: bytes) -> Reply:
    """An answer. Raises `UpstreamError` when it is malformed or tells of an error."""
    try:
        told = _MESSAGE.decode(body)
        _check(told)
        parts = tuple(blocks.read(block, f"content[{at}]") for at, block in enumerate(told.content or ()))
        extra = own(rest(body, _Message, ""))
    except (*MALFORMED, Misshapen) as wrong:
        raise no_answer(body, "a message", wrong) from None
    if told.stop_details and told.stop_details.explanation:
        parts = (*parts, Refusal(text=told.stop_details.explanation))
    choice = Choice(parts=parts, finish=finish_of(told.stop_reason or ""), stop_sequence=told.stop_sequence)
    usage = usage_of(lenient(told.usage, USAGE))
    return Reply(id=told.id, model=told.model, choices=(choice,), usage=usage, extra=extra)


def _check(told: _Message | _Passed) -> None:
    if bytes(told.error) != b"null":
        raise told_error(bytes(told.error))
    if told.content is None:
        raise UpstreamError("The provider's answer is not a message: it has no content.")


def finish_of(reason: str) -> Finish:
    """Why an answer ended. A reason that nobody knows counts as a stop."""
    return _FINISHES.get(reason, "stop")


def usage_of(told: ToldUsage | None) -> Usage | None:
    """Usage in classes that share no token."""
    if told is None or told.input_tokens is None:
        return None
    made = max(0, told.output_tokens or 0)
    details = told.output_tokens_details
    thought = min(made, max(0, (details and details.thinking_tokens) or 0))
    return Usage(
        uncached=max(0, told.input_tokens),
        cache_read=max(0, told.cache_read_input_tokens or 0),
        cache_write=max(0, told.cache_creation_input_tokens or 0),
        output=made - thought,
        reasoning=thought,
    )


# -- what a caller gets

_REASONS: Mapping[Finish, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tools": "tool_use",
    "refusal": "refusal",
    "filter": "refusal",
    "pause": "pause_turn",
}


def write_reply(reply: Reply) -> bytes:
    """A whole message. Raises `UpstreamError` when the model's calls of tools are no JSON."""
    choice = reply.choices[0]
    refusal = "\n".join(part.text for part in choice.parts if isinstance(part, Refusal))
    body: Json = {
        "id": reply.id,
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": list(_content(choice.parts)),
        **ending(choice.finish or "stop", choice.stop_sequence, refusal),
        "usage": written_usage(reply.usage or Usage()),
    }
    return msgspec.json.encode({**body, **reply.extra.get(NAME, {})})


def _content(parts: tuple[Part, ...]) -> Iterator[Json]:
    for at, part in enumerate(parts):
        match part:
            case ToolCall():
                yield blocks.told_call(part, _arguments(part, f"content[{at}]"))
            case Text() | Thinking() | Foreign(dialect="anthropic"):
                yield blocks.write(part, f"content[{at}]")


def _arguments(call: ToolCall, field: str) -> msgspec.Raw:
    try:
        return blocks.arguments_of(call, field)
    except Unsayable:
        raise UpstreamError(f"The model's call of the tool {call.name!r} is not a JSON object.") from None


def ending(finish: Finish, stop_sequence: str | None, refusal: str = "") -> Json:
    """How a message ends. The words of a refusal stand beside the content, as the vendor has them."""
    if refusal:
        details = {"type": "refusal", "category": None, "explanation": refusal}
        return {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
    if finish == "stop" and stop_sequence is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop_sequence}
    return {"stop_reason": _REASONS[finish], "stop_sequence": None}


def written_usage(usage: Usage) -> Json:
    """Usage in the vendor's classes."""
    told: dict[str, Any] = {
        "input_tokens": usage.uncached,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning:
        told["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return told
