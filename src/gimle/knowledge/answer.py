"""A question to the documents of a collection, answered with citations that code has checked, or an honest refusal.

    search → fit the passages into the model's window → extract, or ask the model for claims → check → cite

Without a language model the answer is made of the documents' own sentences. With one, its claims pass the check in
`claims`. When the model fails and the caller named none, the documents' own sentences answer, and a notice says so.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

import msgspec

from gimle.foundation import logs
from gimle.foundation.config import KnowledgeSettings
from gimle.foundation.errors import ContextTooLong, GimleError, InvalidRequest, RateLimitedError, TransientError
from gimle.gateway import context, extract
from gimle.gateway.extract import Embed
from gimle.gateway.gateway import Gateway
from gimle.gateway.language import detect
from gimle.gateway.notices import Notice
from gimle.gateway.tab import Tab
from gimle.gateway.types import Headers, Purpose, Vectors
from gimle.knowledge import claims
from gimle.knowledge.search import Search
from gimle.knowledge.types import PATH, Answer, Citation, Claim, Passage, Tokens, Turn
from gimle.selection.registry import AUTO, policy_of
from gimle.selection.types import Model
from gimle.trust.types import Principal

log = logs.get("knowledge.answer")

BUILTIN, EXTRACT = "builtin", "extract"
LONGEST_QUESTION = 8000
MOST_OUTPUT = 1024
# Of a conversation the model sees this many turns, and search this many characters of the question before.
_TURNS = 6
_LOOK_BACK = 500

# A question of so few words, or with one of these, leans on what was said before.
_FEW_WORDS = 4
_POINTS_BACK = re.compile(
    r"\b(?:it|its|they|them|their|he|him|his|she|her|that|those|these|this|there|then|one|ones|"
    r"er|sie|es|ihn|ihm|ihr|ihre|ihrer|ihnen|sein|seine|seiner|deren|dessen|das|diese|dieser|dieses|dort|damit|davon|dazu|"
    r"dafür|darin|daran|dabei)\b",
    re.IGNORECASE,
)


class How(msgspec.Struct, frozen=True, kw_only=True):
    """How a question is to be answered: from how many passages, by which model, after which conversation, and for whom.

    `model` "auto" or None: the best language model there is, else the documents' own sentences. With `fast`, and where
    a language model is to answer, the documents' own sentences come first, in milliseconds.
    """

    top_k: int | None = None
    model: str | None = None
    history: Sequence[Turn] = ()
    fast: bool = False
    purpose: Purpose = Purpose()


_USUAL = How()


class PassagesFound(msgspec.Struct, frozen=True):
    """Search has ended; always the first event. `told` are headers that tell of the caller's limits."""

    passages: tuple[Passage, ...]
    told: Headers = ()


class Drafted(msgspec.Struct, frozen=True):
    """The answer in the documents' own sentences, for those who would not wait for the model's, which follows."""

    answer: Answer


class AnsweredBy(msgspec.Struct, frozen=True):
    """Who answers, and in whose place: `model` is `provider/name`. Comes before the first claim.

    `told` are headers that tell of limits and costs.
    """

    model: str
    provider: str
    told: Headers = ()
    notice: Notice | None = None


class ClaimReady(msgspec.Struct, frozen=True):
    """A checked claim. The `text`s of all claims, one after the other, are the text of the answer."""

    claim: Claim
    citation: Citation
    text: str


class Done(msgspec.Struct, frozen=True):
    """The whole answer; always the last event."""

    answer: Answer


AnswerEvent = PassagesFound | Drafted | AnsweredBy | ClaimReady | Done


class _Asked(msgspec.Struct, frozen=True):
    """What is being answered: the question as put, and the question as searched, which may take in what came before."""

    principal: Principal
    question: str
    query: str
    how: How
    passages: tuple[Passage, ...]
    tab: Tab

    @property
    def history(self) -> Sequence[Turn]:
        """The last turns of the conversation."""
        return self.how.history[-_TURNS:]


class _Found(msgspec.Struct, frozen=True):
    """What came of it: checked claims, and who made them at which cost."""

    checked: list[claims.Checked]
    model: str
    provider: str
    usage: Tokens = Tokens()
    notice: str | None = None
    stands_in: Notice | None = None


