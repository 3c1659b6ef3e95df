"""The answerer without a model: sentence borders, the right sentence, honest refusals, in English and German."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.gateway.extract import KINDS, Passage, answer, rank, refusal, sentences, supports
from gimle.gateway.sentences import END

LIBRARY = """# Opening hours

The library opens at 9:00 on weekdays. It closes at 18:00, e.g. for the cleaners.
On Saturdays it is open until noon.

## Fees

A lost card costs 5 euros. Dr. Meyer lends books for 4 weeks."""
VEREIN = """Die Satzung wurde am 3. Mai 1998 beschlossen. Änderungen brauchen eine Mehrheit von drei Vierteln.

Die Jugendgruppe leitet Tomas Reuter. Der Beitrag beträgt z. B. für Familien 40 Euro im Jahr."""


def cut(text: str) -> list[str]:
    return [text[span.start : span.end] for span in sentences(text)]


def quoted(question: str, *texts: str) -> list[str]:
    passages = [Passage(id=str(number), text=text, score=0.5) for number, text in enumerate(texts)]
    return [texts[pick.passage][pick.start : pick.end] for pick in answer(question, passages).picks]


def test_sentences_of_prose_and_headings() -> None:
    assert cut(LIBRARY) == [
        "Opening hours",
        "The library opens at 9:00 on weekdays.",
        "It closes at 18:00, e.g. for the cleaners.",
        "On Saturdays it is open until noon.",
        "Fees",
        "A lost card costs 5 euros.",
        "Dr. Meyer lends books for 4 weeks.",
    ]


def test_german_dates_and_abbreviations_end_no_sentence() -> None:
    assert cut(VEREIN)[0] == "Die Satzung wurde am 3. Mai 1998 beschlossen."
    assert cut(VEREIN)[3] == "Der Beitrag beträgt z. B. für Familien 40 Euro im Jahr."


def test_lists_and_rows_are_cut_by_line_and_wrapped_lines_are_not() -> None:
    assert cut("- first item\n- second item\n1. third") == ["first item", "second item", "third"]
    assert cut("drill,3,50\nsander,8,150") == ["drill,3,50", "sander,8,150"]
    wrapped = "A line that was wrapped by its writer at some seventy characters or\nso goes on below."
    assert cut(wrapped) == [wrapped]


@given(st.text(alphabet="aB 1.!?\n-,ä:|#", max_size=120))
def test_sentences_are_in_order_apart_and_hold_every_letter(text: str) -> None:
    spans = sentences(text)
    assert all(span.start < span.end for span in spans)
    assert all(first.end <= second.start for first, second in zip(spans, spans[1:], strict=False))
    kept = sum(c.isalpha() for span in spans for c in text[span.start : span.end])
    assert kept == sum(c.isalpha() for c in text)


@given(st.text(alphabet="aB .!?…\n\t\"')]»", max_size=60))
def test_each_end_is_found_where_the_plain_expression_finds_it(text: str) -> None:
    plain = re.compile(r"[.!?…]+[\"'”’“»)\]]*(?=\s)|\n")
    assert [end.span() for end in END.finditer(text)] == [end.span() for end in plain.finditer(text)]


@pytest.mark.parametrize("part", [".", '."', "\n", "word\n", "lower,\n", "e.g. ", " \n", "3. "])
def test_a_long_text_of_one_thing_is_cut_at_once(part: str) -> None:
    begun = time.process_time()
    sentences(part * (300_000 // len(part)) + "a")
    assert time.process_time() - begun < 3


@pytest.mark.parametrize("part", ["what does ", "was muss ", "A-", "how ", "Frau "])
def test_a_long_question_and_a_long_word_are_judged_at_once(part: str) -> None:
    begun = time.process_time()
    for kind in KINDS:
        kind.asks.search(part * (100_000 // len(part)))
        kind.holds.search(part * (100_000 // len(part)))
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    "question, expected",
    [
        ("When does the library open on weekdays?", "The library opens at 9:00 on weekdays."),
        ("What does a lost card cost?", "A lost card costs 5 euros."),
        ("How long does Dr. Meyer lend books?", "Dr. Meyer lends books for 4 weeks."),
        ("Wer leitet die Jugendgruppe?", "Die Jugendgruppe leitet Tomas Reuter."),
        ("Welche Mehrheit brauchen Änderungen?", "Änderungen brauchen eine Mehrheit von drei Vierteln."),
    ],
)
def test_the_sentence_that_answers_is_quoted(question: str, expected: str) -> None:
    assert expected in quoted(question, LIBRARY, VEREIN)


@pytest.mark.parametrize(
    "question",
    [
        "What is the Wi-Fi password?",
        "Who painted the ceiling?",
        "Welche Farbe hat das Wappen?",
        "Wie hoch ist der Turm?",
    ],
)
def test_what_the_passages_do_not_say_is_refused(question: str) -> None:
    assert quoted(question, LIBRARY, VEREIN) == []


def test_no_passages_is_no_answer() -> None:
    found = answer("Anything?", [])
    assert (found.picks, found.confidence, found.answered) == ((), 0.0, False)
    assert rank("Anything?", [Passage(id="a", text="")]) == []


def test_picks_stand_in_document_order_and_the_same_every_time() -> None:
    passages = [Passage(id="a", text=LIBRARY, score=0.4), Passage(id="b", text=VEREIN, score=0.6)]
    found = answer("When is the library open on Saturdays and weekdays?", passages)
    places = [(pick.passage, pick.start) for pick in found.picks]
    assert found.answered
    assert places == sorted(places)
    assert found == answer("When is the library open on Saturdays and weekdays?", passages)


def test_a_heading_is_never_the_answer_but_helps_to_find_it() -> None:
    text = "The new roof\n\nThe order went to Dachbau Huber for 84,000 euros.\n\nThe stove\n\nA neighbour bought it."
    assert quoted("Who got the order for the new roof?", text) == ["The order went to Dachbau Huber for 84,000 euros."]


def test_support_of_a_claim() -> None:
    source = "A lost card costs 5 euros. The fee is paid at the desk."
    assert supports("A lost card costs 5 euros.", source) == 1.0
    assert supports("A lost card costs 50 euros.", source) < supports("A lost card costs 5 euros.", source)
    assert supports("The moon is made of cheese.", source) == 0.0


def test_refusals_speak_the_language_of_the_question() -> None:
    assert "Dokumenten" in refusal("de")
    assert refusal("und") == refusal("en")


def test_a_heading_is_no_answer() -> None:
    text = "Raising queens\n\nTeacher: Dr Lucía Ortega from the institute in Hohenstetten."
    passage = Passage("p", text, 0.9, "en", "Courses > Raising queens")
    found = answer("Who teaches the course on raising queens?", [passage])
    assert [text[pick.start : pick.end] for pick in found.picks] == [text.partition("\n\n")[2]]
