"""What is measured: means that fade, percentiles by the size of the prompt, checks, what processes know together."""

import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.selection.tables import NOW, model, table

from gimle.selection import facts
from gimle.selection.board import FIRST, Board
from gimle.selection.facts import HALF_LIFE

SIZES = [100, 3000, 10_000, 50_000, 200_000]


def test_percentiles_are_within_a_tenth_for_each_size_of_prompts() -> None:
    chance = random.Random(3)
    known = facts.new()
    drawn: dict[int, list[float]] = {tokens: [] for tokens in SIZES}
    for n, tokens in enumerate(SIZES * 400):
        seconds = chance.lognormvariate(n % 5 - 2, 0.6)
        drawn[tokens].append(seconds)
        known.answered(NOW, tokens, seconds, seconds + 1, 10)
    for tokens, every in drawn.items():
        cuts = statistics.quantiles(every, n=100)
        for share in (0.5, 0.9, 0.95):
            assert known.quantile(tokens, share) == pytest.approx(cuts[int(share * 100) - 1], rel=0.11)
            whole = known.quantile(tokens, share, whole=True)
            assert whole == pytest.approx(cuts[int(share * 100) - 1] + 1, rel=0.11)


def test_before_the_first_call_nothing_is_known() -> None:
    known = facts.new()
    assert known.quantile(10, 0.5) is None
    assert known.uptime() is None
    assert known.streak == 0


def test_old_facts_fade_and_the_prior_comes_back() -> None:
    board = Board()
    over = table([model("a/x")], board)
    for _ in range(100):
        board.answered(":a/x", NOW, 10, (5.0, 9.0), 10)
    assert board.measured(over.slots, 10, NOW).first[0] == pytest.approx(5.0, abs=0.3)
    later = board.measured(over.slots, 10, NOW + 20 * HALF_LIFE)
    assert later.first[0] == pytest.approx(FIRST, abs=0.05)
    assert later.first_width[0] > board.measured(over.slots, 10, NOW).first_width[0]


def test_new_calls_count_for_more_than_old_ones() -> None:
    board = Board()
    over = table([model("a/x")], board)
    for _ in range(50):
        board.answered(":a/x", NOW, 10, (5.0, 9.0), 10)
    for _ in range(50):
        board.answered(":a/x", NOW + 3 * HALF_LIFE, 10, (1.0, 9.0), 10)
    assert board.measured(over.slots, 10, NOW + 3 * HALF_LIFE).first[0] == pytest.approx(1.4, abs=0.2)


def test_a_size_of_prompts_that_was_never_seen_borrows_from_the_others() -> None:
    board = Board()
    over = table([model("a/x"), model("a/y")], board)
    for _ in range(50):
        board.answered(":a/x", NOW, 10, (3.0, 9.0), 10)
    first = board.measured(over.slots, 100_000, NOW).first
    assert first[0] > 2.0
    assert first[1] == pytest.approx(FIRST)


def test_uptime_is_that_of_the_last_hundred_checks() -> None:
    known = facts.new()
    for n in range(250):
        known.probed(NOW + n, None if n < 200 else 0.05)
    assert known.uptime() == 0.5
    for n in range(60):
        known.failed(NOW + 300 + n)
    assert known.uptime() == 0.4
    assert known.streak == 60


calls = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 50_000), st.floats(0.01, 30), st.booleans()), max_size=60)


@settings(deadline=None)
@given(calls)
def test_what_processes_know_together_is_what_one_would_know(drawn: list[tuple[int, float, float, bool]]) -> None:
    parts, one = [facts.new() for _ in range(4)], facts.new()
    for process, after, seconds, fine in sorted(drawn, key=lambda call: call[1]):
        for known in (parts[process], one):
            if fine:
                known.answered(NOW + after, 500, seconds, seconds * 2, 100)
            else:
                known.failed(NOW + after)
    whole = facts.merged(parts)
    scale = 2.0 ** ((one.at - whole.at) / HALF_LIFE)
    one.scale(scale)
    assert whole.calls == pytest.approx(one.calls)
    assert whole.errors == pytest.approx(one.errors, rel=1e-12, abs=1e-9)
    assert [t.first for t in whole.times] == pytest.approx([t.first for t in one.times])
    assert whole.quantile(500, 0.9) == one.quantile(500, 0.9)
    assert whole.quantile(500, 0.9, whole=True) == one.quantile(500, 0.9, whole=True)
    assert sorted(map(abs, whole.checks)) == sorted(map(abs, one.checks))


def test_the_landmark_moves_before_the_sums_overflow() -> None:
    known = facts.new()
    for day in range(400):
        known.answered(NOW + day * 86_400, 10, 1.0, 2.0, 10)
    assert known.calls == pytest.approx(1.0, abs=0.01)
    assert known.quantile(10, 0.5) == pytest.approx(1.0, rel=0.1)


def test_what_another_process_measured_is_joined_and_replaced() -> None:
    theirs, board = facts.new(), Board()
    over = table([model("a/x")], board)
    for _ in range(40):
        theirs.answered(NOW, 10, 4.0, 8.0, 10)
    board.answered(":a/x", NOW, 10, (1.0, 2.0), 10)
    for _ in range(2):
        board.join({":a/x": theirs})
    assert board.of(":a/x").calls == pytest.approx(41)
    assert board.measured(over.slots, 10, NOW).first[0] == pytest.approx(3.8, abs=0.2)
    assert board.changed()[":a/x"].calls == pytest.approx(1)
    assert board.changed() == {}
