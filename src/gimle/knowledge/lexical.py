"""Lexical candidates: BM25 over packed postings that PostgreSQL keeps and this process scores.

Segments never change, so what is cached of them stays true for as long as they exist; only the list of segments and the
mask of what is live belong to a generation, which moves in the transaction of each change. A search therefore asks for
the generation (one indexed row), reads postings that it has not seen, and adds up arrays.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from gimle.foundation.db import Connection, queries, row
from gimle.foundation.errors import Unavailable
from gimle.gateway import analysis
from gimle.knowledge import bm25

SQL = queries("gimle.knowledge", "index.sql")

# Where a query is longer, its first terms stand for it: a pasted page would otherwise read half of the index.
MOST_TERMS = 128
_ATTEMPTS = 5
T = TypeVar("T")


class Candidates(msgspec.Struct, frozen=True):
    """BM25 scores of the best chunks by chunk number, and the ranking of each language with its statistics."""

    scores: Mapping[int, float]
    ranked: tuple[bm25.Ranked, ...] = ()


class Stored(msgspec.Struct, frozen=True):
    """One segment as it is held in the process; `postings` is None where they are read term by term."""

    id: int
    language: str
    documents: tuple[str, ...]
    chunks: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]
    postings: Mapping[str, bytes] | None
    bytes: int


class View(msgspec.Struct, frozen=True):
    """What a search may see of a collection at one generation; `live[i]` masks the chunks of `segments[i]`."""

    generation: int
    segments: tuple[Stored, ...]
    live: tuple[npt.NDArray[np.bool_], ...]


class Cache(Generic[T]):
    """Least recently used entries, bounded by their bytes."""

    def __init__(self, most_bytes: int) -> None:
        self.bytes = 0
        self._most = most_bytes
        self._kept: OrderedDict[tuple[str | int, ...], tuple[T, int]] = OrderedDict()

    def get(self, key: tuple[str | int, ...]) -> T | None:
        """The entry, now the most recently used, or None."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: tuple[str | int, ...], value: T, size: int) -> None:
        """Keep an entry of so many bytes, and drop the oldest ones that no longer fit."""
        _, before = self._kept.pop(key, (None, 0))
        self._kept[key] = value, size
        self.bytes += size - before
        while self.bytes > self._most and self._kept:
            _, (_, freed) = self._kept.popitem(last=False)
            self.bytes -= freed


class Lexical:
    """The lexical channel of search. What is cached is keyed by tenant and read in a transaction of the tenant."""

    def __init__(self, view_bytes: int = 128 << 20, posting_bytes: int = 128 << 20) -> None:
        self._views: Cache[View] = Cache(view_bytes)
        self._postings: Cache[bytes] = Cache(posting_bytes)

    async def candidates(
        self, conn: Connection, tenant: str, collection: str, generation: int, query: str, depth: int
    ) -> Candidates:
        """The best `depth` chunks of each language for the query, any of whose terms may match.

        `generation` is what the caller's transaction has just read; 0 means that nothing was ever indexed.
        """
        if generation == 0:
            return Candidates({})
        for _ in range(_ATTEMPTS):
            view = await self._view(conn, tenant, collection, generation)
            terms = {
                language: analysis.terms(query, language)[:MOST_TERMS]
                for language in {segment.language for segment in view.segments}
            }
            postings = await self._read(conn, tenant, view, terms)
            if postings is not None:
                return await asyncio.to_thread(_score, view, terms, postings, depth)
            # A segment was merged away between two statements: look again.
            generation = -1
        raise Unavailable("The search index changes too fast to be read now.", hint="Try again.")

    async def _view(self, conn: Connection, tenant: str, collection: str, generation: int) -> View:
        cached = self._views.get((tenant, collection))
        if cached is not None and cached.generation == generation:
            return cached
        known = {segment.id: segment for segment in cached.segments} if cached is not None else {}
        for _ in range(_ATTEMPTS):
            view = await _load(conn, collection, known)
            if view is not None:
                self._views.put((tenant, collection), view, sum(segment.bytes for segment in view.segments) + 200)
                return view
        raise Unavailable("The search index changes too fast to be read now.", hint="Try again.")

    async def _read(
        self, conn: Connection, tenant: str, view: View, terms: Mapping[str, Sequence[str]]
    ) -> dict[int, dict[str, bytes]] | None:
        """The postings of the terms by segment, or None when one of the segments is there no more."""
        found: dict[int, dict[str, bytes]] = {}
        missing: dict[int, set[str]] = {}
        for segment in view.segments:
            if segment.postings is None:
                wanted = set(terms[segment.language])
                cached = {term: self._postings.get((tenant, segment.id, term)) for term in wanted}
                found[segment.id] = {term: kept for term, kept in cached.items() if kept is not None}
                if len(found[segment.id]) < len(wanted):
                    missing[segment.id] = wanted - found[segment.id].keys()
        if not missing:
            return found
        async with conn.cursor(binary=True) as cursor:
            wanted = set().union(*missing.values())
            await cursor.execute(SQL["read_postings"], {"segments": list(missing), "terms": sorted(wanted)})
            read = await cursor.fetchall()
        if {line["segment"] for line in read} != missing.keys():
            return None
        fresh = {(line["segment"], line["term"]): line["postings"] for line in read}
        for segment_id, absent in missing.items():
            for term in absent:
                # That a segment has no such term is worth remembering too.
                packed = fresh.get((segment_id, term), b"")
                found[segment_id][term] = packed
                self._postings.put((tenant, segment_id, term), packed, len(packed) + len(term) + 150)
        return found


