"""The arithmetic of budgets: periods, slices of a budget, and how much to take ahead of need. Pure.

Sums are whole numbers: nano-dollars, or pieces where a budget counts those. A process holds a slice of a budget, out of
which it admits calls without asking anybody: a call reserves a part before it is sent, and settles for what it cost.
"""

import bisect
import calendar
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

Period = Literal["hour", "day", "week", "month", "total"]
Window = tuple[datetime, datetime]

# The world's calendars begin and end somewhere; a budget without periods has one of these hundreds of years.
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
_LAST = datetime(2300, 1, 1, tzinfo=UTC)
# 2000 began on a Saturday; weeks begin on Mondays.
_MONDAY = datetime(2000, 1, 3, tzinfo=UTC)
_SPANS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}

# A process takes ahead what it needs in so many seconds, at least so many calls, at most this part of what is left.
_AHEAD_SECONDS = 3.0
_AHEAD_CALLS = 4
_AHEAD_PART = 16


class Claim(msgspec.Struct, frozen=True):
    """What a call may cost: at `least` for it to make sense, `likely`, and at `most`.

    A strict budget reserves the most that is left of `most`; one with overdraft reserves what is likely.
    """

    least: int
    likely: int
    most: int


def window(period: Period, anchor: datetime | None, now: datetime) -> Window:
    """The period in which a moment lies: its beginning, and the beginning of the next.

    Periods are counted from the anchor: a month from the 31st on begins on the last day of shorter ones. Without one
    they are those of the calendar in UTC.
    """
    if period == "total":
        return _FIRST, _LAST
    if period == "month":
        return _month(anchor or _FIRST, now)
    span = _SPANS[period]
    begin = anchor or (_MONDAY if period == "week" else _FIRST)
    begin += (now - begin) // span * span
    return begin, begin + span


def _month(anchor: datetime, now: datetime) -> Window:
    at = now.astimezone(anchor.tzinfo)
    months = at.year * 12 + at.month - 1
    begin = _in_month(anchor, months)
    if now < begin:
        return _in_month(anchor, months - 1), begin
    return begin, _in_month(anchor, months + 1)


def _in_month(anchor: datetime, months: int) -> datetime:
    year, month = months // 12, months % 12 + 1
    return anchor.replace(year=year, month=month, day=min(anchor.day, calendar.monthrange(year, month)[1]))


def reserved(claim: Claim, free: int, *, strict: bool) -> int | None:
    """What a call reserves of what is free; None where that is too little."""
    if strict:
        return min(claim.most, free) if free >= claim.least else None
    return min(claim.likely, free) if free > 0 else None


def wanted(claim: Claim, *, strict: bool) -> int:
    """What must be free for a call to reserve all that it would."""
    return claim.most if strict else max(claim.likely, 1)


def ahead(spent_a_second: float, largest: int, left: int) -> int:
    """How much a process should have free: so that it asks before it is short, and keeps little from the others."""
    return max(0, min(max(int(spent_a_second * _AHEAD_SECONDS), largest * _AHEAD_CALLS), left // _AHEAD_PART))


class Pace:
    """How much is spent a second, as a mean that forgets the past within some seconds."""

    __slots__ = ("_at", "_total", "a_second")

    def __init__(self, now: float) -> None:
        self.a_second = 0.0
        self._total = 0
        self._at = now

    def tell(self, total: int, now: float) -> None:
        """So much has been spent by now, since the beginning."""
        seconds = now - self._at
        if seconds <= 0:
            return
        recent = (total - self._total) / seconds
        weight = min(1.0, seconds / _AHEAD_SECONDS)
        self.a_second += (recent - self.a_second) * weight
        self._total, self._at = total, now


# -- from prices to claims

# The most that an attempt of up to so many tokens read and written can cost: the `bound` of a price.
Bound = Callable[[int, int], int]
# An answer of fewer tokens than this is not worth the call.
_LEAST_OUTPUT = 16


def claim(bound: Bound, prompt: int, at_most: int, likely: int, most: int) -> Claim:
    """What a call may cost: its prompt has so many tokens, about and at most, its answer as is likely and at most."""
    least = min(_LEAST_OUTPUT, most)
    dearest = bound(at_most, most)
    return Claim(bound(at_most, least), min(dearest, bound(prompt, max(least, min(likely, most)))), dearest)


def affordable(bound: Bound, prompt: int, amount: int, most: int) -> int:
    """How many tokens may be written for an amount, up to `most`: the limit that is sent to the provider."""
    if bound(prompt, most) <= amount:
        return most
    return bisect.bisect_right(range(most + 1), amount, key=lambda tokens: bound(prompt, tokens)) - 1
