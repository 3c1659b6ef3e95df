"""Hedging: a slow target gets a rival, the better answer counts, and the loser is cut off."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.gateway.calls import ANNA, QUICK, call, counted, opened, provider, read, replied, streamed

from gimle.foundation.errors import UpstreamError
from gimle.gateway.gateway import Gateway
from gimle.gateway.hedge import Hedging
from gimle.gateway.types import Attempt, ChatStream, Fault, Purpose
from gimle.gateway.walk import Try, Walk
from gimle.testing import Behaviour, Upstream

SLOW = Behaviour(head_delay=20)


@asynccontextmanager
async def hedging(folder: Path, first: Upstream, second: Upstream, after: float | None) -> AsyncIterator[Gateway]:
    settings = msgspec.structs.replace(QUICK, hedge_after=after, first_token_seconds=5)
    async with opened(folder, {"first": provider(first), "second": provider(second)}, settings) as gateway:
        yield gateway


@pytest.mark.parametrize("stream", [False, True])
async def test_a_slow_target_gets_a_rival_and_loses(
    upstream: Upstream, second: Upstream, tmp_path: Path, stream: bool
) -> None:
    upstream.usual = SLOW
    won, sent = counted("gimle_model_hedges", "second", "mock", "", "true"), counted("gimle_model_attempts", "first")
    async with hedging(tmp_path, upstream, second, 0.05) as gateway:
        answer = await gateway.chat(ANNA, call("mock", stream=stream))
        assert (answer.provider, answer.attempts) == ("second", 2)
        # The loser is cut off at once, and both count as sent.
        await asyncio.wait_for(upstream.left.wait(), 5)
        if stream:
            assert (await read(streamed(answer))).endswith(b"data: [DONE]\n\n")
    assert counted("gimle_model_hedges", "second", "mock", "", "true") == won + 1
    assert counted("gimle_model_attempts", "first") == sent + 1


async def test_who_answers_in_time_gets_no_rival(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    async with hedging(tmp_path, upstream, second, 0.5) as gateway:
        for _ in range(5):
            assert replied(await gateway.chat(ANNA, call("mock"))).provider == "first"
    assert not second.received


async def test_the_first_may_still_win(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.usual, second.usual = Behaviour(head_delay=0.2), SLOW
    async with hedging(tmp_path, upstream, second, 0.05) as gateway:
        assert replied(await gateway.chat(ANNA, call("mock"))).provider == "first"
        await asyncio.wait_for(second.left.wait(), 5)


async def test_a_rival_that_fails_does_not_win(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.usual, second.usual = Behaviour(head_delay=0.3), Behaviour(status=500)
    async with hedging(tmp_path, upstream, second, 0.05) as gateway:
        reply = replied(await gateway.chat(ANNA, call("mock")))
    assert (reply.provider, reply.status) == ("first", 200)


async def test_when_both_fail_the_walk_goes_on(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.plan.append(Behaviour(status=500, head_delay=0.2))
    second.plan.append(Behaviour(status=500))
    async with hedging(tmp_path, upstream, second, 0.05) as gateway:
        assert replied(await gateway.chat(ANNA, call("mock"))).provider == "second"


async def test_a_rival_s_own_fault_does_not_exclude_the_first(
    upstream: Upstream, second: Upstream, tmp_path: Path
) -> None:
    upstream.plan.append(Behaviour(status=503, head_delay=0.2))
    second.plan.append(Behaviour(status=401, head_delay=0.3))
    async with hedging(tmp_path, upstream, second, 0.05) as gateway:
        reply = replied(await gateway.chat(ANNA, call("mock")))
    assert (reply.provider, reply.attempts) == ("first", 3)


@asynccontextmanager
async def racing(
    folder: Path, first: Upstream, second: Upstream, attempt: Try[ChatStream]
) -> AsyncIterator[Coroutine[Any, Any, ChatStream]]:
    """A walk of attempts of one's own, of which the second soon becomes the first one's rival."""
    async with hedging(folder, first, second, None) as gateway:
        targets = gateway.resolve(ANNA, "mock")
        tab = await gateway.enter(ANNA, targets[0], 0, Purpose())
        walk = Walk(msgspec.structs.replace(QUICK, hedge_after=0.01))
        yield walk(targets, attempt, gateway.catalog.snapshot(None), tab, hedged=True)
        walk.close()
        tab.close()


async def nothing() -> AsyncGenerator[bytes, None]:
    yield b""


@pytest.mark.parametrize("sound", [1, 2])
async def test_an_answer_wins_over_a_fault_of_the_same_moment(
    sound: int, upstream: Upstream, second: Upstream, tmp_path: Path
) -> None:
    # Whose end is seen first is chance.
    for _ in range(6):
        ready = asyncio.Event()

        async def attempt(one: Attempt, ready: asyncio.Event = ready) -> ChatStream | Fault:
            if one.number == 2:
                ready.set()
            await ready.wait()
            await asyncio.sleep(0)
            return ChatStream.ready((), None, one) if one.number == sound else Fault(UpstreamError("fire"))

        async with racing(tmp_path, upstream, second, attempt) as race:
            assert (await race).attempts == sound


async def test_who_leaves_while_the_loser_ends_leaves_nothing_open(
    upstream: Upstream, second: Upstream, tmp_path: Path
) -> None:
    ending, closed = asyncio.Event(), asyncio.Event()

    async def close() -> None:
        closed.set()

    async def attempt(one: Attempt) -> ChatStream:
        if one.number == 1:
            try:
                await asyncio.sleep(10)
            finally:
                ending.set()
                await asyncio.sleep(0.05)
        return ChatStream(nothing(), close, lambda: None, one)

    async with racing(tmp_path, upstream, second, attempt) as race, asyncio.TaskGroup() as group:
        asking = group.create_task(race)
        await ending.wait()
        asking.cancel()
    assert closed.is_set()


async def test_at_most_every_twentieth_call_gets_a_rival(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.usual = Behaviour(head_delay=0.05)
    async with hedging(tmp_path, upstream, second, 0.001) as gateway:
        for _ in range(100):
            await gateway.chat(ANNA, call("mock"))
    assert 4 <= len(second.received) <= 6


async def test_a_call_with_tools_gets_no_rival(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.usual = Behaviour(head_delay=0.2)
    tools = [{"type": "function", "function": {"name": "pay"}}]
    async with hedging(tmp_path, upstream, second, 0.01) as gateway:
        assert replied(await gateway.chat(ANNA, call("mock", tools=tools))).provider == "first"
    assert not second.received


async def test_without_the_option_there_is_none(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.usual = Behaviour(head_delay=0.3)
    async with hedging(tmp_path, upstream, second, None) as gateway:
        assert replied(await gateway.chat(ANNA, call("mock"))).provider == "first"
    assert not second.received


async def test_who_leaves_ends_both(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.usual = second.usual = SLOW
    async with hedging(tmp_path, upstream, second, 0.02) as gateway:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            asking = group.create_task(gateway.chat(ANNA, call("mock", stream=True)))
            while not second.received:
                await asyncio.sleep(0.005)
            asking.cancel()
        await asyncio.wait_for(upstream.left.wait(), 5)
        await asyncio.wait_for(second.left.wait(), 5)


async def test_vectors_get_a_rival_too(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.usual = SLOW
    async with hedging(tmp_path, upstream, second, 0.02) as gateway:
        assert (await gateway.embed(ANNA, "vectors", ["bees"])).provider == "second"


async def test_the_last_fault_is_told(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.usual = second.usual = Behaviour(status=500, head_delay=0.05)
    async with hedging(tmp_path, upstream, second, 0.01) as gateway:
        with pytest.raises(UpstreamError, match="HTTP 500"):
            await gateway.chat(ANNA, call("mock"))


def test_patience_is_what_95_of_100_answers_take() -> None:
    hedging = Hedging(after=0.0)
    for number in range(19):
        hedging.learn("mock", number / 100)
    assert hedging.patience("mock") is None
    for number in range(19, 100):
        hedging.learn("mock", number / 100)
    assert hedging.patience("mock") == pytest.approx(0.95)
    assert hedging.patience("other") is None
    assert Hedging(after=0.7).patience("other") == 0.7
