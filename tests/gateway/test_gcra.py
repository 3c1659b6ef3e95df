"""Rate limits as one number each: never more than the rate, reservations given back, debts waited for."""

from hypothesis import given
from hypothesis import strategies as st

from gimle.gateway import gcra
from gimle.gateway.gcra import SECOND, a_minute

HUNDRED = a_minute(100)


def test_a_whole_limit_passes_at_once_and_then_its_pace() -> None:
    tat, now = 0, 1000 * SECOND
    for _ in range(100):
        assert gcra.wait(tat, now, HUNDRED, 1) == 0
        tat = gcra.taken(tat, now, HUNDRED, 1)
    assert gcra.remaining(tat, now, HUNDRED) == 0
    assert gcra.wait(tat, now, HUNDRED, 1) == 600_000_000
    assert gcra.wait(tat, now + 600_000_000, HUNDRED, 1) == 0
    assert gcra.full_in(tat, now) == 60.0


def test_what_is_given_back_can_be_taken_and_what_is_owed_is_waited_for() -> None:
    now = 1000 * SECOND
    tat = gcra.taken(0, now, HUNDRED, 100)
    assert gcra.wait(gcra.refunded(tat, HUNDRED, 40), now, HUNDRED, 40) == 0
    owed = gcra.refunded(tat, HUNDRED, -10)
    assert gcra.wait(owed, now, HUNDRED, 1) == 11 * 600_000_000


def test_more_than_a_whole_limit_passes_alone() -> None:
    now = 1000 * SECOND
    assert gcra.wait(0, now, HUNDRED, 250) == 0
    tat = gcra.taken(0, now, HUNDRED, 250)
    assert gcra.wait(tat, now, HUNDRED, 1) == 151 * 600_000_000
    assert gcra.wait(gcra.taken(0, now, HUNDRED, 1), now, HUNDRED, 250) == 600_000_000


def test_a_closed_limit_opens_after_its_time() -> None:
    now = 1000 * SECOND
    tat = gcra.closed(now, HUNDRED, 7.0)
    assert gcra.wait(tat, now, HUNDRED, 1) == 7 * SECOND
    assert gcra.wait(tat, now + 7 * SECOND, HUNDRED, 1) == 0


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.integers(0, 2 * SECOND), st.integers(1, 20), st.integers(0, 20)), max_size=200),
)
def test_no_stretch_of_time_sees_more_than_burst_and_pace(limit: int, calls: list[tuple[int, int, int]]) -> None:
    """Whatever is reserved and settled, what was used since the beginning stays below burst + pace × time."""
    rate = a_minute(limit)
    begin = now = 10**18
    tat = used = 0
    for pause, asked, spent in calls:
        now += pause
        units = min(asked, rate.burst)
        if gcra.wait(tat, now, rate, units) == 0:
            tat = gcra.refunded(gcra.taken(tat, now, rate, units), rate, units - min(spent, units))
            used += min(spent, units)
        assert used <= rate.burst + (now - begin) // rate.interval + 1
