"""The measures against values worked out by hand, and the reading of labelled sets."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.foundation.errors import InvalidRequest
from gimle.knowledge.evaluation import bootstrap, evaluate, ndcg, read_beir, recall, reciprocal_rank


def test_ndcg_by_hand() -> None:
    grades = {"a": 2.0, "b": 1.0}
    best = 2 + 1 / math.log2(3)
    assert ndcg(["a", "b"], grades) == 1.0
    assert ndcg(["x", "a", "b"], grades) == pytest.approx((2 / math.log2(3) + 1 / 2) / best)
    assert ndcg(["x"] * 10 + ["a"], grades) == 0.0
    assert ndcg(["a"], {}) == 0.0


def test_recall_and_reciprocal_rank_by_hand() -> None:
    grades = {"a": 1.0, "b": 1.0, "c": 0.0}
    assert recall(["c", "a"], grades, 2) == 0.5
    assert recall(["c", "a"], grades, 1) == 0.0
    assert reciprocal_rank(["c", "a"], grades) == 0.5
    assert reciprocal_rank(["c"] * 10 + ["a"], grades) == 0.0


def test_a_query_without_a_ranking_counts_zero() -> None:
    scores = evaluate({"q": ["a"]}, {"q": {"a": 1.0}, "r": {"b": 1.0}, "unjudged": {"a": 0.0}})
    assert (scores.queries, scores.ndcg10, scores.p1, scores.per_query) == (2, 0.5, 0.5, (1.0, 0.0))
    with pytest.raises(InvalidRequest):
        evaluate({}, {})


@given(st.lists(st.sampled_from("abcdefghijkl"), unique=True), st.sets(st.sampled_from("abcdefghijkl"), min_size=1))
def test_measures_lie_in_0_to_1_and_the_best_order_reaches_1(ranking: list[str], relevant: set[str]) -> None:
    grades = dict.fromkeys(relevant, 1.0)
    for value in (ndcg(ranking, grades), recall(ranking, grades, 10), reciprocal_rank(ranking, grades)):
        assert 0 <= value <= 1 + 1e-9
    assert ndcg(sorted(relevant), grades) == pytest.approx(1.0)


def test_the_bootstrap_tells_a_difference_from_none() -> None:
    better = bootstrap([0.6, 0.7] * 50, [0.5, 0.6] * 50)
    assert better.mean == pytest.approx(0.1)
    assert better.low == pytest.approx(0.1)
    noise = bootstrap([0.0, 1.0] * 50, [1.0, 0.0] * 50)
    assert noise.low < 0 < noise.high
    assert bootstrap([0.2, 0.9, 0.4]) == bootstrap([0.2, 0.9, 0.4])


def beir(folder: Path) -> Path:
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl").write_text('{"_id": 1, "title": "T", "text": "x\\u2028y"}\n\n', "utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "?"}\n', "utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t2\n", "utf-8")
    return folder


def test_a_set_is_read(tmp_path: Path) -> None:
    data = read_beir(beir(tmp_path))
    assert [(entry.id, entry.title, entry.text) for entry in data.corpus] == [("1", "T", "x\u2028y")]
    assert data.qrels == {"q": {"1": 2.0}}


@pytest.mark.parametrize(
    "file, content, named",
    [
        ("corpus.jsonl", '{"_id": "1"}\n', "line 1"),
        ("queries.jsonl", "[]\n", "line 1"),
        ("queries.jsonl", '{"_id": "q", "text": "?"}\nnonsense\n', "line 2"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\t1\n", "line 2"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\t1\tmuch\n", "line 2"),
    ],
)
def test_a_broken_set_is_refused_with_file_and_line(tmp_path: Path, file: str, content: str, named: str) -> None:
    (beir(tmp_path) / file).write_text(content, "utf-8")
    with pytest.raises(InvalidRequest, match=named) as caught:
        read_beir(tmp_path)
    assert file.split("/")[-1] in caught.value.message


def test_a_missing_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="qrels"):
        read_beir(tmp_path)
