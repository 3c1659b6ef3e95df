"""Answers without a language model: the sentences of the passages that answer the question, or an honest "not there".

A sentence is judged by its words (rare ones of the question weigh most), by its meaning where the embedding model
knows the language, by whether it holds what is asked for (a number, a date, a name), and by its passage's rank. Pure:
the builtin engine, the compression of contexts and the check of citations all call it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from gimle.gateway.analysis import terms, words
from gimle.gateway.language import detect
from gimle.gateway.sentences import Span, sentences

__all__ = ["Extract", "Passage", "Pick", "Span", "answer", "rank", "refusal", "sentences", "supports"]

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]
Floats = npt.NDArray[np.float64]

TRUSTED = ("en",)
"""Languages whose sentences the embedding model understands."""
K1, B = 1.2, 0.75
PART_MATCH = 0.8
TITLE_LENGTH, TITLE_WORDS = 70, 9
VALUE = re.compile(r"\d|:\s|[|\t]|,\s?\S")
MOST_COMPARED = 32
"""Sentences whose meaning is compared: a vector costs milliseconds, and the answer is hardly ever beyond these."""
MOST_PICKS = 3
MARGIN = 1.2
"""A further sentence is taken when its score lies less than this below the best one's."""


class Passage(msgspec.Struct, frozen=True):
    """A stretch of a document. `score` is search's, 0..1; `heading` is read with it but never quoted."""

    id: str
    text: str
    score: float = 0.0
    language: str = "und"
    heading: str = ""


class Pick(msgspec.Struct, frozen=True):
    """A chosen sentence: `passages[passage].text[start:end]`."""

    passage: int
    start: int
    end: int
    score: float


class Extract(msgspec.Struct, frozen=True):
    """The outcome: sentences in the order of the passages; none, and answered False, when the evidence is too thin.

    `confidence` 0..1 is the estimated chance that the best sentence answers; it was fitted on held-out questions.
    """

    picks: tuple[Pick, ...]
    confidence: float
    answered: bool


class Kind(msgspec.Struct, frozen=True):
    """A kind of question: how one sees it, and what an answer to it must hold."""

    asks: re.Pattern[str]
    holds: re.Pattern[str]


# Nothing in these may look ahead without a bound: a text of many beginnings would be read as often as it has them.
_NUMBER = r"""\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|hundred|thousand|million
|half|third|quarter|twice|free|none|nothing|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|elf|zwölf|hundert|tausend|halb
|viertel\w*|drittel|kostenlos|frei)\b"""
_TIME = r"""\b\d{4}\b|\b\d{1,2}[:.]\d\d\b|\b\d{1,2}\.\s?\d{1,2}\.|\b(?:january|february|march|april|may|june|july|august
|september|october|november|december|januar|februar|märz|mai|juni|juli|oktober|dezember|century|centuries|jahrhundert
|years?|jahre?n?|days?|tage?n?|weeks?|wochen?|months?|monate?n?|hours?|stunden?|o'clock|uhr|morning|evening|noon
|spring|summer|autumn|winter|frühling|sommer|herbst|(?:mon|tues|wednes|thurs|fri|satur|sun)days?
|(?:mon|diens|donners|frei|sams|sonn)tags?|mittwochs?)\b"""
_NAME = r"""(?<![.!?:]\s)(?<!^)(?<!^["'(])\b[A-ZÄÖÜ][\w'’-]+"""
_ASKS_NUMBER = r"""\b(?:how\ (?:many|much|far|long|old|tall|high|large|big|often|deep|wide|hot|cold)
|at\ what\ temperature|what\ (?:percentage|percent|number|temperature|price|fee|deposit|does\ .{0,80}\ cost)
|wie\ ?viele?|was\ (?:kostet|kosten)
|wie\ (?:hoch|lange?|weit|oft|alt|groß|schwer|teuer|tief)|was\ muss\ .{0,80}\ zahlen)\b"""
_ASKS_TIME = r"""\b(?:when|(?:what|which)\ (?:year|date|day|time|month|century)|wann|um\ wie\ ?viel\ uhr
|welche[snrm]?\ (?:jahr|tag|datum|monat))\b"""
_ASKS_NAME = r"""\b(?:who|whom|whose|which\ (?:firm|company|person|club|country|city))\b"""
# In German every noun is written large: only two in a row, or a title before, look like a person.
_NAME_DE = r"""\b(?:Frau|Herr\w*|Dr\.)\s[A-ZÄÖÜ]|\b[A-ZÄÖÜ][\w'’-]{1,60}\s(?:von\s)?[A-ZÄÖÜ][\w'’-]+"""
_ASKS_NAME_DE = r"\b(?:wer|wem|wen|wessen)\b"