class _Line(msgspec.Struct, frozen=True):
    generation: int
    id: int | None
    language: str | None
    gone: list[str] | None
    documents: list[str] | None
    chunks: bytes | None
    owners: bytes | None
    lengths: bytes | None
    packed: bytes | None


class _Serving(msgspec.Struct, frozen=True):
    generation: int
    serving: list[str]


async def _load(conn: Connection, collection: str, known: Mapping[int, Stored]) -> View | None:
    """The present view, or None when the index changed between the two statements that read it."""
    async with conn.cursor(binary=True) as cursor:
        await cursor.execute(SQL["read_segments"], {"collection": collection, "known": list(known)})
        lines = [msgspec.convert(found, _Line) for found in await cursor.fetchall()]
    present = await row(conn, SQL["read_serving"], {"collection": collection}, _Serving)
    if not lines and present is None:
        return View(0, (), ())
    if present is None or not lines or lines[0].generation != present.generation:
        return None
    serving = set(present.serving)
    segments, masks = [], []
    for line in lines:
        if line.id is not None:
            segment = known.get(line.id) or _stored(line)
            visible = serving.difference(line.gone or ())
            mask = np.array([name in visible for name in segment.documents], np.bool_)[segment.owners]
            segments.append(segment)
            masks.append(mask)
    return View(present.generation, tuple(segments), tuple(masks))


def _stored(line: _Line) -> Stored:
    documents = tuple(line.documents or ())
    chunks = np.frombuffer(line.chunks or b"", "<i8")
    return Stored(
        id=line.id or 0,
        language=line.language or "",
        documents=documents,
        chunks=chunks,
        owners=np.frombuffer(line.owners or b"", "<i4"),
        lengths=np.frombuffer(line.lengths or b"", "<i4"),
        postings=None if line.packed is None else msgspec.msgpack.decode(line.packed, type=dict[str, bytes]),
        bytes=17 * len(chunks) + 100 * len(documents) + 4 * len(line.packed or b"") + 500,
    )


def _score(
    view: View, terms: Mapping[str, Sequence[str]], postings: Mapping[int, Mapping[str, bytes]], depth: int
) -> Candidates:
    scores: dict[int, float] = {}
    rankings: list[bm25.Ranked] = []
    for language, query in sorted(terms.items()):
        members = [
            (segment, live)
            for segment, live in zip(view.segments, view.live, strict=True)
            if segment.language == language
        ]
        ranked = bm25.score(
            query,
            [
                bm25.Segment(lengths=segment.lengths, postings=_postings(segment, postings), live=live)
                for segment, live in members
            ],
            depth,
        )
        rankings.append(ranked)
        for place, number, score in zip(
            ranked.segment.tolist(), ranked.number.tolist(), ranked.scores.tolist(), strict=True
        ):
            scores[int(members[place][0].chunks[number])] = score
    return Candidates(scores, tuple(rankings))


def _postings(segment: Stored, postings: Mapping[int, Mapping[str, bytes]]) -> Mapping[str, bytes]:
    if segment.postings is not None:
        return segment.postings
    return {term: packed for term, packed in postings[segment.id].items() if packed}
