"""Answers from documents: cited sentences, honest refusals, a model's claims checked, the window kept."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.knowledge.indexed import principal
from tests.knowledge.shelves import Shelf, count, shelf

from gimle.foundation.config import EngineSettings, KnowledgeSettings, Settings
from gimle.foundation.db import Database
from gimle.foundation.errors import (
    CollectionNotFound,
    ContextTooLong,
    InvalidRequest,
    UpstreamError,
)
from gimle.gateway.gateway import Gateway
from gimle.knowledge.answer import Answers, ClaimReady, Done, Drafted, How, PassagesFound, standalone
from gimle.knowledge.types import Answer, Turn
from gimle.testing import Behaviour, Upstream
from gimle.trust.types import Principal

LIGHT = """# The light of Brennholm

The lamp was lit for the first time in 1871. It turns once in ten seconds and is seen from 21 miles away.

# The fog horn

The horn was built by the firm Pintsch in Berlin. It sounds twice a minute in thick fog.
"""
LEUCHTTURM = """# Der Leuchtturm

Der Turm ist vierzig Meter hoch. Die Treppe hat 217 Stufen. Der Wärter zieht jeden Abend das Uhrwerk auf.
"""


def claim(text: str, chunk: int, quote: str) -> dict[str, Any]:
    return {"text": text, "chunk": chunk, "quote": quote}


def reply(*claims: dict[str, Any]) -> str:
    return json.dumps({"claims": claims})


def said(content: str) -> Behaviour:
    """A provider's whole answer with this text."""
    message = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": 70, "completion_tokens": 7, "total_tokens": 77}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "llm", "choices": choices, "usage": usage}
    return Behaviour(body=json.dumps(body).encode())


class Room:
    """A collection with two documents, and answers from it: by a language model where the test has written its lines,
    else by the documents' own sentences. No weights are there.
    """

    def __init__(self, house: Shelf, who: Principal, folder: Path, upstream: Upstream) -> None:
        self.who = who
        self.house = house
        self.folder = folder
        self.upstream = upstream
        self.window = 4000
        self.settings = KnowledgeSettings()

    def script(self, *lines: str) -> None:
        self.upstream.plan.extend(said(line) for line in lines)

    def sent(self) -> list[dict[str, Any]]:
        """The messages that the model was sent last."""
        messages: list[dict[str, Any]] = self.upstream.received[-1].json["messages"]
        return messages

    @asynccontextmanager
    async def answers(self) -> AsyncIterator[Answers]:
        llm = {"name": "llm", "context_window": self.window, "capabilities": ["json_schema"]}
        acme = {"base_url": self.upstream.url, "local": True, "models": [llm]}
        scripted = bool(self.upstream.plan) or self.upstream.usual is not None
        settings = Settings(
            data=self.folder,
            engines=EngineSettings(weights=str(self.folder / "none")),
            providers={"acme": acme} if scripted else {},
        )
        gateway = await Gateway.open(self.house.db, settings)
        try:
            yield Answers(self.house.search, gateway, "builtin/minilm", self.settings)
        finally:
            await gateway.close()

    async def ask(self, question: str, *, collection: str = "default", **more: Any) -> Answer:
        async with self.answers() as answers:
            answer = await answers.ask(self.who, collection, question, How(**more))
        for citation in answer.citations:
            text = await self.house.library.text(self.who, citation.document)
            assert text[citation.start : citation.end] == citation.quote
        return answer


@pytest.fixture
async def room(db: Database, data_dir: Path, tenants: tuple[str, str]) -> AsyncIterator[Room]:
    async with shelf(db, data_dir) as house, Upstream() as upstream:
        who = principal(tenants[0])
        await house.put(who, "light.md", LIGHT)
        await house.put(who, "turm.md", LEUCHTTURM)
        yield Room(house, who, data_dir, upstream)


async def test_an_extract_cites_every_sentence(room: Room) -> None:
    answer = await room.ask("When was the lamp lit for the first time?")
    assert answer.answered
    assert "The lamp was lit for the first time in 1871. [" in answer.text
    assert (answer.model, answer.provider) == ("builtin/extract", "builtin")
    first = answer.citations[0]
    assert (first.n, first.document_name, first.heading) == (1, "light.md", "The light of Brennholm")
    assert "1871" in " ".join(citation.quote for citation in answer.citations)


