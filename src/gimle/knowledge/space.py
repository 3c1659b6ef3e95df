"""Vector spaces: what makes two vectors comparable, and which vectors may enter."""

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """One vector space of one collection. `indexed` says that a nearest-neighbour index stands."""

    id: str
    collection: str
    model: str
    version: str
    dimensions: int
    prefix: str = ""
    normalised: bool = True
    chunk_profile: str = ""
    languages: tuple[str, ...] = ()
    indexed: bool = False


class Nearest(msgspec.Struct, frozen=True):
    """Cosines by chunk number; `near` are the candidates of the dense channel itself.

    `background` holds the query's cosines with a fair sample of the space, or with all of it where it is small.
    """

    scores: Mapping[int, float]
    near: frozenset[int]
    background: Vectors


class Rejected(msgspec.Struct, frozen=True):
    """A vector that may not enter a space, by its place in the batch, and why."""

    place: int
    reason: str


def check(vectors: Vectors, count: int, dimensions: int) -> list[Rejected]:
    """Which of the (count, dimensions) vectors may not enter a space: not finite, or zero.

    Raises `ValueError` when the array as a whole has another shape than was asked for.
    """
    if vectors.shape != (count, dimensions):
        raise ValueError(f"{count} vectors of {dimensions} dimensions were expected, the shape is {vectors.shape}")
    finite: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(vectors), axis=1)
    # A square of a huge but finite component may overflow, so the largest component decides what is zero.
    zero = np.abs(vectors).max(axis=1, initial=0.0) < 1e-12
    return [
        Rejected(int(place), "it contains NaN or infinity" if not finite[place] else "it is the zero vector")
        for place in np.flatnonzero(~finite | zero)
    ]


def unit(vectors: Vectors) -> Vectors:
    """The vectors at length 1, so that their inner product is the cosine and no component overflows half precision."""
    scaled = vectors.astype(np.float64)
    scaled /= np.abs(scaled).max(axis=1, keepdims=True)
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled.astype(np.float32)
