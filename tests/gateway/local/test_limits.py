"""Restarts, room and memory: the decisions, without a process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.gateway.local import limits
from gimle.gateway.local.limits import Lives, Resident
from gimle.gateway.local.types import Facts

MB = 1 << 20


def test_a_server_comes_back_at_once_then_after_a_second_then_not() -> None:
    lives = Lives()
    assert lives.wait(100.0) == 0.0
    lives.died(100.0)
    assert lives.wait(100.0) == 0.0
    lives.died(101.0)
    assert lives.wait(101.25) == 0.75
    assert lives.wait(103.0) == 0.0
    lives.died(110.0)
    assert lives.wait(110.0) is None
    assert lives.wait(399.0) is None


def test_after_five_minutes_it_is_tried_again() -> None:
    lives = Lives()
    for moment in (100.0, 101.0, 110.0):
        lives.died(moment)
    assert lives.wait(401.0) == 0.0
    lives.died(401.5)
    assert lives.wait(401.5) is not None
    assert lives.wait(1000.0) == 0.0


def test_the_longest_unused_makes_room_and_the_busy_stay() -> None:
    old = Resident("old", 400, used_at=1.0, busy=False)
    busy = Resident("busy", 400, used_at=0.0, busy=True)
    new = Resident("new", 400, used_at=2.0, busy=False)
    assert limits.room(300, 1600, [new, busy, old]) == []
    assert limits.room(500, 1600, [new, busy, old]) == ["old"]
    assert limits.room(900, 1600, [new, busy, old]) == ["old", "new"]
    assert limits.room(1300, 1600, [new, busy, old]) is None
    assert limits.room(1700, 1600, []) is None


@given(
    st.integers(1, 1000), st.integers(1, 2000), st.lists(st.tuples(st.integers(1, 500), st.floats(0, 9), st.booleans()))
)
def test_room_is_kept_whatever_runs(needed: int, budget: int, running: list[tuple[int, float, bool]]) -> None:
    resident = [Resident(str(at), *each) for at, each in enumerate(running)]
    stopped = limits.room(needed, budget, resident)
    busy = {each.name for each in resident if each.busy}
    if stopped is None:
        assert needed + sum(each.memory for each in resident if each.busy) > budget
        return
    assert not busy & set(stopped)
    assert needed + sum(each.memory for each in resident if each.name not in stopped) <= budget


def test_weights_are_copied_only_where_there_is_twice_the_room() -> None:
    size = 4_900 * MB
    assert limits.copies(size, 12_000 * MB)
    assert not limits.copies(size, 8_000 * MB)


def test_memory_is_weights_and_cache() -> None:
    """Measured: Llama 3 8B takes 5.33 GB without copies at 2048 tokens, and 8.57 GB with most of a copy."""
    facts = Facts(architecture="llama", cache=2 * 32 * 8 * 128 * 2)
    assert limits.needed(4_920_000_000, facts, 2048, 1, twice=False) == pytest.approx(5.6e9, rel=0.07)
    assert limits.needed(4_920_000_000, facts, 2048, 1, twice=True) > 8.57e9


def test_settings_win_over_what_the_machine_suggests() -> None:
    assert [limits.slots(0, cores) for cores in (1, 2, 4, 16)] == [1, 1, 2, 4]
    assert limits.slots(7, 1) == 7
    assert [limits.threads(0, cores) for cores in (0.5, 1, 2, 8)] == [1, 1, 1, 7]
    assert limits.threads(3, 16) == 3
    assert limits.budget(0, 1000, 900) == 800
    assert limits.budget(0, 1000, 300) == 300
    assert limits.budget(2, 1000, 300) == 2 * MB
