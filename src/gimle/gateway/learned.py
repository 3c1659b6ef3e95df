"""What providers tell of their own rate limits, read from the headers of their answers. Pure.

They say how many units a limit has, how many are left, and when all will be there again. From these follow the pace at
which units come back and how far they are used up: exactly the two numbers of a limit here, whatever the provider's
period is (some count requests by the day).
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

from gimle.gateway import gcra
from gimle.gateway.gcra import Rate

Unit = Literal["requests", "tokens"]

# (unit, limit, remaining, reset): OpenAI and those who speak as it does, Anthropic, and the standard that may come.
_NAMES: tuple[tuple[Unit, str, str, str], ...] = (
    ("requests", "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("tokens", "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    (
        "requests",
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ),
    (
        "tokens",
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
    ),
    ("requests", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_SECONDS = 7 * 86400.0
_MINUTE = 60.0
_HIGHEST = 10**12


class Learned(msgspec.Struct, frozen=True):
    """A provider's limit: its rate, and in how many seconds it will be whole again."""

    unit: Unit
    rate: Rate
    full_in: float


def learned(headers: Mapping[str, str], now: datetime | None = None) -> list[Learned]:
    """The limits of which an answer's headers tell. What is missing or makes no sense tells nothing."""
    found: dict[Unit, Learned] = {}
    for unit, limit, remaining, reset in _NAMES:
        if limit in headers and unit not in found:
            told = _read(unit, headers.get(limit, ""), headers.get(remaining, ""), headers.get(reset, ""), now)
            if told is not None:
                found[unit] = told
    return list(found.values())


def _read(unit: Unit, limit: str, remaining: str, reset: str, now: datetime | None) -> Learned | None:
    if not limit.isdecimal() or not remaining.isdecimal() or not 0 < int(limit) <= _HIGHEST:
        return None
    units, left = int(limit), min(int(remaining), int(limit))
    full_in = seconds(reset, now)
    used = units - left
    if full_in is None:
        return None
    # Where next to nothing is used, a rounded time says nothing of the pace: limits are by the minute as a rule.
    a_unit = full_in / used if used and full_in > 0 else _MINUTE / units
    return Learned(unit, gcra.rate(max(1, int(a_unit * gcra.SECOND)), units), full_in)


def seconds(text: str, now: datetime | None = None) -> float | None:
    """How long until a moment: `6m0s`, `20ms`, `12`, `12.5`, or a time of RFC 3339. None where that can't be read."""
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return min(float(text), _LONGEST_SECONDS)
    if text and _SPAN.sub("", text) == "":
        return min(sum(float(number) * _SECONDS[unit] for number, unit in _SPAN.findall(text)), _LONGEST_SECONDS)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return max(0.0, min((moment - (now or datetime.now(UTC))).total_seconds(), _LONGEST_SECONDS))
