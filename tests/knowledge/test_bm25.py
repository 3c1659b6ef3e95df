"""BM25 against the formula written out, and the promises that a store relies on."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.knowledge.bm25 import Built, Segment, build, merge, pack, score, unpack

CORPUS = st.lists(st.lists(st.sampled_from("abcdef"), max_size=12), min_size=1, max_size=15)
QUERY = st.lists(st.sampled_from("abcxy"), max_size=5)


def segment(built: Built, live: list[bool] | None = None) -> Segment:
    alive = None if live is None else np.array(live, np.bool_)
    return Segment(lengths=built.lengths, postings=built.postings, live=alive)


def written_out(query: list[str], texts: list[list[str]]) -> list[float]:
    average = sum(map(len, texts)) / len(texts) or 1.0
    scores = []
    for text in texts:
        counts, total = Counter(text), 0.0
        for term in query:
            frequency = sum(term in other for other in texts)
            rarity = math.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5))
            total += rarity * counts[term] * 2.2 / (counts[term] + 1.2 * (0.25 + 0.75 * len(text) / average))
        scores.append(total)
    return scores


@given(CORPUS, QUERY)
def test_scores_are_those_of_the_formula(texts: list[list[str]], query: list[str]) -> None:
    ranked = score(query, [segment(build(texts))])
    expected = written_out(query, texts)
    assert dict(zip(ranked.number.tolist(), ranked.scores.tolist(), strict=True)) == pytest.approx(
        {number: value for number, value in enumerate(expected) if value > 0}, rel=1e-5
    )
    assert ranked.mean == pytest.approx(np.mean(expected))
    assert ranked.deviation == pytest.approx(np.std(expected), abs=1e-9)
    assert ranked.documents == len(texts)
    assert max(expected) <= ranked.ceiling + 1e-9


@given(CORPUS, QUERY, st.integers(1, 14))
def test_cutting_into_segments_changes_nothing(texts: list[list[str]], query: list[str], at: int) -> None:
    whole = score(query, [segment(build(texts))])
    parts = [part for part in (texts[:at], texts[at:]) if part]
    cut = score(query, [segment(build(part)) for part in parts])
    places = [int(number) + (at if which else 0) for which, number in zip(cut.segment, cut.number, strict=True)]
    assert places == whole.number.tolist()
    assert cut.scores.tolist() == whole.scores.tolist()


@given(CORPUS, QUERY, st.data())
def test_the_dead_count_for_nothing_before_and_after_a_merge(
    texts: list[list[str]], query: list[str], data: st.DataObject
) -> None:
    live = data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts)))
    left = [text for text, alive in zip(texts, live, strict=True) if alive]
    masked = score(query, [segment(build(texts), live)])
    merged = score(query, [segment(merge([segment(build(texts), live)]))])
    fresh = score(query, [segment(build(left))] if left else [])
    survivors = np.flatnonzero(live)
    assert masked.number.tolist() == [int(survivors[number]) for number in fresh.number]
    assert masked.scores.tolist() == merged.scores.tolist() == fresh.scores.tolist()
    assert merged.number.tolist() == fresh.number.tolist()


@given(CORPUS, QUERY, st.integers(1, 5))
def test_the_depth_only_cuts_the_end_off(texts: list[list[str]], query: list[str], depth: int) -> None:
    whole = score(query, [segment(build(texts))])
    assert score(query, [segment(build(texts))], depth).number.tolist() == whole.number.tolist()[:depth]


@given(st.dictionaries(st.integers(0, 2**32 - 1), st.integers(1, 400), max_size=30))
def test_packed_postings_come_back(entries: dict[int, int]) -> None:
    numbers = np.array(sorted(entries), np.uint32)
    counts = np.array([entries[number] for number in sorted(entries)], np.int64)
    data = pack(numbers, counts)
    back, times = unpack(data)
    assert len(data) == 5 * len(entries)
    assert back.tolist() == numbers.tolist()
    assert times.tolist() == [min(255, count) for count in counts.tolist()]


def test_foreign_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="5 bytes"):
        unpack(b"1234")


def test_nothing_in_nothing_out() -> None:
    assert score(["a"], []).number.tolist() == []
    assert score([], [segment(build([["a"]]))]).number.tolist() == []
    assert score(["a"], [segment(build([["a"]]), [False])]).documents == 0
