"""A quote is found where it stands, exactly, or not at all; a claim is shown only with a quote that was found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.foundation.errors import UpstreamError
from gimle.knowledge import claims
from gimle.knowledge.claims import Reply, Said
from gimle.knowledge.types import Claim, Passage, Verdict

LAMP = "The lamp of Brennholm turns once in ten seconds.\nIts lens – made in 1871 – is a “second order” lens."
HORN = "The horn sounds twice a minute. It was built by Pintsch of Berlin, an oﬃce of repute."


def passage(n: int, text: str, language: str = "en") -> Passage:
    return Passage(
        chunk=f"chk_{n}",
        document=f"doc_{n}",
        document_name=f"{n}.pdf",
        text=text,
        score=1.0 / n,
        start=1000 * n,
        end=1000 * n + len(text),
        page=n,
        language=language,
    )


PASSAGES = [passage(1, LAMP), passage(2, HORN)]


def verdicts(*said: Said, question: str = "How often?") -> list[tuple[Verdict, str | None, int | None]]:
    checked = claims.check(Reply(list(said)), PASSAGES, question)
    return [
        (each.claim.verdict, each.citation.chunk if each.citation else None, each.claim.citation) for each in checked
    ]


@pytest.mark.parametrize(
    "quote, exact",
    [
        ("turns once in ten seconds", "turns once in ten seconds"),
        ("Turns once in  ten\nseconds.", "turns once in ten seconds"),
        ("ten seconds. Its lens - made in 1871", "ten seconds.\nIts lens – made in 1871"),
        ('is a "second order" lens', "is a “second order” lens"),
        ("‘is a «second order» lens’", "is a “second order” lens"),
        ("…made in 1871…", "made in 1871"),
    ],
)
def test_a_quote_is_found_although_its_marks_differ(quote: str, exact: str) -> None:
    place = claims.find(quote, LAMP)
    assert place is not None
    assert LAMP[place[0] : place[1]] == exact


def test_a_ligature_is_found_as_its_letters() -> None:
    place = claims.find("an office of repute", HORN)
    assert place is not None
    assert HORN[place[0] : place[1]] == "an oﬃce of repute"


@pytest.mark.parametrize(
    "quote", ["", "lamp", "turns twice in ten seconds", "urns once in ten second", "turns once in ten second", "." * 40]
)
def test_what_does_not_stand_there_is_not_found(quote: str) -> None:
    assert claims.find(quote, LAMP) is None


@given(st.text(alphabet="aBc ß.–-“\"'’\n\u00a0\u00adﬁ1", max_size=60), st.integers(0, 59), st.integers(0, 60))
def test_what_is_found_is_what_was_asked(text: str, start: int, length: int) -> None:
    quote = text[start : start + length]
    place = claims.find(quote, text)
    if place is not None:
        normal = claims._normal(quote)[0].strip(claims._OUTER)
        assert claims._normal(text[place[0] : place[1]])[0] == normal


def test_found_misattributed_and_unsupported() -> None:
    assert verdicts(
        Said("The lamp turns once in ten seconds.", 1, "turns once in ten seconds"),
        Said("The horn sounds twice a minute.", 1, "The horn sounds twice a minute"),
        Said("The lamp is green.", 1, "the lamp shines green"),
        Said("The horn sounds twice a minute.", 9, "sounds twice a minute"),
        Said("Again, the lamp turns in ten seconds.", 1, "Turns once in ten seconds"),
    ) == [
        ("found", "chk_1", 1),
        ("misattributed", "chk_2", 2),
        ("unsupported", None, None),
        ("misattributed", "chk_2", 3),
        ("found", "chk_1", 1),
    ]


def test_a_true_quote_does_not_carry_a_wrong_number_or_another_subject() -> None:
    assert verdicts(
        Said("The lens was made in 1971.", 1, "made in 1871"),
        Said("The lens was made in 1871, as you ask.", 1, "made in 1871"),
        Said("The director of the museum resigned yesterday after a scandal.", 1, "turns once in ten seconds"),
        Said("Wie in 1999 gefragt, dreht sie sich in zehn Sekunden.", 1, "turns once in ten seconds"),
        question="Was it 1999?",
    ) == [
        ("unsupported", None, None),
        ("found", "chk_1", 1),
        ("unsupported", None, None),
        ("found", "chk_1", 2),
    ]


def test_a_citation_shows_the_documents_own_words_and_place() -> None:
    citation = claims.check(Reply([Said("It is of 1871.", 1, "MADE IN 1871")]), PASSAGES, "?")[0].citation
    assert citation is not None
    assert (citation.quote, citation.page, citation.document_name) == ("made in 1871", 1, "1.pdf")
    assert LAMP[citation.start - 1000 : citation.end - 1000] == citation.quote


def test_every_sentence_ends_with_our_number_and_no_other() -> None:
    checked = claims.check(
        Reply([Said("It turns once in ten seconds [7]. The lens is of 1871 [3].", 1, "turns once in ten seconds")]),
        PASSAGES,
        "?",
    )
    assert claims.written(checked[0].claim) == "It turns once in ten seconds. [1] The lens is of 1871. [1]"
    assert claims.written(Claim(text="5", verdict="found", citation=2)) == "5 [2]"


@pytest.mark.parametrize(
    "text",
    [
        '{"claims": [{"text": "A.", "chunk": 1, "quote": "b"}]}',
        'Here it is:\n```json\n{"claims": [{"text": "A.", "chunk": "1", "quote": "b"}]}\n```',
        '{"claims": [{"text": "A.", "chunk": 1, "quote": "b", "sure": true}], "note": null}',
    ],
)
def test_a_reply_is_read_amid_talk(text: str) -> None:
    assert claims.read(text) == Reply([Said("A.", 1, "b")])


@pytest.mark.parametrize("text", ["", "The lamp turns.", "{", '{"claims": "no"}', '{"claims": [{"text": "A."}]}', "}{"])
def test_a_reply_in_another_form_is_the_models_fault(text: str) -> None:
    with pytest.raises(UpstreamError):
        claims.read(text)
