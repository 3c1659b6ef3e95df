"""Vectors of texts: from the model inside Gimle, or from a provider's, in batches of the size that it takes."""

import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from gimle.foundation.errors import InvalidRequest, Unavailable
from gimle.gateway.catalog import Access, Snapshot
from gimle.gateway.inside import Engines
from gimle.gateway.neutral import Usage
from gimle.gateway.replies import request_of
from gimle.gateway.reranking import Count
from gimle.gateway.types import Attempt, Embedded, Fault, Vectors
from gimle.gateway.upstream import Refusal, Upstream


class Embedder:
    """One attempt at a time, at the engine inside Gimle or at a provider."""

    def __init__(self, engines: Engines, upstream: Upstream, count: Count) -> None:
        self._engines = engines
        self._upstream = upstream
        self._count = count

    def attempt(
        self, texts: Sequence[str], dimensions: int | None, snapshot: Snapshot
    ) -> Callable[[Attempt], Awaitable[Embedded | Fault]]:
        """What the walk tries at each target. Raises `InvalidRequest` when there are no texts."""
        if not texts:
            raise InvalidRequest("There is nothing to embed.", field="input")

        async def tried(one: Attempt) -> Embedded | Fault:
            started = time.perf_counter()
            if one.target.dialect is None:
                vectors, tokens = await self._engines.embed(one.target, texts, dimensions)
            else:
                found = await self._outside(one, snapshot.access[one.target.provider], texts, dimensions)
                if isinstance(found, Fault):
                    return found
                vectors, tokens = found
            seconds = time.perf_counter() - started
            one.settle(Usage(uncached=tokens), seconds)
            return Embedded(
                vectors=vectors,
                model=one.target.name,
                provider=one.target.provider,
                tokens=tokens,
                attempts=one.number,
                upstream_seconds=seconds,
            )

        return tried

    async def here(self, text: str) -> Vectors:
        """The vector of a text by the model inside Gimle, on nobody's account. Raises `Unavailable`."""
        inside = next(model for model in self._engines.models if model.kind == "embedding")
        vectors, _ = await self._engines.embed(inside, [text], None)
        return vectors

    async def _outside(
        self, one: Attempt, access: Access, texts: Sequence[str], dimensions: int | None
    ) -> tuple[Vectors, int] | Fault:
        embeddings, name = access.dialect.embeddings, one.target.name
        if embeddings is None:
            raise Unavailable(f"{one.target.provider} makes no vectors.", field="model")
        parts: list[Vectors] = []
        tokens = 0
        for at in range(0, len(texts), embeddings.batch):
            batch = texts[at : at + embeddings.batch]
            body = embeddings.write(name, batch, dimensions)
            answer = await self._upstream.whole(one, access, request_of(one, access, embeddings.path(name), body))
            if isinstance(answer, Refusal):
                return answer.fault
            vectors, told = embeddings.read(answer, len(batch))
            parts.append(vectors)
            used = sum(map(self._count(one.target.id), batch)) if told is None else told
            one.slip.settle("done", Usage(uncached=used, exact=told is not None), last=False)
            tokens += used
        return np.concatenate(parts), tokens
