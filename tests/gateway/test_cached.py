"""Calls that go through the cache, at a gateway without doors: by their meaning, and when streams end early or not."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.gateway.calls import ANNA, QUICK, call, opened, provider, read, replied, streamed

from gimle.foundation import plugins
from gimle.foundation.config import CacheSettings, LimitSettings, Settings
from gimle.foundation.errors import GimleError, RateLimitedError, Unavailable, UpstreamError
from gimle.gateway.allowances import Allowances
from gimle.gateway.cache import Cache
from gimle.gateway.cache_keys import ALL, NOTHING, Control
from gimle.gateway.cached import Cached, Order
from gimle.gateway.facts import account
from gimle.gateway.gateway import Gateway
from gimle.gateway.lanes import Call
from gimle.gateway.routes import Chosen
from gimle.gateway.similar import Embed, Similar
from gimle.gateway.types import ChatReply, ChatStream, Vectors
from gimle.testing import Behaviour, Upstream
from gimle.trust.types import Principal

# Whoever waits until it ends has waited for nothing.
PATIENT = msgspec.structs.replace(QUICK, first_token_seconds=60, idle_seconds=60, total_seconds=60)
# Two questions of one meaning, and one of another.
VECTORS = {"When do bees swarm?": [1.0, 0.0], "When does a hive swarm?": [0.98, 0.2], "What is honey?": [0.0, 1.0]}


async def embed(text: str) -> Vectors:
    return np.array([VECTORS[text]], dtype=np.float32)


async def no_weights(text: str) -> Vectors:
    raise Unavailable(f"No vector of {text!r}.")


def remembering(gateway: Gateway, folder: Path, embed: Embed | None = None) -> None:
    """Have a gateway keep all answers."""
    settings = Settings(data=folder, gateway=PATIENT, cache=CacheSettings(mode="on"))
    cache = Cache(settings.cache)
    similar = None if embed is None else Similar(cache, embed, 0.95)
    gateway.cached = Cached(cache, settings, Allowances(None, LimitSettings()), similar)


@pytest.fixture
async def gateway(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with opened(tmp_path, {"mock": provider(upstream)}, PATIENT) as gateway:
        remembering(gateway, tmp_path)
        yield gateway


def asked(words: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": words}]


def cache_of(answer: ChatReply | ChatStream) -> str | None:
    return dict(answer.told).get("x-gimle-cache")


# -- for whom


@pytest.mark.parametrize(
    "mode, said, own, seconds",
    [
        ("asked", ALL, None, 0), ("asked", Control(asked=True), None, 60), ("on", ALL, None, 60),
        ("on", NOTHING, None, 0), ("asked", ALL, 5, 5), ("on", Control(asked=True), 0, 0), ("asked", NOTHING, 5, 0),
    ],
)  # fmt: skip
def test_the_setting_the_key_and_the_caller_say_for_how_long(
    tmp_path: Path, mode: Any, said: Control, own: int | None, seconds: float
) -> None:
    settings = Settings(data=tmp_path, cache=CacheSettings(mode=mode, ttl_seconds=60))
    allowances = Allowing(own)
    assert Cached(Cache(settings.cache), settings, allowances).seconds(ANNA, said) == seconds


class Allowing(Allowances):
    """Allowances that say one thing of the cache."""

    def __init__(self, seconds: int | None) -> None:
        super().__init__(None, LimitSettings())
        self._seconds = seconds

    def cache_seconds(self, tenant: str, key: str) -> int | None:
        return self._seconds


# -- by meaning


async def test_a_question_that_means_the_same_gets_the_same_answer(
    gateway: Gateway, upstream: Upstream, tmp_path: Path
) -> None:
    remembering(gateway, tmp_path, embed)
    first, second, third = [replied(await gateway.chat(ANNA, call(messages=asked(words)))) for words in VECTORS]
    assert [cache_of(each) for each in (first, second, third)] == ["miss", "hit", "miss"]
    assert first.body == second.body
    assert second.attempts == 0
    assert len(upstream.received) == 2
    other = Principal("ten_" + "b" * 32, ANNA.key)
    assert cache_of(await gateway.chat(other, call(messages=asked("When does a hive swarm?")))) == "miss"


@pytest.mark.parametrize("varied", [{"temperature": 0.9}, {"response_format": {"type": "json_object"}}, {"n": 2}])
async def test_where_words_count_meaning_does_not(gateway: Gateway, tmp_path: Path, varied: dict[str, Any]) -> None:
    remembering(gateway, tmp_path, embed)
    for words in ("When do bees swarm?", "When does a hive swarm?"):
        assert cache_of(await gateway.chat(ANNA, call(messages=asked(words), **varied))) == "miss"


async def test_without_a_model_for_vectors_equal_words_are_found(gateway: Gateway, tmp_path: Path) -> None:
    remembering(gateway, tmp_path, no_weights)
    assert [cache_of(await gateway.chat(ANNA, call())) for _ in range(2)] == ["miss", "hit"]


async def test_the_gateway_has_vectors_of_its_own_or_says_why_not(gateway: Gateway) -> None:
    with pytest.raises(Unavailable):
        await gateway.embedder.here("When do bees swarm?")


async def test_no_cache_is_a_new_answer_by_meaning_too(gateway: Gateway, tmp_path: Path) -> None:
    remembering(gateway, tmp_path, embed)
    await gateway.chat(ANNA, call())
    anew = msgspec.structs.replace(call(messages=asked("When does a hive swarm?")), cache=Control(read=False))
    assert cache_of(await gateway.chat(ANNA, anew)) == "miss"


# -- streams


async def test_a_stream_is_played_in_the_pieces_in_which_it_came(gateway: Gateway) -> None:
    pieces = []
    for _ in range(2):
        stream = streamed(await gateway.chat(ANNA, call(stream=True)))
        pieces.append([piece async for piece in stream])
        await stream.close()
        await stream.close()
    assert pieces[0] == pieces[1]
    assert stream.usage is not None
    assert stream.usage.output == 8


async def test_a_stream_that_nobody_reads_is_not_waited_for(gateway: Gateway, upstream: Upstream) -> None:
    stream = streamed(await gateway.chat(ANNA, call(stream=True)))
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = group.create_task(gateway.chat(ANNA, call(stream=True)))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await stream.close()
        second = streamed(await waiting)
    assert cache_of(second) == "miss"
    assert (await read(second)).endswith(b"data: [DONE]\n\n")
    assert len(upstream.received) == 2


async def test_a_stream_that_another_model_went_on_with_is_not_kept(
    upstream: Upstream, second: Upstream, tmp_path: Path
) -> None:
    providers = {"first": provider(upstream), "second": provider(second, continues_assistant=True)}
    async with opened(tmp_path, providers) as gateway:
        remembering(gateway, tmp_path)
        upstream.plan.append(Behaviour(cut_after=4))
        continued = streamed(await gateway.chat(ANNA, call("mock", stream=True)))
        assert b"continued by second" in await read(continued)
        assert cache_of(await gateway.chat(ANNA, call("mock", stream=True))) == "miss"


# -- failures


async def test_what_fails_for_the_first_the_others_try_all_at_once(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan += [Behaviour(status=400, head_delay=0.2, body=b'{"error":{"message":"no"}}')]
    upstream.usual = Behaviour(head_delay=0.2)
    async with asyncio.TaskGroup() as group:
        group.create_task(gateway.chat(ANNA, call()))
        await asyncio.sleep(0.05)
        others = [group.create_task(gateway.chat(ANNA, call())) for _ in range(3)]
        async with asyncio.timeout(5):
            while upstream.open_streams < 3:
                await asyncio.sleep(0.01)
    assert {replied(other.result()).status for other in others} == {200}


@pytest.mark.parametrize(
    "fault, told", [(UpstreamError("It broke."), ["miss", "miss"]), (RateLimitedError("It is yours."), ["hit", "miss"])]
)
async def test_only_a_limit_may_be_the_first_one_s_own(gateway: Gateway, fault: GimleError, told: list[str]) -> None:
    """After another fault those who wait all go at once; after that one of them goes, and the others wait for it."""
    assert gateway.cached is not None
    snapshot, targets = gateway.catalog.snapshot(None), gateway.resolve(ANNA, "mock/mock")
    tab = gateway.till.open(account(ANNA.tenant, ANNA.key), snapshot.price, 0, 0)
    calling = Call(call(), plugins.load("gimle.gateway.dialects", "openai").DIALECT)
    order = Order(ANNA, calling, snapshot, Chosen(targets), tab)
    fails, ends = asyncio.Event(), asyncio.Event()
    going: list[Order] = []

    async def fetch(order: Order) -> ChatReply:
        going.append(order)
        if len(going) == 1:
            await fails.wait()
            raise fault
        await ends.wait()
        return ChatReply(status=200, body=b"{}", model="mock", provider="mock")

    async def first() -> None:
        assert gateway.cached is not None
        with pytest.raises(type(fault)):
            await gateway.cached.answer(order, 60, fetch)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(first())
        await asyncio.sleep(0)
        others = [group.create_task(gateway.cached.answer(order, 60, fetch)) for _ in range(2)]
        await asyncio.sleep(0.01)
        fails.set()
        await asyncio.sleep(0.05)
        assert len(going) == 1 + told.count("miss")
        ends.set()
    assert sorted(str(cache_of(other.result())) for other in others) == told
