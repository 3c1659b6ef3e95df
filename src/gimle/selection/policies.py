"""The policies by name. A policy says what counts and how much; what is possible at all is the gates' part.

A caller chooses one with `auto:<name>`; a model that he names himself wins over every policy.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from gimle.foundation.errors import InvalidRequest
from gimle.selection.factors import COST, FACTORS, LATENCY, QUALITY, SIZE, WEIGHTS, Column, Utility

By = Literal["score", "cost", "seconds", "quality", "weight", "registry"]
Level = Literal["easy", "medium", "hard"]

# How much of each factor's weight moves, and where to.
_MOVES: Mapping[str, Mapping[int, float]] = {
    "easy": {SIZE: -1.0, QUALITY: -0.5, COST: 0.6, LATENCY: 0.4},
    "hard": {COST: -1.0, LATENCY: -0.5, SIZE: 0.6, QUALITY: 0.4},
}
# What the policy `best-quality` gives for money: the dearest price is worth so much of a perfect answer.
THRIFT = 0.02
_HEAVIEST = 1000.0
# Nano-dollars: dearer than any call whose price is known.
_UNPRICED = 1e15
# The part of the score that quality takes where it has been judged: all else together counts as much as how good the
# answers are. With less, an answer's quality is given away for speed (docs/benchmarks.md); more of it gains nothing.
_QUALITY = 0.5


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How candidates are put in order.

    `by` is what comes first: the score, the expected cost or time, the quality's lower bound, the share that was given,
    or the registry's own order. `weights`, in the order of the factors, make up the score. `caution` takes so many
    widths off it, so that what is little known must promise more. `local` lets only models on own hardware pass.
    `spread` shares the calls between those that are about equal. `lenient` leaves it to a
    model's provider to say what it can't do: nothing is held against it but that it can't serve.
    """

    name: str
    by: By = "score"
    weights: tuple[float, ...] = WEIGHTS
    caution: float = 0.5
    local: bool = False
    spread: bool = True
    lenient: bool = False


class Grounds(NamedTuple):
    """What policies go by, a number a candidate; a policy looks at nothing but its own.

    Costs are in nano-dollars (NaN: nobody knows), `share` is the weight under `weighted`, and `place` counts in the
    registry's order.
    """

    score: Column
    width: Column
    cost: Column
    seconds: Column
    quality: Utility
    cheapness: Column
    share: Column
    place: Column


DEFAULT = "efficient"

POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        # The weighted sum of all that is known.
        Policy(name="efficient"),
        # The least money for this call; the score decides between those that cost the same.
        Policy(name="cheapest", by="cost"),
        # The least time to the last token.
        Policy(name="fastest", by="seconds"),
        # Measured answers first, as far as they are sure, and of those about as good the cheaper; until there are
        # judgements, size stands in.
        Policy(name="best-quality", by="quality", spread=False),
        # Nothing leaves the house.
        Policy(name="local-only", local=True),
        # In proportion to the weights of the registry.
        Policy(name="weighted", by="weight"),
        # The registry's first that can serve: what an administrator has put on top.
        Policy(name="pinned", by="registry", spread=False),
    )
}


# No policy to ask for: the caller has named the model himself.
NAMED = Policy(name="named", by="registry", spread=False, lenient=True)


def named(name: str) -> Policy:
    """The policy of a name. Raises `InvalidRequest`."""
    policy = POLICIES.get(name)
    if policy is None:
        known = ", ".join(POLICIES)
        raise InvalidRequest(f"There is no policy {name[:40]!r}.", field="policy", hint=f"Known: {known}.")
    return policy


def weighted(policy: Policy, weights: Mapping[str, float]) -> Policy:
    """The policy with some weights changed; they are parts of their sum. Raises `InvalidRequest`."""
    if not weights:
        return policy
    unknown = weights.keys() - set(FACTORS)
    if unknown:
        raise InvalidRequest(
            f"There is no factor {min(unknown)[:40]!r}.", field="weights", hint=f"Known: {', '.join(FACTORS)}."
        )
    merged = tuple(weights.get(name, of) for name, of in zip(FACTORS, policy.weights, strict=True))
    if not all(0 <= value <= _HEAVIEST for value in merged) or not any(merged):
        raise InvalidRequest("A weight is from 0 to 1000, and one of them is more than 0.", field="weights")
    return msgspec.structs.replace(policy, weights=merged)


def value(policy: Policy, by: Grounds) -> Column:
    """What a policy puts first, higher being better."""
    match policy.by:
        case "score":
            return by.score - policy.caution * by.width
        case "cost":
            return -np.where(np.isnan(by.cost), _UNPRICED, by.cost)
        case "seconds":
            return -by.seconds
        case "quality":
            return by.quality.value - policy.caution * by.quality.width + THRIFT * by.cheapness
        case "weight":
            return by.share
        case "registry":
            return -by.place


@lru_cache(1024)
def effective(policy: Policy, level: Level | None, *, judged: bool) -> Policy:
    """The policy for a prompt of this complexity, its weights as parts of 1.

    What size is worth goes to price and speed when a prompt is easy, and back when it is hard. Quality joins where it
    has been `judged`.
    """
    weights = list(policy.weights)
    if policy.by == "score":
        _move(weights, _MOVES.get(level or "", {}))
        if judged and not weights[QUALITY]:
            weights[QUALITY] = sum(weights) * _QUALITY / (1.0 - _QUALITY)
    total = sum(weights)
    return msgspec.structs.replace(policy, weights=tuple(weight / total for weight in weights))


def _move(weights: list[float], moves: Mapping[int, float]) -> None:
    """Take a part of some weights, and give it to others."""
    free = 0.0
    for factor, part in moves.items():
        if part < 0:
            taken = -part * weights[factor]
            weights[factor] -= taken
            free += taken
    for factor, part in moves.items():
        if part > 0:
            weights[factor] += part * free
