"""Our WordPiece against numbers that the reference tokenizer gave for the same vocabulary."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.foundation import config
from gimle.gateway import minilm, weights
from gimle.gateway.wordpiece import WordPiece

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "un",
    "##aff",
    "##able",
    "run",
    "##ning",
    ",",
    "!",
    "a",
    "##b",
    "uber",
    "漢",
]
SMALL = WordPiece({word: number for number, word in enumerate(WORDS)})


@pytest.fixture(scope="module")
def tokens() -> WordPiece:
    folder = weights.locate(config.load())
    if folder is None:
        pytest.skip("the weights are not installed: run `gimle setup`")
    return WordPiece.load(folder / minilm.VOCAB_FILE)


# Recorded from the library `tokenizers` with the published tokenizer.json.
REFERENCE = [
    ("The deposit is 150 euros.", [101, 1996, 12816, 2003, 5018, 19329, 1012, 102]),
    ("Straßenbahn-Haltestelle", [101, 2358, 27807, 27698, 4430, 2078, 1011, 9190, 4355, 14774, 102]),
    ("Ünïcödé İstanbul ΣΑΣ", [101, 27260, 9960, 1173, 14608, 29733, 102]),
    ("don't $x^2 漢字\u200b", [101, 2123, 1005, 1056, 1002, 1060, 1034, 1016, 1904, 100, 102]),
    ("", [101, 102]),
]


@pytest.mark.parametrize("text, numbers", REFERENCE)
def test_numbers_are_those_of_the_reference(tokens: WordPiece, text: str, numbers: list[int]) -> None:
    assert tokens.encode(text, 256) == numbers


def test_longest_piece_first_and_unknown_as_a_whole() -> None:
    assert SMALL.encode("unaffable running, über!", 99) == [2, 4, 5, 6, 7, 8, 9, 13, 10, 3]
    assert SMALL.encode("unaffxable", 99) == [2, 1, 3]
    assert SMALL.encode("a" * 101, 99) == [2, 1, 3]


def test_ideographs_stand_alone_and_marks_in_a_text_are_text() -> None:
    assert SMALL.words("a漢b") == ["a", "漢", "b"]
    assert SMALL.encode("[SEP]", 99).count(SMALL.end) == 1


@given(st.text(max_size=200), st.integers(2, 40))
def test_never_longer_than_the_window_and_always_marked(text: str, window: int) -> None:
    numbers = SMALL.encode(text, window)
    assert 2 <= len(numbers) <= window
    assert numbers[0] == SMALL.start
    assert numbers[-1] == SMALL.end


def test_a_vocabulary_file_numbers_by_line(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", "utf-8")
    assert WordPiece.load(tmp_path / "vocab.txt").vocabulary["[SEP]"] == 3
