"""Where sentences begin and end, in English and German prose, in lists, and in the rows of tables."""

from __future__ import annotations

import re

import msgspec


class Span(msgspec.Struct, frozen=True):
    """A stretch of a text, in characters: `text[start:end]`."""

    start: int
    end: int


# A full stop after these ends no sentence.
ABBREVIATIONS = frozenset(
    re.findall(
        r"\w+",
        "mr mrs ms dr prof st no nos vol fig figs eq sec ch pp ed eds al vs etc approx inc ltd co corp jr sr e g i cf "
        "z b d h u a o ä s bzw ca usw ggf evtl nr abs art str tel inkl zzgl bspw sog vgl hl hrsg jh max min "
        "jan feb apr jun jul aug sep sept oct okt nov dec dez",
    )
)
# "am 3. Mai", "im 19. Jahrhundert": an ordinal number in German.
AFTER_ORDINAL = re.compile(
    r"\s+(?:Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember|Jahrhundert|Klasse|Platz"
    r"|Stock|Auflage|Quartal|Lebensjahr|Tag|Woche|Monat|Jahr|Kapitel|Abschnitt|[a-zäöü0-9])"
)
# A run of marks is read once: to try again from each of its marks would take a minute for some kilobytes of dots.
END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’“»)\]]*+(?=\s)|\n")
LAST_WORD = re.compile(r"([^\W_]+)\.[\"'”’“»)\]]*$")
MARKED_LINE = re.compile(r"[ \t]*(?:[-*•–+|#>]|\d{1,3}[.)]\s|\w\)\s)")
CLOSED = re.compile(r"[.!?…:;][\"'”’“»)\]*_]*\s*$")
LIST_MARK = re.compile(r"[ \t]*(?:[-*•–+]\s+|\d{1,3}[.)]\s+|#{1,6}\s+|>\s+)")
SHORT_LINE = 50


def sentences(text: str) -> list[Span]:
    """The sentences of a text, in order, without the white space and list marks around them; none is empty."""
    spans: list[Span] = []
    start = 0
    for end in END.finditer(text):
        if _ends(text, start, end):
            _add(spans, text, start, end.end())
            start = end.end()
    _add(spans, text, start, len(text))
    return spans


def _ends(text: str, start: int, end: re.Match[str]) -> bool:
    if end.group() == "\n":
        return _line_ends(text, end.start())
    following = text[end.end() : end.end() + 40].lstrip()
    if not following or end.group()[0] in "!?":
        return True
    if following[0].islower():
        return False
    word = LAST_WORD.search(text[max(start, end.end() - 30) : end.end()])
    if word is None:
        return True
    name = word.group(1)
    if name.isdigit():
        return len(name) > 2 or not AFTER_ORDINAL.match(text, end.end())
    return not (name.lower() in ABBREVIATIONS or (len(name) == 1 and name.isupper()))


def _line_ends(text: str, at: int) -> bool:
    """Whether a line break ends a sentence: paragraphs, list items and table rows do, a wrapped line does not."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    stop = text.find("\n", at + 1)
    following = text[at + 1 : stop if stop >= 0 else len(text)]
    if not following.strip() or MARKED_LINE.match(following) or CLOSED.search(line):
        return True
    if line.lstrip().startswith(("|", "#")) or line.count("\t") or line.count(",") == following.count(",") > 1:
        return True
    opens = following.lstrip()[:1]
    return (
        len(line.strip()) < SHORT_LINE
        and (opens.isupper() or opens.isdigit())
        and not line.rstrip().endswith((",", "-"))
    )


def _add(spans: list[Span], text: str, start: int, end: int) -> None:
    while start < end and text[start].isspace():
        start += 1
    mark = LIST_MARK.match(text, start, end)
    start = mark.end() if mark else start
    while end > start and text[end - 1].isspace():
        end -= 1
    if any(character.isalnum() for character in text[start:end]):
        spans.append(Span(start, end))
