"""Calls that mean the same: the kept answer whose question is nearest, if it is near enough."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import numpy as np

from gimle.gateway import limit_metrics
from gimle.gateway.cache import Cache, Kept
from gimle.gateway.cache_keys import Control
from gimle.gateway.types import Vectors

Embed = Callable[[str], Awaitable[Vectors]]

# So many questions are compared of those that are the same but for their words, and so many kinds of those are known.
_QUESTIONS = 256
_KINDS = 2000


class _Row:
    """Questions of one kind: their vectors, of length 1, and the keys of their answers; the oldest is overwritten."""

    __slots__ = ("count", "keys", "vectors")

    def __init__(self, dimensions: int) -> None:
        self.vectors = np.zeros((_QUESTIONS, dimensions), dtype=np.float32)
        self.keys: list[bytes] = []
        self.count = 0

    def add(self, vector: Vectors, key: bytes) -> None:
        place = self.count % _QUESTIONS
        self.vectors[place] = vector
        self.keys[place : place + 1] = [key]
        self.count += 1


class Similar:
    """What the cache holds, by meaning. `similarity` is the least cosine at which two questions count as one."""

    def __init__(self, cache: Cache, embed: Embed, similarity: float) -> None:
        self._cache = cache
        self._embed = embed
        self._similarity = similarity
        self._rows: OrderedDict[bytes, _Row] = OrderedDict()

    async def find(self, kind: bytes, words: str, control: Control) -> tuple[Kept | None, Vectors]:
        """The answer to the nearest question of this kind, and the vector of this one, under which to `add` its own.

        `kind` is a key of the cache over all but the words: tenant, dialect, model, revision and the rest.
        """
        vector = _unit(await self._embed(words))
        row = self._rows.get(kind)
        if row is None or not control.read or not row.keys:
            return None, vector
        likeness = row.vectors[: len(row.keys)] @ vector
        best = int(np.argmax(likeness))
        if likeness[best] < self._similarity:
            return None, vector
        kept = self._cache.look(row.keys[best], control)
        if kept is not None:
            limit_metrics.CACHE_SIMILAR.inc()
        return kept, vector

    def add(self, kind: bytes, vector: Vectors, key: bytes) -> None:
        """A question whose answer is kept under this key."""
        row = self._rows.get(kind)
        if row is None:
            while len(self._rows) >= _KINDS:
                self._rows.popitem(last=False)
            row = self._rows[kind] = _Row(len(vector))
        self._rows.move_to_end(kind)
        row.add(vector, key)


def _unit(vector: Vectors) -> Vectors:
    flat = np.asarray(vector, dtype=np.float32).reshape(-1)
    length = float(np.linalg.norm(flat))
    return flat / length if length else flat
