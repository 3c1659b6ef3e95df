"""The example corpus, asked: the right answer from the right document with a true quote, or an honest refusal.

The first half checks the questions themselves against the sources, so that a wrong expectation can't pass for a wrong
answer. The second half runs the whole way, from the files to the answers, on real parts.
"""

import html
import re
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from scripts import make_corpus

from gimle.app import App
from gimle.foundation.config import DatabaseSettings, Settings
from gimle.knowledge.answer import How
from gimle.knowledge.types import DEFAULT_COLLECTION, Answer, Citation
from gimle.trust.types import Principal

EXAMPLES = Path(__file__).parents[2] / "examples"
CORPUS = EXAMPLES / "corpus"
SOURCES = {"members-handbook.pdf": "members-handbook.md", "satzung.docx": "satzung.md"}
# Of the fifteen answerable questions beside the demo; all of the unanswerable ones have to be refused.
LEAST_RIGHT = 13
# Characters. No sentence of the corpus is as long; a longer quote would be a page and not a place.
LONGEST_QUOTE = 400


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of `examples/questions.jsonl`. Each of `answer` is accepted."""

    id: str
    question: str
    language: str
    answer: list[str]
    document: str | None
    page: int | None
    answerable: bool
    demo: bool


QUESTIONS = [
    msgspec.json.decode(line, type=Question) for line in (EXAMPLES / "questions.jsonl").read_text("utf-8").splitlines()
]
HELD = [question for question in QUESTIONS if not question.demo]


def words(text: str) -> str:
    """A text as words with single spaces, so that line ends, mark-up and punctuation make no difference."""
    return " ".join(re.findall(r"\w+", text)).lower()


@cache
def source(document: str) -> list[str]:
    """The words of a document by page; one page where the format has none."""
    if document in SOURCES:
        pages = (make_corpus.SOURCES / SOURCES[document]).read_text("utf-8").split("\n---\n")
        return [words(page) for page in pages]
    text = (CORPUS / document).read_text("utf-8")
    return [words(html.unescape(re.sub(r"<[^>]+>", " ", text)) if document.endswith(".html") else text)]


def test_the_corpus_is_what_it_says() -> None:
    files = [file.name for file in CORPUS.iterdir()]
    assert len(files) >= 20
    assert {Path(name).suffix for name in files} == {".md", ".html", ".pdf", ".docx", ".csv"}
    assert len(source("members-handbook.pdf")) >= 3


def test_the_questions_are_what_they_say() -> None:
    demo = [question for question in QUESTIONS if question.demo]
    assert len({question.id for question in QUESTIONS}) == len(QUESTIONS)
    assert (len(demo), len(HELD), sum(not question.answerable for question in HELD)) == (3, 20, 5)
    assert [question.document for question in demo] == ["members-handbook.pdf", "leihordnung.md", None]
    assert [question.language for question in demo] == ["en", "de", "en"]
    assert {question.language for question in HELD} == {"en", "de"}


@pytest.mark.parametrize("question", [q for q in QUESTIONS if q.answerable], ids=lambda q: q.id)
def test_an_expected_answer_stands_in_its_document(question: Question) -> None:
    assert question.document is not None
    pages = source(question.document)
    looked_at = pages if question.page is None else [pages[question.page - 1]]
    assert any(words(answer) in page for answer in question.answer for page in looked_at)


def test_the_first_demo_answer_stands_in_the_pdf_only() -> None:
    answer = words(QUESTIONS[0].answer[0])
    holders = [file.name for file in CORPUS.iterdir() if any(answer in page for page in source(file.name))]
    assert holders == ["members-handbook.pdf"]


def test_no_question_copies_its_sentence() -> None:
    """A question made of the sentence's own words would test nothing but string search."""
    for question in QUESTIONS:
        asked = words(question.question).split()
        runs = [" ".join(asked[n : n + 6]) for n in range(len(asked) - 5)]
        held = " ".join(source(question.document)) if question.document else ""
        assert not [run for run in runs if run in held], question.question


def test_the_binaries_are_made_from_their_sources(tmp_path: Path) -> None:
    made = tmp_path / "members-handbook.pdf"
    make_corpus.write_pdf(make_corpus.SOURCES / "members-handbook.md", made)
    assert made.read_bytes() == (CORPUS / made.name).read_bytes(), "Run scripts/make_corpus.py and commit the result"


class Outcome(NamedTuple):
    """A question, what came back, and whether that is right."""

    question: Question
    answer: Answer
    right: bool


def rests_on(citation: Citation, question: Question) -> bool:
    return citation.document_name == question.document and question.page in (None, citation.page)


def judge(question: Question, answer: Answer) -> Outcome:
    if not question.answerable:
        return Outcome(question, answer, not answer.answered and not answer.citations)
    said = any(words(accepted) in words(answer.text) for accepted in question.answer)
    return Outcome(question, answer, answer.answered and said and any(rests_on(c, question) for c in answer.citations))


def assert_true_quotes(answer: Answer) -> None:
    """Each quote stands in the source of the document, and page, that it names, word for word, and short."""
    for citation in answer.citations:
        assert len(citation.quote) <= LONGEST_QUOTE, citation
        pages = source(citation.document_name)
        if citation.document_name.endswith(".csv"):
            # A row reads "column: value …" once it is parsed: each word of it stands in the file.
            assert set(words(citation.quote).split()) <= set(pages[0].split()) | {"row"} | set(map(str, range(99)))
        else:
            text = " ".join(pages) if citation.page is None else pages[citation.page - 1]
            assert words(citation.quote) in text, citation


@pytest.fixture
async def app(data_dir: Path, database_url: str) -> AsyncIterator[App]:
    """The whole of Gimle in this process, on a database of its own."""
    settings = Settings(data=data_dir, database=DatabaseSettings(url=database_url))
    async with await App.open(settings) as opened:
        yield opened


async def read_corpus(app: App, principal: Principal) -> None:
    """Upload all files, and wait until each is ready."""
    jobs = []
    for file in sorted(CORPUS.iterdir()):
        taken = await app.library.upload(principal, DEFAULT_COLLECTION, file.name, file.read_bytes())
        jobs.append((file.name, taken.job))
    for name, job in jobs:
        async for state in app.jobs.watch(principal.tenant, job):
            last = state
        assert last.status == "done", f"{name}: {last.error}"


async def test_the_corpus_answers(app: App) -> None:
    tenant = await app.tenants.create("Birkenried")
    principal = Principal(tenant.id, key="key_test")
    await read_corpus(app, principal)

    outcomes = []
    for question in QUESTIONS:
        answer = await app.answers.ask(principal, DEFAULT_COLLECTION, question.question, How(top_k=6))
        assert_true_quotes(answer)
        outcomes.append(judge(question, answer))

    report = "\n".join(f"{'right' if o.right else 'WRONG'} {o.question.id}: {o.answer.text!r}" for o in outcomes)
    print(report)
    wrong = [outcome for outcome in outcomes if not outcome.right]
    assert not [o.question.id for o in wrong if not o.question.answerable], f"Answered from nothing:\n{report}"
    assert not [o.question.id for o in wrong if o.question.demo], f"The demo goes wrong:\n{report}"
    right = sum(o.right for o in outcomes if o.question.answerable and not o.question.demo)
    assert right >= LEAST_RIGHT, report
    answers = [o.answer.text for o in outcomes if o.answer.answered]
    assert len(set(answers)) == len(answers), "Two different questions got the same answer"
