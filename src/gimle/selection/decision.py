"""What a decision takes in, and what it says: who is tried, in which order, and all the reasons, told when asked."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
import numpy as np

from gimle.selection import gates
from gimle.selection.factors import COST, FACTORS, SPEED, Column, Utility, speed
from gimle.selection.gates import Known
from gimle.selection.policies import Policy
from gimle.selection.table import Mask, Panel, Table, stays
from gimle.selection.types import Complexity, Explanation, Model, Need, Standing, Verdict

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
    """Who may serve, best first (`ranked`, as places in the table), and how they were judged.

    `apart` are those of them that come last for their failures.
    """

    need: Need
    policy: Policy
    panel: Panel
    ranked: list[int]
    value: Column
    score: Column
    width: Column
    known: Known
    apart: Mask


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
    worth_it = (table.inside == table.inside[best]) & (value + width > surely) & (cost <= dearest)
    told: list[bool] = worth_it.tolist()
    return [at for at in others if told[at]]


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

    __slots__ = ("_chances", "_pick", "cached", "moment", "order", "places", "table")

    def __init__(self, table: Table, order: Order, moment: Moment, pick: Pick, *, cached: bool = False) -> None:
        self.table = table
        self.order = order
        self.moment = moment
        self.places = pick.places
        self._pick = pick
        self.cached = cached
        self._chances: dict[int, float] | None = None

    @property
    def explored(self) -> bool:
        """Whether the choice was made to learn."""
        return self._pick.explored

    def chances(self) -> dict[int, float]:
        """The chance of each, by its place in the table, that it is tried first."""
        if self._chances is None:
            self._chances = self._weighed()
        return self._chances

    def _weighed(self) -> dict[int, float]:
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
        parts += [f"{name}:-{count}" for name, count in self._dropped()]
        if self.places:
            parts.append(f"p={self.chances().get(self.places[0], 0.0):.3f}")
        if self.explored:
            parts.append("explored")
        if self.moment.complexity is not None:
            parts.append(self.moment.complexity.level)
        return "; ".join(part.encode("ascii", "replace").decode() for part in parts)

    def explain(
        self, id: str, requested: str, shadow: Mapping[str, str] | None = None, most: int | None = None
    ) -> Explanation:
        """The decision in full; with `most`, all who might have been chosen, and so many of the others as there is room
        for.
        """
        order = self.order
        failed = self._failed()
        chosen = set(self.places)
        told = [*self.places, *(at for at in range(len(self.table)) if at not in chosen)]
        if most is not None:
            told = told[: max(most, len(self.places))]
        return Explanation(
            id=id,
            decided_at=datetime.fromtimestamp(self.moment.now, UTC),
            policy=order.policy.name,
            requested=requested,
            chosen=self.first,
            weights={name: round(part, 4) for name, part in zip(FACTORS, order.policy.weights, strict=True) if part},
            verdicts=tuple(self._verdicts(told, failed)),
            subject=order.need.subject,
            tokens=order.need.tokens,
            explored=self.explored,
            cached=self.cached,
            judged=self.moment.quality is not None,
            complexity=self.moment.complexity,
            shadow=dict(shadow or {}),
        )

    def _verdicts(self, told: list[int], failed: Mapping[int, tuple[str, ...]]) -> Iterator[Verdict]:
        """What is said of each of some models, by their places; `failed` are the gates at which they failed."""
        order, need = self.order, self.order.need
        known, chances = self._known(), self.chances()
        judged = order.panel.with_quality(self.moment.quality)
        judged[COST] = Utility(self.table.cheapness(need.tokens, need.output), judged[COST].width)
        longest = self.table.references.speed_seconds
        judged[SPEED] = Utility(speed(known.seconds, known.seconds, longest).value, judged[SPEED].width)
        factors = _rows([one.value for one in judged], told)
        widths = _rows([one.width for one in judged], told)
        sums = _rows([order.score, order.width, known.seconds], told)
        for at, values, doubts, (score, width, seconds) in zip(told, factors, widths, sums, strict=True):
            cost = known.cost[at]
            yield Verdict(
                model=self.table.ids[at],
                gates=tuple(f"{gate}: {gates.reason(gate, self.table, at, need)}" for gate in failed.get(at, ())),
                score=score,
                width=width,
                factors=dict(zip(FACTORS, values, strict=True)),
                widths=dict(zip(FACTORS, doubts, strict=True)),
                propensity=round(chances.get(at, 0.0), 6),
                cost_nano=None if np.isnan(cost) else round(cost),
                seconds=seconds,
                standing=self._standing(at),
            )

    def _standing(self, at: int) -> Standing:
        model = self.table.models[at]
        return Standing(at, model.weight, stays(model), model.dialect is None, bool(self.order.apart[at]))

    def _known(self) -> Known:
        order, need = self.order, self.order.need
        seconds = order.panel.measured.first + order.panel.measured.a_token * need.output
        cost = self.table.cost(need.tokens, need.output)
        return Known(seconds, cost, self.moment.held, order.policy.local, order.policy.lenient)

    def _dropped(self) -> Iterator[tuple[str, int]]:
        """How many models each gate has dropped that none before it has."""
        left = self.table.everyone
        for name, mask in gates.failed(self.table, self.order.need, self._known()):
            if count := int(np.count_nonzero(left & mask)):
                yield name, count
                left = left & ~mask

    def _failed(self) -> dict[int, tuple[str, ...]]:
        """The gates at which each model failed."""
        found: dict[int, tuple[str, ...]] = {}
        for name, mask in gates.failed(self.table, self.order.need, self._known()):
            for at in mask.nonzero()[0].tolist():
                found[at] = (*found.get(at, ()), name)
        return found


def _rows(columns: Sequence[Column], places: list[int]) -> list[list[float]]:
    """What the columns say of some places, a row each."""
    rows: list[list[float]] = np.round(np.array(columns)[:, places].T, 4).tolist()
    return rows
