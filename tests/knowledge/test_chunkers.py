"""Chunks are exact stretches of the text, fit the window, lose no word, and know where they stand."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.foundation import plugins
from gimle.knowledge import layout, markup
from gimle.knowledge.layout import Piece
from gimle.knowledge.types import Cut, Parsed

cut = plugins.load("gimle.knowledge.chunkers", "structure").cut

KINDS = st.sampled_from(["heading", "text", "item", "row", "code"])
WORDS = st.text(alphabet="abä ß.!?\n-Z9\t|#«»\u3000漢", max_size=120)
PIECES = st.lists(st.builds(Piece, KINDS, WORDS, st.integers(0, 3), st.sampled_from([None, 1, 2])), max_size=12)


def words(text: str) -> int:
    """A count that, like a real tokenizer, charges long words more than short ones."""
    return sum(1 + len(word) // 6 for word in re.findall(r"\w+|[^\w\s]", text))


@given(PIECES, st.integers(1, 40))
def test_every_chunk_is_a_stretch_that_fits_and_no_word_is_lost(pieces: list[Piece], limit: int) -> None:
    parsed = layout.assemble(pieces)
    for block in parsed.blocks:
        assert parsed.text[block.start : block.end].strip()
    cuts: list[Cut] = cut(parsed, limit, words)
    outside, at = "", 0
    for part in cuts:
        assert at <= part.start < part.end <= len(parsed.text)
        text = parsed.text[part.start : part.end]
        assert text.strip()
        assert words(text) <= limit or part.end - part.start == 1
        outside += parsed.text[at : part.start]
        at = part.end
    assert not (outside + parsed.text[at:]).strip()


@given(PIECES)
def test_a_chunk_stays_on_its_page_and_below_its_heading(pieces: list[Piece]) -> None:
    parsed = layout.assemble(pieces)
    for part in cut(parsed, 30, words):
        inside = [block for block in parsed.blocks if block.start < part.end and part.start < block.end]
        assert {block.page for block in inside} == {part.page}
        kinds = [block.kind for block in inside]
        assert "heading" not in kinds[kinds.count("heading") :], "a heading after other text begins a new chunk"


def shown(parsed: Parsed, limit: int) -> list[tuple[str, str | None]]:
    return [(parsed.text[part.start : part.end], part.heading) for part in cut(parsed, limit, words)]


def test_headings_stay_with_what_they_head_and_form_a_path() -> None:
    parsed = layout.assemble(
        markup.pieces("# House\n\n## Roof\n\nIt leaks.\n\n## Cellar\n\nIt is dry.\n\n# Garden\n\nGreen.")
    )
    assert shown(parsed, 50) == [
        ("House\n\nRoof\n\nIt leaks.", "House > Roof"),
        ("Cellar\n\nIt is dry.", "House > Cellar"),
        ("Garden\n\nGreen.", "Garden"),
    ]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    text = "The first lamp burned oil. The second burned gas, e.g. acetylene. Die dritte ist elektrisch."
    parsed = layout.assemble([Piece("text", text)])
    assert [chunk for chunk, _ in shown(parsed, 16)] == [
        "The first lamp burned oil.",
        "The second burned gas, e.g. acetylene.",
        "Die dritte ist elektrisch.",
    ]


def test_a_chunk_amid_a_table_knows_the_tables_header() -> None:
    table = (
        "## Light\n\n| Month | Hours |\n|---|---|\n" + "".join(f"| No{n} | {n} |\n" for n in range(8)) + "\nAfter it."
    )
    chunks = shown(layout.assemble(markup.pieces(table)), 12)
    assert chunks[0] == ("Light\n\nMonth | Hours\n\nNo0 | 0\n\nNo1 | 1", "Light")
    assert {heading for text, heading in chunks[1:] if text.startswith("No")} == {"Light > Month | Hours"}
    assert chunks[-1][0].endswith("After it.")


@pytest.mark.parametrize("text", ["x" * 5000, "漢字" * 3000, "a\n" * 3000])
def test_text_without_a_place_to_cut_is_cut_all_the_same(text: str) -> None:
    parsed = layout.assemble([Piece("text", text)])
    cuts = cut(parsed, 50, words)
    assert len(cuts) > 1
    assert all(words(parsed.text[part.start : part.end]) <= 50 for part in cuts)
