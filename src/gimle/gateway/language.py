"""Which language a text is in: English, German, or not known. Decided by small words and letters, in microseconds.

Only these two have an analyser of their own; for everything else "und" is the honest answer, and the caller treats such a
text by the neutral rules. A query of two nouns is often "und" too.
"""

from __future__ import annotations

import re

WORD = re.compile(r"[^\W\d_]+")
SAMPLE = 1500

# Frequent small words which the other language does not have (no "in", "was", "die", "an", "so", "war", "also").
ENGLISH = frozenset(
    ["the", "of", "and", "to", "is", "are", "were", "be", "been", "being", "that", "this", "these", "those", "it", "its", "for", "with", "as", "by", "from", "or", "at", "on", "which", "who", "whom", "whose", "what", "when", "where", "why", "how", "not", "no", "nor", "have", "has", "had", "having", "do", "does", "did", "can", "could", "should", "would", "may", "might", "must", "shall", "their", "there", "they", "he", "she", "his", "her", "him", "we", "us", "our", "you", "your", "my", "me", "if", "than", "then", "them", "into", "about", "between", "during", "after", "before", "because", "through", "while", "both", "each", "other", "more", "most", "many", "much", "some", "any", "such", "only", "very", "just", "out", "up", "down", "over", "under", "again", "also", "i"]
) - {"also", "us", "do", "her", "on"}
GERMAN = frozenset(
    ["der", "das", "und", "ist", "nicht", "ein", "eine", "einen", "einem", "einer", "eines", "zu", "den", "dem", "des", "von", "mit", "auf", "für", "im", "sich", "auch", "als", "bei", "nach", "wie", "aus", "wenn", "oder", "aber", "werden", "wird", "wurde", "wurden", "sind", "sein", "seine", "seiner", "ihre", "ihrer", "ich", "wir", "ihr", "sie", "es", "er", "du", "mich", "mir", "uns", "euch", "kann", "können", "muss", "müssen", "darf", "dürfen", "soll", "sollen", "haben", "habe", "hatte", "gibt", "es", "gegen", "über", "unter", "zwischen", "durch", "vor", "zur", "zum", "vom", "beim", "noch", "nur", "schon", "sehr", "mehr", "dass", "daß", "weil", "ob", "wer", "wo", "wann", "warum", "wieso", "welche", "welcher", "welches", "welchen", "wieviel", "wieviele", "wird", "kein", "keine", "keinen", "diese", "dieser", "dieses", "diesen", "mein", "meine", "meinen", "dein", "deine", "bis", "ohne", "um", "am", "bin", "bist", "sowie", "jedoch"]
) - {"um", "am", "bin"}
GERMAN_LETTERS = re.compile(r"[äöüß]")
GERMAN_SHAPE = re.compile(
    r"(?:ungen|ung|heit|keit|schaft|lich|liche|lichen|isch|ische|ischen|sch|zeit|tion(?:en|s\w{3,}))$|sch[lmnwrt]|pf"
)
ENGLISH_SHAPE = re.compile(r"(?:ing|ness|ship|ful|ous|ly|ity|ies|ment|ments|ed)$|th|wh|ck|oo|ea|ow")
# Function words of neighbours: their presence says that neither fits.
OTHERS = frozenset(
    ["le", "la", "les", "des", "une", "et", "est", "dans", "pour", "que", "qui", "sur", "pas", "el", "los", "las", "una", "y", "en", "por", "con", "del", "para", "il", "che", "di", "per", "non", "della", "het", "een", "van", "de", "niet", "og", "det", "som", "på", "att", "är", "och", "av"]
) - {"des", "per", "en", "het"}


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
