"""A quote is found where it stands, exactly, or not at all; a claim is shown only with a quote that was found."""

from collections.abc import Callable

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


def carries(source: str, claim: str) -> bool:
    quote = "It is written in the rules"
    said = Said(f"{quote}: {claim}.", 1, quote)
    checked = claims.check(Reply([said]), [passage(1, f"{quote}: {source}.")], "?")[0]
    return checked.claim.verdict == "found"


@pytest.mark.parametrize(
    "source, claim",
    [
        ("2.5 kg", "2,5 kg"),
        ("12,000 euros", "12.000 Euro"),
        ("1,000 euros", "1000 euros"),
        ("1.234.567,80", "1,234,567.8"),
        ("8.5 euros", "8.50 euros"),
        ("8,00 Euro", "8 euros"),
        ("0.125", "0,125"),
        ("2024-03-05", "5 March 2024"),
        ("03.05.2024", "3 May 2024"),
        ("03.05.2024", "2024-05-03"),
        ("2024-05-03", "03.05.2024"),
        ("03.05.2024", "May 2024"),
        ("10:30", "10.30 Uhr"),
        ("10.30 Uhr", "10:30"),
        ("10:30", "10 Uhr 30"),
    ],
)
def test_a_number_is_carried_however_it_is_written(source: str, claim: str) -> None:
    assert carries(source, claim)


@pytest.mark.parametrize(
    "source, claim",
    [
        ("2.5 kg", "25 kg"),
        ("25 kg", "2,5 kg"),
        ("2.5 kg", "2 kg"),
        ("2.5 kg", "5 kg"),
        ("2 jars of 5 kg", "2.5 kg"),
        ("12,000 euros", "12 euros"),
        ("12 euros", "12.000 Euro"),
        ("12,000 euros", "1200 euros"),
        ("8.5 euros", "8.05 euros"),
        ("1.05 euros", "1.5 euros"),
        ("100 euros", "10 euros"),
        ("03.05.2024", "05.03.2024"),
        ("2024-05-03", "05.03.2024"),
        ("2024-03-05", "6 March 2024"),
        ("10:30", "10.03 Uhr"),
        ("10.30 Uhr", "30 Uhr"),
        ("9" * 5000, "9"),
    ],
)
def test_another_number_is_not_carried_however_it_is_written(source: str, claim: str) -> None:
    assert not carries(source, claim)


def english(cents: int) -> str:
    return f"{cents // 100:,}.{cents % 100:02}"


def german(cents: int) -> str:
    return english(cents).translate(str.maketrans(",.", ".,"))


def plain(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}".rstrip("0").rstrip(".")


WAYS = st.sampled_from([english, german, plain])
AMOUNTS = st.integers(0, 10**9)


@given(AMOUNTS, AMOUNTS | st.none(), WAYS, WAYS)
def test_an_amount_is_carried_if_and_only_if_it_is_the_same(
    one: int, another: int | None, source: Callable[[int], str], claim: Callable[[int], str]
) -> None:
    said = one if another is None else another
    assert carries(f"{source(one)} euros", f"{claim(said)} euros") == (said == one)


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
