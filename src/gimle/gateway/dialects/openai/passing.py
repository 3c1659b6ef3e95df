"""What passes as it came: read only as far as Gimle must know it, and changed only where it must be."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from gimle.foundation.errors import InvalidRequest, UpstreamError
from gimle.gateway.neutral import Usage
from gimle.gateway.openai_wire import DONE, Answer, event, usage_in, whole
from gimle.gateway.types import ChatCall, Event, Prompt
from gimle.gateway.wire import BYTES_A_TOKEN, NULL, decoded

# -- what a caller sends

_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _Said(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: msgspec.Raw = NULL


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _Chat(msgspec.Struct, frozen=True):
    """The fields whose types every server agrees on. `messages` stay undecoded but for their roles."""

    messages: Annotated[list[_Said], msgspec.Meta(min_length=1)]
    max_tokens: _Positive | None = None
    max_completion_tokens: _Positive | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: _Positive | None = None
    stream_options: _StreamOptions | None = None
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None


_FIELDS = {field.name: msgspec.json.Decoder(field.type) for field in msgspec.structs.fields(_Chat)}


def inspect(call: ChatCall) -> Prompt:
    """Check the known fields of a request. Raises `InvalidRequest`, which names the field."""
    if "messages" not in call.body:
        raise InvalidRequest("The request has no messages.", field="messages", hint='Send [{"role": "user", …}].')
    given = {name: decoded(raw, _FIELDS[name], name) for name, raw in call.body.items() if name in _FIELDS}
    options = given.get("stream_options")
    if options is not None and not call.stream:
        raise InvalidRequest("stream_options needs stream: true.", field="stream_options")
    messages = bytes(call.body["messages"])
    capabilities = _capabilities(given, messages)
    return Prompt(
        max_tokens=given.get("max_completion_tokens") or given.get("max_tokens"),
        choices=given.get("n") or 1,
        include_usage=bool(options is not None and options.include_usage),
        plain=not capabilities and given.get("n") in (None, 1) and "logprobs" not in call.body,
        capabilities=capabilities,
        tokens=len(messages) // BYTES_A_TOKEN,
    )


def _capabilities(given: Mapping[str, Any], messages: bytes) -> frozenset[str]:
    found = {"vision"} if b'"image_url"' in messages else set[str]()
    if given.get("tools"):
        found.add("tools")
    if (given.get("response_format") or {}).get("type", "text") != "text":
        found.add("json_schema")
    return frozenset(found)


# -- what a provider answers


class _Choice(msgspec.Struct, frozen=True):
    message: msgspec.Raw


class _Reply(Answer, frozen=True):
    choices: list[_Choice] = []
    usage: msgspec.Raw = NULL


class _Delta(msgspec.Struct, frozen=True):
    index: int = 0
    delta: dict[str, msgspec.Raw] | None = None
    finish_reason: str | None = None


class _Chunk(Answer, frozen=True):
    choices: list[_Delta] = []
    usage: msgspec.Raw = NULL


_REPLY = msgspec.json.Decoder(_Reply)
_CHUNK = msgspec.json.Decoder(_Chunk)
# A delta that holds only these, or only empty values, has not begun to say anything.
_EMPTY = frozenset((b"null", b'""', b"[]", b"{}"))
_NOT_CONTENT = ("role",)


def read_usage(body: bytes) -> Usage | None:
    """Check a whole answer; its usage, if it tells it. Raises `UpstreamError` when it is not one."""
    reply = whole(body, _REPLY, "a chat completion")
    if not reply.choices:
        raise UpstreamError("The provider's answer has no choices.")
    return usage_in(reply.usage)


def watch() -> Callable[[bytes], Event]:
    """A stream that passes needs no memory."""
    return _seen


def _seen(data: bytes) -> Event:
    """One event of a stream. Raises `UpstreamError` when it is malformed or tells of an error."""
    if data == DONE:
        return Event(done=True)
    chunk = event(data, _CHUNK, "a chat chunk")
    # Most say null, if anything.
    usage = None if chunk.usage == NULL else usage_in(chunk.usage)
    opened: tuple[int, ...] = ()
    closed: tuple[int, ...] = ()
    content = 0
    # One loop, since an expression for each would cost more than the decoding.
    for choice in chunk.choices:
        opened += (choice.index,)
        if choice.finish_reason:
            closed += (choice.index,)
        content += _said(choice)
    return Event(opened, closed, content, usage=usage, usage_only=usage is not None and not chunk.choices)


def _said(choice: _Delta) -> int:
    """How many bytes of an answer, with the JSON around them."""
    said = 0
    for name, value in (choice.delta or {}).items():
        if name not in _NOT_CONTENT and bytes(value) not in _EMPTY:
            said += len(value)
    return said
