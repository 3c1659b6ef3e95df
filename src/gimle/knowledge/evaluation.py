"""How good a ranking is: nDCG, recall, MRR, precision at one, and whether a difference is more than chance.

Reads sets in the BEIR layout: corpus.jsonl and queries.jsonl with `_id` and `text`, qrels/*.tsv with a header line.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gimle.foundation.errors import InvalidRequest

Judged = Mapping[str, Mapping[str, float]]
Runs = Mapping[str, Sequence[str]]


class Entry(msgspec.Struct, frozen=True):
    """One text of a set."""

    id: str
    title: str
    text: str


class Dataset(msgspec.Struct, frozen=True):
    """A labelled set; `qrels` gives each query's documents with their grades."""

    corpus: list[Entry]
    queries: list[Entry]
    qrels: dict[str, dict[str, float]]


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Means over all judged queries, 0..1 each; `per_query` holds nDCG@10 in the order of the judged queries."""

    ndcg10: float
    recall10: float
    recall100: float
    mrr10: float
    p1: float
    queries: int
    per_query: tuple[float, ...]


class Interval(msgspec.Struct, frozen=True):
    """A mean with the bounds between which 95 % of the resampled means lie."""

    mean: float
    low: float
    high: float


def ndcg(ranking: Sequence[str], grades: Mapping[str, float], depth: int = 10) -> float:
    """Discounted gain of the first `depth` places over that of the best possible order; 0 when nothing is relevant."""
    gain = sum(grades.get(doc, 0.0) / math.log2(place + 2) for place, doc in enumerate(ranking[:depth]))
    ideal = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:depth]
    best = sum(grade / math.log2(place + 2) for place, grade in enumerate(ideal))
    return gain / best if best else 0.0


def recall(ranking: Sequence[str], grades: Mapping[str, float], depth: int) -> float:
    """Share of the relevant documents among the first `depth`."""
    relevant = {doc for doc, grade in grades.items() if grade > 0}
    return len(relevant.intersection(ranking[:depth])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], grades: Mapping[str, float], depth: int = 10) -> float:
    """One over the place of the first relevant document, 0 when it is not among the first `depth`."""
    places = (place for place, doc in enumerate(ranking[:depth], 1) if grades.get(doc, 0) > 0)
    return 1 / next(places, math.inf)


def evaluate(runs: Runs, qrels: Judged) -> Scores:
    """Score rankings against judgements; a judged query without one counts 0. Raises InvalidRequest without any."""
    judged = [(runs.get(query, ()), grades) for query, grades in qrels.items() if any(g > 0 for g in grades.values())]
    if not judged:
        raise InvalidRequest("The set judges no query.", field="qrels")
    gains = tuple(ndcg(ranking, grades) for ranking, grades in judged)
    return Scores(
        ndcg10=_mean(gains),
        recall10=_mean([recall(ranking, grades, 10) for ranking, grades in judged]),
        recall100=_mean([recall(ranking, grades, 100) for ranking, grades in judged]),
        mrr10=_mean([reciprocal_rank(ranking, grades) for ranking, grades in judged]),
        p1=_mean([reciprocal_rank(ranking, grades, 1) for ranking, grades in judged]),
        queries=len(judged),
        per_query=gains,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def bootstrap(
    ours: Sequence[float], theirs: Sequence[float] | None = None, samples: int = 2000, seed: int = 0
) -> Interval:
    """95 % interval of the mean of `ours`, or of the paired difference to `theirs`, query by query."""
    values = np.asarray(ours, np.float64)
    if theirs is not None:
        values = values - np.asarray(theirs, np.float64)
    if not len(values):
        raise InvalidRequest("There is nothing to resample.", field="ours")
    chosen = np.random.default_rng(seed).integers(0, len(values), (samples, len(values)))
    low, high = np.percentile(values[chosen].mean(1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def read_beir(folder: Path) -> Dataset:
    """Read a set. Raises InvalidRequest, with the file and the line, when a part is missing or not as it should be."""
    files = sorted((folder / "qrels").glob("*.tsv"))
    if not files:
        raise InvalidRequest(
            f"{folder} has no qrels/*.tsv.", field="folder", hint="The BEIR layout is described in `gimle eval --help`."
        )
    qrels: dict[str, dict[str, float]] = {}
    for file in files:
        for query, doc, grade in _judgements(file):
            qrels.setdefault(query, {})[doc] = grade
    return Dataset(_entries(folder / "corpus.jsonl"), _entries(folder / "queries.jsonl"), qrels)


def _entries(file: Path) -> list[Entry]:
    if not file.is_file():
        raise InvalidRequest(f"{file} is missing.", field="folder")
    entries: list[Entry] = []
    for number, line in enumerate(file.read_text("utf-8").split("\n"), 1):
        if line.strip():
            try:
                row: dict[str, Any] = json.loads(line)
                entries.append(Entry(str(row["_id"]), str(row.get("title") or ""), str(row["text"])))
            except (ValueError, KeyError, AttributeError, TypeError) as wrong:
                raise InvalidRequest(f"{file}, line {number}: {wrong}.", field="folder") from wrong
    return entries


def _judgements(file: Path) -> list[tuple[str, str, float]]:
    found: list[tuple[str, str, float]] = []
    with file.open(encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
            if number > 1 and row:
                try:
                    query, doc, grade = row
                    found.append((query, doc, float(grade)))
                except ValueError as wrong:
                    raise InvalidRequest(f"{file}, line {number}: {wrong}.", field="qrels") from wrong
    return found
