"""In which order the candidates for a call are tried, and why. Pure: decides order and nothing else.

    gates → facts → factors → score → order → balance between equals → now and then another, to learn

`decide` is the one entry for what is chosen by policy; `order` for a model that the caller has named. Time and chance
are given, and the only state that changes is the balance's.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile

import numpy as np

from gimle.selection import balance, factors, gates, policies
from gimle.selection.decision import Decision, Moment, Order, Pick, to_learn
from gimle.selection.factors import COST, QUALITY, SPEED, Column
from gimle.selection.gates import Known
from gimle.selection.policies import Grounds, Policy
from gimle.selection.table import Mask, Panel, Table
from gimle.selection.types import Choice, Model, Need

# At most so many of a hundred calls are used to learn.
MOST_EXPLORED = 0.03
_NOTHING: Column = np.zeros(0)
# Scores that differ by less count as equal, and so do costs, times and shares which differ by less than this part.
EQUAL = 0.01
_NEARLY = 0.02


def decide(
    table: Table, need: Need, policy: Policy, moment: Moment, robin: balance.RoundRobin, order: Order | None = None
) -> Decision:
    """The models to try for a call, by a policy. `order` is one that was worked out just before for the same need."""
    cached = order is not None
    order = order or ordered(table, need, policy, moment)
    if not order.ranked:
        return Decision(table, order, moment, Pick(), cached=cached)
    equal = _equals(table, order)
    shares = _shares(table, order, equal, moment.now) if len(equal) > 1 else {equal[0]: 1.0}
    first = _balanced(table, order, shares, moment, robin) if len(equal) > 1 else equal[0]
    learn = min(moment.explore, MOST_EXPLORED) if need.priority != "high" else 0.0
    explored = False
    if moment.roll < learn and (others := to_learn(table, order, moment)):
        first, explored = others[int(moment.roll / learn * len(others))], True
    places = (first, *[at for at in order.ranked if at != first])
    return Decision(table, order, moment, Pick(places, shares, learn, explored), cached=cached)


def ordered(table: Table, need: Need, policy: Policy, moment: Moment) -> Order:
    """Pass the candidates through the gates, judge those that are left, and put them in order."""
    hard = moment.complexity.level if moment.complexity is not None else None
    policy = policies.effective(policy, hard, judged=moment.quality is not None)
    panel = table.panel(need.tokens, moment.now)
    fixed, width = panel.sums(policy.weights, moment.quality)
    cheapness = table.cheapness(need.tokens, need.output)
    score = fixed + policy.weights[COST] * cheapness
    known = _known(table, need, policy, moment, panel)
    if policy.weights[SPEED]:
        longest = table.references.speed_seconds
        score += policy.weights[SPEED] * factors.speed(known.seconds, known.seconds, longest).value
    eligible = gates.passing(table, need, known)
    quality = panel.judged[QUALITY] if moment.quality is None else moment.quality
    grounds = Grounds(score, width, known.cost, known.seconds, quality, cheapness, table.share, table.place)
    value = policies.value(policy, grounds)
    value = value + table.resort if need.kind == "embedding" else value - table.resort
    apart = _apart(table, panel, eligible, moment.now)
    return Order(need, policy, panel, _ranked(eligible, apart, value, score), value, score, width, known, apart)


def _known(table: Table, need: Need, policy: Policy, moment: Moment, panel: Panel) -> Known:
    """What the gates ask for, as far as they will: most calls have no limits."""
    limited = need.max_seconds is not None or policy.by == "seconds" or policy.weights[SPEED]
    seconds = panel.measured.first + panel.measured.a_token * need.output if limited else _NOTHING
    priced = need.max_nano is not None or need.budget_nano is not None or policy.by == "cost"
    cost = table.cost(need.tokens, need.output) if priced else _NOTHING
    return Known(seconds, cost, moment.held, policy.local, policy.lenient)


def _apart(table: Table, panel: Panel, eligible: Mask, now: float) -> Mask:
    """Who stands apart for its failures, of those who may serve. The last resort takes nobody's place."""
    apart = np.zeros(len(table), dtype=np.bool_)
    if panel.ejects:
        able = (eligible & ~table.inside).nonzero()[0]
        apart[able] = table.board.ejected(table.slots[able], now)
    return apart


