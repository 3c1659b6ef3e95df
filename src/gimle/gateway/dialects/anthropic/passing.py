"""What passes as it came: read only as far as Gimle must know it, and changed only where it must be."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from gimle.foundation.errors import InvalidRequest, UpstreamError
from gimle.gateway.dialects.anthropic.faults import told_error
from gimle.gateway.dialects.anthropic.models import budget_within
from gimle.gateway.dialects.anthropic.replies import USAGE, ToldUsage, usage_of
from gimle.gateway.types import ChatCall, Event, Prompt, Provider
from gimle.gateway.wire import BYTES_A_TOKEN, MALFORMED, NULL, decoded, lenient

# -- what a caller sends


class _Said(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    content: msgspec.Raw


class _Typed(msgspec.Struct, frozen=True):
    type: str


class _Output(msgspec.Struct, frozen=True):
    format: _Typed | None = None


class _Chat(msgspec.Struct, frozen=True):
    """The fields whose types are settled. `messages` stay undecoded but for their roles."""

    messages: Annotated[list[_Said], msgspec.Meta(min_length=1)]
    max_tokens: Annotated[int, msgspec.Meta(ge=0)]
    system: str | list[_Typed] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    tools: list[dict[str, msgspec.Raw]] | None = None
    tool_choice: _Typed | None = None
    thinking: _Typed | None = None
    output_config: _Output | None = None


_FIELDS = {field.name: msgspec.json.Decoder(field.type) for field in msgspec.structs.fields(_Chat)}
_THINKING = msgspec.json.Decoder(dict[str, Any] | None)
_NEEDED = {"messages": 'Send [{"role": "user", …}].', "max_tokens": "Say how long the answer may be, in tokens."}


def inspect(call: ChatCall) -> Prompt:
    """Check the known fields of a request. Raises `InvalidRequest`, which names the field."""
    for name, hint in _NEEDED.items():
        if name not in call.body:
            raise InvalidRequest(f"{name}: The request has no {name}.", field=name, hint=hint)
    given = {name: decoded(raw, _FIELDS[name], name) for name, raw in call.body.items() if name in _FIELDS}
    messages = bytes(call.body["messages"])
    capabilities = _capabilities(given, messages)
    thinking = given.get("thinking")
    return Prompt(
        max_tokens=given["max_tokens"],
        include_usage=True,
        plain=not capabilities and (thinking is None or thinking.type == "disabled"),
        capabilities=capabilities,
        tokens=(len(messages) + len(call.body.get("system", b"")) + len(call.body.get("tools", b""))) // BYTES_A_TOKEN,
    )


def _capabilities(given: Mapping[str, Any], messages: bytes) -> frozenset[str]:
    output = given.get("output_config")
    asked = {
        "tools": bool(given.get("tools")),
        "json_schema": output is not None and output.format is not None,
        "vision": b'"image"' in messages,
    }
    return frozenset(name for name, needed in asked.items() if needed)


def patch(call: ChatCall, model: str, provider: Provider) -> bytes:
    """The caller's own bytes with the model patched. A stream tells its usage whether or not anybody asks."""
    return msgspec.json.encode({**call.body, "model": msgspec.Raw(msgspec.json.encode(model))})


def shorten(call: ChatCall, most: int, provider: Provider) -> ChatCall:
    """A call with another limit on its answer, and with no more thoughts than that leaves room for."""
    body = {**call.body, "max_tokens": msgspec.Raw(str(most))}
    thinking = _THINKING.decode(body.get("thinking", NULL)) or {}
    if isinstance(budget := thinking.get("budget_tokens"), int):
        fitting = budget_within(budget, most)
        less = {"type": "disabled"} if fitting is None else {**thinking, "budget_tokens": fitting}
        body["thinking"] = msgspec.Raw(msgspec.json.encode(less))
    return msgspec.structs.replace(call, body=body)


# -- how many tokens a request has

# What the vendor takes when it counts; how long the answer may be, and how it is made, are not of it.
_COUNTED = ("messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control", "mcp_servers")


class _Count(msgspec.Struct, frozen=True):
    input_tokens: int


_COUNT = msgspec.json.Decoder(_Count)
COUNT_PATH = "/messages/count_tokens"


def write_count(call: ChatCall, model: str) -> bytes:
    """The caller's own bytes, as far as they are counted."""
    body = {name: raw for name, raw in call.body.items() if name in _COUNTED}
    return msgspec.json.encode({**body, "model": model})


def read_count(body: bytes) -> int:
    """The tokens that a provider has counted. Raises `UpstreamError`."""
    try:
        return max(0, _COUNT.decode(body).input_tokens)
    except MALFORMED:
        raise UpstreamError("The provider's answer is not a count of tokens.") from None


# -- what a provider streams


class _Begun(msgspec.Struct, frozen=True):
    usage: msgspec.Raw = NULL


class _Piece(msgspec.Struct, frozen=True):
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Seen(msgspec.Struct, frozen=True):
    type: str
    message: _Begun | None = None
    content_block: _Typed | None = None
    delta: _Piece | None = None
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


_SEEN = msgspec.json.Decoder(_Seen)
# Blocks that say nothing until a piece of them comes.
_EMPTY = ("text", "thinking")
_NOTHING = Event()
_DONE = Event(done=True)
_OPENED = (0,)


def watch() -> Callable[[bytes], Event]:
    """Begins to look at a stream: its first event tells what went in, and its last ones what came out."""
    told = ToldUsage()

    def seen(data: bytes) -> Event:
        nonlocal told
        event = event_of(_SEEN, data)
        if event.type == "content_block_delta":
            piece = event.delta
            said = piece and (piece.text or piece.thinking or piece.partial_json)
            return Event(content=len(data)) if said else _NOTHING
        if event.type == "content_block_start":
            block = event.content_block
            return Event(content=len(data)) if block and block.type not in _EMPTY else _NOTHING
        if event.type == "message_start":
            told = merged(told, event.message.usage if event.message else NULL)
            return Event(opened=_OPENED, usage=usage_of(told))
        if event.type == "message_delta":
            told = merged(told, event.usage)
            closed = _OPENED if event.delta and event.delta.stop_reason else ()
            return Event(closed=closed, usage=usage_of(told))
        return _DONE if event.type == "message_stop" else _NOTHING

    return seen


def event_of(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    """One event of a stream. Raises `UpstreamError` when it is malformed or tells of an error."""
    try:
        event = decoder.decode(data)
    except MALFORMED:
        raise UpstreamError("The provider's stream holds an event that is not of a message.") from None
    if event.type == "error":
        raise told_error(bytes(event.error))
    return event


def merged(before: ToldUsage, raw: msgspec.Raw) -> ToldUsage:
    """What a stream has told of its usage by now: each telling replaces what it names."""
    if (now := lenient(raw, USAGE)) is None:
        return before
    told = {name: field for name, field in msgspec.structs.asdict(now).items() if field is not None}
    return msgspec.structs.replace(before, **told)
