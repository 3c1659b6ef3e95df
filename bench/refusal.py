"""How often the answerer without a model answers what it can, and refuses what it can't; and the fit of its confidence.

    python bench/refusal.py [DATA] [--fit]

DATA (by default ../shared/data) holds `xquad-en` (BEIR layout, answer spans in queries.jsonl). Each question meets the
five best passages of three worlds: all passages; all but those of its own article; all but the one with the answer.
Half of the articles serve to fit, the figures come from the other half. Once with meaning, once by words alone, which
is what German questions get.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from gimle.foundation import config
from gimle.gateway import extract, weights
from gimle.gateway.analysis import terms
from gimle.gateway.minilm import Encoder
from gimle.knowledge import bm25, fusion
from gimle.knowledge.evaluation import Dataset, read_beir

Vectors = npt.NDArray[np.float32]
WORLDS = ("all", "no article", "no passage")


class Case(msgspec.Struct, frozen=True):
    """One question in one world: what the confidence rested on, whether it answered, whether it quotes the span."""

    article: int
    world: str
    features: tuple[float, ...]
    answered: bool
    right: bool


class Remembered:
    """An embedder that makes each sentence's vector once."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[str, Vectors] = {}

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Vectors of the texts, in their order."""
        new = [text for text in texts if text not in self._known]
        if new:
            self._known.update(zip(new, self._encoder.encode(new), strict=True))
        return np.stack([self._known[text] for text in texts])


def ranked(data: Dataset, embed: Remembered) -> dict[str, list[tuple[int, float]]]:
    """For each question all passages, best first, with their scores."""
    texts = [entry.text for entry in data.corpus]
    built = bm25.build([terms(text, "en") for text in texts])
    segment = bm25.Segment(lengths=built.lengths, postings=built.postings)
    documents = embed(texts)
    result = {}
    for query, vector in zip(data.queries, embed([query.text for query in data.queries]), strict=True):
        found = bm25.score(terms(query.text, "en"), [segment], len(texts))
        words = dict.fromkeys(map(str, range(len(texts))), 0.0)
        words.update((str(number), float(score)) for number, score in zip(found.number, found.scores, strict=True))
        cosines = documents @ vector
        meaning = fusion.dense_channel({str(at): float(cosine) for at, cosine in enumerate(cosines)}, cosines)
        fused = fusion.fuse(fusion.lexical_channel(words, [found]), meaning, fusion.DENSE_WEIGHT)
        result[query.id] = [(int(one.id), one.score) for one in fused]
    return result


def worlds(article: Sequence[int], gold: int) -> dict[str, Callable[[int], bool]]:
    """Which passages there are, with the answer, without its whole article, and without the very passage."""
    return {
        "all": lambda at: True,
        "no article": lambda at: article[at] != article[gold],
        "no passage": lambda at: at != gold,
    }


def cases(folder: Path, embed: Remembered, meaning: bool) -> list[Case]:
    """Every question in every world."""
    data = read_beir(folder)
    lines = (folder / "queries.jsonl").read_text("utf-8").splitlines()
    spans = {row["_id"]: row["answers"] for row in map(json.loads, lines)}
    article = [int(entry.id.split("-")[0]) for entry in data.corpus]
    place = {entry.id: at for at, entry in enumerate(data.corpus)}
    orders = ranked(data, embed)
    found = []
    for query in data.queries:
        gold = place[next(iter(data.qrels[query.id]))]
        for world, allowed in worlds(article, gold).items():
            best = [(at, score) for at, score in orders[query.id] if allowed(at)][:5]
            passages = [extract.Passage(str(at), data.corpus[at].text, score, "en") for at, score in best]
            outcome = extract.answer(query.text, passages, embed if meaning else None)
            right = any(
                best[pick.passage][0] == gold and pick.start <= span["start"] < pick.end
                for pick in outcome.picks
                for span in spans[query.id]
            )
            seen = extract.features(query.text, passages, embed if meaning else None) or ()
            found.append(Case(article[gold], world, seen, outcome.answered, right))
    return found


def fit(chosen: Sequence[Case]) -> list[float]:
    """Logistic regression by Newton's method: answerable against the passage taken away."""
    used = [case for case in chosen if case.world != "no article"]
    inputs = np.array([case.features for case in used])
    goal = np.array([case.world == "all" for case in used], np.float64)
    found = np.zeros(inputs.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-inputs @ found))
        slope = inputs.T @ (chance - goal) / len(goal) + 1e-3 * found
        curve = (inputs * (chance * (1 - chance))[:, None]).T @ inputs / len(goal) + 1e-3 * np.eye(len(found))
        found -= np.linalg.solve(curve, slope)
    return [round(float(value), 2) for value in found]


def main() -> int:
    """Print both tables; 1 without weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--fit", action="store_true", help="print freshly fitted weights too")
    given = parser.parse_args()
    folder = weights.locate(config.load())
    if folder is None:
        print("No weights: run `gimle setup` first.", file=sys.stderr)
        return 1
    embed = Remembered(Encoder.load(folder))
    for meaning in (True, False):
        found = cases(given.data / "xquad-en", embed, meaning)
        articles = sorted({case.article for case in found})
        held = [case for case in found if case.article in articles[1::2]]
        print("\nwith meaning" if meaning else "\nby words alone")
        for world in WORLDS:
            here = [case for case in held if case.world == world]
            answered = sum(case.answered for case in here) / len(here)
            right = sum(case.right for case in here) / len(here)
            print(f"  {world:12} {len(here)} questions: answered {answered:.3f}, span quoted {right:.3f}")
        if given.fit:
            print("  fitted:", fit([case for case in found if case.article in articles[::2]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
