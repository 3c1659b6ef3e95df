"""Another policy judged by the log: the estimate holds the truth, and luck is not promoted."""

import math
import random

import numpy as np
import pytest
from msgspec.structs import replace
from tests.selection.tables import NOW, decided, model, table

from gimle.selection import complexity, policies, replay
from gimle.selection.balance import RoundRobin
from gimle.selection.board import Board
from gimle.selection.decision import Moment
from gimle.selection.factors import Utility
from gimle.selection.replay import Logged, Outcome, report
from gimle.selection.types import Model, Need

# Per model and class: how good its answers are.
GOOD = {"a/cheap": {"easy": 0.9, "hard": 0.2}, "b/dear": {"easy": 0.92, "hard": 0.9}}
MODELS = [
    model("a/cheap", input_nano=10**8, output_nano=10**8, parameters=8 * 10**9),
    model("b/dear", input_nano=2 * 10**9, output_nano=2 * 10**9, parameters=400 * 10**9),
]
WORTH = 5_000_000.0


def logged(calls: int, explore: float = 0.03, seed: int = 1) -> list[Logged]:
    """Calls by the policy `cheapest`, which mistakes nothing for hard; now and then the other is tried."""
    chance, over, robin = random.Random(seed), table(MODELS), RoundRobin()
    log = []
    for _ in range(calls):
        subject = chance.choice(["easy", "hard"])
        need = Need(tokens=500, output=500, subject=subject)
        moment = Moment(now=NOW, roll=chance.random(), explore=explore)
        found = decided(over, "cheapest", need, moment, robin).explain("dec", "auto")
        assert found.chosen is not None
        quality = float(chance.random() < GOOD[found.chosen][subject])
        cost = next(verdict.cost_nano for verdict in found.verdicts if verdict.model == found.chosen)
        log.append(Logged(found, Outcome(found.chosen, quality, cost)))
    return log


def truth(choice: dict[str, str]) -> float:
    cost = {"a/cheap": 10**5, "b/dear": 2 * 10**6}
    return sum(GOOD[who][subject] - cost[who] / WORTH for subject, who in choice.items()) / 2


def test_the_interval_holds_what_the_policy_would_really_have_been_worth() -> None:
    held = 0
    for seed in range(8):
        found = report(logged(1500, 0.03, seed), policies.named("best-quality"), WORTH)
        held += found.target.low <= truth({"easy": "b/dear", "hard": "b/dear"}) <= found.target.high
    assert held >= 6


def test_a_policy_that_loses_is_not_promoted_and_the_reason_is_told() -> None:
    log = logged(1500)
    dear = report(log, policies.named("best-quality"), worth_nano=300_000.0)
    assert not dear.promote
    assert dear.over_present.high < 0
    assert "not surely better than what is done now" in dear.why
    same = report(log, policies.named("cheapest"), WORTH)
    assert not same.promote


def test_what_a_single_model_does_as_well_is_not_promoted() -> None:
    found = report(logged(3000), policies.named("best-quality"), 10 * WORTH)
    assert found.over_present.low > 0
    assert found.best_single == "b/dear"
    assert not found.promote
    assert "always taking b/dear" in found.why


TABLE = [
    model("first/dear", input_nano=10**10, output_nano=10**10, weight=0.0, hardware="gpu", hardware_quality=1.0),
    model("cloud/large", parameters=400 * 10**9, weight=3.0),
    model("cloud/cheap", input_nano=10**7, output_nano=10**7, parameters=8 * 10**9, weight=0.0),
    model("cloud/unpriced", input_nano=None, output_nano=None, weight=0.0),
    model("home/own", local=True, parameters=10**9, input_nano=None, weight=1.0),
    Model(provider="builtin", name="extract", weight=5.0),
]


