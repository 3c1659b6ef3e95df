"""One model call, from the caller's bytes to the provider's and back: the one way that every door comes through.

    name → targets in their order (`routes`) → walk over them (`walk`) → per target: write · send · read → count

A stream counts as answered when its first content has come; until then another target takes over unseen. After that
another model continues it where it breaks off (`continuation`), or a fault is raised out of it, so that no cut passes
for an end. The caller's key never goes upstream: a request carries the provider's headers, and of the caller's the body
and what `ChatCall.headers` holds.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Self, TypeVar

from msgspec.structs import replace

from gimle.foundation import plugins
from gimle.foundation.config import Settings
from gimle.foundation.db import Database
from gimle.foundation.errors import (
    ContextTooLong,
    Unsayable,
    UpstreamTimeout,
)
from gimle.foundation.outbound import Outbound, Request
from gimle.gateway import choosing, continuation, counting, opinions, weights
from gimle.gateway.cached import Cached, Order
from gimle.gateway.catalog import Access, Catalog, Snapshot
from gimle.gateway.choosing import Following
from gimle.gateway.continuation import Said, Unbroken
from gimle.gateway.embedding import Embedder
from gimle.gateway.facts import account
from gimle.gateway.inside import Engines, word_by_word
from gimle.gateway.lanes import Call, Lane, chat_of, needs_bytes
from gimle.gateway.ledger import Ledger
from gimle.gateway.neutral import Ask, Format, Reply, Text, Turn, Usage
from gimle.gateway.notices import Notice, notice
from gimle.gateway.pictures import Pictures, by_url
from gimle.gateway.replies import passed, reply_of, request_of, told
from gimle.gateway.reranking import Question, Reranker
from gimle.gateway.routes import Chosen, Routes
from gimle.gateway.streams import Translation
from gimle.gateway.tab import Tab, Till
from gimle.gateway.tokens import Tokens
from gimle.gateway.types import (
    Attempt,
    ChatCall,
    ChatReply,
    ChatStream,
    Completion,
    Dialect,
    Embedded,
    Fault,
    Message,
    Purpose,
    Reranked,
)
from gimle.gateway.upstream import Refusal, Upstream
from gimle.gateway.walk import Try, Walk
from gimle.selection.selection import Selection
from gimle.selection.table import stays
from gimle.selection.types import Kind, Model, Need
from gimle.trust.types import Principal

T = TypeVar("T")
# Hears of a notice to a caller of a tenant.
Noticed = Callable[[str, Notice], None]

_NO_PURPOSE = Purpose()


def _nobody(_tenant: str, _notice: Notice) -> None:
    return


class Gateway:
    """All models behind one door. `catalog` holds the providers, `local` the models of this machine."""

    def __init__(
        self,
        catalog: Catalog,
        engines: Engines,
        outbound: Outbound,
        tokens: Tokens,
        settings: Settings,
        till: Till,
        noticed: Noticed,
    ) -> None:
        self.catalog = catalog
        self._engines = engines
        self.local = engines.local
        self._outbound = outbound
        self._tokens = tokens
        self._upstream = Upstream(outbound, settings.gateway)
        self.embedder = Embedder(engines, self._upstream, self.count)
        self._reranker = Reranker(engines, self._upstream, self.count)
        self._routes = Routes(engines, settings)
        self._walk = Walk(settings.gateway)
        self.till = till
        self._noticed = noticed
        self._total_seconds = settings.gateway.total_seconds
        self._continues = settings.gateway.on_cut == "continue"
        self._pictures = Pictures(settings.gateway)
        # The kept answers; without them every call goes to a model.
        self.cached: Cached | None = None
        self._selection: Selection | None = None

    def choose_by(self, selection: Selection) -> None:
        """From now on selection decides where there is something to decide, and learns from what calls show."""
        self._selection = selection
        self._routes.selection = selection
        self._walk.board = selection.board

    @classmethod
    async def open(
        cls, db: Database | None, settings: Settings, till: Till | None = None, noticed: Noticed = _nobody
    ) -> Self:
        """Open the engines, read the providers, follow their changes. `noticed` hears of all notices to callers.

        Raises `ConfigError`.
        """
        tokens = Tokens(weights.tiktoken_folder(settings))
        return await cls.assemble(db, settings, await Engines.open(settings, tokens), tokens, till, noticed)

    @classmethod
    async def assemble(
        cls,
        db: Database | None,
        settings: Settings,
        engines: Engines,
        tokens: Tokens,
        till: Till | None = None,
        noticed: Noticed = _nobody,
    ) -> Self:
        """A gateway with engines that are open already."""
        outbound = Outbound(settings.gateway.connect_seconds)
        catalog = Catalog(db, settings, outbound, engines.models, engines.local)
        await catalog.start()
        return cls(catalog, engines, outbound, tokens, settings, till or Till(Ledger.open(db, settings)), noticed)

    async def close(self) -> None:
        """Close what was opened."""
        await self.catalog.close()
        await self._engines.close()
        await self._upstream.close()
        self._walk.close()
        await self._pictures.close()
        await self._outbound.close()
        await self.till.ledger.close()

    # -- which models there are

    def models(self, principal: Principal) -> list[Model]:
        """All models that a caller can name, those included which can't serve now (`unavailable` says why)."""
        return [self._engines.seen(model) for model in self.catalog.snapshot(principal.tenant).registry.models]

    def candidates(self, principal: Principal, name: str, kind: Kind = "chat") -> list[Model]:
        """The models that a name stands for, whether or not they can serve now. Raises `ModelNotFound`."""
        named = self.catalog.snapshot(principal.tenant).registry.resolve(name, kind)
        return [self._engines.seen(model) for model in named]

    async def opinions(self, url: str, key: str | None) -> dict[str, float]:
        """How good the models are that everybody can name, as a source outside says. Raises `UpstreamError`."""
        models = {model.id for model in self.catalog.snapshot(None).registry.models}
        return await opinions.ask(self._outbound, url, key, models)

    def resolve(
        self, principal: Principal, name: str, kind: Kind = "chat", need: Need | None = None
    ) -> tuple[Model, ...]:
        """The targets for a call, best first: all can serve now. Raises `ModelNotFound` or `Unavailable`."""
        snapshot = self.catalog.snapshot(principal.tenant)
        return self._routes.targets(snapshot, name, need or Need(kind=kind), principal.tenant)

    def space(self, name: str, principal: Principal | None = None) -> dict[str, Any]:
        """The facts of an embedding model by which vectors are comparable. Raises `ModelNotFound` or `Unavailable`."""
        tenant = None if principal is None else principal.tenant
        model = self._routes.targets(self.catalog.snapshot(tenant), name, Need(kind="embedding"))[0]
        return {
            "model": model.id,
            "version": model.version,
            "dimensions": model.dimensions,
            "normalised": True,
            "window": model.context_window,
            "languages": model.languages,
            "prefix": "",
        }

    def count(self, name: str) -> Callable[[str], int]:
        """A counter of tokens for a model: exact where its tokenizer is known and installed, else an estimate."""
        named = [model for model in self.catalog.snapshot(None).registry.models if name in (model.id, model.name)]
        tokenizer = named[0].tokenizer if named else None
        return lambda text: self._tokens.count(text, tokenizer)

    def _surely(self, target: Model) -> Callable[[str], int]:
        """A counter that never gives fewer tokens than a model does."""
        return partial(self._tokens.at_most, tokenizer=target.tokenizer)

    # -- calls

    async def chat(self, principal: Principal, call: ChatCall) -> ChatReply | ChatStream:
        """Answer a chat request in the caller's dialect.

        A `ChatReply` whose status is 4xx carries a provider's own refusal, also where a stream was asked for. Raises
        `InvalidRequest`, `ModelNotFound`, `Unavailable`, `ContextTooLong`, `RateLimitedError` or `UpstreamError`.
        """
        calling = Call(call, _dialect(call.dialect))
        snapshot = self.catalog.snapshot(principal.tenant)
        prompt = calling.prompt
        tab = self._tab(principal, snapshot, prompt.tokens, prompt.max_tokens, call.purpose)
        tab.choices, tab.at_most = prompt.choices, lambda target: calling.at_most(self._surely(target))
        order = Order(principal, calling, snapshot, self._choose(principal, snapshot, calling, tab), tab)
        # The reasons of one call are no other's answer.
        seconds = 0.0 if self.cached is None or call.purpose.explain else self.cached.seconds(principal, call.cache)
        if self.cached is not None and seconds > 0:
            return await self.cached.answer(order, seconds, self._fetched)
        return await self._fetched(order)

    async def _fetched(self, order: Order) -> ChatReply | ChatStream:
        """The answer of a model."""
        principal, calling, snapshot, chosen, tab = order
        call, prompt = calling.call, calling.prompt
        following = self._follow(principal, chosen, tab, explain=call.purpose.explain)
        asked = chosen.targets
        cheaper = tab.downgrade(asked[0])
        targets = asked if cheaper is None else self._cheaper(snapshot, cheaper, asked, prompt.need, tab)

        async def attempt(one: Attempt) -> ChatReply | ChatStream | Fault:
            if one.target.dialect is None:
                return await self._inside(one, calling)
            access = snapshot.access[one.target.provider]
            lane = calling.lane(access.dialect, one.target.dialect, one.target.name, access.provider)
            await self._pictures.ready(calling, access, one.deadline)
            sent = lane.request(one.slip.most)
            request = request_of(one, access, sent.path, sent.body, sent.headers)
            if call.stream:
                opened = await self._upstream.stream(one, access, request, lane.stream())
                if isinstance(opened, Refusal):
                    return passed(one, opened, same=lane.same)
                opened.dropped = sent.dropped
                return opened
            return await self._whole(one, access, request, lane, sent.dropped)

        try:
            reply: ChatReply | ChatStream = await self._counted(targets, attempt, snapshot, tab, hedged=prompt.plain)
        except (Unsayable, ContextTooLong) as wrong:
            wrong.field = calling.named(wrong.field or "turns")
            raise
        reply = told(reply, tab, self._notice(tab, asked[0], targets, reply, call.purpose.language))
        if self._continues and prompt.plain and isinstance(reply, ChatStream):
            able = continuation.able(targets)
            reply = self._unbroken(reply, calling, able, snapshot, tab) if able else reply
        return reply if following is None else following.hear(calling, reply)

    def _choose(self, principal: Principal, snapshot: Snapshot, calling: Call, tab: Tab) -> Chosen:
        """The models for a chat. What selection must know of it is found out where there is something to decide."""
        call = calling.call
        return self._routes.choose(
            snapshot,
            call.model,
            calling.prompt.need,
            principal.tenant,
            lambda: choosing.asked(calling, tab, self._walk.held(snapshot)),
            explain=call.purpose.explain,
        )

    def _cheaper(self, snapshot: Snapshot, name: str, asked: Sequence[Model], need: Need, tab: Tab) -> Sequence[Model]:
        """The models that a budget wants in the place of those that were asked for."""
        instead = self._routes.targets(snapshot, name, need)
        if stays(asked[0]) and not all(map(stays, instead)):
            # What was to stay in the house does not leave it to save money.
            tab.cheaper = False
            return asked
        return instead

    def _follow(self, principal: Principal, chosen: Chosen, tab: Tab, *, explain: bool = False) -> Following | None:
        """Have selection told what comes of its decision; None where there was nothing to decide."""
        if self._selection is None or chosen.decided is None:
            tab.why = chosen.why
            return None
        following = Following(self._selection, principal.tenant, chosen.decided, explain=explain)
        tab.over, tab.why = following.over, following.header
        return following

    def _unbroken(
        self, stream: ChatStream, calling: Call, targets: Sequence[Model], snapshot: Snapshot, tab: Tab
    ) -> ChatStream:
        """A stream that another model goes on with where it breaks off."""

        async def go_on(ask: Ask, said: Said, since: Attempt, others: Sequence[Model]) -> ChatStream | None:
            async def attempt(one: Attempt) -> ChatStream | Fault:
                access = snapshot.access[one.target.provider]
                chat = chat_of(access.dialect)
                await self._pictures.ready(calling, access, one.deadline)
                most = one.slip.most
                clamped = ask if most is None else replace(ask, max_tokens=most)
                shown = calling.told(clamped, chat, access.provider)
                sent = chat.write_request(shown, one.target.name, access.provider)
                request = request_of(one, access, sent.path, continuation.marked(sent.body, access.provider))
                carrier = Translation(chat.read_events(), said.seam())
                opened = await self._upstream.stream(one, access, request, carrier)
                return opened.fault if isinstance(opened, Refusal) else opened

            # What was said is read again.
            tab.tokens = calling.prompt.tokens + said.usage.output
            tab.at_most = lambda target: counting.at_most(ask, self._surely(target))
            return await self._walk.go_on(since, others, attempt, snapshot, tab)

        return Unbroken(stream, calling, targets, self.count, go_on).stream

    async def count_call(self, principal: Principal, call: ChatCall) -> int:
        """The tokens of a request: as its provider counts them where it can and speaks the caller's dialect, else ours.

        Raises what `chat` raises.
        """
        chat = chat_of(_dialect(call.dialect))
        ask = chat.read_request(call)
        snapshot = self.catalog.snapshot(principal.tenant)
        target = self._routes.targets(snapshot, call.model, Need(), principal.tenant)[0]
        theirs = chat.counting if target.dialect == call.dialect else None
        # One in our own network must not follow a caller's URL to count a picture.
        if theirs is None or (by_url(ask) and needs_bytes(chat, snapshot.access[target.provider].provider)):
            return counting.tokens(ask, self.count(target.id))

        async def attempt(one: Attempt) -> int | Fault:
            access = snapshot.access[one.target.provider]
            request = request_of(one, access, theirs.path, theirs.write(call, one.target.name), call.headers)
            answer = await self._upstream.whole(one, access, request)
            if not isinstance(answer, Refusal):
                # Nobody asks money for counting.
                one.slip.settle("done", Usage())
                return theirs.read(answer)
            one.slip.settle("refused")
            # Not every server that speaks the dialect counts.
            unknown = answer.status in (404, 405, 501) and not answer.fault.passable
            return counting.tokens(ask, self.count(one.target.id)) if unknown else answer.fault

        return await self._counted([target], attempt, snapshot, self._tab(principal, snapshot, 0, 0, call.purpose))

    async def enter(self, principal: Principal, target: Model, tokens: int, purpose: Purpose) -> Tab:
        """Take what is answered here with the help of models from its caller's limits, as one request.

        `close` it at the end, and have its completion made `within` it. Raises `RateLimitedError`.
        """
        tab = self._tab(principal, self.catalog.snapshot(principal.tenant), tokens, 0, purpose)
        await tab.begin(target)
        tab.sent()
        return tab

    async def complete(
        self,
        principal: Principal,
        model: str,
        messages: Sequence[Message],
        max_tokens: int,
        json_schema: Mapping[str, Any] | None = None,
        within: Tab | None = None,
        language: str = "en",
    ) -> Completion:
        """The text of one answer, for the rooms above. With a schema, `auto` takes only models that hold to one.

        It is a call of its own in its caller's limits, or a part of the one which it is `within`. Its notice is in the
        `language`.
        """
        snapshot = self.catalog.snapshot(principal.tenant)
        able = frozenset({"json_schema"}) if json_schema is not None else frozenset[str]()
        turns = tuple(Turn(role=said["role"], parts=(Text(text=said["content"]),)) for said in messages)
        form = Format(schema=dict(json_schema), strict=True) if json_schema is not None else None
        ask = Ask(turns=turns, max_tokens=max_tokens, format=form)
        asking = partial(choosing.asked_inside, ask, able)
        chosen = self._routes.choose(snapshot, model, Need(capabilities=able), principal.tenant, asking)
        targets = chosen.targets

        async def attempt(one: Attempt) -> Completion | Fault:
            started = time.perf_counter()
            if one.target.dialect is None:
                reply = await self._spoken(one, ask)
            else:
                access = snapshot.access[one.target.provider]
                chat = chat_of(access.dialect)
                most = one.slip.most
                clamped = ask if most is None else replace(ask, max_tokens=most)
                sent = chat.write_request(clamped, one.target.name, access.provider)
                body = await self._upstream.whole(one, access, request_of(one, access, sent.path, sent.body))
                if isinstance(body, Refusal):
                    return body.fault
                reply = chat.read_reply(body)
            text = reply.choices[0].text
            one.settle(reply.usage, time.perf_counter() - started, said=len(text.encode()))
            usage = reply.usage or Usage(exact=False)
            return Completion(text=text, model=one.target.name, provider=one.target.provider, usage=usage)

        tokens = counting.tokens(ask, self.count(targets[0].id))
        tab = self._tab(principal, snapshot, tokens, max_tokens) if within is None else within
        tab.tokens, tab.output, tab.at_most = tokens, max_tokens, lambda of: counting.at_most(ask, self._surely(of))
        following = self._follow(principal, chosen, tab)
        if within is None:
            return await self._counted(targets, attempt, snapshot, tab)
        said = await self._walk(targets, attempt, snapshot, tab)
        if following is not None:
            # The call goes on with other work, which says nothing about the model's speed.
            tab.over = None
            following.over(tab)
        return replace(said, notice=self._notice(within, targets[0], targets, said, language))

    async def embed(
        self,
        principal: Principal,
        model: str,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        purpose: Purpose | None = None,
    ) -> Embedded:
        """Vectors of texts, float32 (texts, dimensions), all from one model: another would be another space.

        With a `purpose` it is a call of the caller's own, which his limits must admit. What Gimle embeds on its way to
        something else is taken from the day's quota of vectors only.
        """
        snapshot = self.catalog.snapshot(principal.tenant)
        attempt = self.embedder.attempt(texts, dimensions, snapshot)
        chosen = self._routes.choose(snapshot, model, Need(kind="embedding"), principal.tenant)
        same = [target for target in chosen.targets if target.name == chosen.targets[0].name]
        tab = self._tab(principal, snapshot, sum(map(len, texts)), 0, purpose or _NO_PURPOSE)
        self._follow(principal, chosen, tab)
        walk = self._walk if purpose is None else self._counted
        quota = await self.till.vectors(principal.tenant, len(texts), self._total_seconds)
        made = 0
        try:
            embedded = await walk(same, attempt, snapshot, tab, hedged=True)
            made = len(texts)
        finally:
            quota.settle(made)
        return replace(embedded, told=tab.told)

    async def rerank(
        self,
        principal: Principal,
        model: str,
        query: str,
        documents: Sequence[str],
        top: int | None = None,
        purpose: Purpose = _NO_PURPOSE,
    ) -> Reranked:
        """Documents by how well they fit a query, the best `top` of them. Raises as `chat` does."""
        question = Question(query, documents, top)
        snapshot = self.catalog.snapshot(principal.tenant)
        need = Need(kind="rerank")
        asking = partial(choosing.asked_for, need, purpose)
        chosen = self._routes.choose(snapshot, model, need, principal.tenant, asking)
        targets = chosen.targets
        length = len(query) + sum(map(len, documents))
        tab = self._tab(principal, snapshot, length, 0, purpose)
        self._follow(principal, chosen, tab)
        ranked = await self._counted(targets, self._reranker.attempt(question, snapshot), snapshot, tab, hedged=True)
        return replace(ranked, told=tab.told)

    async def pass_on(
        self,
        principal: Principal,
        name: str,
        need: Need,
        attempt: Callable[[Attempt, Access, Upstream], Awaitable[ChatReply | ChatStream | Fault]],
        purpose: Purpose = _NO_PURPOSE,
    ) -> ChatReply | ChatStream:
        """Have the providers' models that a name stands for tried in their order, for calls that only pass through."""
        snapshot = self.catalog.snapshot(principal.tenant)

        async def one(trial: Attempt) -> ChatReply | ChatStream | Fault:
            return await attempt(trial, snapshot.access[trial.target.provider], self._upstream)

        asking = partial(choosing.asked_for, need, purpose)
        chosen = self._routes.choose(snapshot, name, need, principal.tenant, asking)
        tab = self._tab(principal, snapshot, 0, purpose=purpose)
        self._follow(principal, chosen, tab)
        reply: ChatReply | ChatStream = await self._counted(chosen.targets, one, snapshot, tab)
        return told(reply, tab)

    async def _counted(
        self, targets: Sequence[Model], attempt: Try[T], snapshot: Snapshot, tab: Tab, *, hedged: bool = False
    ) -> T:
        """The walk of a call which its caller's limits must admit. Raises `RateLimitedError`, and what it meets."""
        await tab.begin(targets[0])
        try:
            return await self._walk(targets, attempt, snapshot, tab, hedged=hedged)
        finally:
            tab.close()

    def _tab(
        self,
        principal: Principal,
        snapshot: Snapshot,
        tokens: int,
        output: int | None = None,
        purpose: Purpose = _NO_PURPOSE,
    ) -> Tab:
        whose = account(
            principal.tenant,
            principal.key,
            user=purpose.user,
            case=purpose.case,
            workflow=purpose.workflow,
            request=purpose.request,
        )
        return self.till.open(whose, snapshot.price, tokens, output, priority=purpose.priority, started=purpose.started)

    def _notice(
        self,
        tab: Tab,
        asked: Model,
        targets: Sequence[Model],
        reply: ChatReply | ChatStream | Completion,
        language: str,
    ) -> Notice | None:
        """What the caller is told, and whoever listens, when another model answers than the one that was asked for."""
        if (reply.provider, reply.model) == (asked.provider, asked.name):
            return None
        served = next(each for each in targets if (each.provider, each.name) == (reply.provider, reply.model))
        told = notice(asked, served, tab.fault, language, cheaper=tab.cheaper)
        if told is not None:
            self._noticed(tab.account.tenant, told)
        return told

    # -- one attempt

    async def _whole(
        self, one: Attempt, access: Access, request: Request, lane: Lane, dropped: tuple[str, ...]
    ) -> ChatReply | Fault:
        started = time.perf_counter()
        answer = await self._upstream.whole(one, access, request)
        if isinstance(answer, Refusal):
            return passed(one, answer, same=lane.same)
        seconds = time.perf_counter() - started
        body, usage = lane.whole(answer)
        one.settle(usage, seconds, said=len(answer))
        return reply_of(one, 200, body, usage, seconds, dropped)

    async def _inside(self, one: Attempt, calling: Call) -> ChatReply | ChatStream:
        """An answer of an engine inside Gimle, in the caller's dialect."""
        started = time.perf_counter()
        reply = await self._spoken(one, calling.ask)
        seconds = time.perf_counter() - started
        one.settle(reply.usage, seconds)
        if not calling.call.stream:
            return reply_of(one, 200, calling.chat.write_reply(reply), reply.usage, seconds)
        one.ticket.succeeded()
        write = calling.chat.write_events(calling.prompt.include_usage)
        return ChatStream.ready(map(write, word_by_word(reply)), reply.usage, one, seconds)

    async def _spoken(self, one: Attempt, ask: Ask) -> Reply:
        try:
            async with asyncio.timeout_at(one.deadline):
                return await self._engines.chat(one.target, ask)
        except TimeoutError:
            raise UpstreamTimeout(f"{one.target.id} did not answer in time.") from None


@cache
def _dialect(name: str) -> Dialect:
    dialect: Dialect = plugins.load("gimle.gateway.dialects", name).DIALECT
    return dialect
