"""English, German, or honestly unknown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.gateway.language import detect


@pytest.mark.parametrize(
    "text, language",
    [
        ("What was the cost?", "en"),
        ("Was kostet das?", "de"),
        ("How far away from a footpath does my hive have to be?", "en"),
        ("Wer leitet die Jugendgruppe?", "de"),
        ("Kündigungsfrist", "de"),
        ("The die was cast in an old foundry by the river.", "en"),
        ("Le chat est sur la table et il ne veut pas descendre.", "und"),
        ("El perro come la comida en la casa.", "und"),
        ("De kat zit op de mat en wil niet weg.", "und"),
        ("CVE-2024-1234", "und"),
        ("12.50", "und"),
        ("", "und"),
    ],
)
def test_texts(text: str, language: str) -> None:
    assert detect(text) == language


@given(st.text(max_size=300))
def test_any_text_has_one_of_three_answers_and_case_changes_none(text: str) -> None:
    assert detect(text) in ("en", "de", "und")