def _kind(asks: str, holds: str, flags: re.RegexFlag) -> Kind:
    return Kind(re.compile(asks, re.IGNORECASE | re.VERBOSE), re.compile(holds, re.VERBOSE | flags))


KINDS = (
    _kind(_ASKS_NUMBER, _NUMBER, re.IGNORECASE),
    _kind(_ASKS_TIME, _TIME, re.IGNORECASE),
    _kind(_ASKS_NAME, _NAME, re.NOFLAG),
    _kind(_ASKS_NAME_DE, _NAME_DE, re.NOFLAG),
)
KIND_WORDS = re.compile(
    r"\b(?:how (?:many|much|far|long|old|tall|high|large|big|often|deep|wide|hot|cold)|wie (?:hoch|lange?|weit|oft|alt"
    r"|groß|schwer|teuer|tief|viele?)"
    r"|(?:what|which|welche[snrm]?) (?:year|date|day|time|month|century|jahr|datum|tag|monat))\b",
    re.IGNORECASE,
)


class Evidence(msgspec.Struct, frozen=True):
    """What speaks for each sentence of the passages; all arrays have one entry a sentence.

    `covered` and `nearby` are the shares (0..1, by rarity) of the question's words in the sentence, and in its passage;
    `cosine` is NaN where meaning was not compared; `kind` is 1 where the asked-for kind of thing stands, and 0.5 when
    the question asks for no particular kind. `title` is 1 for a heading, which names an answer and gives none.
    """

    spans: list[tuple[int, Span]]
    words: Floats
    title: Floats
    covered: Floats
    nearby: Floats
    cosine: Floats
    kind: Floats
    prior: Floats


def rank(question: str, passages: Sequence[Passage], embed: Embed | None = None) -> list[Pick]:
    """All sentences of the passages, best first; equal scores in document order. `embed` blocks: call off the loop."""
    return _ranked(_weigh(question, passages, embed))[0]


def answer(question: str, passages: Sequence[Passage], embed: Embed | None = None) -> Extract:
    """The one to three sentences that answer, or none. Blocks while `embed` runs: call it off the event loop."""
    evidence = _weigh(question, passages, embed)
    picks, best = _ranked(evidence)
    if best is None:
        return Extract((), 0.0, False)
    confidence, enough = _confidence(_features(evidence, best))
    if not enough:
        return Extract((), confidence, False)
    chosen = [pick for pick in picks[:MOST_PICKS] if pick.score > picks[0].score - MARGIN]
    return Extract(tuple(sorted(chosen, key=lambda pick: (pick.passage, pick.start))), confidence, True)


def features(question: str, passages: Sequence[Passage], embed: Embed | None = None) -> tuple[float, ...] | None:
    """What the confidence in the best sentence rests on, for fitting: 1, covered, nearby, (cosine,) kind."""
    evidence = _weigh(question, passages, embed)
    best = _ranked(evidence)[1]
    return None if best is None else _features(evidence, best)


def refusal(language: str) -> str:
    """What to say when the documents hold no answer."""
    return "Dazu steht nichts in den Dokumenten." if language == "de" else "The documents do not say."


