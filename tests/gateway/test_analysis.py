"""Words into terms: stems, whole codes, German compounds, names that look like stop words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.gateway.analysis import index_language, terms, words


def test_english_words_are_stemmed_without_small_words() -> None:
    assert terms("The libraries were opening the doors", "en") == ["librari", "open", "door"]


def test_codes_versions_and_numbers_stay_whole_beside_their_words() -> None:
    assert terms("CVE-2024-1234", "en") == ["cve-2024-1234", "cve", "2024", "1234"]
    assert terms("3.5 and 3,5", "en") == ["3.5", "3.5"]
    assert terms("COVID-19", "de") == ["covid-19", "covid"]
    assert terms("state-of-the-art", "en") == ["state", "art"]


def test_small_words_in_capitals_are_names() -> None:
    assert terms("the WHO and IT", "en") == ["who", "it"]


@pytest.mark.parametrize(
    "compound, parts",
    [
        ("Maskenpflicht", ["mask", "pflicht"]),
        ("Kündigungsfristen", ["kundig", "frist"]),
        ("Haustür", ["haus", "tur"]),
        ("Inkubationszeit", ["inkubation", "zeit"]),
        ("Schulschließungen", ["schul", "schliessung"]),
    ],
)
def test_german_compounds_are_found_by_their_parts(compound: str, parts: list[str]) -> None:
    whole, *found = terms(compound, "de")
    assert found == parts
    assert terms(compound.lower(), "de") == [whole, *parts]


def test_simple_german_words_are_not_torn_apart() -> None:
    for word in ("Minister", "Universität", "Wohnung", "Bienen"):
        assert len(terms(word, "de")) == 1


def test_umlauts_and_eszett_fold() -> None:
    assert terms("Straße", "de") == terms("Strasse", "de")
    assert terms("naïve café", "en") == terms("naive cafe", "en")


def test_unknown_languages_keep_their_small_words() -> None:
    assert terms("to be or not to be", "en") == []
    assert terms("to be or not to be", "und") == ["to", "be", "or", "not", "to", "be"]
    assert index_language("und") == index_language("fr") == "en"


@given(st.text(max_size=200), st.sampled_from(["en", "de", "und"]))
def test_terms_are_the_words_in_order_small_and_never_empty(text: str, language: str) -> None:
    found = terms(text, language)
    assert found == [term for word in words(text, language) for term in word]
    assert all(found)
    assert not any(any(c.isspace() for c in term) for term in found)
