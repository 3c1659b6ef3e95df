"""Another policy judged by the log: the estimate holds the truth, and luck is not promoted."""

import random

import pytest
from tests.selection.tables import NOW, decided, model, table

from gimle.selection import policies, replay
from gimle.selection.balance import RoundRobin
from gimle.selection.decision import Moment
from gimle.selection.replay import Logged, Outcome, report
from gimle.selection.types import Need

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
    monkeypatch.setattr(replay, "chosen_by", lambda _: lambda decision: split[decision.subject])
    found = report(logged(4000), policies.named("efficient"), WORTH)
    assert found.promote, found.why
    assert found.target.low <= truth(split) <= found.target.high
    assert found.effective > 100


def test_failures_are_worth_nothing_and_what_nobody_judged_is_taken_for_good() -> None:
    assert replay.value_of(Outcome("a/x", 0.9, 10**6, failed=True), 10**7) == pytest.approx(-0.1)
    assert replay.value_of(Outcome("a/x", None, None), 10**7) == 1.0