class Answers:
    """Answers from the documents of a tenant."""

    def __init__(self, search: Search, gateway: Gateway, embedder: str, settings: KnowledgeSettings) -> None:
        self._search = search
        self._gateway = gateway
        self._embedder = embedder
        self._settings = settings

    async def ask(self, principal: Principal, collection: str, question: str, how: How = _USUAL) -> Answer:
        """The answer to a question of at most 8000 characters; see `stream`."""
        events = self.stream(principal, collection, question, how)
        return [event.answer async for event in events if isinstance(event, Done)][-1]

    async def stream(
        self, principal: Principal, collection: str, question: str, how: How = _USUAL
    ) -> AsyncGenerator[AnswerEvent, None]:
        """The passages, who answers, then each checked claim, then the whole answer.

        It is one request in its caller's limits, whatever it takes. A question that leans on the conversation is
        searched together with the one before it.
        Raises `InvalidRequest`, `CollectionNotFound`, `ModelNotFound`, `ContextTooLong`, `RateLimitedError`, and what a
        named model raises.
        """
        _validate(question)
        targets = self._gateway.resolve(principal, how.model or AUTO)
        tab = await self._gateway.enter(principal, targets[0], self._expected(targets[0], how), how.purpose)
        try:
            query = standalone(question, how.history)
            found = await self._search.search(principal, collection, query, how.top_k or self._settings.top_k)
            yield PassagesFound(found.passages, tab.left)
            asked = _Asked(principal, question, query, how, found.passages, tab)
            async for event in self._told(asked, targets, found.notice):
                yield event
        finally:
            tab.close()

    def _expected(self, target: Model, how: How) -> int:
        """How many tokens an answer takes, about: the documents' own sentences take none of a language model's."""
        passages = how.top_k or self._settings.top_k
        return 0 if target.provider == BUILTIN else passages * self._settings.chunk_tokens + MOST_OUTPUT

    async def _told(
        self, asked: _Asked, targets: Sequence[Model], notice: str | None
    ) -> AsyncGenerator[AnswerEvent, None]:
        """All that follows the search, with its notice."""
        if asked.how.fast and asked.passages and targets[0].provider != BUILTIN:
            draft = await self._extract(asked)
            yield Drafted(_answer(asked, draft, "".join(piece for _, _, piece in _pieces(draft)), notice))
        made = await self._answer(asked, targets, asked.how.model)
        asked.tab.why = asked.tab.why or f"documents; {made.provider}/{made.model}"
        yield AnsweredBy(f"{made.provider}/{made.model}", made.provider, asked.tab.told, made.stands_in)
        text = ""
        for claim, citation, piece in _pieces(made):
            text += piece
            yield ClaimReady(claim, citation, piece)
        yield Done(_answer(asked, made, text, " ".join(filter(None, (notice, made.notice))) or None))

    async def _answer(self, asked: _Asked, targets: Sequence[Model], model: str | None) -> _Found:
        llms = [target for target in targets if target.provider != BUILTIN]
        if not llms or targets[0].provider == BUILTIN:
            return await self._extract(asked)
        if not asked.passages:
            return _Found([], llms[0].name, llms[0].provider)
        try:
            return await self._complete(asked, llms, model or AUTO)
        except (TransientError, RateLimitedError) as failed:
            if model is not None and policy_of(model) is None:
                raise
            log.warning("model_failed", error=failed.code, detail=failed.message)
            notice = f"The language model failed, so the documents' own sentences answer: {failed.message}"
            return msgspec.structs.replace(await self._extract(asked), notice=notice)

    async def _extract(self, asked: _Asked) -> _Found:
        """The documents' own sentences. Ranking is work for the processor, so it leaves the event loop."""
        bodies = [_body(passage) for passage in asked.passages]
        passages = [
            msgspec.structs.replace(_source(passage), text=passage.text[body:])
            for passage, body in zip(asked.passages, bodies, strict=True)
        ]
        try:
            found = await asyncio.to_thread(extract.answer, asked.query, passages, self._embed(asked.principal))
        except (TransientError, RateLimitedError):
            found = await asyncio.to_thread(extract.answer, asked.query, passages, None)
        checked = []
        for n, pick in enumerate(found.picks, start=1):
            body = bodies[pick.passage]
            citation = claims.cite(asked.passages[pick.passage], body + pick.start, body + pick.end, n)
            claim = Claim(text=_as_sentence(citation.quote), verdict="found", citation=n)
            checked.append(claims.Checked(claim, citation))
        usage = await asyncio.to_thread(self._read, asked, checked)
        return _Found(checked, EXTRACT, BUILTIN, usage)

    def _read(self, asked: _Asked, checked: Sequence[claims.Checked]) -> Tokens:
        """What the extraction read and wrote, in tokens."""
        count = self._gateway.count(f"{BUILTIN}/{EXTRACT}")
        read = count(asked.question) + sum(count(passage.text) for passage in asked.passages)
        return Tokens(read, sum(count(each.claim.text) for each in checked))

    def _embed(self, principal: Principal) -> Embed | None:
        """The embedder as a blocking call for the ranking thread; None where there is none."""
        try:
            self._gateway.space(self._embedder)
        except GimleError:
            return None
        loop = asyncio.get_running_loop()

        def embed(texts: Sequence[str]) -> Vectors:
            work = self._gateway.embed(principal, self._embedder, texts)
            return asyncio.run_coroutine_threadsafe(work, loop).result().vectors

        return embed

    async def _complete(self, asked: _Asked, llms: Sequence[Model], model: str) -> _Found:
        """Ask a language model for claims, within the smallest window of those that may serve."""
        window = min(target.context_window for target in llms)
        passages = await self._fitted(asked, llms[0], window)
        outputs = [target.max_output for target in llms if target.max_output is not None]
        most = min([MOST_OUTPUT, max(64, int(window * self._settings.answer_reserve)), *outputs])
        schema = claims.SCHEMA if all("json_schema" in target.capabilities for target in llms) else None
        # A bare "auto" may fall back to the engine that writes no JSON, so without a schema the target is named.
        name = model if schema is not None else llms[0].id
        language = asked.how.purpose.language
        said = await self._gateway.complete(
            asked.principal, name, _messages(asked, passages), most, schema, within=asked.tab, language=language
        )
        # A quote may come from anywhere in a passage of which the model has seen the best sentences.
        whole = {passage.chunk: passage for passage in asked.passages} if llms[0].local else {}
        sources = [whole.get(passage.chunk, passage) for passage in passages]
        checked = claims.check(claims.read(said.text), sources, asked.question)
        usage = Tokens(said.usage.input_tokens, said.usage.output_tokens)
        notice = None if said.notice is None else said.notice.message
        return _Found(checked, said.model, said.provider, usage, notice, said.notice)

    async def _fitted(self, asked: _Asked, target: Model, window: int) -> list[Passage]:
        count = self._gateway.count(target.id)
        spent = sum(count(message["content"]) + 8 for message in _messages(asked, ()))
        room = context.budget(window, reserve=self._settings.answer_reserve, spent=spent)
        by_chunk = {passage.chunk: passage for passage in asked.passages}
        sources = [_source(passage) for passage in asked.passages]
        # What stands above each document in the prompt costs as much as its own heading does.
        overhead = max(count(_title(1, passage)) for passage in asked.passages) + 4
        fitted = context.fit(sources, room, count, overhead=overhead)
        if target.local and (small := self._settings.local_tokens) < room:
            fitted = await self._compressed(asked, small, count, overhead) or fitted
        if not fitted:
            raise ContextTooLong(
                f"The question leaves no room for documents in the window of {target.id} ({window} tokens).",
                field="question",
                hint="Shorten the question or the conversation, or name a model with a larger window.",
            )
        return [msgspec.structs.replace(by_chunk[source.id], text=source.text) for source in fitted]

    async def _compressed(
        self, asked: _Asked, room: int, count: Callable[[str], int], overhead: int
    ) -> list[extract.Passage]:
        """The sentences that promise most, as many as a small room holds."""
        sources = [_source(passage) for passage in asked.passages]
        picks = await self._promising(asked, sources)
        return await asyncio.to_thread(context.compress, sources, picks, room, count, overhead=overhead)

    async def _promising(self, asked: _Asked, sources: list[extract.Passage]) -> list[extract.Pick]:
        try:
            return await asyncio.to_thread(extract.rank, asked.query, sources, self._embed(asked.principal))
        except (TransientError, RateLimitedError):
            return await asyncio.to_thread(extract.rank, asked.query, sources, None)


