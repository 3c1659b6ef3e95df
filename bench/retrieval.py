"""Retrieval quality of Gimle's own parts on labelled sets, beside each channel alone, a naive sum and rank fusion.

    python bench/retrieval.py [DATA] [--cache FOLDER] [--set scifact]

DATA (by default ../shared/data) holds sets in the BEIR layout (`scifact`, `xquad-en`, `covid-faq-de`). A document is
one chunk here, cut by the model at 256 tokens. Ends with 1 when a figure falls below what the project promises.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from gimle.foundation import config
from gimle.gateway import weights
from gimle.gateway.analysis import index_language, terms
from gimle.gateway.language import detect
from gimle.gateway.minilm import Encoder
from gimle.knowledge import bm25, fusion
from gimle.knowledge.evaluation import Dataset, Entry, Scores, bootstrap, evaluate, read_beir

# (set, way, measure): the least that is promised.
PROMISED = {
    ("scifact", "BM25", "ndcg10"): 0.69,
    ("scifact", "hybrid", "ndcg10"): 0.735,
    ("xquad-en", "hybrid", "ndcg10"): 0.975,
    ("xquad-en", "hybrid", "p1"): 0.95,
    ("covid-faq-de", "hybrid", "ndcg10"): 0.344,
}
Vectors = npt.NDArray[np.float32]
Rankings = dict[str, list[str]]


class Prepared(msgspec.Struct, frozen=True):
    """A set, indexed: its segment, the vectors of both sides, and each document's language."""

    data: Dataset
    language: str
    segment: bm25.Segment
    documents: Vectors
    questions: Vectors
    languages: list[str]


def text_of(entry: Entry) -> str:
    """What is indexed of a document."""
    title = entry.title.replace("_", " ")
    return f"{title}. {entry.text}" if title else entry.text


def embedded(encoder: Encoder, texts: Sequence[str], cache: Path | None) -> Vectors:
    """Vectors of the texts; `cache` keeps them by content, as a rerun needs no new ones."""
    if cache is None:
        return encoder.encode(texts)
    digest = hashlib.sha256("\0".join([encoder.version, *texts]).encode()).hexdigest()[:16]
    file = cache / f"{digest}.npy"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(file, encoder.encode(texts))
    return np.asarray(np.load(file), np.float32)


def prepare(folder: Path, encoder: Encoder, cache: Path | None) -> Prepared:
    """Read a set and index it with one analyser, that of most documents."""
    data = read_beir(folder)
    texts = [text_of(entry) for entry in data.corpus]
    languages = [detect(text) for text in texts]
    language = index_language(max(set(languages), key=languages.count))
    built = bm25.build([terms(text, language) for text in texts])
    segment = bm25.Segment(lengths=built.lengths, postings=built.postings)
    questions = embedded(encoder, [query.text for query in data.queries], cache)
    return Prepared(data, language, segment, embedded(encoder, texts, cache), questions, languages)


def rank(prepared: Prepared) -> dict[str, Rankings]:
    """Each way's ranking of 100 documents for each query."""
    ways: dict[str, Rankings] = {name: {} for name in ("BM25", "dense", "z-sum 0.7", "RRF 60", "hybrid")}
    for number, query in enumerate(prepared.data.queries):
        cosines = prepared.documents @ prepared.questions[number]
        everything = bm25.score(terms(query.text, prepared.language), [prepared.segment], len(cosines))
        words = np.zeros(len(cosines))
        words[everything.number] = everything.scores
        ways["BM25"][query.id] = named(prepared, everything.number)
        ways["dense"][query.id] = named(prepared, np.argsort(-cosines, kind="stable"))
        ways["z-sum 0.7"][query.id] = named(prepared, np.argsort(-(0.7 * z(cosines) + 0.3 * z(words)), kind="stable"))
        ways["RRF 60"][query.id] = named(prepared, rrf(cosines, words))
        ways["hybrid"][query.id] = hybrid(prepared, query.text, cosines)
    return ways


def named(prepared: Prepared, order: npt.NDArray[np.int32] | npt.NDArray[np.int64]) -> list[str]:
    """The ids of the first hundred places."""
    return [prepared.data.corpus[place].id for place in order[:100]]


def z(values: npt.NDArray[np.float64] | Vectors) -> npt.NDArray[np.float64]:
    """Standard scores over all documents."""
    return np.asarray((values - values.mean()) / (values.std() + 1e-9), np.float64)


def rrf(cosines: Vectors, words: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Reciprocal rank fusion with the usual constant, over all documents."""
    total = np.zeros(len(cosines))
    for values in (cosines, words):
        total[np.argsort(-values, kind="stable")] += 1 / (60 + np.arange(1, len(values) + 1))
    return np.argsort(-total, kind="stable")


def hybrid(prepared: Prepared, question: str, cosines: Vectors) -> list[str]:
    """As search does it: 100 candidates a channel, fused with the weight that the query earns."""
    ranked = bm25.score(terms(question, prepared.language), [prepared.segment], fusion.DEPTH)
    nearest = np.argsort(-cosines, kind="stable")[: fusion.DEPTH]
    words = {str(number): float(score) for number, score in zip(ranked.number, ranked.scores, strict=True)}
    meaning = {str(number): float(cosines[number]) for number in {*nearest.tolist(), *ranked.number.tolist()}}
    for number in nearest:
        words.setdefault(str(number), 0.0)
    dense = fusion.dense_channel(meaning, cosines)
    languages = [prepared.languages[number] for number in nearest]
    weight = fusion.dense_weight(dense, detect(question), languages, Encoder.languages)
    fused = fusion.fuse(fusion.lexical_channel(words, [ranked]), dense, weight)
    return [prepared.data.corpus[int(one.id)].id for one in fused[:100]]


def report(name: str, scores: dict[str, Scores]) -> list[str]:
    """Print one set's table; return what falls short of the promise."""
    print(f"\n{name}: {scores['BM25'].queries} judged queries")
    print(f"{'':12}{'nDCG@10':>9}{'R@10':>8}{'R@100':>8}{'MRR@10':>8}{'P@1':>8}   nDCG against BM25, 95 %")
    short = []
    for way, one in scores.items():
        gap = bootstrap(one.per_query, scores["BM25"].per_query)
        row = f"{one.ndcg10:9.4f}{one.recall10:8.3f}{one.recall100:8.3f}{one.mrr10:8.4f}{one.p1:8.4f}"
        print(f"{way:12}{row}   {gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]")
        for measure, reached in (("ndcg10", one.ndcg10), ("p1", one.p1)):
            least = PROMISED.get((name, way, measure), 0.0)
            if reached < least:
                short.append(f"{name} {way} {measure} {reached:.4f} < {least}")
    return short


def main() -> int:
    """Run all sets; 1 when a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--set", action="append", dest="sets")
    given = parser.parse_args()
    folder = weights.locate(config.load())
    if folder is None:
        print("No weights: run `gimle setup` first.", file=sys.stderr)
        return 1
    encoder = Encoder.load(folder)
    short: list[str] = []
    for name in given.sets or sorted({name for name, _, _ in PROMISED}):
        start = time.monotonic()
        prepared = prepare(given.data / name, encoder, given.cache)
        ways = rank(prepared)
        short += report(name, {way: evaluate(ranking, prepared.data.qrels) for way, ranking in ways.items()})
        print(f"{time.monotonic() - start:.1f} s")
    print("\nBelow the promise: " + "; ".join(short) if short else "\nAll promised figures are reached.")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
