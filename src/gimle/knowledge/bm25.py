"""BM25 over packed postings: pure numpy, no database. What it is given is all that it knows.

A segment is a numbered list of chunks; a term's posting list is one byte string, so that a store can keep it as one
row and fetch it by equality. Deleted chunks stay in the bytes and are masked out, of the statistics too, until a merge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

K1 = 1.2
B = 0.75
DEPTH = 200

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """Chunks 0..n-1 of one analyser language: their lengths in terms, and postings (the query's terms are enough).

    `live` is False where a chunk is gone; None when all live.
    """

    lengths: Ints
    postings: Mapping[str, bytes]
    live: Bools | None = None


class Built(msgspec.Struct, frozen=True):
    """A new segment, ready to store."""

    lengths: Ints
    postings: dict[str, bytes]


class Ranked(msgspec.Struct, frozen=True, kw_only=True):
    """The best chunks, best first, as (segment, number, score), and how scores lie over all `documents` live chunks.

    `ceiling` is what a chunk made of nothing but the query's terms could reach at most; 0 when no term is known.
    """

    segment: Ints
    number: Ints
    scores: Floats
    documents: int
    mean: float
    deviation: float
    ceiling: float


def pack(numbers: npt.NDArray[Any], counts: npt.NDArray[Any]) -> bytes:
    """One term's postings: ascending chunk numbers as little-endian u32, then their counts as u8 (255 at most)."""
    packed = np.asarray(numbers, "<u4"), np.asarray(np.minimum(counts, 255), np.uint8)
    return packed[0].tobytes() + packed[1].tobytes()


def unpack(data: bytes) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    """(numbers, counts) of a packed list, as views on its bytes. Raises ValueError for bytes of another length."""
    size, rest = divmod(len(data), 5)
    if rest:
        raise ValueError(f"a posting list has 5 bytes an entry, not {len(data)} in all")
    return np.frombuffer(data, "<u4", size), np.frombuffer(data, np.uint8, size, 4 * size)


def build(texts: Sequence[Sequence[str]]) -> Built:
    """The segment of chunks that are given as their terms."""
    numbers: dict[str, list[int]] = {}
    counts: dict[str, list[int]] = {}
    for number, words in enumerate(texts):
        for term, count in Counter(words).items():
            numbers.setdefault(term, []).append(number)
            counts.setdefault(term, []).append(count)
    lengths = np.array([len(words) for words in texts], np.int32)
    return Built(lengths, {term: pack(np.array(numbers[term]), np.array(counts[term])) for term in numbers})


def score(query: Sequence[str], segments: Sequence[Segment], depth: int = DEPTH) -> Ranked:
    """Rank all live chunks for a question's terms; any term may match. Ties go to the earlier chunk.

    Document count, average length and the rarity of terms come from the live chunks of these segments. Chunks that
    match nothing are not among the results.
    """
    lengths = np.concatenate([segment.lengths for segment in segments]) if segments else np.empty(0, np.int32)
    live = _live(segments, len(lengths))
    documents = int(live.sum())
    if not documents:
        return _nothing()
    average = float(lengths[live].mean()) or 1.0
    norm = K1 * (1 - B + B * lengths / average)
    starts = np.cumsum([0, *(len(segment.lengths) for segment in segments)])
    scores = np.zeros(len(lengths), np.float64)
    ceiling = 0.0
    for term, repeats in sorted(Counter(query).items()):
        numbers, counts = _gather(term, segments, starts)
        alive = live[numbers]
        numbers, counts = numbers[alive], counts[alive]
        if len(numbers):
            weight = repeats * float(np.log1p((documents - len(numbers) + 0.5) / (len(numbers) + 0.5)))
            scores[numbers] += weight * counts * (K1 + 1) / (counts + norm[numbers])
            ceiling += weight * (K1 + 1)
    return _best(scores, live, starts, depth, ceiling)


def merge(segments: Sequence[Segment]) -> Built:
    """One segment of all that is live in these, renumbered in order. Their postings must be complete."""
    live = _live(segments, sum(len(segment.lengths) for segment in segments))
    starts = np.cumsum([0, *(len(segment.lengths) for segment in segments)])
    renumbered = np.cumsum(live) - 1
    postings: dict[str, bytes] = {}
    for term in sorted({term for segment in segments for term in segment.postings}):
        numbers, counts = _gather(term, segments, starts)
        alive = live[numbers]
        if alive.any():
            postings[term] = pack(renumbered[numbers[alive]], counts[alive])
    lengths = np.concatenate([segment.lengths for segment in segments]) if segments else np.empty(0, np.int32)
    return Built(lengths[live].astype(np.int32), postings)


def _live(segments: Sequence[Segment], total: int) -> Bools:
    if not total:
        return np.zeros(0, np.bool_)
    return np.concatenate(
        [np.ones(len(s.lengths), np.bool_) if s.live is None else np.asarray(s.live, np.bool_) for s in segments]
    )


def _gather(
    term: str, segments: Sequence[Segment], starts: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """A term's postings over all segments, numbered through."""
    numbers: list[npt.NDArray[Any]] = [np.empty(0, np.int64)]
    counts: list[npt.NDArray[Any]] = [np.empty(0, np.uint8)]
    for segment, start in zip(segments, starts, strict=False):
        data = segment.postings.get(term)
        if data:
            local, count = unpack(data)
            numbers.append(local.astype(np.int64) + start)
            counts.append(count)
    return np.concatenate(numbers), np.concatenate(counts)


def _best(scores: npt.NDArray[np.float64], live: Bools, starts: npt.NDArray[Any], depth: int, ceiling: float) -> Ranked:
    matched = np.flatnonzero(scores)
    if len(matched) > depth:
        # Keep all that tie with the last place, so that the cut does not depend on the partition's order.
        least = np.partition(scores[matched], len(matched) - depth)[len(matched) - depth]
        matched = matched[scores[matched] >= least]
    order = matched[np.lexsort((matched, -scores[matched]))][:depth]
    segment = np.searchsorted(starts, order, side="right") - 1
    everything = scores[live]
    return Ranked(
        segment=segment.astype(np.int32),
        number=(order - starts[segment]).astype(np.int32),
        scores=scores[order].astype(np.float32),
        documents=len(everything),
        mean=float(everything.mean()),
        deviation=float(everything.std()),
        ceiling=ceiling,
    )


def _nothing() -> Ranked:
    none = np.empty(0, np.int32)
    scores = np.empty(0, np.float32)
    return Ranked(segment=none, number=none, scores=scores, documents=0, mean=0.0, deviation=0.0, ceiling=0.0)
