"""How many tokens a text has, for a given tokenizer: exact where its table is installed, else an upper estimate.

The tables come with `gimle setup`; nothing is fetched here.
"""

import base64
import re
from functools import cache
from pathlib import Path

import tiktoken

# OpenAI's own splitting rules (MIT), which belong to the tables.
_CL100K = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"""
    r"""\s+(?!\S)|\s"""
)
_O200K = "|".join(
    [
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""\p{N}{1,3}""",
        r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
        r"""\s*[\r\n]+""",
        r"""\s+(?!\S)""",
        r"""\s+""",
    ]
)
# Name -> (the name of the table's file, the splitting rule).
_TABLES = {
    "cl100k_base": ("9b5ad71b2ce5302211f9c61530b329a4922fc6a4", _CL100K),
    "o200k_base": ("fb374d419588a4632f3f557e76b4b70aebbca790", _O200K),
}
# For models of which nothing is known: it loads twice as fast as the newer one, and counts a little higher.
DEFAULT = "cl100k_base"
# Words, numbers, other characters, and runs of blanks that are more than the one before a word.
_PIECES = re.compile(r"[A-Za-z]+|[0-9]{1,3}|[^\x00-\x7f]+|[!-~]|[\r\n]+|\t+|  +|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# Longer texts are counted in parts: the library's time grows faster than the length of a text without blanks.
_PART = 50_000


class Tokens:
    """Counts with the tables in a folder; None: without any."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def count(self, text: str, tokenizer: str | None = None) -> int:
        """The tokens of a text. An unknown tokenizer is taken for one whose counts are close to most."""
        encoding = self._encoding(tokenizer)
        if encoding is None:
            return estimate(text)
        if len(text) <= _PART:
            return len(encoding.encode_ordinary(text))
        parts = (text[at : at + _PART] for at in range(0, len(text), _PART))
        return sum(len(encoding.encode_ordinary(part)) for part in parts)

    def at_most(self, text: str, tokenizer: str | None = None) -> int:
        """The most tokens of a text: of an unknown tokenizer nothing is sure but that each holds a byte at least."""
        if tokenizer in _TABLES and self._encoding(tokenizer) is not None:
            return self.count(text, tokenizer)
        return len(text.encode("utf-8", "surrogatepass"))

    def cut(self, text: str, limit: int, tokenizer: str | None = None) -> str:
        """The longest beginning of a text that has at most `limit` tokens, ending between two tokens and characters."""
        encoding = self._encoding(tokenizer)
        if encoding is None:
            return _estimated_cut(text, limit)
        ids = encoding.encode_ordinary(text[: max(0, limit) * 200])[: max(0, limit)]
        return encoding.decode_bytes(ids).decode("utf-8", "ignore")

    def known(self, tokenizer: str) -> bool:
        """Whether a tokenizer's rule is known; its counts are its own once its table is installed."""
        return tokenizer in _TABLES

    def _encoding(self, tokenizer: str | None) -> tiktoken.Encoding | None:
        name = tokenizer if tokenizer in _TABLES else DEFAULT
        return None if self._folder is None else _load(self._folder, name)


def estimate(text: str) -> int:
    """About the most tokens that a text has. Counts English prose some two times too high, and rarely too low."""
    return sum(_most(piece) for piece in _PIECES.findall(text))


def _most(piece: str) -> int:
    if not piece.isascii():
        return -(-len(piece.encode("utf-8")) * 2 // 3)
    return -(-len(piece) // 3) if piece.isalpha() else 1


def _estimated_cut(text: str, limit: int) -> str:
    end = spent = 0
    for piece in _PIECES.finditer(text):
        spent += _most(piece[0])
        if spent > limit:
            return text[:end]
        end = piece.end()
    return text


@cache
def _load(folder: Path, name: str) -> tiktoken.Encoding | None:
    file, rule = _TABLES[name]
    try:
        lines = (folder / file).read_bytes().splitlines()
    except OSError:
        return None
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    return tiktoken.Encoding(name=name, pat_str=rule, mergeable_ranks=ranks, special_tokens={})
