"""What another policy would have done with the calls of the log, and how sure that is.

Each logged decision holds the chance that its model had, so that a policy which was never followed can be judged by the
calls in which chance did what it would have done (doubly robust: a model of the outcomes fills the rest, and the log
corrects it). A policy that only looks better by luck is not promoted: it must beat both the present one and the best
single model, with the whole interval.

What is judged is whom to try first: where that one fails and another answers, what came of it counts for the first.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from gimle.selection import policies
from gimle.selection.factors import COST, FACTORS, QUALITY, Column, Utility
from gimle.selection.policies import Grounds, Policy
from gimle.selection.table import LAST
from gimle.selection.types import Explanation, Standing, Verdict

# A record counts for at most so many: where three in a hundred are used to learn, one of them speaks for many.
_HEAVIEST = 1000.0
_ROUNDS = 400
_FOLDS = 2
# Fewer records than this say nothing.
ENOUGH = 200


class Outcome(msgspec.Struct, frozen=True):
    """What came of a decision: how good the answer was (0 to 1; None: nobody said), cost, seconds, and who gave it."""

    model: str
    quality: float | None = None
    cost_nano: int | None = None
    seconds: float | None = None
    failed: bool = False

    @property
    def told(self) -> bool:
        """Whether anything has come of the decision: one that was only asked for has no end."""
        return self.failed or self.quality is not None or self.seconds is not None


class Logged(msgspec.Struct, frozen=True):
    """A decision and what came of it."""

    decision: Explanation
    outcome: Outcome


class Interval(msgspec.Struct, frozen=True):
    """An estimate, and between what it lies in 95 of 100 cases."""

    value: float
    low: float
    high: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A policy against what was done and against the best single model, in value a call (quality less what it cost).

    `effective` is how many records the log is worth for this question. `promote` says whether the policy may replace
    the present one, `why` in words.
    """

    policy: str
    records: int
    effective: float
    present: Interval
    target: Interval
    best_single: str
    single: Interval
    over_present: Interval
    over_single: Interval
    promote: bool
    why: str


# Whom a policy would have tried first, each with its chance; nobody, where it would have refused the call.
Target = Callable[[Explanation], Mapping[str, float]]


def chosen_by(policy: Policy) -> Target:
    """Whom a policy would have tried first, from what was known then. Of several that are about equal, and share the
    calls, the first stands for all, but where their shares are the policy's very promise.
    """

    def target(decision: Explanation) -> Mapping[str, float]:
        level = decision.complexity.level if decision.complexity is not None else None
        full = policies.effective(policy, level, judged=decision.judged)
        able = [one for one in _told(decision) if one[1].local or not policy.local]
        if not able:
            return {}
        shared = [(one.model, here.weight) for one, here in able if here.weight and not (here.inside or here.apart)]
        if policy.by == "weight" and shared:
            total = sum(weight for _, weight in shared)
            return {model: weight / total for model, weight in shared}
        grounds = _grounds(full, able)
        value = policies.value(full, grounds) - np.array([LAST * here.inside for _, here in able])
        apart = np.array([here.apart for _, here in able])
        first = np.lexsort((-grounds.score, -value, apart))[0]
        return {able[first][0].model: 1.0}

    return target


def value_of(outcome: Outcome, worth_nano: float) -> float:
    """What a call was worth: the quality of its answer, less its cost as a part of what a perfect answer is worth."""
    quality = 0.0 if outcome.failed else 1.0 if outcome.quality is None else outcome.quality
    return quality - (outcome.cost_nano or 0) / worth_nano


def report(log: Sequence[Logged], policy: Policy, worth_nano: float = 10_000_000.0, seed: int = 0) -> Report:
    """Judge a policy by the log. `worth_nano` is what a perfect answer is worth, in nano-dollars, more than 0."""
    # Where the caller has named the model, nothing was decided.
    decided = (one for one in log if one.decision.policy != policies.NAMED.name)
    ended = [one for one in decided if _propensity(one) > 0.0 and one.outcome.told]
    usable = [one for one in ended if _tells(one, policy)]
    values = np.array([value_of(one.outcome, worth_nano) for one in usable])
    model = _Expected(usable, values)
    target, weight = model.robust(chosen_by(policy))
    singles = {name: model.robust(_always(name))[0] for name in model.names}
    best = max(singles, key=lambda name: float(singles[name].mean())) if singles else ""
    single = singles.get(best, np.zeros(0))
    draw = np.random.default_rng(seed)
    over_present, over_single = interval(target - values, draw), interval(target - single, draw)
    promote, why = _verdict(len(usable), over_present, over_single, best)
    if len(usable) < min(len(ended), ENOUGH):
        why += f"; {len(ended) - len(usable)} more do not tell what this policy goes by"
    return Report(
        policy=policy.name,
        records=len(usable),
        effective=float(weight.sum() ** 2 / (weight**2).sum()) if weight.any() else 0.0,
        present=interval(values, draw),
        target=interval(target, draw),
        best_single=best,
        single=interval(single, draw),
        over_present=over_present,
        over_single=over_single,
        promote=promote,
        why=why,
    )


