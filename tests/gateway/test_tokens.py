"""Token counts: exact with the tables, and an upper estimate without."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.foundation.config import Settings
from gimle.gateway import weights
from gimle.gateway.tokens import _TABLES, DEFAULT, Tokens, estimate

TEXTS = [
    "The bees leave the hive in May, when the first maple blossoms open.",
    "Die Völkerführung im Frühjahr: Wabenhygiene, Schwarmverhinderung und Königinnenzucht.",
    "def f(x):\n    return {'a': x ** 2, \"b\": [1, 2, 3]}\n\n\n\tpass  # fine",
    "https://example.com/a/b?c=d&e=f#g 1234567890 0xDEADBEEF 3.14159 2026-11-21T03:04:05Z",
    "蜜蜂在五月离开蜂巢。ミツバチ 🐝🐝🐝 Пчёлы покидают улей",
    "  \n\n\n   \t\t  ",
    "!!!???...---___***&&&",
    "<|endoftext|> is text like any other",
]


@pytest.fixture
def tables() -> Tokens:
    folder = weights.tiktoken_folder(Settings(data=Path("/nonexistent")))
    if folder is None:
        pytest.skip("needs `gimle setup`")
    return Tokens(folder)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("tokenizer", sorted(_TABLES))
def test_the_estimate_is_not_below_the_count(tables: Tokens, text: str, tokenizer: str) -> None:
    assert estimate(text) >= tables.count(text, tokenizer)


@pytest.mark.parametrize(
    "tokenizer,text,count",
    [
        ("cl100k_base", "hello world", 2),
        ("cl100k_base", "antidisestablishmentarianism", 6),
        ("o200k_base", "hello world", 2),
    ],
)
def test_published_counts(tables: Tokens, tokenizer: str, text: str, count: int) -> None:
    assert tables.known(tokenizer)
    assert tables.count(text, tokenizer) == count


def test_marks_of_control_are_plain_text(tables: Tokens) -> None:
    assert tables.count("<|endoftext|>", "cl100k_base") > 1


@given(st.text(max_size=300), st.integers(0, 50))
def test_a_cut_is_a_beginning_within_the_limit(text: str, limit: int) -> None:
    cut = Tokens(None).cut(text, limit)
    assert text.startswith(cut)
    assert estimate(cut) <= limit


@given(st.sampled_from(TEXTS), st.integers(0, 50))
def test_an_exact_cut_is_a_beginning_too(text: str, limit: int) -> None:
    folder = weights.tiktoken_folder(Settings(data=Path("/nonexistent")))
    cut = Tokens(folder).cut(text, limit)
    assert text.startswith(cut)
    assert Tokens(folder).count(cut) <= limit + 2


def test_a_huge_text_without_blanks_is_counted_in_time(tables: Tokens) -> None:
    assert tables.count("a" * 2_000_000) > 100_000


def test_an_unknown_tokenizer_is_taken_for_the_usual_one(tables: Tokens) -> None:
    assert tables.count(TEXTS[0], "klingon") == tables.count(TEXTS[0], DEFAULT)
    assert not tables.known("klingon")


def test_a_table_is_read_from_the_folder_that_was_given(tmp_path: Path) -> None:
    ranks = b"".join(base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256))
    (tmp_path / _TABLES["cl100k_base"][0]).write_bytes(ranks)
    assert Tokens(tmp_path).count("abc", "cl100k_base") == 3
    assert Tokens(tmp_path).count("abc", "o200k_base") == estimate("abc")
