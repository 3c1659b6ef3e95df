"""What OpenAI's interfaces share: the header with the key, the list of models, what a refusal means. Pure."""

import re
from collections.abc import Mapping

import msgspec

from gimle.foundation.errors import ContextTooLong, GimleError, InvalidRequest, RateLimitedError, UpstreamError
from gimle.gateway import faults
from gimle.gateway.types import Fault, Headers

NULL = msgspec.Raw(b"null")
# What msgspec raises for bytes that are no JSON of the expected shape; the last is for nesting without end.
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Told(msgspec.Struct, frozen=True):
    """The inside of a provider's error object."""

    message: str | None = None
    code: str | int | None = None
    type: str | None = None


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Told


class _ModelList(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]


_MODELS = msgspec.json.Decoder(_ModelList)
_ERROR = msgspec.json.Decoder(_ErrorBody)
_TOLD = msgspec.json.Decoder(_Told)
_LONGEST = 500
_QUOTA_SECONDS = 60.0
_CONTEXT = re.compile(
    r"context[_ ](length|window|size)|maximum context|too many tokens|prompt is too long", re.IGNORECASE
)


def key_headers(key: str) -> Headers:
    """The header that carries a key."""
    return (("authorization", f"Bearer {key}"),)


def read_models(body: bytes) -> int:
    """How many models a provider lists. Raises `UpstreamError`."""
    try:
        return len(_MODELS.decode(body).data)
    except MALFORMED:
        raise UpstreamError("The provider's answer is not a list of models.") from None


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
        return _limited(told, said, headers)
    if status in (402, 407, 408, 425) or not 400 <= status < 500:
        return Fault(UpstreamError(f"The provider answered with HTTP {status}. {said}".strip()), again=status >= 408)
    if told.code == "context_length_exceeded" or (status in (400, 413) and _CONTEXT.search(said)):
        return Fault(ContextTooLong(said or None, field="turns"))
    refused = InvalidRequest(said or f"The provider refused the request (HTTP {status}).")
    return Fault(refused, passable=told.message is not None)


def _limited(told: _Told, said: str, headers: Mapping[str, str]) -> Fault:
    if "insufficient_quota" in (told.code, told.type):
        return Fault(RateLimitedError(_ended("The provider's quota is used up", said), after=_QUOTA_SECONDS))
    limited = _ended("The provider limits the rate of requests", said)
    return faults.weigh(RateLimitedError(limited, after=_wait(headers)))


def _ended(sentence: str, said: str) -> str:
    """A sentence of ours with the provider's own words behind it, if it had any."""
    return f"{sentence}: {said}" if said else f"{sentence}."


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
    except MALFORMED:
        return _Told()


def told_error(raw: bytes) -> UpstreamError:
    """The error that a provider tells inside a success or in the middle of a stream."""
    try:
        said = _TOLD.decode(raw).message or ""
    except MALFORMED:
        said = ""
    return UpstreamError(f"The provider reports an error: {said[:_LONGEST] or 'without a message'}")
