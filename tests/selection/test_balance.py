"""Shares between equals: exact in the long run and even in the short, by load, by prefix, with failures set apart."""

import random
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.selection.tables import NOW, decided, ids, model, table

from gimle.selection.balance import RoundRobin, affine, prefix_of, two_choices
from gimle.selection.board import Board
from gimle.selection.decision import Moment
from gimle.selection.types import Kind, Model, Need


@given(st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 9), min_size=1))
def test_round_robin_gives_each_exactly_its_share_in_each_round(shares: dict[str, int]) -> None:
    robin = RoundRobin()
    total = sum(shares.values())
    for _ in range(3):
        assert Counter(robin.pick(shares) for _ in range(total)) == shares


@given(st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 9), min_size=2), st.integers(1, 60))
def test_round_robin_is_never_far_from_the_share(shares: dict[str, int], calls: int) -> None:
    robin = RoundRobin()
    got = Counter(robin.pick(shares) for _ in range(calls))
    for name, share in shares.items():
        assert abs(got[name] - Fraction(share, sum(shares.values())) * calls) < len(shares)


def test_of_two_the_less_loaded_is_taken_and_the_worst_never() -> None:
    loads = [1.0, 5.0, 3.0]
    picked = Counter(two_choices(loads, n / 600) for n in range(600))
    # Six ordered pairs of the same chance: the least loaded wins in four, the middle in two, the worst in none.
    assert picked == {0: 400, 2: 200}


def test_the_same_beginning_goes_to_the_same_one_until_that_is_loaded_above_its_share() -> None:
    names = [f"p{n}/llama" for n in range(5)]
    idle = [0.0] * 5
    homes = {text: affine(prefix_of(text), names, idle) for text in map(str, range(200))}
    assert min(Counter(homes.values()).values()) > 20
    # One leaves: only its own move.
    left = [*names[:4]]
    for text, home in homes.items():
        if home != 4:
            assert left[affine(prefix_of(text), left, idle[:4])] == names[home]
    busy = [0.0] * 5
    busy[homes["7"]] = 10.0
    assert affine(prefix_of("7"), names, busy) != homes["7"]


def test_policy_weighted_gives_exactly_the_weights_of_the_registry() -> None:
    models = [model("a/x", weight=5), model("b/x", weight=3), model("c/y", weight=2), model("d/z", weight=0)]
    robin, over = RoundRobin(), table(models)
    picked = Counter(decided(over, "weighted", robin=robin).first for _ in range(1000))
    assert picked == {"a/x": 500, "b/x": 300, "c/y": 200}
    chances = {v.model: v.propensity for v in decided(over, "weighted").explain("d", "auto").verdicts}
    assert chances == {"a/x": 0.5, "b/x": 0.3, "c/y": 0.2, "d/z": 0.0}


def test_equals_share_by_score_and_an_overloaded_one_counts_a_fifth() -> None:
    models = [model("a/x", capacity=10), model("b/y", capacity=10)]
    board = Board()
    over = table(models, board)
    for _ in range(8):
        board.begun(":a/x")
    robin = RoundRobin()
    picked = Counter(decided(over, robin=robin).first for _ in range(600))
    assert picked == {"a/x": 100, "b/y": 500}


def test_what_nobody_knows_a_price_of_shares_no_calls_and_the_registry_decides() -> None:
    unknown: dict[str, object] = {"input_nano": None, "output_nano": None}
    over = table([model("a/x", **unknown), model("b/y", **unknown), model("c/x", **unknown)])
    robin = RoundRobin()
    moments = [Moment(now=NOW, roll=n / 100, second_roll=n / 100, explore=0.03) for n in range(100)]
    assert {decided(over, moment=one, robin=robin).first for one in moments} == {"a/x", "c/x"}


def test_deployments_of_one_model_are_chosen_by_their_load() -> None:
    board = Board()
    over = table([model("a/llama"), model("b/llama")], board)
    for _ in range(30):
        board.begun(":a/llama")
        board.answered(":a/llama", NOW, 10, (0.5, 1.0), 10)
        board.begun(":b/llama")
        board.answered(":b/llama", NOW, 10, (0.5, 1.0), 10)
    for _ in range(3):
        board.begun(":a/llama")
    chance = random.Random(1)
    firsts = {decided(over, moment=Moment(now=NOW, second_roll=chance.random())).first for _ in range(20)}
    assert firsts == {"b/llama"}


def test_who_fails_again_and_again_is_set_apart_and_comes_back_slowly() -> None:
    board = Board()
    over = table([model("a/x"), model("b/y"), model("c/z")], board)
    for _ in range(20):
        for key in over.keys:
            board.answered(key, NOW, 10, (0.2, 1.0), 10)
    for _ in range(5):
        board.failed(":a/x", NOW)
    assert ids(decided(over))[-1] == "a/x"
    assert "a/x" not in {decided(over, moment=Moment(now=NOW + 29)).first for _ in range(50)}
    slot = over.places[0]
    assert board.share(slot, 64, NOW + 31) == pytest.approx(0.1)
    assert board.share(slot, 64, NOW + 60) == pytest.approx(0.5)
    assert board.share(slot, 64, NOW + 91) == 1.0


def test_at_most_half_of_the_candidates_are_set_apart() -> None:
    board = Board()
    over = table([model(f"p/{n}") for n in range(5)], board)
    for key in over.keys:
        for _ in range(5):
            board.failed(key, NOW)
    assert board.ejected(over.slots, NOW + 1).sum() == 2
    assert len(decided(over, moment=Moment(now=NOW + 1)).models) == 5


def test_kinds_of_calls_that_alternate_keep_their_shares() -> None:
    over = table([
        model("a/chat", weight=3.0), model("b/chat", weight=2.0),
        model("c/rank", kind="rerank", weight=5.0), model("d/rank", kind="rerank", weight=5.0),
    ])  # fmt: skip
    robin, got = RoundRobin(), Counter[str | None]()
    kinds: tuple[Kind, ...] = ("chat", "rerank")
    for _ in range(100):
        got.update(decided(over, "weighted", Need(kind=kind), robin=robin).first for kind in kinds)
    assert got == {"a/chat": 60, "b/chat": 40, "c/rank": 50, "d/rank": 50}


def test_those_that_can_not_serve_are_no_half_of_the_candidates() -> None:
    board = Board()
    keyless = [model(f"u/{n}", unavailable="no key") for n in range(50)]
    sole = [model("p/only"), Model(provider="builtin", name="extract"), *keyless]
    large = [model(name, parameters=400 * 10**9) for name in ("p/only", "p/more")]
    for key in (":p/only", ":p/more"):
        for _ in range(5):
            board.failed(key, NOW)
    moment = Moment(now=NOW + 1)
    assert ids(decided(table(sole, board), moment=moment)) == ["p/only", "builtin/extract"]
    # Of three, one may stand apart: the other of those that failed is still the best.
    small = model("p/small", parameters=10**9)
    assert decided(table([*large, small, *keyless], board), moment=moment).first in ("p/only", "p/more")


def test_a_prefix_keeps_calls_together() -> None:
    over = table([model("a/x"), model("b/y"), model("c/z")])
    robin = RoundRobin()
    moment = Moment(now=NOW, prefix=prefix_of("You are a beekeeper."))
    assert len({decided(over, need=Need(), moment=moment, robin=robin).first for _ in range(30)}) == 1
