"""What a model must be able to do before it is judged; each gate that drops one is named."""

import pytest
from tests.selection.tables import NOW, decided, ids, model, table

from gimle.selection import policies
from gimle.selection.board import Board
from gimle.selection.decision import Moment
from gimle.selection.types import Model, Need

GOOD = model(
    "good/all",
    capabilities=frozenset({"tools", "vision"}),
    region="eu",
    tags=("approved",),
    data_policy="no-retention",
)
CASES: dict[str, tuple[Model, Need, str]] = {
    "kind": (model("bad/x", kind="embedding"), Need(), "is not for chat"),
    "availability": (model("bad/x", unavailable="no key"), Need(), "no key"),
    "capability": (model("bad/x"), Need(capabilities=frozenset({"tools"})), "lacks tools"),
    "context": (model("bad/x", context_window=1000), Need(tokens=900, output=200), "900 and 200 for the answer"),
    "data_policy": (model("bad/x", data_policy="no-training"), Need(data="no-retention"), "not strict enough"),
    "region": (model("bad/x", region="us"), Need(regions=frozenset({"eu"})), "runs in us"),
    "tag": (model("bad/x"), Need(tags=frozenset({"approved"})), "not tagged approved"),
    "scope": (model("bad/x"), Need(scope=("good/*",)), "the key may not use it"),
    "latency": (model("bad/x"), Need(max_seconds=4.0, output=100), "too long"),
    "cost": (model("bad/x", output_nano=50 * 10**9), Need(max_nano=10**6, output=100), "cost too much"),
    "budget": (model("bad/x", output_nano=50 * 10**9), Need(budget_nano=10**6, output=100), "left of the budget"),
}


@pytest.mark.parametrize("gate", CASES)
def test_each_gate_drops_a_model_and_is_named(gate: str) -> None:
    bad, need, why = CASES[gate]
    board = Board()
    if gate == "latency":
        for _ in range(50):
            board.answered(":bad/x", NOW, need.tokens, (9.0, 60.0), 100)
    decision = decided(table([bad, GOOD], board), need=need)
    assert ids(decision) == ["good/all"]
    verdicts = {verdict.model: verdict for verdict in decision.explain("dec_1", "auto").verdicts}
    assert [failed.partition(":")[0] for failed in verdicts["bad/x"].gates] == [gate]
    assert why in verdicts["bad/x"].gates[0]
    assert verdicts["good/all"].gates == ()
    assert why in decision.reasons()["bad/x"]
    assert f"{gate}:-1" in decision.header("dec_1")


@pytest.mark.parametrize("gate", ["breaker", "quota"])
def test_what_the_gateway_holds_back_is_left_out(gate: str) -> None:
    decision = decided([model("bad/x"), GOOD], moment=Moment(now=NOW, held={"bad/x": gate}))
    assert ids(decision) == ["good/all"]
    assert decision.explain("dec_1", "auto").verdicts[1].gates[0].startswith(f"{gate}: ")


def test_nothing_is_held_against_a_model_that_the_caller_has_named() -> None:
    need = Need(capabilities=frozenset({"tools"}), tokens=10**9, max_nano=0, regions=frozenset({"eu"}))
    named = decided([model("a/x"), model("a/y", unavailable="no key")], policies.NAMED, need)
    assert ids(named) == ["a/x"]
    told = {one.model: one.gates for one in named.explain("dec", "a/x").verdicts}
    assert told == {"a/x": (), "a/y": ("availability: no key",)}


def test_a_model_may_fail_at_several_gates() -> None:
    decision = decided([model("bad/x", context_window=10)], need=Need(tokens=99, capabilities=frozenset({"vision"})))
    assert decision.models == ()
    assert decision.first is None
    assert len(decision.explain("dec_1", "auto").verdicts[0].gates) == 2


def test_local_models_pass_where_nothing_may_leave_and_everywhere() -> None:
    local = model("home/small", local=True)
    assert ids(decided([GOOD, local], "local-only")) == ["home/small"]
    assert ids(decided([GOOD, local], need=Need(data="local"))) == ["home/small"]
    assert "home/small" in ids(decided([GOOD, local], need=Need(regions=frozenset({"eu"}))))


def test_an_answer_is_cut_to_what_a_model_can_write_before_it_has_to_fit() -> None:
    short = model("a/short", context_window=1000, max_output=50)
    assert ids(decided([short], need=Need(tokens=900, output=4000))) == ["a/short"]


def test_a_price_that_nobody_knows_can_not_promise_to_be_low() -> None:
    unknown = model("a/unknown", input_nano=None, output_nano=None)
    assert ids(decided([unknown], need=Need(max_nano=10**12))) == []
    assert ids(decided([unknown], need=Need(budget_nano=10**12))) == ["a/unknown"]
    assert ids(
        decided([unknown, model("h/free", local=True, input_nano=0, output_nano=0)], need=Need(budget_nano=0))
    ) == ["h/free"]
