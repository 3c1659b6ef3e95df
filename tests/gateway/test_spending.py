"""The arithmetic of budgets, and how long answers are."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.gateway import spending
from gimle.gateway.expectation import Lengths
from gimle.gateway.spending import Claim, Pace, Period, window


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    "period,anchor,now,since,until",
    [
        ("day", None, "2026-11-21T08:00:00Z", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"),
        ("hour", None, "2026-11-21T08:59:59Z", "2026-11-21T08:00:00Z", "2026-11-21T09:00:00Z"),
        ("week", None, "2026-11-21T08:00:00Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"),
        ("month", None, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("day", "2026-01-01T06:00:00+02:00", "2026-11-21T03:59:00Z", "2026-11-20T04:00:00Z", "2026-11-21T04:00:00Z"),
        ("month", "2026-01-31T12:00:00Z", "2026-02-28T11:00:00Z", "2026-01-31T12:00:00Z", "2026-02-28T12:00:00Z"),
        ("month", "2026-01-31T12:00:00Z", "2026-03-01T00:00:00Z", "2026-02-28T12:00:00Z", "2026-03-31T12:00:00Z"),
        ("week", "2027-01-01T00:00:00Z", "2026-12-24T00:00:00Z", "2026-12-18T00:00:00Z", "2026-12-25T00:00:00Z"),
    ],
)  # fmt: skip
def test_a_period_begins_and_ends(period: Period, anchor: str | None, now: str, since: str, until: str) -> None:
    assert window(period, at(anchor) if anchor else None, at(now)) == (at(since), at(until))


# Ten years, in seconds.
moments = st.integers(1_577_836_800, 1_893_456_000)


@given(
    st.sampled_from(["hour", "day", "week", "month", "total"]),
    st.none() | moments.map(lambda second: datetime.fromtimestamp(second, timezone(timedelta(hours=5)))),
    moments.map(lambda second: datetime.fromtimestamp(second, UTC)),
)
def test_each_moment_lies_in_its_period_and_periods_follow_each_other(
    period: Period, anchor: datetime | None, now: datetime
) -> None:
    since, until = window(period, anchor, now)
    assert since <= now < until
    assert window(period, anchor, since) == (since, until)
    if period != "total":
        assert window(period, anchor, until)[0] == until


def test_strict_reserves_what_is_left_of_the_most_and_overdraft_what_is_likely() -> None:
    claim = Claim(10, 40, 100)
    assert [spending.reserved(claim, free, strict=True) for free in (200, 100, 60, 10, 9)] == [100, 100, 60, 10, None]
    assert [spending.reserved(claim, free, strict=False) for free in (200, 40, 1, 0, -5)] == [40, 40, 1, None, None]


def test_a_process_takes_ahead_what_it_needs_but_a_part_of_what_is_left_at_most() -> None:
    assert spending.ahead(0.0, 5, 1_000_000) == 20
    assert spending.ahead(100.0, 5, 1_000_000) == 300
    assert spending.ahead(100.0, 5, 160) == 10
    assert spending.ahead(100.0, 5, -3) == 0


def test_the_pace_follows_what_is_spent_and_forgets() -> None:
    pace = Pace(0.0)
    for second in range(1, 20):
        pace.tell(second * 50, float(second))
    assert 45 < pace.a_second <= 50
    for second in range(20, 40):
        pace.tell(19 * 50, float(second))
    assert pace.a_second < 1


def test_answers_are_expected_as_long_as_nearly_all_have_been() -> None:
    lengths = Lengths()
    assert (lengths.likely(None), lengths.likely(100)) == (1024, 100)
    for number in range(400):
        lengths.learn(200 if number % 50 else 4000)
    assert 200 <= lengths.likely(None) <= 250
    for _ in range(800):
        lengths.learn(1000)
    assert 1000 <= lengths.likely(None) <= 1250


@given(st.lists(st.integers(0, 10**7), min_size=20, max_size=60))
def test_most_answers_stay_below_what_is_expected(tokens: list[int]) -> None:
    lengths = Lengths()
    for each in tokens:
        lengths.learn(each)
    assert lengths.likely(None) > 0
