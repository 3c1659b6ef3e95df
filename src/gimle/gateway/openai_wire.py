"""What OpenAI's interfaces share: the key, the models, what a refusal means, errors and usage in an answer. Pure."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from gimle.foundation.errors import ContextTooLong, UpstreamError
from gimle.gateway import faults, wire
from gimle.gateway.neutral import Usage
from gimle.gateway.types import ChatCall, Dialect, Fault, Headers, Provider
from gimle.gateway.wire import MALFORMED, NULL, Count

# The data of the event that ends a stream.
DONE = b"[DONE]"


class _Told(msgspec.Struct, frozen=True):
    """The inside of a provider's error object."""

    message: str | None = None
    code: str | int | None = None
    type: str | None = None


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Told


_ERROR = msgspec.json.Decoder(_ErrorBody)
_TOLD = msgspec.json.Decoder(_Told)
_OPTIONS = msgspec.json.Decoder(dict[str, Any] | None)
_LIMITS = ("max_tokens", "max_completion_tokens")
_CONTEXT = re.compile(
    r"context[_ ](length|window|size)|maximum context|too many tokens|prompt is too long", re.IGNORECASE
)


def key_headers(key: str) -> Headers:
    """The header that carries a key."""
    return (("authorization", f"Bearer {key}"),)


def read_fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    """What an answer that is no success means: whose fault it is, and whether asking again may help.

    What a provider says about our key is not told, since it may quote it.
    """
    told = _told(body)
    said = (told.message or "").strip()[: faults.LONGEST]
    if status in (401, 403):
        return faults.key_refused(status)
    if status == 429:
        return _limited(told, said, headers)
    if faults.theirs(status):
        return faults.failed(status, said)
    if told.code == "context_length_exceeded" or (status in (400, 413) and _CONTEXT.search(said)):
        return Fault(ContextTooLong(said or None, field="turns"))
    return faults.declined(status, said, passable=told.message is not None)


def _limited(told: _Told, said: str, headers: Mapping[str, str]) -> Fault:
    if "insufficient_quota" in (told.code, told.type):
        return faults.used_up(said)
    return faults.limited(_wait(headers), said)


def _wait(headers: Mapping[str, str]) -> float:
    """Seconds from `Retry-After` (or OpenAI's finer `retry-after-ms`); 1 when it is absent or a date."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        if (wait := faults.seconds(headers.get(name, ""))) is not None:
            return wait / scale
    return 1.0


def _told(body: bytes) -> _Told:
    try:
        return _ERROR.decode(body).error
    except MALFORMED:
        return _Told()


# What each of them adds its own work to.
DIALECT = Dialect(
    key_headers=key_headers, models_path="/models", read_models=wire.models_in("data"), read_fault=read_fault
)

# -- what a request is changed to


def patch(call: ChatCall, model: str, provider: Provider) -> bytes:
    """The caller's own bytes with the model patched; usage is asked of a stream whether or not the caller did."""
    body = {**call.body, "model": msgspec.Raw(msgspec.json.encode(model))}
    if call.stream and provider.stream_usage:
        options = _OPTIONS.decode(body.get("stream_options", NULL))
        body["stream_options"] = msgspec.Raw(msgspec.json.encode({**(options or {}), "include_usage": True}))
    return msgspec.json.encode(body)


def shorten(call: ChatCall, most: int, provider: Provider) -> ChatCall:
    """A call with another limit on its answer, under the one name that the provider knows."""
    body = {name: raw for name, raw in call.body.items() if name not in _LIMITS}
    return replace(call, body={**body, provider.max_tokens_field: msgspec.Raw(str(most))})


# -- what all answers have


class Answer(msgspec.Struct, frozen=True):
    """An answer, or one event of a stream, as far as it may tell an error inside a success."""

    error: msgspec.Raw = NULL


T = TypeVar("T", bound=Answer)


def whole(body: bytes, decoder: msgspec.json.Decoder[T], what: str) -> T:
    """A whole answer. Raises `UpstreamError` when it is not `what` it should be, or tells of an error."""
    try:
        answer = decoder.decode(body)
    except MALFORMED as wrong:
        raise wire.no_answer(body, what, wrong) from None
    return answer if answer.error is NULL else _sound(answer)


def event(data: bytes, decoder: msgspec.json.Decoder[T], what: str) -> T:
    """One event of a stream. Raises `UpstreamError` when it is not `what` it should be, or tells of an error."""
    try:
        event = decoder.decode(data)
    except MALFORMED:
        raise UpstreamError(f"The provider's stream holds an event that is not {what}.") from None
    return event if event.error is NULL else _sound(event)


def _sound(answer: T) -> T:
    if bytes(answer.error) != b"null":
        raise told_error(bytes(answer.error))
    return answer


def told_error(raw: bytes) -> UpstreamError:
    """The error that a provider tells inside a success or in the middle of a stream."""
    try:
        said = _TOLD.decode(raw).message or ""
    except MALFORMED:
        said = ""
    return faults.reported(said)


class InputDetails(msgspec.Struct, frozen=True):
    """What of the tokens that went in came from a cache, or went into one."""

    cached_tokens: Count | None = None
    # OpenRouter's name for what Anthropic's models wrote into their cache.
    cache_write_tokens: Count | None = None


class OutputDetails(msgspec.Struct, frozen=True):
    """What of the tokens that came out was thought."""

    reasoning_tokens: Count | None = None


class ToldUsage(msgspec.Struct, frozen=True):
    """Usage as it is told: the details are parts of the sums, but for xAI's thoughts."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None


# Some count in floats or text.
_USAGE = msgspec.json.Decoder(ToldUsage | None, strict=False)


def usage_of(told: ToldUsage | None) -> Usage | None:
    """Usage in classes that share no token."""
    if told is None or told.prompt_tokens is None:
        return None
    details, written = told.prompt_tokens_details, told.completion_tokens_details
    sent, made = max(0, told.prompt_tokens), max(0, told.completion_tokens or 0)
    if details is None and written is None:
        return Usage(uncached=sent, output=made)
    read = min(sent, max(0, (details and details.cached_tokens) or 0))
    kept = min(sent - read, max(0, (details and details.cache_write_tokens) or 0))
    thought = max(0, (written and written.reasoning_tokens) or 0)
    if told.total_tokens == sent + made + thought:
        # xAI's thoughts stand beside the answer, not in it: the whole tells.
        made += thought
    thought = min(made, thought)
    return Usage(
        uncached=sent - read - kept, cache_read=read, cache_write=kept, output=made - thought, reasoning=thought
    )


def usage_in(raw: msgspec.Raw) -> Usage | None:
    """The usage that an answer tells, if it tells any that makes sense."""
    return usage_of(wire.lenient(raw, _USAGE))
