"""Whole answers: from a provider into the neutral form, and out of it for a caller."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gimle.foundation.errors import UpstreamError
from gimle.gateway.neutral import (
    Choice,
    Finish,
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
from gimle.gateway.openai_wire import Answer, usage_in, whole
from gimle.gateway.wire import NULL

# -- what a provider answers


class Function(msgspec.Struct, frozen=True):
    """The name and the arguments of a call, or a piece of them."""

    name: str | None = None
    arguments: str | None = None


class Detail(msgspec.Struct, frozen=True):
    """A thought, or a piece of one, as OpenRouter tells it."""

    type: str = ""
    text: str | None = None
    summary: str | None = None
    signature: str | None = None
    data: str | None = None


class _Call(msgspec.Struct, frozen=True):
    id: str = ""
    function: Function = Function()
    extra_content: dict[str, Any] | None = None


class Chunk(msgspec.Struct, frozen=True):
    """A piece of a content as Mistral tells it: words, or a thought that is itself of such pieces."""

    text: str | None = None
    thinking: list["Chunk"] | None = None


Content = str | list[Chunk] | None


class _Message(msgspec.Struct, frozen=True):
    content: Content = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[Detail] | None = None


class _Token(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list["_Token"] = []


class ToldLogprobs(msgspec.Struct, frozen=True):
    """The tokens of an answer, or of a piece of it, with their probabilities."""

    content: list[_Token] | None = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message
    finish_reason: str | None = None
    logprobs: ToldLogprobs | None = None


class _Reply(Answer, frozen=True):
    choices: list[_Choice] = []
    id: str = ""
    model: str = ""
    created: int | float = 0
    usage: msgspec.Raw = NULL


_REPLY = msgspec.json.Decoder(_Reply)
_FINISHES: Mapping[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tools",
    "function_call": "tools",
    "content_filter": "filter",
    # Mistral's, for the window of the model.
    "model_length": "length",
}
# What Mistral, DeepSeek and vLLM say of an answer that they gave up.
_FAILED = ("error", "insufficient_system_resource", "abort")


def read_reply(body: bytes) -> Reply:
    """An answer. Raises `UpstreamError` when it is malformed or tells of an error."""
    told = whole(body, _REPLY, "a chat completion")
    if not told.choices:
        raise UpstreamError("The provider's answer has no choices.")
    choices = tuple(
        Choice(
            parts=tuple(_parts(choice.message)),
            finish=finish_of(choice.finish_reason or "stop", calls=bool(choice.message.tool_calls)),
            logprobs=logprobs_of(choice.logprobs),
        )
        for choice in told.choices
    )
    usage = usage_in(told.usage)
    return Reply(id=told.id, model=told.model, created=int(told.created), choices=choices, usage=usage)


def _parts(message: _Message) -> Iterator[Part]:
    for detail in message.reasoning_details or ():
        yield thought_of(detail)
    thought = message.reasoning_content or message.reasoning
    if thought and not message.reasoning_details:
        yield Thinking(text=thought)
    yield from said_in(message.content)
    if message.refusal:
        yield Refusal(text=message.refusal)
    for call in message.tool_calls or ():
        yield ToolCall(
            id=call.id,
            name=call.function.name or "",
            arguments=call.function.arguments or "",
            signature=signature_of(call.extra_content),
        )


def said_in(content: Content) -> Iterator[Text | Thinking]:
    """Words, and the thoughts among them."""
    for chunk in [Chunk(text=content)] if isinstance(content, str) else content or ():
        if thought := "".join(piece.text or "" for piece in chunk.thinking or ()):
            yield Thinking(text=thought)
        if chunk.text:
            yield Text(text=chunk.text)


def thought_of(detail: Detail) -> Thinking:
    """A thought, open or sealed."""
    if detail.type == "reasoning.encrypted":
        return Thinking(sealed=detail.data)
    return Thinking(text=detail.text or detail.summary or "", signature=detail.signature)


def signature_of(extra: Mapping[str, Any] | None) -> str | None:
    """The signature that Google's compatible interface puts beside a call."""
    google = (extra or {}).get("google")
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else None


