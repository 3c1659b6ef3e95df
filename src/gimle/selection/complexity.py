"""How hard a prompt looks, by signs that anybody can check: length, code, maths, words that ask for reasoning.

Knows English and German. No model is asked, so it costs microseconds, is the same each time, and can be told in a line.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from gimle.selection.types import Complexity

EASY, HARD = 0.25, 0.55
# Only so much of a prompt is looked at: how it begins and ends, where people say what they want.
_BEGINNING, _END = 1500, 500

_WORD = re.compile(r"[a-zäöüß]+")
# What words say. Looking at each of them once is a hundred times as fast as looking for all of them in a text.
_WORDS = {
    "code": re.compile(r"traceback|stacktrace|refactor\w*|regex|unittests?|sql|python|typescript|rust"),
    "maths": re.compile(
        r"prove|proof|integral|derivative|equation|theorem|probability|matrix|solve|calculate"
        r"|beweise?n?|ableitung|gleichung\w*|wahrscheinlichkeit\w*|matrizen|löse|berechne\w*"
    ),
    "reasoning": re.compile(
        r"why|explain|compare|analy[sz]e|evaluate|design|plan|argue|derive|justify|tradeoffs?|critique|strategy"
        r"|consequences|warum|weshalb|wieso|erklär\w*|erläuter\w*|vergleich\w*|analysier\w*|bewert\w*|entwirf|entwerf\w*"
        r"|plane|begründ\w*|abwäg\w*|strategie\w*|folgen|ursachen?|nachteile"
    ),
    "conditions": re.compile(r"must|exactly|except|unless|muss|müssen|genau|mindestens|höchstens|außer"),
    "de": re.compile(
        r"der|die|das|und|ist|nicht|eine?|mit|für|auf|wie|was|ich|wir|sie|von|zu|im|den|dem|bitte|warum|kann|werden"
    ),
    "en": re.compile(
        r"the|and|is|not|an?|with|for|on|how|what|i|we|they|of|to|in|please|why|can|be|are|this|that|you|it|does"
    ),
}
_PHRASES = {
    "code": ("```", "stack trace", "unit test", "=>", "()"),
    "reasoning": (
        "trade-off",
        "step by step",
        "root cause",
        "pros and cons",
        "leite her",
        "wäge ab",
        "schritt für schritt",
    ),
    "conditions": ("at least", "at most", "only if", "without using", "nur wenn", "ohne zu"),
}
# A shape that can begin with few characters only is found quickly, so each stands alone.
_SHAPES = (
    (
        "code",
        re.compile(r"^[ \t]*(?:def|class|import|from|function|const|let|var|public|private|select|create)\b", re.M),
    ),
    ("code", re.compile(r"[{};]\s*$|#include\b", re.M)),
    ("maths", re.compile(r"\\(?:frac|int|sum|sqrt|begin)|[∑∫√≤≥≠∞∂π]|\d\s*[-+*/^=]\s*\d|=\s*[-\d]|\^\d")),
    ("conditions", re.compile(r"^[ \t]*(?:[-*•]|\d+[.)])\s", re.M)),
)
_SIMPLE = re.compile(
    r"\W*(?:hi|hello|hey|thanks|thank you|good morning|translate|summari[sz]e|what is|who is|when (?:is|was|did)"
    r"|define|hallo|danke|guten (?:tag|morgen|abend)|übersetz\w*|fasse|was ist|wer ist|wann (?:ist|war)|nenne|spell)\b"
)


def classify(text: str, tokens: int, turns: int = 1) -> Complexity:
    """Judge a prompt by its last words from the user (`text`), all its tokens, and its turns."""
    sample = _sample(text)
    counts = _counted(sample)
    signs = {
        "length": min(0.3, 0.06 * math.log2(1 + tokens / 100)),
        "code": min(0.3, 0.1 * counts["code"]),
        "maths": min(0.3, 0.1 * counts["maths"]),
        "reasoning": min(0.36, 0.18 * counts["reasoning"]),
        "conditions": min(0.2, 0.04 * counts["conditions"]),
        "turns": min(0.1, 0.01 * max(0, turns - 1)),
        "simple": -0.15 if _SIMPLE.match(sample) else 0.0,
    }
    score = round(min(max(sum(signs.values()), 0.0), 1.0), 3)
    found = {name: round(part, 3) for name, part in signs.items() if part}
    return Complexity(
        "easy" if score < EASY else "hard" if score >= HARD else "medium", score, _language(counts), found
    )


def _sample(text: str) -> str:
    if len(text) > _BEGINNING + _END:
        text = f"{text[:_BEGINNING]}\n{text[-_END:]}"
    return text.lower()


def _counted(sample: str) -> Counter[str]:
    """How often each sign is there."""
    counts: Counter[str] = Counter()
    for word, times in Counter(_WORD.findall(sample)).items():
        for sign in _signs(word):
            counts[sign] += times
    for sign, phrases in _PHRASES.items():
        counts[sign] += sum(map(sample.count, phrases))
    for sign, shape in _SHAPES:
        counts[sign] += _times(shape.finditer(sample))
    counts["de"] += sum(map(sample.count, "äöüß"))
    return counts


@lru_cache(maxsize=16_384)
def _signs(word: str) -> tuple[str, ...]:
    """What a word is a sign of."""
    return tuple(sign for sign, words in _WORDS.items() if words.fullmatch(word))


def _language(counts: Counter[str]) -> str:
    german, english = counts["de"], counts["en"]
    if max(german, english) < 2 or german == english:
        return "und"
    return "de" if german > english else "en"


def _times(found: Iterable[object]) -> int:
    return sum(1 for _ in found)
