"""Candidates as columns: what of them does not change from call to call is worked out once."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from gimle.selection import factors
from gimle.selection.board import Board, Measured
from gimle.selection.factors import Column, References, Utility
from gimle.selection.facts import bucket
from gimle.selection.types import DataPolicy, Model

Mask = npt.NDArray[np.bool_]

STRICTNESS: Mapping[DataPolicy, int] = {"any": 0, "no-training": 1, "no-retention": 2, "local": 3}
# The calls at once that a model takes of which nothing is known.
_CAPACITY = 64.0
_MOST_MASKS = 256
_MOST_SUMS = 64
# Beyond any cost in nano-dollars.
LAST = 1e18
# Facts are looked at this often; a fault is seen at once.
_FRESH_SECONDS = 0.5


def key_of(model: Model) -> str:
    """Under which a model's facts are kept: two tenants' providers of one name are two. Unlisted names count together,
    so that what callers make up does not fill the memory.
    """
    return f"{model.owner}:{model.provider}/{model.name if model.listed else '(unlisted)'}"


def stays(model: Model) -> bool:
    """Whether nothing that a model is sent leaves the house."""
    return _strictness(model) >= STRICTNESS["local"]


class Panel:
    """How models are judged at one moment in all that does not depend on the call. `ejects`: some have failed a lot."""

    def __init__(self, at: float, version: int, measured: Measured, judged: Sequence[Utility], *, ejects: bool) -> None:
        self.at = at
        self.version = version
        self.measured = measured
        self.judged = judged
        self.ejects = ejects
        self._sums: dict[object, tuple[Utility | None, Column, Column]] = {}

    def sums(self, weights: tuple[float, ...], quality: Utility | None) -> tuple[Column, Column]:
        """The weighted sum of the utilities, cost and speed left out, and of all widths."""
        key = (weights, None if quality is None else id(quality))
        known = self._sums.get(key)
        # What is gone may have left its identity to another.
        if known is None or known[0] is not quality:
            judged = self.with_quality(quality)
            weight = np.array(weights)
            score = weight @ np.array([each.value for each in judged])
            width = np.sqrt((weight * weight) @ np.array([each.width for each in judged]) ** 2)
            # Weights that callers bring must not fill the memory.
            if len(self._sums) >= _MOST_SUMS:
                self._sums.clear()
            known = self._sums[key] = (quality, score, width)
        return known[1:]

    def with_quality(self, quality: Utility | None) -> list[Utility]:
        """The utilities in the order of the factors."""
        judged = list(self.judged)
        if quality is not None:
            judged[factors.QUALITY] = quality
        return judged


class Table:
    """Some models, best first as the registry has them, as columns against fixed references."""

    def __init__(self, models: Sequence[Model], board: Board, references: References) -> None:
        self.models = tuple(models)
        self.ids = tuple(model.id for model in models)
        self.keys = tuple(map(key_of, models))
        self.board = board
        self.references = references
        self.slots = board.slots(self.keys)
        self.everyone = np.ones(len(models), dtype=np.bool_)
        self.unavailable = np.array([model.unavailable is not None for model in models], dtype=np.bool_)
        self.kinds = np.array([model.kind for model in models])
        # An engine inside Gimle answers when nobody else does; it counts its context for itself, and exactly.
        self.inside = np.array([model.dialect is None for model in models], dtype=np.bool_)
        self.local = np.array([model.local or model.dialect is None for model in models], dtype=np.bool_)
        self.window = np.where(self.inside, np.inf, _numbers([model.context_window for model in models]))
        self.longest = np.where(self.inside, np.inf, _numbers([model.max_output or np.inf for model in models]))
        self.strictness = np.array([_strictness(model) for model in models])
        self.input_nano = _numbers([_price(model, model.input_nano) for model in models])
        self.output_nano = _numbers([_price(model, model.output_nano) for model in models])
        # A price that nobody knows has a prior; the mix of two priors is the prior again.
        unpriced = np.isnan(self.input_nano + self.output_nano)
        self._input_price, self._output_price = (
            np.where(unpriced, references.price_nano * factors.PRICE_PRIOR, price)
            for price in (self.input_nano, self.output_nano)
        )
        self.priced: list[bool] = (~unpriced).tolist()
        self._price_width = np.where(unpriced, factors.PRICE_WIDTH, 0.0)
        self.places: list[int] = self.slots.tolist()
        self.room = [float(model.capacity or _CAPACITY) for model in models]
        self.share = _numbers([model.weight for model in models])
        self.place = np.arange(len(models), dtype=np.float64)
        self.size, self.hardware, self.distance = self._fixed()
        # Far below everybody else: an engine inside Gimle is the last resort, but the first for vectors.
        self.resort = np.where(self.inside, LAST, 0.0)
        self.masks: dict[object, Mask] = {}
        self._panels: dict[int, Panel] = {}

    def __len__(self) -> int:
        return len(self.models)

    def capable(self, capabilities: frozenset[str]) -> Mask:
        """Which models have all of some capabilities."""
        return self._mask(("capability", capabilities), lambda model: capabilities <= model.capabilities)

    def within(self, regions: frozenset[str]) -> Mask:
        """Which models run in one of some regions, or here."""
        return self._mask(("region", regions), lambda model: model.region in regions or _here(model))

    def tagged(self, tags: frozenset[str]) -> Mask:
        """Which models have all of some tags."""
        return self._mask(("tag", tags), lambda model: tags <= set(model.tags))

    def scoped(self, scope: tuple[str, ...]) -> Mask:
        """Which models a key may use: those named, bare or in full, and all of `provider/*`."""
        return self._mask(("scope", scope), lambda model: any(_covers(pattern, model) for pattern in scope))

    def cost(self, tokens: int, output: int) -> Column:
        """Nano-dollars for a call; NaN where the price is unknown."""
        return self.input_nano * (tokens * 1e-6) + self.output_nano * (output * 1e-6)

    def cheapness(self, tokens: int, output: int) -> Column:
        """The utility of what a call's mix of tokens costs."""
        part = tokens / max(tokens + output, 1)
        price = self._input_price * part + self._output_price * (1.0 - part)
        return factors.cost(price, self.references.price_nano)

    def panel(self, tokens: int, now: float) -> "Panel":
        """The factors that do not depend on the call, but for the size of its prompt: at most half a second old."""
        size = bucket(tokens)
        known = self._panels.get(size)
        if known is None or not known.at <= now < known.at + _FRESH_SECONDS or known.version != self.board.version:
            known = self._panels[size] = self._look(tokens, now)
        return known

    def keep(self, key: object, mask: Mask) -> Mask:
        """Remember who passes."""
        if len(self.masks) >= _MOST_MASKS:
            self.masks.clear()
        self.masks[key] = mask
        return mask

    def _look(self, tokens: int, now: float) -> "Panel":
        measured = self.board.measured(self.slots, tokens, now)
        nothing = np.zeros(len(self))
        judged = (
            self.size,
            self.hardware,
            factors.reliability(measured.uptime, measured.errors, measured.doubt),
            factors.latency(measured.first, measured.first_width, self.references.latency_seconds),
            self.distance,
            Utility(nothing, self._price_width),
            Utility(factors.untold(self.size.value), nothing + 0.2),
            Utility(nothing, np.minimum(measured.first_width / self.references.speed_seconds, 0.5)),
        )
        ejects = bool(self.board.ejected(self.slots, now).any())
        return Panel(now, self.board.version, measured, judged, ejects=ejects)

    def _fixed(self) -> tuple[Utility, Utility, Utility]:
        models, reference = self.models, self.references
        parameters = _numbers([_or_nan(model.parameters) for model in models])
        gpu = _numbers([math.nan if model.hardware is None else float(model.hardware == "gpu") for model in models])
        quality = _numbers([_or_nan(model.hardware_quality) for model in models])
        away = _numbers([0.0 if _here(model) else factors.km(reference.place, model.place) for model in models])
        return (
            factors.size(parameters, reference.parameters),
            factors.hardware(gpu, quality),
            factors.distance(away, reference.km),
        )

    def _mask(self, key: object, holds: Callable[[Model], bool]) -> Mask:
        known = self.masks.get(key)
        return self.keep(key, np.array([holds(model) for model in self.models])) if known is None else known


def _numbers(values: Sequence[float | int]) -> Column:
    return np.array(values, dtype=np.float64)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _here(model: Model) -> bool:
    return model.local or model.dialect is None


def _price(model: Model, nano: int | None) -> float:
    return 0.0 if _here(model) and nano is None else _or_nan(nano)


def _strictness(model: Model) -> int:
    if model.data_policy is not None:
        return STRICTNESS[model.data_policy]
    return STRICTNESS["local" if _here(model) else "any"]


def _covers(pattern: str, model: Model) -> bool:
    return pattern in (model.id, model.name) or (pattern.endswith("/*") and model.provider == pattern[:-2])
