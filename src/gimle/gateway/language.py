"""Which language a text is in: English, German, or not known. Decided by small words and letters, in microseconds.

Only these two have an analyser of their own; for everything else "und" is the honest answer, and the caller goes by
the neutral rules. A query of two nouns is often "und" too.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

WORD = re.compile(r"[^\W\d_]+")
SAMPLE = 1500

_TELLING = tomllib.loads(Path(__file__).with_name("words.toml").read_text("utf-8"))["telling"]
ENGLISH, GERMAN, OTHERS = (frozenset[str](_TELLING[side].split()) for side in ("en", "de", "others"))

GERMAN_LETTERS = re.compile(r"[äöüß]")
GERMAN_SHAPE = re.compile(
    r"(?:ungen|ung|heit|keit|schaft|lich|liche|lichen|isch|ische|ischen|sch|zeit|tion(?:en|s\w{3,}))$|sch[lmnwrt]|pf"
)
ENGLISH_SHAPE = re.compile(r"(?:ing|ness|ship|ful|ous|ly|ity|ies|ment|ments|ed)$|th|wh|ck|oo|ea|ow")


def detect(text: str) -> str:
    """ "en", "de" or "und" for a text; only its first 1 500 characters are looked at."""
    words = WORD.findall(text[:SAMPLE].lower())
    if not words:
        return "und"
    english, german, other = _evidence(words)
    best, second = max(english, german), min(english, german)
    # A long text needs small words in proportion; in a short one the shapes of the words count as well.
    if best < 0.08 * len(words) or best <= 1.3 * second or best <= other:
        return "und"
    return "en" if english > german else "de"


def _evidence(words: list[str]) -> tuple[float, float, float]:
    english = german = other = 0.0
    for word in words:
        if word in ENGLISH:
            english += 1
        elif word in GERMAN:
            german += 1
        elif word in OTHERS:
            other += 1
        elif GERMAN_LETTERS.search(word):
            german += 0.8
        elif len(word) > 3:
            german += 0.4 * bool(GERMAN_SHAPE.search(word))
            english += 0.3 * bool(ENGLISH_SHAPE.search(word))
    return english, german, other