def supports(sentence: str, source: str) -> float:
    """How much of a sentence its source carries, 0..1: the words and numbers that are found there."""
    language = detect(sentence if len(sentence) > 40 else source)
    claimed, found = Counter(terms(sentence, language)), set(terms(source, language))
    if not claimed:
        return 0.0
    # A wrong number is a wrong claim, however well the rest fits.
    weights = {term: 3.0 if any(c.isdigit() for c in term) else 1.0 for term in claimed}
    return sum(weights[term] for term in claimed if term in found) / sum(weights.values())


def _weigh(question: str, passages: Sequence[Passage], embed: Embed | None) -> Evidence:
    language = _language(question, passages)
    spans = [
        (number, span)
        for number, passage in enumerate(passages)
        for span in sentences(passage.text)
        if not _is_heading(passage, span)
    ]
    texts = [passages[number].text[span.start : span.end] for number, span in spans]
    asked = _asked(question, language)
    titles = [_is_title(text) for text in texts]
    held = _held(passages, spans, titles, language)
    around = [set(terms(f"{passage.heading} {passage.text}", language)) for passage in passages]
    rarity = _rarity(asked, held)
    by_words = _bm25(rarity, held)
    prior = np.array([passages[number].score for number, _ in spans])
    cosine = np.full(len(texts), math.nan)
    if embed is not None and texts and language in TRUSTED:
        cosine = _cosines(question, texts, _z(by_words) + _z(prior), embed)
    return Evidence(
        spans=spans,
        words=by_words,
        title=np.array(titles, np.float64),
        covered=np.array([_share(rarity, found) for found in held]),
        nearby=np.array([_share(rarity, around[number]) for number, _ in spans]),
        cosine=cosine,
        kind=_kinds(question, texts),
        prior=prior,
    )


def _cosines(question: str, texts: Sequence[str], promise: Floats, embed: Embed) -> Floats:
    """Nearness in meaning of the most promising sentences; the others count as the least near of them."""
    compared = np.sort(np.argsort(-promise, kind="stable")[:MOST_COMPARED])
    vectors = embed([question, *(texts[at] for at in compared)])
    near = np.asarray(vectors[1:] @ vectors[0], np.float64)
    cosines = np.full(len(texts), near.min())
    cosines[compared] = near
    return cosines


def _is_title(text: str) -> bool:
    """A short line that says nothing yet: no verb is looked for, only that it is brief, unended and without a value."""
    brief = len(text) < TITLE_LENGTH and text.count(" ") < TITLE_WORDS
    return brief and text[-1].isalnum() | (text[-1] in '”“"»)?') and not VALUE.search(text)


def _held(
    passages: Sequence[Passage], spans: Sequence[tuple[int, Span]], titles: Sequence[bool], language: str
) -> list[Counter[str]]:
    """The words of each sentence, and once each those of the heading above it, which says what it is about."""
    held: list[Counter[str]] = []
    above, last = frozenset[str](), -1
    for (number, span), title in zip(spans, titles, strict=True):
        own = Counter(terms(passages[number].text[span.start : span.end], language))
        if number != last:
            above, last = frozenset(terms(passages[number].heading, language)), number
        if title:
            above = frozenset(own)
        else:
            own.update(above - own.keys())
        held.append(own)
    return held


def _is_heading(passage: Passage, span: Span) -> bool:
    """A heading is read with what stands below it, but says nothing itself that one could quote."""
    text = passage.text[span.start : span.end].strip(" #*_")
    return any(text == part.strip() for part in passage.heading.split(" > ") if part)


def _language(question: str, passages: Sequence[Passage]) -> str:
    """The question's language; a question too short to tell takes that of the passages."""
    language = detect(question)
    if language == "und" and passages:
        known = Counter(p.language if p.language != "und" else detect(p.text) for p in passages)
        language = known.most_common(1)[0][0]
    return language


def _asked(question: str, language: str) -> list[tuple[str, ...]]:
    """The words to look for, each once: not "how far" and "what year", which `KINDS` looks for in another way."""
    for text, spoken in ((KIND_WORDS.sub(" ", question), language), (question, language), (question, "und")):
        if found := words(text, spoken):
            return sorted(set(found))
    return []


