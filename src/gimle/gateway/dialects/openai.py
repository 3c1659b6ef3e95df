"""OpenAI's chat completions and embeddings, both directions. Pure.

A request and an answer are read only as far as Gimle must know them; whatever else they say passes as it came.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from gimle.foundation.errors import ContextTooLong, GimleError, InvalidRequest, RateLimitedError, UpstreamError
from gimle.gateway import faults
from gimle.gateway.types import (
    ChatCall,
    Dialect,
    Event,
    Fault,
    Headers,
    Message,
    Prompt,
    Provider,
    Spoken,
    Usage,
    Vectors,
)

# -- what a caller sends

_NULL = msgspec.Raw(b"null")
_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _Said(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: msgspec.Raw = _NULL


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


# What msgspec raises for bytes that are no JSON of the expected shape; the last is for nesting without end.
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_FIELDS = {field.name: msgspec.json.Decoder(field.type) for field in msgspec.structs.fields(_Chat)}
_BYTES_A_TOKEN = 4
_ANY = msgspec.json.Decoder()


def read_chat(call: ChatCall) -> Prompt:
    """Check the known fields of a request. Raises `InvalidRequest`, which names the field."""
    if "messages" not in call.body:
        raise InvalidRequest("The request has no messages.", field="messages", hint='Send [{"role": "user", …}].')
    given = {name: _field(name, call.body[name]) for name in _FIELDS if name in call.body}
    options = given.get("stream_options")
    if options is not None and not call.stream:
        raise InvalidRequest("stream_options needs stream: true.", field="stream_options")
    messages = bytes(call.body["messages"])
    return Prompt(
        max_tokens=given.get("max_completion_tokens") or given.get("max_tokens"),
        include_usage=bool(options is not None and options.include_usage),
        capabilities=_capabilities(given, messages),
        tokens=len(messages) // _BYTES_A_TOKEN,
    )


def _field(name: str, raw: msgspec.Raw) -> Any:
    try:
        return _FIELDS[name].decode(raw)
    except RecursionError:
        raise InvalidRequest(f"{name} is nested too deeply.", field=name) from None
    except msgspec.DecodeError as wrong:
        what, _, where = str(wrong).partition(" - at ")
        path = where.strip("`").removeprefix("$")
        raise InvalidRequest(f"{name + path}: {what}.", field=name + path) from None


def _capabilities(given: Mapping[str, Any], messages: bytes) -> frozenset[str]:
    form = (given.get("response_format") or {}).get("type", "text")
    asked = {"tools": bool(given.get("tools")), "json_schema": form != "text", "vision": b'"image_url"' in messages}
    return frozenset(name for name, needed in asked.items() if needed)


def read_messages(call: ChatCall) -> list[Message]:
    """Role and plain text of each message. Raises `InvalidRequest` for what is not text."""
    try:
        messages = _ANY.decode(call.body["messages"])
    except RecursionError:
        raise InvalidRequest("messages is nested too deeply.", field="messages") from None
    return [{"role": said["role"], "content": _plain(said.get("content"), n)} for n, said in enumerate(messages)]


def _plain(content: object, n: int) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    field = f"messages[{n}].content"
    if not isinstance(content, list):
        raise InvalidRequest("The content is text or a list of parts.", field=field)
    texts = []
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise InvalidRequest("This model reads text only.", field=field, hint="Send parts of the type `text`.")
        texts.append(part["text"])
    return "\n".join(texts)


# -- what goes to a provider


def key_headers(key: str) -> Headers:
    """The header that carries a key."""
    return (("authorization", f"Bearer {key}"),)


def write_chat(call: ChatCall, model: str, provider: Provider) -> bytes:
    """The caller's own bytes with the model patched; usage is asked of a stream whether or not the caller did."""
    body = {**call.body, "model": msgspec.Raw(msgspec.json.encode(model))}
    if call.stream and provider.stream_usage:
        options = _ANY.decode(body["stream_options"]) if "stream_options" in body else None
        body["stream_options"] = msgspec.Raw(msgspec.json.encode({**(options or {}), "include_usage": True}))
    return msgspec.json.encode(body)


