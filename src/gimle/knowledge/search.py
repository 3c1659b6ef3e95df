"""Search: two channels, each with its own fixed number of candidates, fused, and the passages read last.

The candidates do not depend on how many passages are asked for, so a larger `top_k` only ever adds to the end. All is
read in transactions of the tenant; the last word on what is found has the query that reads the passages.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from gimle.foundation import plugins
from gimle.foundation.db import Database, queries, row, rows
from gimle.foundation.errors import CollectionNotFound, GimleError, InvalidRequest
from gimle.gateway import language
from gimle.knowledge import fusion
from gimle.knowledge.embedding import Dense, Embedding
from gimle.knowledge.lexical import Candidates, Lexical
from gimle.knowledge.space import Nearest, Space, Vectors
from gimle.knowledge.types import DEFAULT_COLLECTION, Passage
from gimle.trust.types import Principal

SQL = queries("gimle.knowledge", "index.sql")

Mode = Literal["hybrid", "lexical", "dense"]
MOST_PASSAGES = 100
LONGEST_QUERY = 8000


class SearchResult(msgspec.Struct, frozen=True):
    """The passages, best first, each text once. `notice` says when search had to do with less than was asked for."""

    passages: tuple[Passage, ...]
    notice: str | None = None


class _Head(msgspec.Struct, frozen=True):
    id: str
    generation: int
    space: str | None


class _Read(msgspec.Struct, frozen=True):
    number: int
    chunk: str
    document: str
    document_name: str
    text: str
    start: int
    end: int
    page: int | None
    heading: str | None
    language: str


class Search:
    """Hybrid search over the collections of a tenant. One for the process: it holds the caches of both channels."""

    def __init__(
        self, db: Database, embedding: Embedding, lexical: Lexical | None = None, store: str = "pgvector"
    ) -> None:
        self._db = db
        self._embedding = embedding
        self._lexical = lexical if lexical is not None else Lexical()
        self._store = plugins.load("gimle.knowledge.stores", store)

    async def search(
        self, principal: Principal, collection: str, query: str, top_k: int = 6, mode: Mode = "hybrid"
    ) -> SearchResult:
        """The `top_k` (1..100) best passages of a collection, by name or id, for a query of at most 8000 characters.

        Raises `InvalidRequest` naming the field, and `CollectionNotFound`. When the embedder fails or is missing, words
        alone answer, and the notice says so.
        """
        _validate(query, top_k, mode)
        try:
            head, dense, found, (vector, notice) = await self._channels(principal, collection, query, mode)
        except CollectionNotFound:
            if collection == DEFAULT_COLLECTION:
                # It comes into being with its first document, and until then it is empty.
                return SearchResult((), "Nothing has been uploaded yet: start with `gimle upload PATH`.")
            raise
        if vector is None and mode == "dense":
            found = await self._words(principal, head, query)
        if not found.scores and vector is None:
            return SearchResult((), notice)
        near = None
        async with self._db.tenant(principal.tenant) as conn:
            if vector is not None and dense.space is not None:
                near = await self._store.nearest(conn, dense.space, vector, fusion.DEPTH, list(found.scores))
            numbers = list(found.scores.keys() | near.scores.keys()) if near is not None else list(found.scores)
            wanted = {"numbers": numbers, "collection": head.id}
            read = {line.number: line for line in await rows(conn, SQL["read_passages"], wanted, _Read)}
        ranking = _rank(query, found, near, dense.space, mode, read)
        return SearchResult(_passages(ranking, read, top_k), notice)

    async def _channels(
        self, principal: Principal, collection: str, query: str, mode: Mode
    ) -> tuple[_Head, Dense, Candidates, tuple[Vectors | None, str | None]]:
        """What is searched, the lexical candidates, and, made meanwhile, the query's vector or why there is none."""
        found = Candidates({})
        try:
            async with asyncio.TaskGroup() as group, self._db.tenant(principal.tenant) as conn:
                head = await row(conn, SQL["search_head"], {"collection": collection}, _Head)
                if head is None:
                    raise CollectionNotFound(f"There is no collection {collection!r}.", field="collection")
                dense = Dense(None) if mode == "lexical" else await self._embedding.space(conn, head.id)
                vector = group.create_task(self._vector(principal, dense, query))
                if mode != "dense":
                    found = await self._lexical.candidates(
                        conn, principal.tenant, head.id, head.generation, query, fusion.DEPTH
                    )
        except ExceptionGroup as failed:
            # Callers know the errors of the house, not the group in which the tasks' errors travel.
            raise failed.exceptions[0] from None
        return head, dense, found, vector.result()

    async def _words(self, principal: Principal, head: _Head, query: str) -> Candidates:
        async with self._db.tenant(principal.tenant) as conn:
            return await self._lexical.candidates(conn, principal.tenant, head.id, head.generation, query, fusion.DEPTH)

    async def _vector(self, principal: Principal, dense: Dense, query: str) -> tuple[Vectors | None, str | None]:
        if dense.space is None:
            return None, dense.notice
        try:
            return await self._embedding.embed_query(principal, dense.space, query), None
        except GimleError as failed:
            return (
                None,
                f"The embedder {dense.space.model} failed, so this was searched by words only: {failed.message}",
            )


