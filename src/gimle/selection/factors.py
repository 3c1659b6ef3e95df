"""What a model is worth in one respect, from 0 to 1, against fixed references: no model's score depends on the others.

Each function takes columns (a number a model) and gives a column of utilities and one of widths, the standard deviation
of what is not known. Where a fact is missing the utility is a prior with its width, neither 0 nor 1.
"""

import math
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float64]

FACTORS = ("size", "hardware", "reliability", "latency", "distance", "cost", "quality", "speed")
SIZE, HARDWARE, RELIABILITY, LATENCY, DISTANCE, COST, QUALITY, SPEED = range(len(FACTORS))
# The defaults of the requirement. `quality` joins when there are judgements, `speed` is for those who ask for it.
WEIGHTS = (0.20, 0.15, 0.20, 0.25, 0.10, 0.10, 0.0, 0.0)

# What is thought of a price that nobody knows: half of the dearest, give or take half of that.
PRICE_PRIOR, PRICE_WIDTH = 0.5, 0.25

_EARTH_KM = 6371.0


class References(msgspec.Struct, frozen=True):
    """What the factors are measured against: a value at its reference has the utility 1 (size) or 0 (the others).

    Parameters in numbers, prices in nano-dollars a million tokens. `place` is where this server stands, as latitude and
    longitude.
    """

    parameters: float = 405e9
    price_nano: float = 15e9
    km: float = 10_000.0
    latency_seconds: float = 1.0
    speed_seconds: float = 60.0
    place: tuple[float, float] | None = None


class Utility(NamedTuple):
    """A column of utilities, and how wide the doubt about each is."""

    value: Column
    width: Column


def size(parameters: Column, largest: float) -> Utility:
    """Parameters against the largest."""
    return _or_prior(parameters / largest, 0.3, 0.25)


def hardware(gpu: Column, quality: Column) -> Utility:
    """1.0 on a GPU (`gpu` is 1), else 0.5 (it is 0), times the quality of the machine, 0.5 to 1."""
    found = (0.5 + 0.5 * gpu) * np.clip(np.where(np.isnan(quality), 0.75, quality), 0.5, 1.0)
    value, width = _or_prior(found, 0.7, 0.15)
    return Utility(value, np.where(np.isnan(quality) & (width == 0.0), 0.1, width))


def untold(size: Column) -> Column:
    """The quality that is thought of a model while nobody has judged it: a larger one is thought to be better."""
    return 0.5 + 0.3 * size


def reliability(uptime: Column, errors: Column, doubt: Column) -> Utility:
    """The share of checks that found it there, times the share of calls that did not fail."""
    return Utility(_clipped(uptime * (1.0 - errors)), doubt)


def latency(seconds: Column, doubt: Column, slowest: float) -> Utility:
    """The time to the first token against the slowest."""
    return Utility(_clipped(1.0 - seconds / slowest), np.minimum(doubt / slowest, 0.5))


def distance(km: Column, farthest: float) -> Utility:
    """How far away it runs; what is local is at 0 km."""
    return _or_prior(1.0 - km / farthest, 0.5, 0.25)


def cost(nano: Column, dearest: float) -> Column:
    """The price of a million tokens of this call's mix against the dearest."""
    return np.maximum(1.0 - nano / dearest, 0.0)


def speed(seconds: Column, doubt: Column, longest: float) -> Utility:
    """The time to the last token against the longest."""
    return Utility(_clipped(1.0 - seconds / longest), np.minimum(doubt / longest, 0.5))


def km(here: tuple[float, float] | None, there: tuple[float, float] | None) -> float:
    """Kilometres along the earth's surface; NaN when either end is unknown."""
    if here is None or there is None:
        return math.nan
    (lat1, lon1), (lat2, lon2) = (map(math.radians, point) for point in (here, there))
    chord = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * _EARTH_KM * math.asin(math.sqrt(min(1.0, chord)))


def _clipped(column: Column) -> Column:
    return np.minimum(np.maximum(column, 0.0), 1.0)


def _or_prior(column: Column, prior: float, width: float) -> Utility:
    missing = np.isnan(column)
    return Utility(np.where(missing, prior, _clipped(column)), np.where(missing, width, 0.0))
