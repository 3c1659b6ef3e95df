"""WordPiece as BERT's uncased models use it: text in, token numbers out.

Written here because the usual library drags eight further packages into every installation (ADR 0004).
The reference gives the same numbers on the whole test corpus, with one wanted difference: a literal
`[SEP]` in a document is text here, and never a control token.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

LONGEST_WORD = 100
REMEMBERED_WORDS = 50_000
CJK_RANGES = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


class Cleaned(dict[int, str]):
    """`str.translate` table: control characters go, white space becomes a blank, ideographs stand alone."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if code in (0, 0xFFFD) or (unicodedata.category(character) in ("Cc", "Cf", "Co") and character not in "\t\n\r"):
            character = ""
        elif character.isspace():
            character = " "
        elif any(low <= code <= high for low, high in CJK_RANGES):
            character = f" {character} "
        self[code] = character
        return character


class Folded(dict[int, str]):
    """`str.translate` table after decomposition: accents go, letters become small, punctuation stands alone."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Mn":
            folded = ""
        elif category[0] == "P" or (code < 128 and character.isprintable() and not character.isalnum() and code != 32):
            folded = f" {character} "
        else:
            folded = character.lower()
        self[code] = folded
        return folded


class WordPiece:
    """One vocabulary. `encode` is pure but for a bounded memory of words already split."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self.vocabulary = vocabulary
        self.unknown = vocabulary["[UNK]"]
        self.start = vocabulary["[CLS]"]
        self.end = vocabulary["[SEP]"]
        self._cleaned = Cleaned()
        self._folded = Folded()
        self._pieces: dict[str, tuple[int, ...]] = {}

    @classmethod
    def load(cls, vocab: Path) -> WordPiece:
        """Read a `vocab.txt`: one token a line, its number is its line."""
        lines = vocab.read_text("utf-8").split("\n")
        return cls({token: number for number, token in enumerate(lines) if token})

    def words(self, text: str) -> list[str]:
        """The words that are split into pieces: lower case, without accents, punctuation apart."""
        if not text.isascii():
            text = unicodedata.normalize("NFD", text.translate(self._cleaned))
            return text.translate(self._folded).split()
        return text.translate(self._cleaned).translate(self._folded).split()

    def encode(self, text: str, window: int) -> list[int]:
        """Token numbers with start and end mark, at most `window` of them."""
        numbers = [self.start]
        for word in self.words(text):
            numbers.extend(self.pieces(word))
            if len(numbers) >= window:
                del numbers[window - 1 :]
                break
        numbers.append(self.end)
        return numbers

    def pieces(self, word: str) -> tuple[int, ...]:
        """Greedy longest match from the left; a word that does not come out even is unknown as a whole."""
        known = self._pieces.get(word)
        if known is None:
            known = self._split(word)
            if len(self._pieces) >= REMEMBERED_WORDS:
                self._pieces.clear()
            self._pieces[word] = known
        return known

    def _split(self, word: str) -> tuple[int, ...]:
        if len(word) > LONGEST_WORD:
            return (self.unknown,)
        found: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                number = self.vocabulary.get(prefix + word[start:end])
                if number is not None:
                    found.append(number)
                    start = end
                    break
            else:
                return (self.unknown,)
        return tuple(found)
