"""Lexical segments at rest: how the postings of a document are written, and how small segments become larger ones.

A document arrives as one small segment a language, a single row, so that ingest pays for one insert and not for a row
a term. When there are many, they are merged into a segment whose postings are kept a row a term, of which a search
reads just those that it needs. Eight segments of one size make one of the next: a posting is rewritten some three
times, and a search over 100 000 chunks meets some dozens of segments.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from gimle.foundation.db import Connection, queries, rows, scalar
from gimle.gateway import analysis
from gimle.knowledge import bm25, packing
from gimle.knowledge.types import Chunk

SQL = queries("gimle.knowledge", "index.sql")

# Sizes in chunks. Below the first a segment is one row; at the last it is merged no more.
SMALL, MEDIUM, LARGE = 512, 4096, 32768
# So many segments of one size are merged; the smallest also when together they have this many chunks.
_SMALL_COUNT, _SMALL_CHUNKS, _COUNT = 64, 4096, 8


class Draft(msgspec.Struct, frozen=True):
    """A segment before it is written. `owners[i]` is the place in `documents` of chunk i's document."""

    language: str
    documents: tuple[str, ...]
    chunks: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]
    postings: Mapping[str, bytes]


class _Source(msgspec.Struct, frozen=True):
    id: int
    language: str
    gone: list[str]
    documents: list[str]
    chunks: bytes
    owners: bytes
    lengths: bytes
    packed: bytes | None
    existing: list[str]


class Size(msgspec.Struct, frozen=True):
    """How many chunks a segment has, and how many of its documents are gone."""

    id: int
    language: str
    size: int
    gone: int = 0
    documents: int = 1