def compose_chat(
    provider: Provider, messages: Sequence[Message], max_tokens: int, json_schema: Mapping[str, Any] | None
) -> ChatCall:
    """A request of our own."""
    body: dict[str, Any] = {"messages": messages, provider.max_tokens_field: max_tokens}
    if json_schema is not None:
        schema = {"name": "answer", "strict": True, "schema": json_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return ChatCall(body={name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}, model="")


def write_embeddings(model: str, texts: Sequence[str], dimensions: int | None) -> bytes:
    """A request for vectors, as plain numbers: every compatible server can do that."""
    body: dict[str, Any] = {"model": model, "input": texts, "encoding_format": "float"}
    if dimensions is not None:
        body["dimensions"] = dimensions
    return msgspec.json.encode(body)


# -- what a provider answers


class _Cached(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Cached | None = None


class _Text(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    message: msgspec.Raw


class _Reply(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = _NULL


class _Delta(msgspec.Struct, frozen=True):
    index: int = 0
    delta: dict[str, msgspec.Raw] | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Delta] = []
    usage: _Usage | None = None
    error: msgspec.Raw = _NULL


class _Vector(msgspec.Struct, frozen=True):
    embedding: list[float] | str
    index: int | None = None


class _VectorList(msgspec.Struct, frozen=True):
    data: list[_Vector] = []
    usage: _Usage | None = None
    error: msgspec.Raw = _NULL


class _ModelList(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]


class _Told(msgspec.Struct, frozen=True):
    """The inside of a provider's error object."""

    message: str | None = None
    code: str | int | None = None
    type: str | None = None


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Told


_REPLY = msgspec.json.Decoder(_Reply)
_CHUNK = msgspec.json.Decoder(_Chunk)
_VECTORS = msgspec.json.Decoder(_VectorList)
_MODELS = msgspec.json.Decoder(_ModelList)
_ERROR = msgspec.json.Decoder(_ErrorBody)
_TOLD = msgspec.json.Decoder(_Told)
_TEXT = msgspec.json.Decoder(_Text)
# A delta that holds only these, or only empty values, has not begun to say anything.
_EMPTY = (b"null", b'""', b"[]", b"{}")
_NOT_CONTENT = ("role",)


def read_reply(body: bytes) -> Usage | None:
    """Check a whole answer; its usage, if it tells it. Raises `UpstreamError` when it is not one."""
    reply = _reply(body)
    return _usage(reply.usage)


def read_text(body: bytes) -> str:
    """The text of the first choice."""
    try:
        return _TEXT.decode(_reply(body).choices[0].message).content or ""
    except _MALFORMED as wrong:
        raise UpstreamError(f"The provider's answer is not a chat completion: {wrong}.") from None


def _reply(body: bytes) -> _Reply:
    try:
        reply = _REPLY.decode(body)
    except _MALFORMED as wrong:
        said = "is empty" if not body.strip() else f"is not a chat completion: {wrong}"
        raise UpstreamError(f"The provider's answer {said}.") from None
    if bytes(reply.error) != b"null":
        raise _told_error(bytes(reply.error))
    if not reply.choices:
        raise UpstreamError("The provider's answer has no choices.")
    return reply


def read_event(data: bytes) -> Event:
    """One event of a stream. Raises `UpstreamError` when it is malformed or tells of an error."""
    if data == b"[DONE]":
        return Event(done=True)
    try:
        chunk = _CHUNK.decode(data)
    except _MALFORMED:
        raise UpstreamError("The provider's stream holds an event that is not a chat chunk.") from None
    if bytes(chunk.error) != b"null":
        raise _told_error(bytes(chunk.error))
    usage = _usage(chunk.usage)
    return Event(
        opened=tuple(choice.index for choice in chunk.choices),
        closed=tuple(choice.index for choice in chunk.choices if choice.finish_reason),
        content=any(_says(choice) for choice in chunk.choices),
        usage=usage,
        usage_only=usage is not None and not chunk.choices,
    )


def _says(choice: _Delta) -> bool:
    if choice.finish_reason:
        return True
    said = (choice.delta or {}).items()
    return any(name not in _NOT_CONTENT and bytes(value) not in _EMPTY for name, value in said)


def _usage(told: _Usage | None) -> Usage | None:
    if told is None or told.prompt_tokens is None:
        return None
    cached = told.prompt_tokens_details.cached_tokens if told.prompt_tokens_details else None
    return Usage(
        input_tokens=max(0, told.prompt_tokens),
        output_tokens=max(0, told.completion_tokens or 0),
        cached_tokens=max(0, cached or 0),
    )


def read_embeddings(body: bytes, count: int) -> tuple[Vectors, int | None]:
    """The vectors of `count` texts in their order, float32 (count, dimensions), and the tokens if it tells them."""
    try:
        listed = _VECTORS.decode(body)
        if bytes(listed.error) != b"null":
            raise _told_error(bytes(listed.error))
        if len(listed.data) != count:
            raise UpstreamError(f"The provider sent {len(listed.data)} vectors for {count} texts.")
        ordered = sorted(enumerate(listed.data), key=lambda at: at[0] if at[1].index is None else at[1].index)
        with np.errstate(over="ignore"):
            vectors = np.asarray([_floats(vector.embedding) for _, vector in ordered], dtype=np.float32)
    except (*_MALFORMED, ValueError) as wrong:
        raise UpstreamError(f"The provider's answer is not a list of vectors: {wrong}.") from None
    if vectors.ndim != 2 or vectors.shape[1] == 0 or not np.isfinite(vectors).all():
        raise UpstreamError("The provider's vectors are empty or not finite.")
    usage = _usage(listed.usage)
    return vectors, None if usage is None else usage.input_tokens


def _floats(embedding: list[float] | str) -> Any:
    if isinstance(embedding, list):
        return embedding
    try:
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    except binascii.Error as wrong:
        raise ValueError(f"not base64: {wrong}") from None


def read_models(body: bytes) -> int:
    """How many models a provider lists."""
    try:
        return len(_MODELS.decode(body).data)
    except _MALFORMED:
        raise UpstreamError("The provider's answer is not a list of models.") from None


# -- what a provider refuses

_LONGEST = 500
_QUOTA_SECONDS = 60.0
_CONTEXT = re.compile(
    r"context[_ ](length|window|size)|maximum context|too many tokens|prompt is too long", re.IGNORECASE
)


def read_fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    """What an answer that is no success means: whose fault it is, and whether asking again may help.

    What a provider says about our key is not told, since it may quote it.
    """
    told = _told(body)
    said = (told.message or "").strip()[:_LONGEST]
    if status in (401, 403):
        error: GimleError = UpstreamError(
            f"The provider refused Gimle's key (HTTP {status}).", hint="Check the key of this provider."
        )
        return Fault(error)
    if status == 429:
        return _limited(told, headers)
    if status in (402, 407, 408, 425) or not 400 <= status < 500:
        return Fault(UpstreamError(f"The provider answered with HTTP {status}. {said}".strip()), again=status >= 408)
    if told.code == "context_length_exceeded" or (status in (400, 413) and _CONTEXT.search(said)):
        return Fault(ContextTooLong(said or None, field="messages"))
    refused = InvalidRequest(said or f"The provider refused the request (HTTP {status}).")
    return Fault(refused, passable=told.message is not None)


def _limited(told: _Told, headers: Mapping[str, str]) -> Fault:
    if "insufficient_quota" in (told.code, told.type):
        return Fault(RateLimitedError("The provider's quota is used up.", after=_QUOTA_SECONDS))
    return faults.weigh(RateLimitedError("The provider limits the rate of requests.", after=_wait(headers)))


def _wait(headers: Mapping[str, str]) -> float:
    """Seconds from `Retry-After` (or OpenAI's finer `retry-after-ms`); 1 when it is absent or a date."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            wait = float(headers[name]) / scale
        except (KeyError, ValueError):
            continue
        if 0 <= wait < float("inf"):
            return wait
    return 1.0


def _told(body: bytes) -> _Told:
    try:
        return _ERROR.decode(body).error
    except _MALFORMED:
        return _Told()


def _told_error(raw: bytes) -> UpstreamError:
    """The error that a provider tells inside a success or in the middle of a stream."""
    try:
        said = _TOLD.decode(raw).message or ""
    except _MALFORMED:
        said = ""
    return UpstreamError(f"The provider reports an error: {said[:_LONGEST] or 'without a message'}")


# -- what an engine inside Gimle has said


def write_reply(spoken: Spoken) -> bytes:
    """A whole `chat.completion`."""
    message: Message = {"role": "assistant", "content": spoken.text, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": spoken.finish}
    body = _head(spoken, "chat.completion")
    return msgspec.json.encode({**body, "choices": [choice], "usage": _written(spoken.usage)})


def write_events(spoken: Spoken, include_usage: bool) -> Iterator[bytes]:
    """The same as events: the role, the text word by word, the end, usage where it is asked for, `[DONE]`."""
    head = _head(spoken, "chat.completion.chunk")
    extra: dict[str, Any] = {"usage": None} if include_usage else {}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**head, "choices": [choice], **extra})

    yield chunk({"role": "assistant", "content": "", "refusal": None})
    for piece in re.findall(r"\s*\S+\s*$|\s*\S+|\s+$", spoken.text):
        yield chunk({"content": piece})
    yield chunk({}, spoken.finish)
    if include_usage:
        yield _event({**head, "choices": [], "usage": _written(spoken.usage)})
    yield b"data: [DONE]\n\n"


def _head(spoken: Spoken, kind: str) -> dict[str, Any]:
    head = {"id": spoken.id, "object": kind, "created": spoken.created, "model": spoken.model}
    return {**head, "service_tier": "default", "system_fingerprint": None}


def _written(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


DIALECT = Dialect(
    chat_path="/chat/completions",
    embeddings_path="/embeddings",
    models_path="/models",
    key_headers=key_headers,
    read_chat=read_chat,
    read_messages=read_messages,
    write_chat=write_chat,
    compose_chat=compose_chat,
    read_reply=read_reply,
    read_text=read_text,
    read_event=read_event,
    read_fault=read_fault,
    write_embeddings=write_embeddings,
    read_embeddings=read_embeddings,
    read_models=read_models,
    write_reply=write_reply,
    write_events=write_events,
)
