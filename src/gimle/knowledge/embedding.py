"""Texts into vectors: batches through the gateway, each kept as it arrives, and queries with a short memory.

What is written stays written: after a crash the chunks that have their vector are not paid for again, nor is a text
that the collection has embedded before. Without an embedder the collection is indexed and searched by words alone, and
`Dense.notice` says so.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from gimle.foundation import ids, logs, plugins
from gimle.foundation.db import Connection, Database, queries, row
from gimle.foundation.errors import (
    NotFound,
    PayloadTooLarge,
    PermanentError,
    RateLimitedError,
    TransientError,
    Unavailable,
)
from gimle.gateway.gateway import Gateway
from gimle.jobs.run import Run
from gimle.knowledge.space import Space, Vectors, check, unit
from gimle.knowledge.types import Chunk
from gimle.trust.types import Principal

SQL = queries("gimle.knowledge", "index.sql")
log = logs.get("knowledge.embedding")

Progress = Callable[[int, int], Awaitable[None]]

# Texts in one call of the embedder: it starts at the first, grows while calls succeed, and halves on a refusal.
SMALLEST, FIRST, LARGEST = 8, 64, 256
_PARALLEL = 2
_REFUSALS = 4
_LONGEST_WAIT = 60.0
_QUERIES = 1024


class Dense(msgspec.Struct, frozen=True):
    """The space to embed into or to search, or None and the reason why there is none now."""

    space: Space | None
    notice: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """How many chunks have their vector, how many of these were not embedded anew, and what was refused and why."""

    embedded: int
    reused: int
    rejected: tuple[str, ...] = ()


class Embedding:
    """Vectors for chunks and for queries, of one default model."""

    def __init__(self, gateway: Gateway, model: str = "builtin/minilm", store: str = "pgvector") -> None:
        self._gateway = gateway
        self.model = model
        self._store = plugins.load("gimle.knowledge.stores", store)
        self._queries: OrderedDict[tuple[str, str], Vectors] = OrderedDict()

    @property
    def serves(self) -> bool:
        """Whether the default model can embed now."""
        return self._facts(self.model)[0] is not None

    async def open_space(self, db: Database, tenant: str, collection: str) -> Dense:
        """The space of a collection, made from the default model's facts where there is none yet."""
        async with db.tenant(tenant) as conn:
            found = await self.space(conn, collection)
        if found.space is not None or found.notice is not None:
            return found
        facts, notice = self._facts(self.model)
        if facts is None:
            return Dense(None, notice)
        async with db.tenant(tenant) as conn:
            await conn.execute(SQL["insert_space"], _row(collection, self.model, facts))
            await conn.execute(SQL["name_space"], {"collection": collection})
            return await self.space(conn, collection)

    async def space(self, conn: Connection, collection: str) -> Dense:
        """The active space of a collection; with a notice when its model cannot serve it now."""
        space = await row(conn, SQL["active_space"], {"collection": collection}, Space)
        facts, notice = self._facts(space.model if space is not None else self.model)
        if space is None or facts is None:
            return Dense(None, notice)
        if (str(facts["version"]), int(facts["dimensions"])) != (space.version, space.dimensions):
            return Dense(
                None,
                f"The model {space.model} is no longer the version with which this collection was embedded: "
                "searched by words only until it is embedded again.",
            )
        return Dense(space)

    def _facts(self, model: str) -> tuple[Mapping[str, Any] | None, str | None]:
        try:
            return self._gateway.space(model), None
        except (NotFound, TransientError) as absent:
            hint = f" {absent.hint}" if absent.hint else ""
            return None, f"No embedder serves now: by words only. {absent.message}{hint}"

    async def embed_query(self, principal: Principal, space: Space, text: str) -> Vectors:
        """The unit vector of a query, shape (dimensions,). Raises what the gateway raises, or `PermanentError`."""
        key = (space.id, text)
        kept = self._queries.get(key)
        if kept is None:
            embedded = await self._gateway.embed(principal, space.model, [space.prefix + text])
            refused = _checked(embedded.vectors, 1, space)
            if refused:
                raise PermanentError(f"The vector of the query can't be used: {refused[0]}.")
            kept = unit(embedded.vectors)[0]
            self._queries[key] = kept
            if len(self._queries) > _QUERIES:
                self._queries.popitem(last=False)
        else:
            self._queries.move_to_end(key)
        return kept

    async def embed_chunks(
        self,
        run: Run,
        db: Database,
        principal: Principal,
        space: Space,
        document: str,
        chunks: Sequence[Chunk],
        progress: Progress | None = None,
    ) -> Outcome:
        """Give every chunk of a document its vector. The chunks' rows are committed; the document does not serve yet.

        Chunks that have one keep it; a text known to this space is copied; the others go to the embedder in batches,
        shortest first, each written in a transaction of its own before the next result is awaited.
        """
        hashes = {chunk.number: self._store.text_hash(embedded_text(chunk)) for chunk in chunks}
        async with db.tenant(principal.tenant) as conn:
            done: set[int] = await self._store.done(conn, space, document)
            left = [chunk for chunk in chunks if chunk.number not in done]
            known: set[int] = await self._store.reuse(
                conn,
                space,
                document,
                [chunk.number for chunk in left],
                [hashes[chunk.number] for chunk in left],
            )
        todo = sorted((chunk for chunk in left if chunk.number not in known), key=lambda chunk: len(chunk.text))
        batches = _Batches(self._gateway, principal, space, todo)
        finished = len(done) + len(known)
        rejected: list[str] = []

        async def work() -> None:
            nonlocal finished
            while (batch := await batches.take()) is not None:
                rejected.extend(batch.rejected)
                if batch.chunks:
                    # Named by its first chunk: no batch of a later attempt begins with a chunk that is written.
                    await run.once(
                        f"vectors:{space.id}:{batch.chunks[0].id}",
                        self._writing(space, document, batch, hashes),
                    )
                finished += len(batch.chunks) + len(batch.rejected)
                if progress is not None:
                    await progress(finished, len(chunks))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_PARALLEL):
                    group.create_task(work())
        except ExceptionGroup as failed:
            # Whoever runs the job decides by the class of the error, so it gets the error itself.
            raise failed.exceptions[0] from None
        if rejected:
            log.warning("vectors_rejected", document=document, count=len(rejected), first=rejected[0])
        return Outcome(finished - len(rejected), len(known), tuple(rejected))

    def _writing(
        self, space: Space, document: str, batch: "_Batch", hashes: Mapping[int, bytes]
    ) -> Callable[[Connection], Awaitable[int]]:
        numbers = [chunk.number for chunk in batch.chunks]

        async def write(conn: Connection) -> int:
            await self._store.put(conn, space, document, numbers, [hashes[number] for number in numbers], batch.vectors)
            return len(numbers)

        return write


