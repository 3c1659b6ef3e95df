"""What a model must be able to do before it is judged at all. Each gate has a name, and a model may fail several."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import numpy as np

from gimle.selection.factors import Column
from gimle.selection.table import STRICTNESS, Mask, Table
from gimle.selection.types import Need


class Known(msgspec.Struct, frozen=True):
    """What the gates know of this moment: expected seconds and costs, and whom the gateway holds back, and why.

    `held` maps a model's id to the gate at which it is held: `breaker`, `quota`. `local` lets only local models pass;
    `lenient` opens all gates but those that no model can do without.
    """

    seconds: Column
    cost: Column
    held: Mapping[str, str]
    local: bool = False
    lenient: bool = False


# Which models a gate drops; None where it is open for all.
Gate = Callable[[Table, Need, Known], "Mask | None"]


def kind(table: Table, need: Need, _: Known) -> Mask | None:
    """Is for something else."""
    mask: Mask = table.kinds != need.kind
    return mask


def availability(table: Table, _: Need, __: Known) -> Mask | None:
    """Lacks its key, or its weights."""
    return table.unavailable


def capability(table: Table, need: Need, _: Known) -> Mask | None:
    """Can't do what the call needs."""
    return ~table.capable(need.capabilities) if need.capabilities else None


def context(table: Table, need: Need, _: Known) -> Mask:
    """The prompt and the answer don't fit."""
    answer = np.minimum(need.output, table.longest) if need.kind == "chat" else 0.0
    mask: Mask = table.window < need.tokens + answer
    return mask


def data_policy(table: Table, need: Need, known: Known) -> Mask | None:
    """Would keep or learn from what it must not, or is not local where only local models may serve."""
    least = STRICTNESS["local" if known.local else need.data]
    return table.strictness < least if least else None


def region(table: Table, need: Need, _: Known) -> Mask | None:
    """Runs elsewhere."""
    return ~table.within(need.regions) if need.regions else None


def tag(table: Table, need: Need, _: Known) -> Mask | None:
    """Lacks a tag."""
    return ~table.tagged(need.tags) if need.tags else None


def scope(table: Table, need: Need, _: Known) -> Mask | None:
    """The key may not use it."""
    return ~table.scoped(need.scope) if need.scope else None


def latency(_: Table, need: Need, known: Known) -> Mask | None:
    """Is expected to take too long."""
    return None if need.max_seconds is None else known.seconds > need.max_seconds


def cost(_: Table, need: Need, known: Known) -> Mask | None:
    """Would cost too much; what has no known price can't promise."""
    return None if need.max_nano is None else ~(known.cost <= need.max_nano)


def budget(_: Table, need: Need, known: Known) -> Mask | None:
    """Would cost more than is left."""
    if need.budget_nano is None:
        return None
    return known.cost > max(need.budget_nano, 0) if need.budget_nano > 0 else ~(known.cost <= 0)


def breaker(table: Table, _: Need, known: Known) -> Mask | None:
    """Failed several times in a row, and is left alone."""
    return _held(table, known, "breaker")


def quota(table: Table, _: Need, known: Known) -> Mask | None:
    """Its provider limits the rate."""
    return _held(table, known, "quota")


# What no model can do without.
FIRM: Sequence[Gate] = (kind, availability)
# What these say changes only with the models.
FIXED: Sequence[Gate] = (kind, availability, capability, data_policy, region, tag, scope)
# And these are asked for each call.
MOVING: Sequence[Gate] = (context, latency, cost, budget, breaker, quota)


def failed(table: Table, need: Need, known: Known) -> Iterator[tuple[str, Mask]]:
    """The gates that are not open for all, with whom they drop."""
    for gate in FIRM if known.lenient else (*FIXED, *MOVING):
        mask = gate(table, need, known)
        if mask is not None:
            yield gate.__name__, mask


def passing(table: Table, need: Need, known: Known) -> Mask:
    """Who passes all gates."""
    if known.lenient:
        return ~_any(FIRM, table, need, known)
    fixed = (need.kind, need.capabilities, need.data, need.regions, need.tags, need.scope, known.local)
    passed = table.masks.get(fixed)
    if passed is None:
        passed = table.keep(fixed, ~_any(FIXED, table, need, known))
    limited = need.max_seconds is not None or need.max_nano is not None or need.budget_nano is not None or known.held
    return passed & ~(_any(MOVING, table, need, known) if limited else context(table, need, known))


def _any(gates: Sequence[Gate], table: Table, need: Need, known: Known) -> Mask:
    dropped = np.zeros(len(table), dtype=np.bool_)
    for gate in gates:
        mask = gate(table, need, known)
        if mask is not None:
            dropped |= mask
    return dropped


def reason(gate: str, table: Table, at: int, need: Need) -> str:
    """Why a model was dropped at a gate, in words."""
    model = table.models[at]
    match gate:
        case "kind":
            return f"is not for {need.kind}"
        case "availability":
            return model.unavailable or "can't serve now"
        case "capability":
            return f"lacks {', '.join(sorted(need.capabilities - model.capabilities))}"
        case "context":
            answer = f" and {need.output} for the answer" if need.kind == "chat" else ""
            return f"takes {model.context_window} tokens, {need.tokens}{answer} are needed"
        case "region":
            return f"runs in {model.region or 'an unknown region'}"
        case "tag":
            return f"is not tagged {', '.join(sorted(need.tags - set(model.tags)))}"
        case _:
            return _WORDS[gate]


_WORDS = {
    "data_policy": "what becomes of the prompt there is not strict enough",
    "scope": "the key may not use it",
    "latency": "is expected to take too long",
    "cost": "would cost too much, or has no known price",
    "budget": "would cost more than is left of the budget",
    "breaker": "failed several times in a row, and is left alone for a while",
    "quota": "its provider limits the rate",
}


def _held(table: Table, known: Known, gate: str) -> Mask | None:
    if not known.held:
        return None
    return np.array([known.held.get(model) == gate for model in table.ids], dtype=np.bool_)
