"""Fusion: calibrated, independent of the company that a chunk keeps, and deaf where the model is blind."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.knowledge import bm25, fusion
from gimle.knowledge.fusion import Channel, dense_channel, dense_weight, fuse, lexical_channel

SCORES = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 30), min_size=1)
WEIGHT = st.floats(0, 1)


def channel(scores: dict[str, float], mean: float = 1.0, deviation: float = 2.0) -> Channel:
    return Channel(scores=scores, mean=mean, deviation=deviation)


def contrast(best: float, mean: float = 0.05) -> Channel:
    return channel({"a": best}, mean, 0.1)


@given(SCORES, SCORES, WEIGHT)
def test_scores_lie_in_0_to_1_and_fall(words: dict[str, float], meaning: dict[str, float], weight: float) -> None:
    fused = fuse(channel(words), channel(meaning), weight)
    assert {one.id for one in fused} == words.keys() | meaning.keys()
    assert all(0 <= value < 1 for one in fused for value in (one.score, one.lexical, one.dense))
    assert [one.score for one in fused] == sorted((one.score for one in fused), reverse=True)


@given(SCORES, SCORES, WEIGHT, st.floats(0, 30))
def test_a_further_candidate_changes_no_score(
    words: dict[str, float], meaning: dict[str, float], weight: float, other: float
) -> None:
    both = words.keys() & meaning.keys()
    words, meaning = {id: words[id] for id in both}, {id: meaning[id] for id in both}
    alone = {one.id: one.score for one in fuse(channel(words), channel(meaning), weight)}
    more = fuse(channel({**words, "z": other}), channel({**meaning, "z": other}), weight)
    assert {one.id: one.score for one in more if one.id != "z"} == alone


@given(SCORES, SCORES)
def test_the_whole_weight_on_one_channel_is_its_order(words: dict[str, float], meaning: dict[str, float]) -> None:
    fused = fuse(channel(words), channel(meaning), 0.0)
    known = [one.id for one in fused if one.id in words]
    assert known == sorted(words, key=lambda id: (-(words[id] - 1.0) / 2.0, id))
    assert [one.id for one in fusion.single_dense(channel(meaning))] == sorted(
        meaning, key=lambda id: (-(meaning[id] - 1.0) / 2.0, id)
    )


def test_equal_scores_stand_in_the_order_of_their_ids() -> None:
    assert [one.id for one in fusion.single_lexical(channel({"b": 3.0, "a": 3.0, "c": 4.0}))] == ["c", "a", "b"]


def test_a_chunk_that_one_channel_never_saw_counts_as_its_background() -> None:
    fused = {one.id: one for one in fuse(channel({"a": 9.0}), channel({"b": 0.9, "c": 0.8}, 0.1, 0.1), 0.5)}
    assert fused["a"].dense == 0.0
    assert fused["b"].lexical == 0.0


def test_meaning_weighs_full_where_the_model_knows_the_language() -> None:
    assert dense_weight(contrast(0.6), "en", ["en"] * 9, {"en"}) == fusion.DENSE_WEIGHT
    assert dense_weight(contrast(0.6), "und", ["en"] * 9, {"en"}) == fusion.DENSE_WEIGHT


def test_meaning_weighs_little_in_an_unknown_language() -> None:
    least = fusion.DENSE_WEIGHT * fusion.BLIND_TRUST
    assert dense_weight(contrast(0.6), "de", ["de"] * 9, {"en"}) == pytest.approx(least)
    assert dense_weight(contrast(0.6), "en", ["de"] * 9, {"en"}) == pytest.approx(least)
    assert least < dense_weight(contrast(0.6), "und", [], {"en"}) < fusion.DENSE_WEIGHT
    assert dense_weight(contrast(0.6), "de", ["de"] * 9, {"en", "de"}) == fusion.DENSE_WEIGHT


def test_meaning_weighs_nothing_where_no_cosine_stands_out() -> None:
    assert dense_weight(contrast(0.2), "en", ["en"], {"en"}) == 0.0
    assert dense_weight(channel({}), "en", [], {"en"}) == 0.0
    weights = [dense_weight(contrast(best), "en", ["en"], {"en"}) for best in (0.2, 0.3, 0.35, 0.5)]
    assert weights == sorted(weights)


def test_the_only_chunk_of_a_collection_still_stands_out() -> None:
    built = bm25.build([["roof", "order"]])
    ranked = bm25.score(["roof"], [bm25.Segment(lengths=built.lengths, postings=built.postings)])
    words = lexical_channel({"a": float(ranked.scores[0])}, [ranked])
    meaning = dense_channel({"a": 0.7}, np.array([0.7], np.float32))
    assert fuse(words, meaning, 0.7)[0].score > 0.3


def test_several_languages_share_one_background() -> None:
    parts = [bm25.build([["a"], ["b"]]), bm25.build([["c"]] * 4)]
    ranked = [bm25.score(["a"], [bm25.Segment(lengths=p.lengths, postings=p.postings)]) for p in parts]
    both = lexical_channel({"x": float(ranked[0].scores[0])}, ranked)
    alone = lexical_channel({"x": float(ranked[0].scores[0])}, ranked[:1])
    assert both.mean < alone.mean