def _ranked(eligible: Mask, apart: Mask, value: Column, score: Column) -> list[int]:
    """Those who may serve, best first; the score decides between those of one value.

    Those that stand apart for their failures come last: they are better than nobody.
    """
    there = eligible.nonzero()[0]
    order = np.lexsort((-score[there], -value[there], apart[there]))
    ranked: list[int] = there[order].tolist()
    return ranked


def _equals(table: Table, order: Order) -> list[int]:
    """The first, and those that are about as good."""
    ranked, value = order.ranked, order.value
    top = float(value[ranked[0]])
    if not order.policy.spread or len(ranked) == 1:
        return ranked[:1]
    match order.policy.by:
        case "weight":
            lowest = 0.0 if top > 0 else top
        case "score" | "quality":
            lowest = top - EQUAL
        case _:
            lowest = top - _NEARLY * abs(top)
    equal = list(takewhile(lambda at: value[at] >= lowest and not order.apart[at], ranked))
    if order.policy.by == "weight":
        # A share of 0 is none.
        return [at for at in equal if value[at]] or ranked[:1]
    return [at for at in equal if _peers(table, ranked[0], at)]


def _peers(table: Table, best: int, at: int) -> bool:
    """Whether a model may share the calls of one that is no better. The last resort is nobody's peer.

    Nor is a different model whose price nobody knows: that it seems no worse only shows how little is known of it.
    """
    one, other = table.models[best], table.models[at]
    if at == best or one.name == other.name:
        return True
    return (one.dialect is None) == (other.dialect is None) and table.priced[best] and table.priced[at]


def _shares(table: Table, order: Order, equal: list[int], now: float) -> dict[int, float]:
    worth = table.share if order.policy.by == "weight" else order.score
    return {at: max(float(worth[at]), 1e-6) * table.board.share(table.places[at], table.room[at], now) for at in equal}


def _balanced(
    table: Table, order: Order, shares: Mapping[int, float], moment: Moment, robin: balance.RoundRobin
) -> int:
    """One of those that are equal: by turns between models, by load between the deployments of one."""
    places = list(shares)
    if moment.prefix is not None:
        flying = [table.board.flying(table.places[at]) for at in places]
        return places[balance.affine(moment.prefix, [table.ids[at] for at in places], flying)]
    by_id = order.policy.by == "weight"
    models: dict[str, list[int]] = {}
    for at in places:
        models.setdefault(table.ids[at] if by_id else table.models[at].name, []).append(at)
    group = models[robin.pick({name: sum([shares[at] for at in group]) for name, group in models.items()})]
    # Who is overloaded or just back takes part in proportion: its load counts for as much more as its share is smaller.
    return group[
        balance.two_choices([table.board.wait(table.places[at]) / shares[at] for at in group], moment.second_roll)
    ]


# -- models that the caller has named


def order(models: Sequence[Model], need: Need, *, automatic: bool = False) -> Choice:
    """Order the candidates for a call without a policy.

    A model that can't serve now is left out. When the caller named the model (`automatic` false), nothing else is held
    against it: what it can't do, its provider will say. With `auto`, models that lack a capability or whose window is
    too small are left out too, and the engines inside Gimle come last, but first for vectors, whose space must not
    change when a provider is added. Else the order is the registry's: the cloud gets no preference over local.
    """
    reasons: dict[str, str] = {}
    able: list[Model] = []
    for model in models:
        against = _against(model, need, automatic)
        reasons[model.id] = against or "can serve"
        if against is None:
            able.append(model)
    if automatic:
        able.sort(key=lambda model: (model.dialect is None) == (need.kind != "embedding"))
    return Choice(tuple(able), reasons)


def _against(model: Model, need: Need, automatic: bool) -> str | None:
    if model.kind != need.kind:
        return f"is not for {need.kind}"
    if model.unavailable is not None:
        return model.unavailable
    if not automatic:
        return None
    lacking = need.capabilities - model.capabilities
    if lacking:
        return f"lacks {', '.join(sorted(lacking))}"
    # An engine inside Gimle counts for itself, and exactly.
    if model.dialect is not None and need.tokens > model.context_window:
        return f"takes {model.context_window} tokens, {need.tokens} are needed"
    return None
