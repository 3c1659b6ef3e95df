"""Quality from judgements: Beta posteriors, what is borrowed; exploring is capped, told, and never of high priority."""

import numpy as np
import pytest
from tests.selection.tables import NOW, decided, model, table

from gimle.selection import quality
from gimle.selection.balance import RoundRobin
from gimle.selection.decision import Moment
from gimle.selection.factors import QUALITY, Utility
from gimle.selection.quality import HALF_LIFE, SIGNALS, Judgements, rated
from gimle.selection.types import Model, Need, Priority

MODELS = ("a/x", "b/y", "c/z")
SIZE = np.array([0.5, 0.5, 0.5])


def judged(good: int, bad: int, model: str = "a/x", subject: str = "chat/en/easy") -> Judgements:
    known = Judgements()
    for stars, times in ((5.0, good), (1.0, bad)):
        for _ in range(times):
            known.add(subject, model, rated(stars), NOW)
    return known


def test_quality_does_not_count_before_there_are_enough_judgements() -> None:
    assert judged(10, 5).utility("chat/en/easy", MODELS, SIZE, NOW) is None
    assert judged(15, 5).utility("chat/en/easy", MODELS, SIZE, NOW) is not None


def test_judgements_move_the_mean_and_narrow_the_doubt() -> None:
    utility = judged(90, 10).utility("chat/en/easy", MODELS, SIZE, NOW)
    assert utility is not None
    assert utility.value[0] == pytest.approx(0.9, abs=0.02)
    assert utility.value[1] == pytest.approx(0.65)
    assert utility.width[0] < 0.05 < utility.width[1]


def test_a_class_borrows_from_what_the_model_did_elsewhere() -> None:
    known = judged(0, 40, subject="chat/de/hard")
    for _ in range(25):
        known.add("chat/en/easy", "b/y", rated(3.0), NOW)
    utility = known.utility("chat/en/easy", MODELS, SIZE, NOW)
    assert utility is not None
    assert utility.value[0] < 0.2 < utility.value[2]


def test_old_judgements_fade() -> None:
    known = judged(40, 0)
    assert known.of("chat/en/easy", "a/x").faded(NOW + HALF_LIFE)[0] == pytest.approx(20)
    assert known.utility("chat/en/easy", MODELS, SIZE, NOW + 10 * HALF_LIFE) is None


def test_what_was_worked_out_for_models_that_are_gone_serves_no_others() -> None:
    known, over = judged(90, 10), table([model("a/x"), model("b/y")])
    weights, panel = (1.0,) * 8, over.panel(100, NOW)
    for number in range(100):
        # Each is made anew, often where the one before lay.
        names = tuple(f"{letter}/{letter}" for letter in "pqrs"[: 2 + number % 2])
        utility = known.utility("chat/en/easy", names, np.full(len(names), 0.5), NOW)
        assert utility is not None
        assert len(utility.value) == len(names)
        del names, utility
        score, _ = panel.sums(weights, Utility(np.full(2, number / 100), np.zeros(2)))
        usual, _ = panel.sums(weights, None)
        assert (score - usual)[0] == pytest.approx(number / 100 - panel.judged[QUALITY].value[0])


def test_a_source_outside_is_a_prior_that_judgements_outweigh() -> None:
    known = judged(0, 100)
    known.heed({"a/x": 0.95, "b/y": 0.95})
    utility = known.utility("chat/en/easy", MODELS, SIZE, NOW)
    assert utility is not None
    assert utility.value[1] == pytest.approx(0.95)
    assert utility.value[0] < 0.3


def test_signals() -> None:
    assert [rated(stars).good for stars in (1, 3, 5)] == [0.0, 0.5, 1.0]
    assert SIGNALS["retried"].good < 0.5 < SIGNALS["preferred"].good
    assert SIGNALS["schema_invalid"].weight > SIGNALS["schema_valid"].weight


def _explored(roll: float, priority: Priority = "normal", explore: float = 0.03) -> bool:
    over = table([model("a/x", input_nano=1), model("b/y")])
    return decided(over, need=Need(priority=priority), moment=Moment(now=NOW, roll=roll, explore=explore)).explored


def test_at_most_three_of_a_hundred_calls_are_used_to_learn_and_none_of_high_priority() -> None:
    assert _explored(0.029)
    assert not _explored(0.031)
    assert not _explored(0.031, explore=0.5)
    assert not _explored(0.0, explore=0.0)
    assert not _explored(0.0, priority="high")


def test_the_chances_sum_up_to_one_and_are_those_of_what_happens() -> None:
    over = table([model("a/x", input_nano=1), model("b/y"), model("c/z")])
    rolls = [(n + 0.5) / 2000 for n in range(2000)]
    moments = [Moment(now=NOW, roll=roll, explore=0.03) for roll in rolls]
    robin = RoundRobin()
    firsts = [decided(over, moment=moment, robin=robin).first for moment in moments]
    chances = {v.model: v.propensity for v in decided(over, moment=moments[-1]).explain("d", "auto").verdicts}
    assert sum(chances.values()) == pytest.approx(1.0, abs=1e-5)
    for name, chance in chances.items():
        assert firsts.count(name) / 2000 == pytest.approx(chance, abs=0.002)


def test_the_last_resort_is_not_tried_to_learn() -> None:
    over = table([model("a/x"), Model(provider="builtin", name="extract")])
    assert decided(over, moment=Moment(now=NOW, roll=0.0, explore=0.03)).first == "a/x"


def test_who_is_surely_worse_is_not_tried_to_learn() -> None:
    known = judged(100, 0, "a/x")
    for _ in range(100):
        known.add("chat/en/easy", "b/y", rated(1.0), NOW)
    over = table([model("a/x"), model("b/y")])
    utility = known.utility("chat/en/easy", over.ids, over.size.value, NOW)
    for roll in (0.0, 0.01, 0.02):
        found = decided(over, moment=Moment(now=NOW, roll=roll, explore=0.03, quality=utility))
        assert found.first == "a/x"
    assert quality.ENOUGH > 0
