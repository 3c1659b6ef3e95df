"""A chat's way past the providers: an answer that was kept for the same call, or is on its way for another.

    seconds    whether the cache is asked at all: by the setting, the key's allowance, or the caller
    look       the same call, or with a similarity one that means the same       -> played again: no attempt, no cost
    enter      of many such calls at once one goes, and the others wait for it
    keep       what it brought, when that was whole and from the model that was asked for

The key of an answer holds the revisions of its providers. So after a change of a provider, on whatever node, no call
finds what was kept before; that is forgotten when its time is over or its place is needed.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import NamedTuple

import msgspec

import gimle
from gimle.foundation.config import Settings
from gimle.foundation.errors import GimleError, RateLimitedError
from gimle.gateway.allowances import Allowances
from gimle.gateway.cache import Cache, Kept, Lead
from gimle.gateway.cache_keys import Control, canonical, meaning
from gimle.gateway.catalog import Snapshot
from gimle.gateway.lanes import Call
from gimle.gateway.neutral import Usage
from gimle.gateway.rates import money
from gimle.gateway.routes import Chosen
from gimle.gateway.similar import Similar
from gimle.gateway.tab import Tab
from gimle.gateway.types import Attempt, ChatReply, ChatStream, Headers
from gimle.selection.types import Model
from gimle.trust.types import Principal

HIT = ("x-gimle-cache", "hit")
MISS = ("x-gimle-cache", "miss")
_FREE = ("x-gimle-cost-usd", money(0))


class Order(NamedTuple):
    """A call that is understood, the models that may answer it, best first, and what it owes."""

    principal: Principal
    calling: Call
    snapshot: Snapshot
    chosen: Chosen
    tab: Tab


Fetch = Callable[[Order], Awaitable[ChatReply | ChatStream]]


class Cached:
    """The kept answers, as the gateway asks for them. `similar` finds those of calls that mean the same."""

    def __init__(
        self, cache: Cache, settings: Settings, allowances: Allowances, similar: Similar | None = None
    ) -> None:
        self._cache = cache
        self._ttl = float(settings.cache.ttl_seconds)
        self._for_all = settings.cache.mode == "on"
        self._patience = settings.gateway.total_seconds
        self._patience_of_streams = settings.gateway.first_token_seconds
        self._allowances = allowances
        self._similar = similar

    def seconds(self, principal: Principal, control: Control) -> float:
        """For how long the answer to a call is kept; 0: the call goes past the cache."""
        if not control.write:
            return 0.0
        own = self._allowances.cache_seconds(principal.tenant, principal.key)
        if own is not None:
            return float(own)
        return self._ttl if self._for_all or control.asked else 0.0

    async def answer(self, order: Order, seconds: float, fetch: Fetch) -> ChatReply | ChatStream:
        """The answer that is kept, or what `fetch` brings, which is kept for so many seconds.

        Raises what `fetch` raises, and `RateLimitedError`.
        """
        call = order.calling.call
        said = canonical(call.dialect, call.body)
        if said is None:
            return await fetch(order)
        about = _about(order)
        key = self._cache.key("same", about, said)
        learn: Callable[[], None] | None = None
        found: Kept | Lead | None = self._cache.look(key, call.cache)
        if found is None and self._similar is not None:
            found, learn = await self._alike(self._similar, order, about, key)
        began = time.perf_counter()
        if found is None:
            patience = self._patience_of_streams if call.stream else self._patience
            found = await self._cache.enter(key, call.cache, patience)
        if isinstance(found, Kept):
            return await self._played(order, found, time.perf_counter() - began)
        return await _Keeping(order, found, seconds, learn).fetched(fetch)

    async def _alike(
        self, similar: Similar, order: Order, about: bytes, key: bytes
    ) -> tuple[Kept | None, Callable[[], None] | None]:
        """The answer to a call that means the same, and how to remember what this one means, if it can be compared."""
        try:
            meant = meaning(order.calling.ask)
            if meant is None:
                return None, None
            kind = self._cache.key("alike", about, meant.rest)
            kept, vector = await similar.find(kind, meant.words, order.calling.call.cache)
        except GimleError:
            # It can't be read in the neutral form, or no model for vectors is installed.
            return None, None
        return kept, partial(similar.add, kind, vector, key)

    async def _played(self, order: Order, kept: Kept, waited: float) -> ChatReply | ChatStream:
        """An answer once more. It counts as a request, and costs nothing."""
        order.tab.why = f"kept; {kept.provider}/{kept.model}"
        told = (*await _counted(order), HIT, ("age", str(int(time.time() - kept.at))), _FREE)
        if not order.calling.call.stream:
            return ChatReply(
                status=200,
                body=b"".join(kept.pieces),
                model=kept.model,
                provider=kept.provider,
                attempts=0,
                usage=kept.usage,
                upstream_seconds=waited,
                dropped=kept.dropped,
                told=told,
            )
        stream = ChatStream.ready(kept.pieces, kept.usage, upstream_seconds=waited)
        stream.model, stream.provider = kept.model, kept.provider
        stream.dropped, stream.told = kept.dropped, told
        return stream


class _Keeping:
    """A call that goes to a provider, and whose answer is to be kept. `learn` remembers what it means."""

    def __init__(self, order: Order, lead: Lead, seconds: float, learn: Callable[[], None] | None) -> None:
        self._order = order
        self._lead = lead
        self._seconds = seconds
        self._learn = learn

    async def fetched(self, fetch: Fetch) -> ChatReply | ChatStream:
        """What the provider says. Whatever comes of it, those who wait for it are told."""
        streams = False
        try:
            reply = await fetch(self._order)
            reply.told += (MISS,)
            if isinstance(reply, ChatStream):
                streams = True
                reply.through(partial(self._passing, reply, reply.attempt), self._lead.close)
                return reply
            if reply.status == 200:
                self._keep(reply, reply.usage, (reply.body,))
            self._lead.release()
            return reply
        except GimleError as error:
            # A limit is perhaps this caller's alone. What else has failed need not fail for the others one by one.
            if not isinstance(error, RateLimitedError):
                self._lead.release()
            raise
        finally:
            if not streams:
                self._lead.close()

    async def _passing(
        self, stream: ChatStream, first: Attempt, events: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        """The events as they pass; kept when they have come to their proper end, all from one attempt."""
        try:
            async with aclosing(events):
                async for piece in events:
                    self._lead.collect(piece)
                    yield piece
        except GimleError:
            self._lead.release()
            raise
        if stream.attempt is first:
            self._keep(stream, stream.usage, self._lead.collected)
        self._lead.release()

    def _keep(self, reply: ChatReply | ChatStream, usage: Usage | None, pieces: tuple[bytes, ...]) -> None:
        """Keep an answer, unless another model stood in for the one asked for, or had to be brief for a budget."""
        order = self._order
        served = next((each for each in _named(order) if each.id == f"{reply.provider}/{reply.model}"), None)
        if served is None or order.calling.shortened:
            return
        price = order.snapshot.price(served, time.time())
        cost = None if price is None or usage is None else price.cost(usage)
        kept = Kept(pieces, reply.provider, reply.model, usage, cost, reply.dropped)
        self._lead.keep(kept, self._seconds)
        if self._learn is not None:
            self._learn()


async def _counted(order: Order) -> Headers:
    """Take one request, and no tokens, from the caller's limits. Raises `RateLimitedError`."""
    tab = order.tab
    tab.tokens = tab.output = 0
    await tab.begin(order.chosen.targets[0])
    tab.sent()
    tab.close()
    return tab.left


def _named(order: Order) -> list[Model]:
    """The model that was asked for, at all its providers."""
    targets = order.chosen.targets
    return [model for model in targets if model.name == targets[0].name]


def _about(order: Order) -> bytes:
    """All on which an answer depends besides the request's own words."""
    call = order.calling.call
    models = sorted((model.id, model.version, _revision(order.snapshot, model)) for model in _named(order))
    return msgspec.json.encode((order.principal.tenant, call.dialect, call.headers, models))


def _revision(snapshot: Snapshot, model: Model) -> str:
    """Of a model's provider; of an engine inside Gimle, our own version."""
    access = snapshot.access.get(model.provider)
    return gimle.__version__ if access is None else access.revision