async def test_a_heading_is_no_answer(room: Room) -> None:
    await room.house.put(room.who, "rules.md", "# Rules\n\n## Who may climb the tower\n\nOnly keepers may climb it.")
    answer = await room.ask("Who may climb the tower?")
    assert answer.text == "Only keepers may climb it. [1]"
    assert answer.citations[0].heading == "Rules > Who may climb the tower"


async def test_a_german_question_is_answered_in_german(room: Room) -> None:
    answer = await room.ask("Wie viele Stufen hat die Treppe?")
    assert "Die Treppe hat 217 Stufen. [" in answer.text


@pytest.mark.parametrize(
    "question, refusal",
    [
        ("What is the capital of Mongolia?", "The documents do not say."),
        ("Wie heißt die Hauptstadt der Mongolei?", "Dazu steht nichts in den Dokumenten."),
    ],
)
async def test_what_is_not_there_is_refused_in_the_questions_language(room: Room, question: str, refusal: str) -> None:
    answer = await room.ask(question)
    assert (answer.answered, answer.text, answer.citations) == (False, refusal, ())


async def test_an_empty_collection_refuses(room: Room) -> None:
    await room.house.library.create_collection(room.who, "empty")
    for _ in range(2):
        answer = await room.ask("When was the lamp lit?", collection="empty")
        assert (answer.answered, answer.text) == (False, "The documents do not say.")
        room.script(reply())
    assert room.upstream.received == [], "a model is not paid to say that nothing is there"


async def test_a_models_claims_are_checked_before_they_are_shown(room: Room) -> None:
    room.script(
        reply(
            claim("The lamp has burned since 1871.", 1, "lit for the first time in 1871"),
            claim("Pintsch of Berlin built the horn.", 1, "built by the firm Pintsch in Berlin"),
            claim("It was painted red.", 1, "painted red and white"),
        )
    )
    answer = await room.ask("When was the lamp lit and who built the horn?")
    assert answer.answered
    assert [each.verdict for each in answer.claims].count("unsupported") == 1
    assert "red" not in answer.text
    assert answer.text == "The lamp has burned since 1871. [1] Pintsch of Berlin built the horn. [2]"
    assert [citation.quote for citation in answer.citations] == [
        "lit for the first time in 1871",
        "built by the firm Pintsch in Berlin",
    ]
    assert (answer.model, answer.usage.prompt, answer.usage.completion) == ("acme/llm", 70, 7)


async def test_a_model_that_makes_things_up_gets_a_refusal(room: Room) -> None:
    room.script(reply(claim("It is made of cheese.", 1, "entirely made of cheese")))
    answer = await room.ask("What is the tower made of?")
    assert (answer.answered, answer.text) == (False, "The documents do not say.")
    assert [each.verdict for each in answer.claims] == ["unsupported"]


@pytest.mark.parametrize("fault", [said("I think it was 1871."), Behaviour(status=500)])
async def test_when_the_model_fails_the_documents_answer_and_say_so(room: Room, fault: Behaviour) -> None:
    room.upstream.usual = fault
    answer = await room.ask("When was the lamp lit for the first time?")
    assert "in 1871. [" in answer.text
    assert answer.provider == "builtin"
    assert "language model failed" in (answer.notice or "")


async def test_a_named_model_that_fails_fails(room: Room) -> None:
    room.upstream.usual = Behaviour(status=500)
    with pytest.raises(UpstreamError):
        await room.ask("When was the lamp lit?", model="acme/llm")


async def test_the_builtin_answerer_may_be_named(room: Room) -> None:
    room.script(reply())
    answer = await room.ask("When was the lamp lit for the first time?", model="builtin/extract")
    assert answer.provider == "builtin"
    assert room.upstream.received == []


async def test_the_prompt_keeps_to_the_window(room: Room) -> None:
    for number in range(8):
        await room.house.put(room.who, f"more{number}.md", f"The lamp number {number} was lit. " + "Oil is dear. " * 60)
    question = "When was the lamp lit for the first time?"
    for window in (500, 700, 1200):
        room.window = window
        room.script(reply())
        await room.ask(question, top_k=10)
        spent = sum(count(message["content"]) for message in room.sent())
        assert window * 0.3 < spent <= window * 0.8
    room.window = 150
    room.script(reply())
    with pytest.raises(ContextTooLong):
        await room.ask(question)


async def test_answer_reserve_is_the_share_of_the_window_kept_for_the_answer(room: Room) -> None:
    await room.house.put(room.who, "more.md", "\n\n".join(f"The lamp number {n} was lit by Anna." for n in range(90)))
    room.window = 900
    spent = []
    for share in (0.1, 0.5):
        room.settings = KnowledgeSettings(answer_reserve=share)
        room.script(reply())
        await room.ask("When was the lamp lit by Anna?", top_k=10)
        spent.append(sum(count(message["content"]) for message in room.sent()))
    assert spent[1] <= 450 < spent[0] <= 810