def standalone(question: str, history: Sequence[Turn]) -> str:
    """What to search for: the question, together with the user's last one when it is too short to stand alone (four
    words or fewer) or points back with a pronoun.
    """
    before = [turn.content for turn in history if turn.role == "user" and turn.content.strip()]
    leans = len(re.findall(r"\w+", question)) <= _FEW_WORDS or _POINTS_BACK.search(question) is not None
    if not before or not leans:
        return question
    return f"{before[-1][:_LOOK_BACK]} {question}"[:LONGEST_QUESTION]


def _validate(question: str) -> None:
    if not question.strip():
        raise InvalidRequest("The question is empty.", field="question", hint="Ask something.")
    if len(question) > LONGEST_QUESTION:
        raise InvalidRequest(
            f"The question has {len(question)} characters; the most is {LONGEST_QUESTION}.",
            field="question",
            hint="Upload long texts as documents.",
        )


def _pieces(made: _Found) -> Iterator[tuple[Claim, Citation, str]]:
    """The claims that may be shown, and what each adds to the text."""
    before = ""
    for each in made.checked:
        if each.citation is not None:
            yield each.claim, each.citation, before + claims.written(each.claim)
            before = " "


def _answer(asked: _Asked, made: _Found, text: str, notice: str | None) -> Answer:
    citations: dict[int, Citation] = {}
    for each in made.checked:
        if each.citation is not None:
            citations.setdefault(each.citation.n, each.citation)
    return Answer(
        text=text or extract.refusal(_language(asked)),
        citations=tuple(citations.values()),
        answered=bool(text),
        model=f"{made.provider}/{made.model}",
        provider=made.provider,
        claims=tuple(each.claim for each in made.checked),
        usage=made.usage,
        notice=notice,
    )


