"""What a decision takes in, and what it says: who is tried, in which order, and all the reasons, told when asked."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec
import numpy as np

from gimle.selection import gates
from gimle.selection.factors import COST, FACTORS, SPEED, Column, Utility, speed
from gimle.selection.gates import Known
from gimle.selection.policies import Policy
from gimle.selection.table import Panel, Table
from gimle.selection.types import Complexity, Explanation, Model, Need, Verdict

# Nano-dollars.
_CENT = 1e7


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision takes from the world: the time, chance, and what the gateway and the tenant know.

    `roll` and `second_roll` are from 0 up to 1. `held` maps models to the gate (`breaker`, `quota`) that holds them.
    `explore` is the share of calls that may be used to learn. Calls with the same `prefix` stay together.
    """

    now: float
    roll: float = 1.0
    second_roll: float = 0.0
    held: Mapping[str, str] = {}
    quality: Utility | None = None
    complexity: Complexity | None = None
    explore: float = 0.0
    prefix: int | None = None


class Order(msgspec.Struct, frozen=True):
    """Who may serve, best first (`ranked`, as places in the table), and how they were judged."""

    need: Need
    policy: Policy
    panel: Panel
    ranked: list[int]
    value: Column
    score: Column
    width: Column
    known: Known


def to_learn(table: Table, order: Order, moment: Moment) -> list[int]:
    """Who might be better than the best is sure to be: the ends of what is thought possible overlap.

    Learning has its price: who would cost more than a cent and three times the best, or nobody knows what, is not tried
    for it, nor is the last resort. Policies that promise an order or exact shares keep them.
    """
    if order.policy.by in ("weight", "registry"):
        return []
    value, width = moment.quality or (order.score, order.width)
    cost = table.cost(order.need.tokens, order.need.output)
    best, *others = order.ranked
    surely, dearest = value[best] - width[best], max(_CENT, 3.0 * cost[best])
    return [
        at
        for at in others
        if table.inside[at] == table.inside[best] and value[at] + width[at] > surely and cost[at] <= dearest
    ]


class Pick(msgspec.Struct, frozen=True):
    """Who is tried, best first (`places` in the table), and which share of the calls each of the equals has.

    `learn` is the part of the calls that is used to learn, and `explored` says that this is one of them.
    """

    places: tuple[int, ...] = ()
    shares: Mapping[int, float] = {}
    learn: float = 0.0
    explored: bool = False


