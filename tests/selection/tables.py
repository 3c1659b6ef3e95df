"""Models, tables and moments for the tests of selection."""

from collections.abc import Sequence
from typing import Any

from gimle.selection import choose, policies
from gimle.selection.balance import RoundRobin
from gimle.selection.board import Board
from gimle.selection.decision import Decision, Moment
from gimle.selection.factors import References
from gimle.selection.policies import Policy
from gimle.selection.table import Table
from gimle.selection.types import Model, Need

NOW = 1_700_000_000.0


def model(name: str, **facts: Any) -> Model:
    """A model in the cloud, of a price and a size in the middle, unless told otherwise."""
    provider, _, rest = name.partition("/")
    usual: dict[str, Any] = {"dialect": "openai", "input_nano": 10**9, "output_nano": 10**9, "parameters": 70 * 10**9}
    return Model(provider=provider, name=rest, **{"context_window": 100_000, **usual, **facts})


def table(models: Sequence[Model], board: Board | None = None, references: References | None = None) -> Table:
    """The models as columns, on a board of their own."""
    return Table(models, board or Board(), references or References())


def decided(
    over: Table | Sequence[Model],
    policy: str | Policy = "efficient",
    need: Need | None = None,
    moment: Moment | None = None,
    robin: RoundRobin | None = None,
) -> Decision:
    """A decision with nothing special about it."""
    candidates = over if isinstance(over, Table) else table(over)
    named = policies.named(policy) if isinstance(policy, str) else policy
    return choose.decide(candidates, need or Need(), named, moment or Moment(now=NOW), robin or RoundRobin())


def ids(decision: Decision) -> list[str]:
    """The models to try, by id."""
    return [model.id for model in decision.models]
