"""How hard a prompt looks, by signs that anybody can check: length, code, maths, words that ask for reasoning.

Knows English and German. No model is asked, so it costs microseconds, is the same each time, and can be told in a line.
"""

import math
import re

from gimle.selection.types import Complexity

EASY, HARD = 0.25, 0.55
# Only so much of a prompt is looked at.
_SAMPLE = 6000

_CODE = re.compile(
    r"```|^\s*(?:def|class|import|from|function|const|let|var|public|private|SELECT|CREATE|#include)\b"
    r"|[{};]\s*$|=>|\(\)|\b(?:traceback|stack ?trace|refactor\w*|regex|unit ?tests?|SQL|Python|TypeScript|Rust)\b",
    re.MULTILINE,
)
_MATHS = re.compile(
    r"\\(?:frac|int|sum|sqrt|begin)|[∑∫√≤≥≠∞∂π]|\d\s*[-+*/^=]\s*\d|[a-z]\s*=\s*[-\d]|[a-z]\^\d"
    r"|\b(?:prove|proof|integral|derivative|equation|theorem|probability|matrix|solve"
    r"|beweise?n?|ableitung|gleichung\w*|wahrscheinlichkeit\w*|matri(?:x|zen)|löse|berechne\w*|calculate)\b",
    re.IGNORECASE,
)
_REASONING = re.compile(
    r"\b(?:why|explain|compare|analy[sz]e|evaluate|design|plan|argue|derive|justify|trade-?offs?|step by step|critique"
    r"|strategy|consequences|root cause|pros and cons"
    r"|warum|weshalb|wieso|erklär\w*|erläuter\w*|vergleich\w*|analysier\w*|bewert\w*|entwirf|entwerf\w*|plane|begründ\w*"
    r"|leite her|abwäg\w*|wäge ab|schritt für schritt|strategie\w*|folgen|ursachen?|vor- und nachteile)\b",
    re.IGNORECASE,
)
_CONDITIONS = re.compile(
    r"^\s*(?:[-*•]|\d+[.)])\s"
    r"|\b(?:must|exactly|at least|at most|except|unless|only if|without using"
    r"|muss|müssen|genau|mindestens|höchstens|außer|nur wenn|ohne zu)\b",
    re.IGNORECASE | re.MULTILINE,
)
_SIMPLE = re.compile(
    r"^\W*(?:hi|hello|hey|thanks|thank you|good morning|translate|summari[sz]e|what is|who is|when (?:is|was|did)"
    r"|define|hallo|danke|guten (?:tag|morgen|abend)|übersetz\w*|fasse|was ist|wer ist|wann (?:ist|war)|nenne|spell)\b",
    re.IGNORECASE,
)
_GERMAN = re.compile(
    r"\b(?:der|die|das|und|ist|nicht|ein|eine|mit|für|auf|wie|was|ich|wir|sie|von|zu|im|den|dem|bitte|warum|kann|werden)\b"
    r"|[äöüß]",
    re.IGNORECASE,
)
_ENGLISH = re.compile(
    r"\b(?:the|and|is|not|a|an|with|for|on|how|what|i|we|they|of|to|in|please|why|can|be|are|this|that|you|it|does)\b",
    re.IGNORECASE,
)


def classify(text: str, tokens: int, turns: int = 1) -> Complexity:
    """Judge a prompt by its last words from the user (`text`), all its tokens, and its turns."""
    sample = text[:_SAMPLE]
    signs = {
        "length": min(0.3, 0.06 * math.log2(1 + tokens / 100)),
        "code": min(0.3, 0.1 * _count(_CODE, sample)),
        "maths": min(0.3, 0.1 * _count(_MATHS, sample)),
        "reasoning": min(0.36, 0.18 * _count(_REASONING, sample)),
        "conditions": min(0.2, 0.04 * _count(_CONDITIONS, sample)),
        "turns": min(0.1, 0.01 * max(0, turns - 1)),
        "simple": -0.15 if _SIMPLE.search(sample) else 0.0,
    }
    score = round(min(max(sum(signs.values()), 0.0), 1.0), 3)
    found = {name: round(part, 3) for name, part in signs.items() if part}
    return Complexity("easy" if score < EASY else "hard" if score >= HARD else "medium", score, language(sample), found)


def language(text: str) -> str:
    """ "de", "en" or "und", by small words."""
    german, english = _count(_GERMAN, text[:1500]), _count(_ENGLISH, text[:1500])
    if max(german, english) < 2 or german == english:
        return "und"
    return "de" if german > english else "en"


def _count(pattern: re.Pattern[str], text: str) -> int:
    return sum(1 for _ in pattern.finditer(text))