def _rarity(asked: Sequence[tuple[str, ...]], held: Sequence[Counter[str]]) -> dict[tuple[str, ...], float]:
    """Weight of each word of the question: the fewer sentences hold it, the more it says. Missing words weigh most."""
    counts = {word: sum(_match(word, found) for found in held) for word in asked}
    return {word: math.log1p((len(held) + 0.5) / (count + 0.5)) for word, count in counts.items()}


def _match(word: tuple[str, ...], found: Collection[str]) -> float:
    """1 when the word is there; for a compound of which only parts are there, less than their share."""
    if word[0] in found:
        return 1.0
    parts = word[1:]
    return PART_MATCH * sum(part in found for part in parts) / len(parts) if parts else 0.0


def _share(rarity: dict[tuple[str, ...], float], found: Collection[str]) -> float:
    """How much of the question's weight is found, 0..1."""
    return sum(weight * _match(word, found) for word, weight in rarity.items()) / (sum(rarity.values()) or 1.0)


def _bm25(rarity: dict[tuple[str, ...], float], held: Sequence[Counter[str]]) -> Floats:
    lengths = [sum(found.values()) for found in held]
    average = (sum(lengths) / len(lengths) if lengths else 0.0) or 1.0
    scores = []
    for found, length in zip(held, lengths, strict=True):
        norm = K1 * (1 - B + B * length / average)
        score = 0.0
        for word, weight in rarity.items():
            count = found[word[0]] or _match(word, found)
            score += weight * count * (K1 + 1) / (count + norm)
        scores.append(score)
    return np.array(scores, np.float64)


def _kinds(question: str, texts: Sequence[str]) -> Floats:
    kinds = [kind for kind in KINDS if kind.asks.search(question)]
    if not kinds:
        return np.full(len(texts), 0.5)
    return np.array([float(any(kind.holds.search(text) for kind in kinds)) for text in texts], np.float64)


def _ranked(evidence: Evidence) -> tuple[list[Pick], int | None]:
    """Sentences best first, and the index of the best; standard scores make the four kinds of evidence comparable."""
    if not evidence.spans:
        return [], None
    total = _z(evidence.words) + 0.8 * evidence.kind + 0.5 * _z(evidence.prior) - 2.0 * evidence.title
    if not np.isnan(evidence.cosine).any():
        total = total + _z(evidence.cosine)
    order = np.lexsort((np.arange(len(total)), -total))
    picks = [
        Pick(evidence.spans[at][0], evidence.spans[at][1].start, evidence.spans[at][1].end, float(total[at]))
        for at in order
    ]
    return picks, int(order[0])


def _z(values: Floats) -> Floats:
    deviation = float(values.std())
    return (values - values.mean()) / deviation if deviation > 1e-9 else np.zeros(len(values))


# Logistic weights, in the order of `_features`; fitted by bench/refusal.py on questions whose passage was taken away.
WITH_MEANING = (-5.07, 2.73, 3.85, 4.86, -0.34)
WORDS_ONLY = (-3.26, 3.93, 4.12, -0.15)
WITH_MEANING_THRESHOLD, WORDS_ONLY_THRESHOLD = 0.5, 0.4


def _features(evidence: Evidence, best: int) -> tuple[float, ...]:
    """What the confidence rests on: 1, covered, nearby, (the best cosine,) kind."""
    words = (1.0, float(evidence.covered[best]), float(evidence.nearby[best]))
    kind = float(evidence.kind[best])
    if math.isnan(evidence.cosine[best]):
        return (*words, kind)
    return (*words, float(evidence.cosine[best]), kind)


def _confidence(values: Sequence[float]) -> tuple[float, bool]:
    """The estimated chance that the best sentence answers, and whether that is enough."""
    meaning = len(values) == len(WITH_MEANING)
    weights, threshold = (WITH_MEANING, WITH_MEANING_THRESHOLD) if meaning else (WORDS_ONLY, WORDS_ONLY_THRESHOLD)
    chance = 1 / (1 + math.exp(-sum(w * v for w, v in zip(weights, values, strict=True))))
    return chance, chance >= threshold