def interval(values: Column, draw: np.random.Generator) -> Interval:
    """The mean, and what it is in 95 of 100 samples of the same size drawn from these."""
    if not len(values):
        return Interval(0.0, 0.0, 0.0)
    means = [values[draw.integers(0, len(values), len(values))].mean() for _ in range(_ROUNDS)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(round(float(values.mean()), 6), round(float(low), 6), round(float(high), 6))


def _verdict(records: int, over_present: Interval, over_single: Interval, best: str) -> tuple[bool, str]:
    if records < ENOUGH:
        return False, f"{records} records are too few: {ENOUGH} are needed"
    if not _surely(over_present):
        return False, "it is not surely better than what is done now"
    if not _surely(over_single):
        return False, f"it is not surely better than always taking {best}"
    return True, f"it is surely better than what is done now, and than always taking {best}"


def _surely(gain: Interval) -> bool:
    return math.isfinite(gain.low) and gain.low > 0.0


class _Expected:
    """What trying a model first is worth for a class of requests, as other records than the one in question say."""

    def __init__(self, log: Sequence[Logged], values: Column) -> None:
        self._log = log
        self._values = values
        self._folds = np.arange(len(log)) % _FOLDS
        self.names = sorted({one.decision.chosen or "" for one in log})
        self._known = [self._learn(self._folds != fold) for fold in range(_FOLDS)]

    def robust(self, target: Target) -> tuple[Column, Column]:
        """For each record what the target's choice would have been worth, and how much the log itself says to it."""
        found, weights = np.zeros(len(self._log)), np.zeros(len(self._log))
        for at, one in enumerate(self._log):
            known = self._known[self._folds[at]]
            subject, took, wanted = one.decision.subject, one.decision.chosen or "", target(one.decision)
            found[at] = sum(chance * known(subject, model) for model, chance in wanted.items())
            if took in wanted:
                weights[at] = min(wanted[took] / _propensity(one), _HEAVIEST)
                found[at] += weights[at] * (self._values[at] - known(subject, took))
        return found, weights

    def _learn(self, rows: npt.NDArray[np.bool_]) -> Callable[[str, str], float]:
        sums: Mapping[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for at in rows.nonzero()[0].tolist():
            one = self._log[at]
            took = one.decision.chosen or ""
            for key in ((one.decision.subject, took), ("*", took)):
                sums[key][0] += 1.0
                sums[key][1] += float(self._values[at])
        overall = float(self._values[rows].mean()) if rows.any() else 0.0

        def known(subject: str, model: str) -> float:
            n, total = sums[("*", model)]
            typical = (total + 2.0 * overall) / (n + 2.0)
            n, total = sums[(subject, model)]
            return (total + 4.0 * typical) / (n + 4.0)

        return known


def _told(decision: Explanation) -> list[tuple[Verdict, Standing]]:
    """Those who might have served, with what policies go by."""
    return [(one, one.standing) for one in decision.verdicts if not one.gates and one.standing is not None]


def _tells(one: Logged, policy: Policy) -> bool:
    """Whether the log says what a policy goes by: that of older versions does not, and where nothing could leave the
    house, nobody knows who else might have served.
    """
    followed = policies.POLICIES.get(one.decision.policy)
    if followed is not None and followed.local and not policy.local:
        return False
    return all(verdict.gates or verdict.standing is not None for verdict in one.decision.verdicts)


def _grounds(policy: Policy, able: Sequence[tuple[Verdict, Standing]]) -> Grounds:
    weights = np.array(policy.weights)
    factors = np.array([[one.factors.get(name, 0.0) for name in FACTORS] for one, _ in able])
    widths = np.array([[one.widths.get(name, 0.0) for name in FACTORS] for one, _ in able])
    return Grounds(
        score=factors @ weights,
        width=np.sqrt(widths**2 @ weights**2),
        cost=np.array([np.nan if one.cost_nano is None else one.cost_nano for one, _ in able]),
        seconds=np.array([one.seconds or 0.0 for one, _ in able]),
        quality=Utility(factors[:, QUALITY], widths[:, QUALITY]),
        cheapness=factors[:, COST],
        share=np.array([standing.weight for _, standing in able]),
        place=np.array([float(standing.place) for _, standing in able]),
    )


def _always(model: str) -> Target:
    """The model, where it can serve; else whom the log took."""
    return lambda decision: {
        model if any(one.model == model for one, _ in _told(decision)) else decision.chosen or "": 1.0
    }


def _propensity(one: Logged) -> float:
    """The chance that the model which was tried first had to be."""
    found = (verdict.propensity for verdict in one.decision.verdicts if verdict.model == one.decision.chosen)
    return next(found, 0.0)