async def test_a_stream_is_the_answer_in_pieces(room: Room) -> None:
    room.script(
        reply(
            claim("Lit in 1871.", 1, "lit for the first time in 1871"),
            claim("It turns once in ten seconds.", 1, "turns once in ten seconds"),
        )
    )
    async with room.answers() as answers:
        events = [event async for event in answers.stream(room.who, "default", "When was the lamp lit?")]
    assert isinstance(events[0], PassagesFound)
    assert events[0].passages
    done = events[-1]
    assert isinstance(done, Done)
    assert "".join(event.text for event in events if isinstance(event, ClaimReady)) == done.answer.text
    assert [event.citation.n for event in events if isinstance(event, ClaimReady)] == [1, 2]


async def test_a_follow_up_is_searched_with_what_it_follows(room: Room) -> None:
    history = (Turn("user", "Tell me about the fog horn of Brennholm."), Turn("assistant", "It is loud. [1]"))
    answer = await room.ask("Who built it?", history=history)
    assert "Pintsch" in answer.text
    room.script(reply())
    await room.ask("Who built it?", history=history)
    roles = [message["role"] for message in room.sent()]
    assert roles == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    "question, alone",
    [
        ("Who built it?", False),
        ("And in Berlin?", False),
        ("Wie hoch ist er denn heute noch gemessen worden?", False),
        ("Which company delivered the fog horn to Brennholm?", True),
    ],
)
def test_a_question_that_leans_back_is_known(question: str, alone: bool) -> None:
    history = [Turn("user", "Tell me about the horn."), Turn("assistant", "It is loud.")]
    assert standalone(question, history) == (question if alone else f"Tell me about the horn. {question}")
    assert standalone(question, []) == question


async def test_bad_questions_are_named(room: Room) -> None:
    for question in ("", " \n", "x" * 8001):
        with pytest.raises(InvalidRequest) as refused:
            await room.ask(question)
        assert refused.value.field == "question"
    with pytest.raises(CollectionNotFound):
        await room.ask("When was the lamp lit?", collection="unknown")


async def test_an_answer_is_plain_json(room: Room) -> None:
    answer = await room.ask("When was the lamp lit for the first time?")
    assert msgspec.json.decode(msgspec.json.encode(answer), type=Answer) == answer


async def test_a_fast_stream_begins_with_the_documents_own_sentences(room: Room) -> None:
    quote = "The lamp was lit for the first time in 1871."
    room.script(reply(claim("It was first lit in 1871.", 1, quote)))
    async with room.answers() as answers:
        question = "When was the lamp lit for the first time?"
        events = [event async for event in answers.stream(room.who, "default", question, How(fast=True))]
    kinds = [type(event).__name__ for event in events]
    assert kinds == ["PassagesFound", "Drafted", "AnsweredBy", "ClaimReady", "Done"]
    drafted, done = events[1], events[-1]
    assert isinstance(drafted, Drafted)
    assert isinstance(done, Done)
    assert drafted.answer.provider == "builtin"
    assert quote in drafted.answer.text
    assert done.answer.provider == "acme"
    async with room.answers() as answers:
        events = [event async for event in answers.stream(room.who, "default", question, How(fast=True))]
    assert "Drafted" not in [type(event).__name__ for event in events]


async def test_a_model_on_this_machine_gets_the_best_sentences_only(room: Room) -> None:
    """What it quotes is checked against the whole passage, and cited where it stands."""
    facts = [f"Fact {n} says that the keeper's hut number {n} has {n} green windows." for n in range(40)]
    middle = "The lantern room is cleaned with vinegar on every second Friday."
    await room.house.put(room.who, "huts.md", "# Huts\n\n" + " ".join([*facts[:20], middle, *facts[20:]]))
    room.settings = KnowledgeSettings(local_tokens=110, chunk_tokens=2000)
    room.script(reply(claim("The lantern room is cleaned with vinegar.", 1, middle)))
    answer = await room.ask("With what is the lantern room cleaned?", model="acme/llm")
    prompt = room.sent()[-1]["content"]
    documents = prompt.partition("\n\nQuestion:")[0]
    assert middle in documents
    assert count(documents) <= 130
    assert answer.citations[0].quote == middle.rstrip(".")
    assert answer.claims[0].verdict == "found"