def _validate(query: str, top_k: int, mode: str) -> None:
    if not query.strip():
        raise InvalidRequest("The query is empty.", field="query")
    if len(query) > LONGEST_QUERY:
        raise InvalidRequest(
            f"The query has {len(query)} characters; at most {LONGEST_QUERY} are searched.", field="query"
        )
    if not 1 <= top_k <= MOST_PASSAGES:
        raise InvalidRequest(f"top_k must be between 1 and {MOST_PASSAGES}.", field="top_k")
    if mode not in ("hybrid", "lexical", "dense"):
        raise InvalidRequest(f"The mode {mode!r} is unknown.", field="mode", hint="Use hybrid, lexical or dense.")


def _rank(
    query: str,
    found: Candidates,
    near: Nearest | None,
    space: Space | None,
    mode: Mode,
    read: Mapping[int, _Read],
) -> list[tuple[int, float]]:
    """Chunk numbers with their score from 0 to 1, best first."""
    words = fusion.lexical_channel(_keys(found.scores), found.ranked)
    if near is None or space is None:
        return _numbers(fusion.single_lexical(words))
    scores = near.scores if mode == "hybrid" else {number: near.scores[number] for number in near.near}
    meaning = fusion.dense_channel(_keys(scores), near.background)
    if mode == "dense":
        return _numbers(fusion.single_dense(meaning))
    languages = [read[number].language for number in near.near if number in read]
    weight = fusion.dense_weight(meaning, language.detect(query), languages, space.languages)
    return _numbers(fusion.fuse(words, meaning, weight))


def _keys(scores: Mapping[int, float]) -> dict[str, float]:
    # Ties are broken by the key's order, which for padded numbers is the order in which the chunks came.
    return {f"{number:019d}": score for number, score in scores.items()}


def _numbers(fused: Sequence[fusion.Fused]) -> list[tuple[int, float]]:
    return [(int(one.id), one.score) for one in fused]


def _passages(ranking: Sequence[tuple[int, float]], read: Mapping[int, _Read], top_k: int) -> tuple[Passage, ...]:
    passages: list[Passage] = []
    seen: set[str] = set()
    for number, score in ranking:
        line = read.get(number)
        text = " ".join(line.text.split()) if line is not None else ""
        # The same text in two documents is one finding: the best-ranked stands for all.
        if line is None or text in seen:
            continue
        seen.add(text)
        passages.append(
            Passage(
                chunk=line.chunk,
                document=line.document,
                document_name=line.document_name,
                text=line.text,
                score=score,
                start=line.start,
                end=line.end,
                page=line.page,
                heading=line.heading,
                language=line.language,
            )
        )
        if len(passages) == top_k:
            break
    return tuple(passages)
