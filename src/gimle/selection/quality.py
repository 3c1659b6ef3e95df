"""How good a model's answers are, by what people and checks said of them: a Beta distribution a class of requests.

Judgements fade by half in two weeks. A class of which little is known borrows from what the model did elsewhere, and a
model of which nothing is known from its size, or from a source outside.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from gimle.selection.factors import Column, Utility, untold

HALF_LIFE = 14 * 86400.0
# So many judgements of a class, over all models, and quality joins the score.
ENOUGH = 20.0
_MOST_COLUMNS = 256

# What a prior is worth, in judgements.
_BORROWED, _FROM_SIZE, _FROM_OUTSIDE = 4.0, 2.0, 20.0

Signal = Literal["preferred", "passed_over", "retried", "schema_valid", "schema_invalid", "refused", "truncated"]


class Judgement(msgspec.Struct, frozen=True):
    """How good an answer was, from 0 to 1, and how much that counts."""

    good: float
    weight: float


# What the signals say; a rating says it itself.
SIGNALS: Mapping[Signal, Judgement] = {
    "preferred": Judgement(1.0, 0.5),
    "passed_over": Judgement(0.0, 0.5),
    "retried": Judgement(0.2, 0.5),
    "schema_valid": Judgement(1.0, 0.2),
    "schema_invalid": Judgement(0.0, 1.0),
    "refused": Judgement(0.0, 0.5),
    "truncated": Judgement(0.3, 0.3),
}


class Posterior(msgspec.Struct):
    """Good and bad answers, as worth at the moment `at` (seconds since 1970)."""

    good: float = 0.0
    bad: float = 0.0
    at: float = 0.0

    def add(self, judgement: Judgement, now: float) -> None:
        """Count a judgement; one whose weight is below 0 is taken back."""
        fading = 2.0 ** max((self.at - now) / HALF_LIFE, -900.0) if self.at else 0.0
        self.good = max(0.0, self.good * fading + judgement.weight * judgement.good)
        self.bad = max(0.0, self.bad * fading + judgement.weight * (1.0 - judgement.good))
        self.at = now

    def faded(self, now: float) -> tuple[float, float]:
        """Good and bad answers as worth now."""
        fading = 2.0 ** max((self.at - now) / HALF_LIFE, -900.0)
        return self.good * fading, self.bad * fading


class Said(msgspec.Struct, frozen=True):
    """What was said of the answers to one call: a judgement a model, at a moment (seconds since 1970)."""

    at: float
    judgements: dict[str, Judgement]

    def instead_of(self, before: "Said | None") -> list[tuple[str, Judgement]]:
        """What to add to the sums for the last word to count alone: what it says, and less of what was said before."""
        if before is None:
            return list(self.judgements.items())
        fading = 2.0 ** max((before.at - self.at) / HALF_LIFE, -900.0)
        back = [(model, Judgement(one.good, -one.weight * fading)) for model, one in before.judgements.items()]
        return [*back, *self.judgements.items()]


class Judgements:
    """All judgements of one tenant. `outside` is what another source says of models, by id, from 0 to 1."""

    def __init__(self, outside: Mapping[str, float] | None = None) -> None:
        self.outside: Mapping[str, float] = outside or {}
        self._known: dict[tuple[str, str], Posterior] = {}
        self._columns: dict[tuple[int, str], tuple[float, Sequence[str], Utility | None]] = {}

    def heed(self, outside: Mapping[str, float]) -> None:
        """Take over what another source says now."""
        self.outside = outside
        self._columns.clear()

    def add(self, subject: str, model: str, judgement: Judgement, now: float) -> None:
        """Count a judgement on a model's answer to a request of a class, for that class and for all of them."""
        for key in {(subject, model), ("", model)}:
            self._known.setdefault(key, Posterior()).add(judgement, now)
        self._columns.clear()

    def keep(self, subject: str, model: str, posterior: Posterior) -> None:
        """Take over what was known before."""
        self._known[subject, model] = posterior
        self._columns.clear()

    def of(self, subject: str, model: str) -> Posterior:
        """What is known of a model in a class."""
        return self._known.get((subject, model), Posterior())

    def utility(self, subject: str, models: Sequence[str], size: Column, now: float) -> Utility | None:
        """Expected quality of models and its doubt; None while a class has too few judgements for it to count.

        Depends on how much is known of the class, never on who is a candidate. Kept for a minute.
        """
        key = (id(models), subject)
        known = self._columns.get(key)
        # What is gone may have left its identity to another.
        if known is None or known[1] is not models or now - known[0] > 60.0:
            if len(self._columns) >= _MOST_COLUMNS:
                self._columns.clear()
            known = self._columns[key] = (now, models, self._utility(subject, models, size, now))
        return known[2]

    def _utility(self, subject: str, models: Sequence[str], size: Column, now: float) -> Utility | None:
        told = sum(sum(known.faded(now)) for (of, _), known in self._known.items() if of == subject)
        if told < ENOUGH and not self.outside:
            return None
        pairs = [
            self._beta(subject, model, float(prior), now) for model, prior in zip(models, untold(size), strict=True)
        ]
        good, bad = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
        total = good + bad
        return Utility(good / total, np.sqrt(good * bad / (total * total * (total + 1.0))))

    def _beta(self, subject: str, model: str, prior: float, now: float) -> tuple[float, float]:
        mean, worth = prior, _FROM_SIZE
        if model in self.outside:
            mean, worth = self.outside[model], _FROM_OUTSIDE
        good, bad = self.of("", model).faded(now)
        good, bad = good + worth * mean, bad + worth * (1.0 - mean)
        if not subject:
            return good, bad
        mean, worth = good / (good + bad), min(_BORROWED, good + bad)
        own_good, own_bad = self.of(subject, model).faded(now)
        return own_good + worth * mean, own_bad + worth * (1.0 - mean)


def rated(stars: float) -> Judgement:
    """A rating from 1 to 5."""
    return Judgement((stars - 1.0) / 4.0, 1.0)
