"""What Google's API refuses (google.rpc.Status): whose fault it is, and whether asking again may help."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from gimle.foundation.errors import ContextTooLong, UpstreamError
from gimle.gateway import faults
from gimle.gateway.types import Fault
from gimle.gateway.wire import MALFORMED

_CONTEXT = re.compile(r"input token count|maximum number of tokens|context (length|window)|prompt is too long", re.I)
_KEY = re.compile(r"api key", re.IGNORECASE)


class _Status(msgspec.Struct, frozen=True):
    message: str = ""
    status: str = ""
    details: list[dict[str, Any]] = []


class _Body(msgspec.Struct, frozen=True):
    error: _Status


_BODY = msgspec.json.Decoder(_Body)
_LIST = msgspec.json.Decoder(list[_Body])


def read_fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    """What an answer that is no success means."""
    told = _told(body)
    said = told.message.strip()[: faults.LONGEST]
    if status in (401, 403) or _about_key(told):
        return faults.key_refused(status)
    if status == 429 or told.status == "RESOURCE_EXHAUSTED":
        wait = _wait(told, headers)
        for_the_day = any("PerDay" in quota for quota in _quotas(told))
        return faults.used_up(after=wait) if for_the_day else faults.limited(wait)
    if status == 504 or told.status == "DEADLINE_EXCEEDED":
        return faults.late(said)
    if told.status == "FAILED_PRECONDITION":
        # The account, not the request: a place that is not served, billing that is not set up.
        return Fault(UpstreamError(f"The provider does not serve this account. {said}".strip()))
    if faults.theirs(status):
        return faults.failed(status, said)
    if status in (400, 413) and _CONTEXT.search(said):
        return Fault(ContextTooLong(said, field="turns"))
    return faults.declined(status, said, passable=bool(said))


def _told(body: bytes) -> _Status:
    try:
        return _BODY.decode(body).error
    except MALFORMED:
        pass
    try:
        # Without `alt=sse` a stream is a list, and so is its error.
        listed = _LIST.decode(body)
    except MALFORMED:
        return _Status()
    return listed[0].error if listed else _Status()


def _about_key(told: _Status) -> bool:
    reasons = {detail.get("reason") for detail in told.details if isinstance(detail.get("reason"), str)}
    known = {"API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED"}
    return bool(reasons & known) or (told.status == "INVALID_ARGUMENT" and _KEY.search(told.message) is not None)


def _quotas(told: _Status) -> list[str]:
    listed = [detail.get("violations") for detail in told.details]
    violations = [one for each in listed if isinstance(each, list) for one in each if isinstance(one, dict)]
    return [str(violation.get("quotaId", "")) for violation in violations]


def _wait(told: _Status, headers: Mapping[str, str]) -> float:
    """Seconds, as google.rpc.RetryInfo or `Retry-After` say; 1 when neither does."""
    delays = [str(detail.get("retryDelay")) for detail in told.details if "retryDelay" in detail]
    for text in (*delays, headers.get("retry-after", "")):
        if (wait := faults.seconds(text.removesuffix("s"))) is not None:
            return wait
    return 1.0