def _language(asked: _Asked) -> str:
    """The question's language; for one too short to tell, that of the conversation, then that of the passages."""
    for text in (asked.question, asked.query):
        if (language := detect(text)) != "und":
            return language
    known = Counter(passage.language for passage in asked.passages)
    return known.most_common(1)[0][0] if known else "en"


def _source(passage: Passage) -> extract.Passage:
    return extract.Passage(
        id=passage.chunk,
        text=passage.text,
        score=passage.score,
        language=passage.language,
        heading=passage.heading or "",
    )


def _body(passage: Passage) -> int:
    """Where the text under the headings begins: a heading names an answer and is none."""
    at = 0
    for name in (passage.heading or "").split(PATH):
        end = passage.text.find("\n\n", at)
        if end != -1 and " ".join(passage.text[at:end].split()) == name:
            at = end + 2
    return at


def _as_sentence(quote: str) -> str:
    """A stretch of a document as a sentence of an answer: in one line, without the mark of its list."""
    line = re.sub(r"^(?:[-*+•‣◦▪]|\d{1,3}[.)])\s+", "", " ".join(quote.split()))
    return claims.without_markers(line)


def _messages(asked: _Asked, passages: Sequence[Passage]) -> list[dict[str, Any]]:
    """System, the conversation's last turns, then the documents, best first, and the question."""
    documents = "\n\n".join(f"{_title(n, passage)}\n{passage.text}" for n, passage in enumerate(passages, start=1))
    return [
        {"role": "system", "content": claims.INSTRUCTIONS},
        *({"role": turn.role, "content": turn.content} for turn in asked.history),
        {"role": "user", "content": f"{documents}\n\nQuestion: {asked.question}"},
    ]


def _title(n: int, passage: Passage) -> str:
    page = f"page {passage.page}" if passage.page is not None else None
    return f"[Document {n}: {', '.join(filter(None, (passage.document_name, page, passage.heading)))}]"
