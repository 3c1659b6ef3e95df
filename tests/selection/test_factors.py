"""What a model is worth in one respect: the requirement's formulas, fixed references, priors with a width."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.selection.tables import NOW, decided, ids, model, table

from gimle.selection import factors, policies
from gimle.selection.board import Board
from gimle.selection.decision import Moment
from gimle.selection.factors import FACTORS, WEIGHTS, References
from gimle.selection.types import Model, Need

UNKNOWN = math.nan


def column(*values: float) -> factors.Column:
    return np.array(values)


def test_the_default_weights_are_the_requirements() -> None:
    given = dict(zip(FACTORS, WEIGHTS, strict=True))
    assert given == {
        "size": 0.20, "hardware": 0.15, "reliability": 0.20, "latency": 0.25, "distance": 0.10, "cost": 0.10,
        "quality": 0.0, "speed": 0.0,
    }  # fmt: skip


def test_each_factor_has_its_formula_and_is_clipped() -> None:
    assert factors.size(column(0, 50, 100, 300), 100).value.tolist() == [0, 0.5, 1, 1]
    gpu, quality = column(1, 0, 1, 1), column(1.0, 1.0, 0.5, 0.1)
    assert factors.hardware(gpu, quality).value.tolist() == [1.0, 0.5, 0.5, 0.5]
    nothing = column(0, 0)
    assert factors.reliability(column(1.0, 0.8), column(0.1, 0.5), nothing).value.tolist() == [0.9, 0.4]
    assert factors.latency(column(0.25, 2.0), nothing, 1.0).value.tolist() == [0.75, 0.0]
    assert factors.distance(column(0, 2500, 20_000), 10_000).value.tolist() == [1, 0.75, 0]
    assert factors.cost(column(0, 15, 90), 60).tolist() == [1, 0.75, 0]


def test_what_is_not_known_is_neither_0_nor_1_and_has_a_width() -> None:
    for utility in (
        factors.size(column(UNKNOWN), 100),
        factors.hardware(column(UNKNOWN), column(UNKNOWN)),
        factors.distance(column(UNKNOWN), 100),
    ):
        assert 0.2 < utility.value[0] < 0.8
        assert utility.width[0] > 0.1


def test_distances_on_the_earth() -> None:
    berlin, lisbon = (52.52, 13.40), (38.72, -9.14)
    assert factors.km(berlin, lisbon) == pytest.approx(2312, abs=10)
    assert factors.km(berlin, berlin) == 0
    assert math.isnan(factors.km(None, berlin))


def test_a_price_that_nobody_knows_lies_between_the_cheap_and_the_dear() -> None:
    models = [
        model("a/dear", input_nano=30 * 10**9, output_nano=30 * 10**9),
        model("a/unknown", input_nano=None, output_nano=None),
        model("a/cheap", input_nano=1, output_nano=1),
    ]
    assert ids(decided(models)) == ["a/cheap", "a/unknown", "a/dear"]
    verdict = decided(models).explain("dec_1", "auto").verdicts[1]
    assert (verdict.cost_nano, verdict.factors["cost"], verdict.widths["cost"]) == (None, 0.5, 0.25)


facts = st.fixed_dictionaries(
    {
        "parameters": st.none() | st.integers(1, 10**12),
        "input_nano": st.none() | st.integers(0, 10**11),
        "output_nano": st.none() | st.integers(0, 10**11),
        "hardware": st.sampled_from([None, "gpu", "cpu"]),
        "hardware_quality": st.none() | st.floats(0, 2),
        "place": st.none() | st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
        "local": st.booleans(),
        "context_window": st.integers(10, 10**6),
        "weight": st.floats(0, 10),
    }
)
measured = st.lists(st.tuples(st.booleans(), st.floats(0.001, 60), st.integers(0, 10**5)), max_size=8)
everything = st.lists(st.tuples(facts, measured), min_size=2, max_size=7)


def _measured(board: Board, one: Model, calls: list[tuple[bool, float, int]]) -> None:
    for fine, seconds, tokens in calls:
        if fine:
            board.answered(f":{one.id}", NOW, tokens, (seconds, 2 * seconds), 50)
        else:
            board.failed(f":{one.id}", NOW)


@settings(deadline=None, max_examples=80)
@given(everything, st.sampled_from(sorted(policies.POLICIES)), st.integers(0, 5000))
def test_a_further_candidate_never_changes_the_order_of_the_others(
    drawn: list[tuple[dict[str, object], list[tuple[bool, float, int]]]], policy: str, tokens: int
) -> None:
    board = Board()
    models = [model(f"p/{n}", **known) for n, (known, _) in enumerate(drawn)]
    for one, (_, calls) in zip(models, drawn, strict=True):
        # Who fails five times in a row is set apart, and only half of the candidates can be: that is another matter.
        _measured(board, one, calls[:4])
    references = References(place=(52.5, 13.4))
    need, moment = Need(tokens=tokens), Moment(now=NOW)

    def order(some: list[Model]) -> list[str]:
        over = table(some, board, references)
        found = decided(over, policies.named(policy), need, moment).order
        return [over.ids[at] for at in found.ranked]

    whole = order(models)
    for pair in combinations(models, 2):
        assert order(list(pair)) == [id for id in whole if id in {one.id for one in pair}]
