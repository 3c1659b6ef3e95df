"""Documents in order of how well they fit a query: by a provider's model, or by the cosine of the builtin vectors."""

import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from gimle.foundation.errors import InvalidRequest, Unavailable
from gimle.gateway.catalog import Snapshot
from gimle.gateway.inside import Engines
from gimle.gateway.neutral import Usage
from gimle.gateway.replies import request_of
from gimle.gateway.types import Attempt, Fault, Ranked, Reranked
from gimle.gateway.upstream import Refusal, Upstream

Count = Callable[[str], Callable[[str], int]]
_MOST_DOCUMENTS = 2048


class Question:
    """A query and its documents. Raises `InvalidRequest` for what can't be ranked."""

    def __init__(self, query: str, documents: Sequence[str], top: int | None) -> None:
        if not query.strip():
            raise InvalidRequest("There is nothing to compare with.", field="query")
        if not 0 < len(documents) <= _MOST_DOCUMENTS:
            raise InvalidRequest(f"1 to {_MOST_DOCUMENTS} documents can be ranked at once.", field="documents")
        if top is not None and top < 1:
            raise InvalidRequest("At least one document must be asked for.", field="top_n")
        self.query, self.documents, self.top = query, documents, top


class Reranker:
    """One attempt at a time, at an engine inside Gimle or at a provider."""

    def __init__(self, engines: Engines, upstream: Upstream, count: Count) -> None:
        self._engines = engines
        self._upstream = upstream
        self._count = count

    def attempt(self, question: Question, snapshot: Snapshot) -> Callable[[Attempt], Awaitable[Reranked | Fault]]:
        """What the walk tries at each target."""

        async def tried(one: Attempt) -> Reranked | Fault:
            started = time.perf_counter()
            inside = one.target.dialect is None
            found = await (self._inside(one, question) if inside else self._outside(one, question, snapshot))
            if isinstance(found, Fault):
                return found
            ranked, usage = found
            seconds = time.perf_counter() - started
            one.settle(usage, seconds)
            return Reranked(
                ranked=ranked[: question.top],
                model=one.target.name,
                provider=one.target.provider,
                tokens=usage.input_tokens,
                attempts=one.number,
                upstream_seconds=seconds,
            )

        return tried

    async def _inside(self, one: Attempt, question: Question) -> tuple[tuple[Ranked, ...], Usage]:
        vectors, tokens = await self._engines.embed(one.target, [question.query, *question.documents], None)
        return by_cosine(vectors[0], vectors[1:]), Usage(uncached=tokens)

    async def _outside(
        self, one: Attempt, question: Question, snapshot: Snapshot
    ) -> tuple[tuple[Ranked, ...], Usage] | Fault:
        access = snapshot.access[one.target.provider]
        rerank = access.dialect.rerank
        if rerank is None:
            raise Unavailable(f"{one.target.provider} ranks no documents.", field="model")
        body = rerank.write(one.target.name, question.query, question.documents, question.top)
        request = request_of(one, access, rerank.path(one.target.name), body)
        answer = await self._upstream.whole(one, access, request)
        if isinstance(answer, Refusal):
            return answer.fault
        ranked, usage = rerank.read(answer, len(question.documents))
        if usage is not None:
            return ranked, usage
        count = self._count(one.target.id)
        tokens = sum(map(count, (question.query, *question.documents)))
        return ranked, Usage(uncached=tokens, exact=False)


def by_cosine(query: np.ndarray, documents: np.ndarray) -> tuple[Ranked, ...]:
    """Documents by the cosine of their unit vectors with the query's, best first; what points away from it fits not."""
    scores = np.clip(documents @ query, 0.0, 1.0)
    order = np.argsort(-scores, kind="stable")
    return tuple(Ranked(int(at), round(float(scores[at]), 6)) for at in order)
