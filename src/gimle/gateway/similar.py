"""Calls that mean the same: the kept answer whose question is nearest, if it is near enough."""

from collections.abc import Awaitable, Callable

import numpy as np
import numpy.typing as npt

from gimle.gateway import limit_metrics
from gimle.gateway.cache import Cache, Kept
from gimle.gateway.cache_keys import Control
from gimle.gateway.types import Vectors

Embed = Callable[[str], Awaitable[Vectors]]

# So many questions are known, of all callers together: 12 MB of vectors. The oldest is overwritten.
_QUESTIONS = 8192


class Similar:
    """What the cache holds, by meaning. `similarity` is the least cosine at which two questions count as one."""

    def __init__(self, cache: Cache, embed: Embed, similarity: float) -> None:
        self._cache = cache
        self._embed = embed
        self._similarity = similarity
        # A row a question: its vector, of length 1, its kind, and the key of its answer.
        self._vectors: Vectors | None = None
        self._kinds: npt.NDArray[np.void] = np.zeros(_QUESTIONS, dtype="V32")
        self._keys = [b""] * _QUESTIONS
        self._count = 0

    async def find(self, kind: bytes, words: str, control: Control) -> tuple[Kept | None, Vectors]:
        """The answer to the nearest question of this kind, and the vector of this one, under which to `add` its own.

        `kind` is a key of the cache over all but the words: tenant, dialect, model, revision and the rest.
        """
        vector = _unit(await self._embed(words))
        rows = np.flatnonzero(self._kinds == np.void(kind))
        if self._vectors is None or not len(rows):
            return None, vector
        likeness = self._vectors[rows] @ vector
        best = int(np.argmax(likeness))
        if likeness[best] < self._similarity:
            return None, vector
        kept = self._cache.look(self._keys[int(rows[best])], control)
        if kept is not None:
            limit_metrics.CACHE_SIMILAR.inc()
        return kept, vector

    def add(self, kind: bytes, vector: Vectors, key: bytes) -> None:
        """A question whose answer is kept under this key."""
        if self._vectors is None:
            self._vectors = np.zeros((_QUESTIONS, len(vector)), dtype=np.float32)
        place = self._count % _QUESTIONS
        self._vectors[place], self._kinds[place], self._keys[place] = vector, np.void(kind), key
        self._count += 1


def _unit(vector: Vectors) -> Vectors:
    flat = np.asarray(vector, dtype=np.float32).reshape(-1)
    length = float(np.linalg.norm(flat))
    return flat / length if length else flat
