"""Words into index terms: split, fold, stem; German compounds also give their parts.

The same function reads documents and questions, so a term means the same on both sides. Codes, versions and decimal
numbers ("CVE-2024-1", "3.5", "covid-19") stay whole, and their wordy parts are kept beside them.
"""

from __future__ import annotations

import re
import threading
import tomllib
import unicodedata
from functools import cache, lru_cache
from pathlib import Path

import Stemmer

# A run of letters and digits, joined by the signs that belong inside codes, numbers and hyphenated words.
TOKEN = re.compile(r"[^\W_]+(?:['’.,:/_+\-–][^\W_]+)*")
JOINT = re.compile(r"['’.,:/_+\-–]")
HAS_DIGIT = re.compile(r"\d")
POSSESSIVE = re.compile(r"['’]s?$")
LONGEST_TERM = 64
SHORTEST_COMPOUND = 7
SHORTEST_PART = 3
LINKS = ("", "s", "es", "n", "en", "er", "e", "ns")

_STOP = tomllib.loads(Path(__file__).with_name("words.toml").read_text("utf-8"))["stop"]
STOP_WORDS = {language: frozenset[str](_STOP[language].split()) for language in ("en", "de")}


class Stemmers(threading.local):
    """Stemmers keep state during a call and must not be shared: each thread has its own pair."""

    def __init__(self) -> None:
        self.of = {"en": Stemmer.Stemmer("english"), "de": Stemmer.Stemmer("german")}


_stemmers = Stemmers()


def index_language(language: str) -> str:
    """The analyser that serves a language: "de" for German, "en" for all else."""
    return "de" if language == "de" else "en"


def terms(text: str, language: str) -> list[str]:
    """The index terms of a text in its language ("en", "de", "und"), in order and with repeats."""
    return [term for word in words(text, language) for term in word]


def words(text: str, language: str) -> list[tuple[str, ...]]:
    """As `terms`, but the terms of each word together: the whole first, then its parts."""
    analyser = index_language(language)
    stops = STOP_WORDS[analyser] if language != "und" else frozenset[str]()
    found: list[tuple[str, ...]] = []
    for match in TOKEN.finditer(unicodedata.normalize("NFKC", text)):
        token = match.group()
        low = token.lower()
        # "IT" and "WHO" are names where "it" and "who" are not.
        if low in stops and not (len(token) > 1 and token.isupper()):
            continue
        if made := _token_terms(low[:LONGEST_TERM], analyser):
            found.append(made)
    return found


@lru_cache(100_000)
def _token_terms(token: str, analyser: str) -> tuple[str, ...]:
    token = POSSESSIVE.sub("", token)
    parts = [part for part in JOINT.split(token) if part]
    if len(parts) < 2:
        return _word_terms(token, analyser)
    found: list[str] = []
    if HAS_DIGIT.search(token):
        # A number is spelled 1,5 and 1.5; the whole is one term, its wordy parts stand beside it.
        found.append(token.replace(",", ".").replace("–", "-"))
        parts = [part for part in parts if not part.isdigit() or len(part) > 3]
    stops = STOP_WORDS[analyser]
    for part in parts:
        if part not in stops:
            found.extend(_word_terms(part, analyser))
    return tuple(found)


def _word_terms(word: str, analyser: str) -> tuple[str, ...]:
    if HAS_DIGIT.search(word):
        return (word,)
    own = _folded(_stem(word, analyser))
    if analyser != "de":
        return (own,)
    return (own, *(part for part in map(_folded, _parts(word)) if part != own))


def _stem(word: str, analyser: str) -> str:
    return str(_stemmers.of[analyser].stemWord(word))


def _folded(stem: str) -> str:
    if stem.isascii():
        return stem
    plain = "".join(c for c in unicodedata.normalize("NFD", stem) if unicodedata.category(c) != "Mn")
    return plain.replace("ß", "ss")


@cache
def _nouns() -> frozenset[str]:
    lines = Path(__file__).with_name("german.txt").read_text("utf-8").splitlines()
    words = [word for line in lines if not line.startswith("#") for word in line.split()]
    return frozenset(words) | {stem for word in words if len(stem := _stem(word, "de")) > SHORTEST_PART}


def _is_noun(word: str) -> bool:
    nouns = _nouns()
    return word in nouns or (len(word) > 4 and _stem(word, "de") in nouns)


def _parts(word: str) -> list[str]:
    """Stems of the parts of a German compound, [] for a simple word: "maskenpflicht" -> mask, pflicht.

    Known nouns cover the whole word, or one known noun ends (or begins) it and a rest of five letters remains.
    """
    if len(word) < SHORTEST_COMPOUND:
        return []
    whole = _cover(word)
    if whole and len(whole) > 1:
        return [_stem(part, "de") for part in whole]
    for at in range(5, len(word) - 3):
        head, tail = word[:at], word[at:]
        if _is_noun(tail):
            return [_stem(head.removesuffix("s"), "de"), _stem(tail, "de")]
    return []


def _cover(word: str) -> list[str] | None:
    """Known nouns with linking letters that make up the whole word; the longest first part wins."""
    if _is_noun(word):
        return [word]
    for at in range(len(word) - SHORTEST_PART, SHORTEST_PART - 1, -1):
        head = _unlinked(word[:at])
        rest = _cover(word[at:]) if head else None
        if head and rest:
            return [head, *rest]
    return None


def _unlinked(head: str) -> str | None:
    """The known noun in a first part, without its linking letters ("kündigungs" -> "kündigung")."""
    nouns = _nouns()
    bare = (head.removesuffix(link) for link in LINKS if head.endswith(link))
    return next((word for word in bare if word in nouns), None)
