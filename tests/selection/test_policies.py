"""The policies by name, weights of a tenant or a request, and how a decision tells itself."""

import pytest
from tests.selection.tables import NOW, decided, ids, model, table

from gimle.foundation.errors import InvalidRequest
from gimle.selection import policies
from gimle.selection.balance import RoundRobin
from gimle.selection.board import Board
from gimle.selection.choose import decide, ordered
from gimle.selection.complexity import classify
from gimle.selection.decision import Moment
from gimle.selection.factors import FACTORS
from gimle.selection.policies import POLICIES
from gimle.selection.types import Model, Need

CHEAP = model("a/cheap", input_nano=10**8, output_nano=10**8, parameters=8 * 10**9)
LARGE = model("b/large", input_nano=10**10, output_nano=10**10, parameters=400 * 10**9)
FREE = {"input_nano": 0, "output_nano": 0}
LOCAL = model("home/local", local=True, **FREE, hardware="cpu", hardware_quality=0.5, parameters=3 * 10**9)
BUILTIN = Model(provider="builtin", name="extract", context_window=100)
ALL = [LARGE, BUILTIN, LOCAL, CHEAP]


def board() -> Board:
    """The large one answers fast, the local one slowly."""
    found = Board()
    for key, first in ((":b/large", 0.2), (":a/cheap", 0.6), (":home/local", 3.0)):
        for _ in range(50):
            found.answered(key, NOW, 100, (first, first + 2.0), 100)
    return found


@pytest.mark.parametrize(
    "policy,order",
    [
        ("cheapest", ["home/local", "a/cheap", "b/large"]),
        ("fastest", ["b/large", "a/cheap", "home/local"]),
        ("best-quality", ["b/large", "a/cheap", "home/local"]),
        ("local-only", ["home/local"]),
        ("pinned", ["b/large", "home/local", "a/cheap"]),
        ("weighted", ["b/large", "a/cheap", "home/local"]),
        ("efficient", ["b/large", "a/cheap", "home/local"]),
    ],
)
def test_each_policy_has_its_order_and_the_builtin_one_is_the_last_resort(policy: str, order: list[str]) -> None:
    assert ids(decided(table(ALL, board()), policy)) == [*order, "builtin/extract"]


def test_no_policy_is_untested() -> None:
    assert set(POLICIES) == {
        "efficient", "cheapest", "fastest", "best-quality", "local-only", "weighted", "pinned",
    }  # fmt: skip


def test_vectors_stay_in_the_builtin_space() -> None:
    cloud = model("a/vectors", kind="embedding")
    builtin = Model(provider="builtin", name="minilm", kind="embedding")
    assert ids(decided([cloud, builtin], need=Need(kind="embedding")))[0] == "builtin/minilm"


def test_easy_prompts_go_to_the_cheap_and_hard_ones_to_the_large() -> None:
    over = table([LARGE, CHEAP])
    easy = classify("Hello!", 2)
    hard = classify("Prove and explain why x^2 = 2 has no solution, compare and justify: analyse it step by step.", 30)
    usual = policies.named("efficient")
    assert decided(over, usual, moment=Moment(now=NOW, complexity=easy)).first == "a/cheap"
    assert decided(over, usual, moment=Moment(now=NOW, complexity=hard)).first == "b/large"


def test_weights_may_be_changed() -> None:
    only_cost = policies.weighted(policies.named("efficient"), dict.fromkeys(FACTORS, 0) | {"cost": 1})
    assert ids(decided([LARGE, CHEAP], only_cost))[0] == "a/cheap"
    only_speed = policies.weighted(policies.named("efficient"), dict.fromkeys(FACTORS, 0) | {"speed": 2})
    assert ids(decided(table(ALL, board()), only_speed))[0] == "b/large"


@pytest.mark.parametrize(
    "weights", [{"beauty": 1.0}, {"cost": -1.0}, {"cost": float("nan")}, dict.fromkeys(FACTORS, 0.0)]
)
def test_weights_that_make_no_sense_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        policies.weighted(policies.named("efficient"), weights)
    assert refused.value.field == "weights"


def test_a_policy_that_there_is_not() -> None:
    with pytest.raises(InvalidRequest, match="There is no policy 'luck'"):
        policies.named("luck")


def test_a_decision_tells_itself() -> None:
    moment = Moment(now=NOW, complexity=classify("Hello!", 2), explore=0.02)
    decision = decided(table(ALL, board()), need=Need(tokens=150, output=100), moment=moment)
    found = decision.explain("dec_1", "auto", {"cheapest": "a/cheap"})
    assert found.chosen == found.verdicts[0].model == decision.first
    assert sum(found.weights.values()) == pytest.approx(1.0, abs=0.001)
    first = found.verdicts[0]
    total = sum(found.weights[name] * first.factors[name] for name in found.weights)
    assert first.score == pytest.approx(total, abs=0.01)
    assert first.seconds is not None
    assert found.verdicts[-1].model == "builtin/extract"
    assert found.shadow == {"cheapest": "a/cheap"}
    header = decision.header("dec_1")
    assert header.startswith("dec_1; efficient; ")
    assert "easy" in header
    assert header.isascii()
    assert len(header) < 300


def test_an_order_that_was_worked_out_before_is_balanced_anew() -> None:
    over = table([model("a/x"), model("b/y")])
    need, usual, moment, robin = Need(), policies.named("efficient"), Moment(now=NOW), RoundRobin()
    order = ordered(over, need, usual, moment)
    found = [decide(over, need, usual, moment, robin, order) for _ in range(4)]
    assert [one.first for one in found] == ["a/x", "b/y", "a/x", "b/y"]
    assert all(one.cached for one in found)