def finish_of(reason: str, *, calls: bool) -> Finish:
    """Why an answer ended; one that nobody knows counts as a stop. Raises `UpstreamError` where it broke off."""
    if reason in _FAILED:
        raise UpstreamError(f"The model's answer broke off ({reason}).")
    finish = _FINISHES.get(reason, "stop")
    # Where the caller has named the tool, its call ends with `stop`.
    return "tools" if calls and finish == "stop" else finish


def logprobs_of(told: ToldLogprobs | None) -> tuple[Logprob, ...] | None:
    """The probabilities, as far as they are told."""
    if told is None or told.content is None:
        return None
    return tuple(_logprob(token) for token in told.content)


def _logprob(told: _Token) -> Logprob:
    coded = None if told.bytes is None else tuple(told.bytes)
    rivals = tuple(_logprob(rival) for rival in told.top_logprobs)
    return Logprob(token=told.token, logprob=told.logprob, bytes=coded, rivals=rivals)


# -- what a caller gets

_REASONS: Mapping[Finish, str] = {
    "stop": "stop",
    "length": "length",
    "tools": "tool_calls",
    "refusal": "content_filter",
    "filter": "content_filter",
    "pause": "stop",
}


def write_reply(reply: Reply) -> bytes:
    """A whole `chat.completion`."""
    body: Json = {"id": reply.id, "object": "chat.completion", "created": reply.created, "model": reply.model}
    body["choices"] = [_written(choice, at) for at, choice in enumerate(reply.choices)]
    if reply.usage is not None:
        body["usage"] = written_usage(reply.usage)
    return msgspec.json.encode(body)


def _written(choice: Choice, at: int) -> Json:
    calls = [written_call(part) for part in choice.parts if isinstance(part, ToolCall)]
    refusals = [part.text for part in choice.parts if isinstance(part, Refusal)]
    thoughts = [part for part in choice.parts if isinstance(part, Thinking)]
    said = any(isinstance(part, Text) for part in choice.parts)
    message: Json = {"role": "assistant", "content": choice.text if said or not calls else None}
    message["refusal"] = "\n".join(refusals) or None
    if thoughts:
        message["reasoning_content"] = "\n".join(thought.text for thought in thoughts if thought.text)
        message["reasoning_details"] = [written_thought(thought, n) for n, thought in enumerate(thoughts)]
    if calls:
        message["tool_calls"] = calls
    logprobs = None if choice.logprobs is None else written_logprobs(choice.logprobs)
    reason = reason_of(choice.finish or "stop", refused=bool(refusals))
    return {"index": at, "message": message, "logprobs": logprobs, "finish_reason": reason}


def written_thought(thought: Thinking, at: int) -> Json:
    """A thought in OpenRouter's published form, in which its speakers send it back."""
    if thought.sealed is not None:
        return {"type": "reasoning.encrypted", "data": thought.sealed, "index": at}
    told: Json = {"type": "reasoning.text", "text": thought.text, "index": at}
    return told if thought.signature is None else {**told, "signature": thought.signature}


def written_call(call: ToolCall) -> Json:
    """A call of a tool."""
    written: Json = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    return written if call.signature is None else {**written, "extra_content": written_signature(call.signature)}


def written_signature(signature: str) -> Json:
    """A signature where Google's compatible interface has it."""
    return {"google": {"thought_signature": signature}}


def reason_of(finish: Finish, *, refused: bool) -> str:
    """The name of an end. A model that refuses in words has stopped by itself; without words, the vendor cut it."""
    return "stop" if refused and finish == "refusal" else _REASONS[finish]


def written_logprobs(logprobs: tuple[Logprob, ...]) -> Json:
    """Tokens with their probabilities."""
    return {"content": [_written_token(token, with_rivals=True) for token in logprobs], "refusal": None}


def _written_token(told: Logprob, *, with_rivals: bool) -> Json:
    coded = list(told.bytes) if told.bytes is not None else None
    token: Json = {"token": told.token, "logprob": told.logprob, "bytes": coded}
    if with_rivals:
        token["top_logprobs"] = [_written_token(rival, with_rivals=False) for rival in told.rivals]
    return token


def written_usage(usage: Usage) -> Json:
    """Usage, its details parts of the sums."""
    cached: Json = {"cached_tokens": usage.cache_read, "audio_tokens": 0}
    if usage.cache_write:
        cached["cache_write_tokens"] = usage.cache_write
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": cached,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning, "audio_tokens": 0},
    }