def draft(document: str, chunks: Sequence[Chunk]) -> list[Draft]:
    """The segments of one document, one for each analyser that its chunks ask for."""
    grouped: dict[str, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        grouped[analysis.index_language(chunk.language)].append(chunk)
    return [_draft(language, document, members) for language, members in sorted(grouped.items())]


def _draft(language: str, document: str, chunks: Sequence[Chunk]) -> Draft:
    # A heading is part of what a passage is about, though it stands outside of its text.
    texts = [(f"{chunk.heading}\n{chunk.text}" if chunk.heading else chunk.text, chunk.language) for chunk in chunks]
    built = packing.build([analysis.terms(text, spoken) for text, spoken in texts])
    return Draft(
        language=language,
        documents=(document,),
        chunks=np.array([chunk.number for chunk in chunks], np.int64),
        owners=np.zeros(len(chunks), np.int32),
        lengths=built.lengths,
        postings=built.postings,
    )


async def write(conn: Connection, collection: str, segment: Draft) -> int:
    """Add a segment in the caller's transaction and return its id."""
    small = len(segment.chunks) < SMALL
    written = await scalar(
        conn,
        SQL["insert_segment"],
        {
            "collection": collection,
            "language": segment.language,
            "document": segment.documents[0] if len(segment.documents) == 1 else None,
            "documents": list(segment.documents),
            "size": len(segment.chunks),
            "chunks": segment.chunks.astype("<i8").tobytes(),
            "owners": segment.owners.astype("<i4").tobytes(),
            "lengths": segment.lengths.astype("<i4").tobytes(),
            "packed": msgspec.msgpack.encode(segment.postings) if small else None,
        },
    )
    if not small:
        terms, packed = list(segment.postings), list(segment.postings.values())
        await conn.execute(SQL["insert_postings"], {"segment": written, "terms": terms, "postings": packed})
    return int(written)


async def forget(conn: Connection, document: str) -> None:
    """Take a document out of the lexical index, in the caller's transaction; before its row is deleted, or instead."""
    await conn.execute(SQL["delete_document_segments"], {"document": document})
    await conn.execute(SQL["forget_in_segments"], {"document": document})


def due(sizes: Sequence[Size]) -> list[list[int]]:
    """Which segments to merge now: groups of ids, each of one language and one size class. Pure.

    A segment that has lost a quarter of its documents is due alone.
    """
    classes: dict[tuple[str, int], list[Size]] = defaultdict(list)
    for segment in sizes:
        classes[segment.language, sum(segment.size >= bound for bound in (SMALL, MEDIUM, LARGE))].append(segment)
    groups: list[list[int]] = []
    for (_, level), members in sorted(classes.items()):
        if level < 3 and _is_due(level, members):
            groups.append([segment.id for segment in members])
        else:
            groups.extend([segment.id] for segment in members if 4 * segment.gone >= segment.documents)
    return groups


def _is_due(level: int, members: Sequence[Size]) -> bool:
    if level > 0:
        return len(members) >= _COUNT
    crowd = len(members) >= _COUNT and sum(segment.size for segment in members) >= _SMALL_CHUNKS
    return len(members) >= _SMALL_COUNT or crowd


async def merge(conn: Connection, collection: str) -> int:
    """Merge what is due, in the caller's transaction; return how many segments went into larger ones.

    Does nothing while another transaction merges the same collection. Cheap when nothing is due.
    """
    merged = 0
    groups = due(await rows(conn, SQL["segment_sizes"], {"collection": collection}, Size))
    if groups and await _lock(conn, collection):
        for group in groups:
            merged += await _rewrite(conn, collection, group)
        await conn.execute(SQL["move_generation"], {"collection": collection})
    return merged


async def purge(conn: Connection, collection: str) -> int:
    """Rewrite every segment that still holds terms of documents which are gone; return how many there were.

    Such documents are never found, purged or not: this removes the last traces of their words.
    """
    stale = await rows(conn, SQL["segments_with_gone"], {"collection": collection}, Size)
    if not stale or not await _lock(conn, collection):
        return 0
    for segment in stale:
        await _rewrite(conn, collection, [segment.id])
    await conn.execute(SQL["move_generation"], {"collection": collection})
    return len(stale)


async def _lock(conn: Connection, collection: str) -> bool:
    return bool(await scalar(conn, SQL["lock_merge"], {"collection": collection}))


async def _rewrite(conn: Connection, collection: str, group: Sequence[int]) -> int:
    async with conn.cursor(binary=True) as cursor:
        await cursor.execute(SQL["read_sources"], {"segments": list(group)})
        sources = [msgspec.convert(found, _Source) for found in await cursor.fetchall()]
        await cursor.execute(SQL["read_source_postings"], {"segments": list(group)})
        postings: dict[int, dict[str, bytes]] = defaultdict(dict)
        for found in await cursor.fetchall():
            postings[found["segment"]][found["term"]] = found["postings"]
    joined = await asyncio.to_thread(_join, sources, postings)
    await conn.execute(SQL["delete_segments"], {"segments": list(group)})
    if joined is not None:
        await write(conn, collection, joined)
    return len(sources)


def _join(sources: Sequence[_Source], postings: Mapping[int, Mapping[str, bytes]]) -> Draft | None:
    documents = sorted({name for source in sources for name in _kept(source)})
    places = {name: place for place, name in enumerate(documents)}
    parts, chunks, owners = [], [], []
    for source in sources:
        kept = _kept(source)
        own = np.frombuffer(source.owners, "<i4")
        live = np.array([name in kept for name in source.documents])[own]
        lengths = np.frombuffer(source.lengths, "<i4")
        found = postings.get(source.id, {}) if source.packed is None else _unpack(source.packed)
        parts.append(bm25.Segment(lengths=lengths, postings=found, live=live))
        chunks.append(np.frombuffer(source.chunks, "<i8")[live])
        owners.append(np.array([places.get(name, -1) for name in source.documents], np.int32)[own][live])
    if not documents:
        return None
    built = packing.merge(parts)
    return Draft(
        language=sources[0].language,
        documents=tuple(documents),
        chunks=np.concatenate(chunks),
        owners=np.concatenate(owners),
        lengths=built.lengths,
        postings=built.postings,
    )


def _kept(source: _Source) -> set[str]:
    return set(source.existing) - set(source.gone)


def _unpack(packed: bytes) -> dict[str, bytes]:
    return msgspec.msgpack.decode(packed, type=dict[str, bytes])