class _Batch(msgspec.Struct, frozen=True):
    chunks: list[Chunk]
    vectors: Vectors
    rejected: list[str]


class _Batches:
    """Hands out the next chunks with their vectors, and finds the size of batch that the embedder bears."""

    def __init__(self, gateway: Gateway, principal: Principal, space: Space, todo: Sequence[Chunk]) -> None:
        self._gateway, self._principal, self._space = gateway, principal, space
        self._todo = list(todo)
        self._size = FIRST

    async def take(self) -> _Batch | None:
        if not self._todo:
            return None
        chunks, self._todo = self._todo[: self._size], self._todo[self._size :]
        vectors = await self._embed([self._space.prefix + embedded_text(chunk) for chunk in chunks])
        rejected = dict(_checked(vectors, len(chunks), self._space))
        kept = [place for place in range(len(chunks)) if place not in rejected]
        return _Batch(
            [chunks[place] for place in kept],
            vectors[kept],
            [f"{chunks[place].id}: {reason}" for place, reason in rejected.items()],
        )

    async def _embed(self, texts: Sequence[str]) -> Vectors:
        for refusal in range(_REFUSALS):
            try:
                vectors = (await self._gateway.embed(self._principal, self._space.model, texts)).vectors
            except RateLimitedError as limited:
                self._size = max(SMALLEST, self._size // 2)
                if refusal == _REFUSALS - 1 or limited.after > _LONGEST_WAIT:
                    raise
                await asyncio.sleep(limited.after)
            except PayloadTooLarge:
                self._size = max(SMALLEST, self._size // 2)
                if len(texts) == 1:
                    raise
                middle = len(texts) // 2
                return np.concatenate([await self._embed(texts[:middle]), await self._embed(texts[middle:])])
            else:
                self._size = min(LARGEST, self._size + self._size // 4)
                return vectors
        raise Unavailable("The embedder refused too often.")


def embedded_text(chunk: Chunk) -> str:
    """What is embedded for a chunk: its headings, which say what it is about, and its text."""
    return f"{chunk.heading}\n{chunk.text}" if chunk.heading else chunk.text


def _checked(vectors: Vectors, count: int, space: Space) -> list[tuple[int, str]]:
    try:
        return [(refused.place, refused.reason) for refused in check(vectors, count, space.dimensions)]
    except ValueError as wrong:
        raise PermanentError(f"The embedder {space.model} answered amiss: {wrong}.") from wrong


def _row(collection: str, model: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": ids.new("spc"),
        "collection": collection,
        "model": model,
        "version": str(facts["version"]),
        "dimensions": int(facts["dimensions"]),
        "prefix": str(facts.get("prefix", "")),
        "normalised": bool(facts.get("normalised", True)),
        "chunk_profile": str(facts.get("chunk_profile", "")),
        "languages": sorted(facts.get("languages", ())),
    }
