"""The bulk forms of building and merging say the same as the readable ones, byte by byte."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gimle.knowledge import bm25, packing

TEXTS = st.lists(st.lists(st.sampled_from(["a", "b", "c", "honey", "wax", "ü"]), max_size=12), min_size=1, max_size=6)


@given(TEXTS)
def test_build(texts: list[list[str]]) -> None:
    fast, plain = packing.build(texts), bm25.build(texts)
    assert fast.postings == plain.postings
    assert fast.lengths.tolist() == plain.lengths.tolist()


def test_a_count_stops_at_255() -> None:
    texts = [["bee"] * 300, ["bee"]]
    assert packing.build(texts).postings == bm25.build(texts).postings


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_merge(parts: list[list[list[str]]]) -> None:
    segments = []
    for place, texts in enumerate(parts):
        built = bm25.build(texts)
        live = None if place % 3 == 0 else np.array([(number + place) % 3 > 0 for number in range(len(texts))])
        segments.append(bm25.Segment(lengths=built.lengths, postings=built.postings, live=live))
    fast, plain = packing.merge(segments), bm25.merge(segments)
    assert fast.postings == plain.postings
    assert fast.lengths.tolist() == plain.lengths.tolist()