@pytest.mark.parametrize("followed", ["efficient", "cheapest", "pinned"])
@pytest.mark.parametrize("judged", [False, True])
def test_whom_a_policy_would_have_taken_is_whom_it_takes(followed: str, judged: bool) -> None:
    board = Board()
    over = table(TABLE, board)
    for number, key in enumerate(over.keys):
        for _ in range(20):
            board.begun(key)
            board.answered(key, NOW, 500, (0.1 * (number + 1), 3.0 - 0.5 * number), 100)
    # The registry's first has failed too often.
    for _ in range(5):
        board.failed(over.keys[0], NOW)
    quality = Utility(np.array([0.2, 0.5, 0.9, 0.3, 0.6, 0.1]), np.full(6, 0.02)) if judged else None
    for text in (
        "Translate: good morning",
        "Prove it step by step, explain why, and compare: x^2 = 3. def f(): return {};",
    ):
        moment = Moment(now=NOW + 1, quality=quality, complexity=complexity.classify(text, 500))
        log = decided(over, followed, Need(tokens=500), moment).explain("dec", "auto")
        for name in policies.POLICIES:
            really = decided(over, name, Need(tokens=500), moment)
            chances = {over.ids[at]: chance for at, chance in really.chances().items()}
            told = replay.chosen_by(policies.named(name))(log)
            assert told == pytest.approx(chances) if name == "weighted" else list(told) == [really.first], name


def test_what_the_log_does_not_tell_is_no_verdict() -> None:
    log = logged(300)
    for one in log:
        for verdict in one.decision.verdicts:
            assert verdict.standing is not None
    older = [replace(one.decision, verdicts=tuple(replace(each, standing=None) for each in one.decision.verdicts))
             for one in log]  # fmt: skip
    found = report([Logged(told, one.outcome) for told, one in zip(older, log, strict=True)], policies.named("pinned"))
    assert (found.records, found.promote) == (0, False)
    assert "300 more do not tell" in found.why
    # Where nothing could leave the house, only policies that promise the same are judged.
    house = [Logged(replace(one.decision, policy="local-only"), one.outcome) for one in log]
    assert report(house, policies.named("cheapest")).records == 0
    assert report(house, policies.named("local-only")).records == 300


def test_what_another_answered_in_its_place_counts_for_the_model_that_was_tried_first() -> None:
    """The cheap one fails in 40 of 100 calls, and the dear one answers."""
    chance, log = random.Random(1), []
    for one in logged(1000, explore=0.0):
        fell_over = chance.random() < 0.4
        cost = 2 * 10**6 if fell_over else 10**5
        log.append(Logged(one.decision, Outcome("b/dear" if fell_over else "a/cheap", 1.0, cost)))
    found = report(log, policies.named("cheapest"), WORTH)
    assert found.records == 1000
    assert found.present.value == pytest.approx(1 - (0.6 * 10**5 + 0.4 * 2 * 10**6) / WORTH, abs=0.02)
    assert found.target.value == found.present.value


def test_a_gain_that_is_no_number_is_no_gain() -> None:
    found = report(logged(300), policies.named("best-quality"), math.nan)
    assert not found.promote
    assert "not surely better" in found.why


def test_where_the_caller_has_named_the_model_nothing_was_decided() -> None:
    named = decided(MODELS, policies.NAMED, Need(tokens=500, subject="easy")).explain("dec", "a/cheap")
    assert report([Logged(named, Outcome("a/cheap", 1.0, 1))] * 300, policies.named("cheapest"), WORTH).records == 0


def test_too_few_records_say_nothing() -> None:
    found = report(logged(50), policies.named("cheapest"))
    assert not found.promote
    assert "too few" in found.why
    assert report([], policies.named("cheapest")).records == 0


def test_a_policy_that_beats_both_is_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that sends the hard ones to the dear model and the easy ones to the cheap one."""
    split = {"easy": "a/cheap", "hard": "b/dear"}
    monkeypatch.setattr(replay, "chosen_by", lambda _: lambda decision: {split[decision.subject]: 1.0})
    found = report(logged(4000), policies.named("efficient"), WORTH)
    assert found.promote, found.why
    assert found.target.low <= truth(split) <= found.target.high
    assert found.effective > 100


def test_failures_are_worth_nothing_and_what_nobody_judged_is_taken_for_good() -> None:
    assert replay.value_of(Outcome("a/x", 0.9, 10**6, failed=True), 10**7) == pytest.approx(-0.1)
    assert replay.value_of(Outcome("a/x", None, None), 10**7) == 1.0
