"""What a provider refuses, and whose fault it is."""

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

import msgspec

from gimle.foundation.errors import ContextTooLong, UpstreamError
from gimle.gateway import faults
from gimle.gateway.types import Fault
from gimle.gateway.wire import MALFORMED


class _Told(msgspec.Struct, frozen=True):
    """The inside of the vendor's error object."""

    message: str | None = None
    type: str | None = None


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Told


_ERROR = msgspec.json.Decoder(_ErrorBody)
_TOLD = msgspec.json.Decoder(_Told)
_CONTEXT = re.compile(
    r"prompt is too long|exceed(s|ed)? (the )?(model's )?context|context (window|limit)", re.IGNORECASE
)
# A refusal that has the form of a caller's fault, and is ours: nothing is paid, or a limit that we set is reached.
_BILLING = re.compile(r"credit balance is too low|reached your specified .*usage limits?", re.IGNORECASE)
_LIMITS = "anthropic-ratelimit-"


def read_fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    """What an answer that is no success means: whose fault it is, and whether asking again may help.

    What a provider says about our key is not told, since it may quote it.
    """
    told = _told(body)
    said = (told.message or "").strip()[: faults.LONGEST]
    if status in (401, 403) or told.type in ("authentication_error", "permission_error"):
        return faults.key_refused(status)
    if status == 429 or told.type == "rate_limit_error":
        return faults.limited(_wait(headers))
    if told.type == "billing_error" or (status == 400 and _BILLING.search(said)):
        return Fault(UpstreamError("The provider serves Gimle no more: its account is empty or at a limit."))
    if faults.theirs(status):
        return faults.failed(status, said)
    if status in (400, 413) and _CONTEXT.search(said):
        return Fault(ContextTooLong(said, field="turns"))
    return faults.declined(status, said, passable=told.message is not None)


def _wait(headers: Mapping[str, str]) -> float:
    """Seconds from `retry-after`, else until the last of the used-up limits is filled again; 1 where none is told."""
    after = faults.seconds(headers.get("retry-after", ""))
    if after is not None:
        return after
    used_up = (name for name in headers if name.startswith(_LIMITS) and name.endswith("-remaining"))
    resets = (
        _until(headers.get(name.removesuffix("remaining") + "reset"), headers)
        for name in used_up
        if headers[name].strip() == "0"
    )
    return max(resets, default=1.0)


def _until(reset: str | None, headers: Mapping[str, str]) -> float:
    """The seconds between the provider's own clock and a moment that it names."""
    try:
        moment, now = datetime.fromisoformat(reset or ""), parsedate_to_datetime(headers["date"])
        return max(0.0, (moment - now).total_seconds())
    except (KeyError, ValueError, TypeError):
        return 1.0


def _told(body: bytes) -> _Told:
    try:
        return _ERROR.decode(body).error
    except MALFORMED:
        return _Told()


def told_error(raw: bytes) -> UpstreamError:
    """The error that a provider tells inside a success or in the middle of a stream."""
    try:
        told = _TOLD.decode(raw)
    except MALFORMED:
        told = _Told()
    return faults.reported(told.message or "", told.type or "")