class Decision:
    """The models to try, best first. All else is worked out when somebody asks."""

    __slots__ = ("_pick", "cached", "moment", "order", "places", "table")

    def __init__(self, table: Table, order: Order, moment: Moment, pick: Pick, *, cached: bool = False) -> None:
        self.table = table
        self.order = order
        self.moment = moment
        self.places = pick.places
        self._pick = pick
        self.cached = cached

    @property
    def explored(self) -> bool:
        """Whether the choice was made to learn."""
        return self._pick.explored

    def chances(self) -> dict[int, float]:
        """The chance of each, by its place in the table, that it is tried first."""
        total = sum(self._pick.shares.values())
        chances = {at: share / total for at, share in self._pick.shares.items()}
        others = to_learn(self.table, self.order, self.moment) if self._pick.learn and self.places else []
        if others:
            chances = {at: chance * (1.0 - self._pick.learn) for at, chance in chances.items()}
            for at in others:
                chances[at] = chances.get(at, 0.0) + self._pick.learn / len(others)
        return chances

    @property
    def models(self) -> tuple[Model, ...]:
        """The models to try, best first."""
        known = self.table.models
        return tuple([known[at] for at in self.places])

    @property
    def first(self) -> str | None:
        """The id of the model that is tried first."""
        return self.table.ids[self.places[0]] if self.places else None

    def reasons(self) -> dict[str, str]:
        """Each model's reason, by id: why it was left out, or where it stands."""
        failed = self._failed()
        found = {}
        for at, model in enumerate(self.table.ids):
            gates_ = failed.get(at)
            if gates_:
                found[model] = gates.reason(gates_[0], self.table, at, self.order.need)
            else:
                found[model] = f"scores {self.order.score[at]:.3f}"
        return found

    def header(self, id: str) -> str:
        """The decision in one line for a header: policy, who, the next, how many failed at which gate."""
        order = self.order
        parts = [id, order.policy.name]
        parts += [f"{self.table.ids[at]}={order.score[at]:.2f}" for at in self.places[:2]]
        counts: dict[str, int] = {}
        for names in self._failed().values():
            counts[names[0]] = counts.get(names[0], 0) + 1
        parts += [f"{name}:-{count}" for name, count in counts.items()]
        if self.places:
            parts.append(f"p={self.chances().get(self.places[0], 0.0):.3f}")
        if self.explored:
            parts.append("explored")
        if self.moment.complexity is not None:
            parts.append(self.moment.complexity.level)
        return "; ".join(part.encode("ascii", "replace").decode() for part in parts)

    def explain(self, id: str, requested: str, shadow: Mapping[str, str] | None = None) -> Explanation:
        """The decision in full."""
        order = self.order
        failed = self._failed()
        chosen = set(self.places)
        behind = [at for at in range(len(self.table)) if at not in chosen]
        judge = self._judge()
        return Explanation(
            id=id,
            decided_at=datetime.fromtimestamp(self.moment.now, UTC),
            policy=order.policy.name,
            requested=requested,
            chosen=self.first,
            weights={name: round(part, 4) for name, part in zip(FACTORS, order.policy.weights, strict=True) if part},
            verdicts=tuple(judge(at, failed.get(at, ())) for at in (*self.places, *behind)),
            subject=order.need.subject,
            tokens=order.need.tokens,
            explored=self.explored,
            cached=self.cached,
            complexity=self.moment.complexity,
            shadow=dict(shadow or {}),
        )

    def _judge(self) -> Callable[[int, tuple[str, ...]], Verdict]:
        """What is said of each model, by its place and the gates at which it failed."""
        order, need = self.order, self.order.need
        known = self._known()
        judged = order.panel.with_quality(self.moment.quality)
        judged[COST] = Utility(self.table.cheapness(need.tokens, need.output), judged[COST].width)
        longest = self.table.references.speed_seconds
        judged[SPEED] = Utility(speed(known.seconds, known.seconds, longest).value, judged[SPEED].width)
        chances = self.chances()

        def verdict(at: int, failed: tuple[str, ...]) -> Verdict:
            cost = known.cost[at]
            return Verdict(
                model=self.table.ids[at],
                gates=tuple(f"{gate}: {gates.reason(gate, self.table, at, need)}" for gate in failed),
                score=round(float(order.score[at]), 4),
                width=round(float(order.width[at]), 4),
                factors={name: round(float(one.value[at]), 4) for name, one in zip(FACTORS, judged, strict=True)},
                widths={name: round(float(one.width[at]), 4) for name, one in zip(FACTORS, judged, strict=True)},
                propensity=round(chances.get(at, 0.0), 6),
                cost_nano=None if np.isnan(cost) else round(cost),
                seconds=round(float(known.seconds[at]), 3),
            )

        return verdict

    def _known(self) -> Known:
        order, need = self.order, self.order.need
        seconds = order.panel.measured.first + order.panel.measured.a_token * need.output
        return Known(seconds, self.table.cost(need.tokens, need.output), self.moment.held, order.policy.local)

    def _failed(self) -> dict[int, tuple[str, ...]]:
        """The gates at which each model failed."""
        found: dict[int, tuple[str, ...]] = {}
        for name, mask in gates.failed(self.table, self.order.need, self._known()):
            for at in mask.nonzero()[0].tolist():
                found[at] = (*found.get(at, ()), name)
        return found
