"""Callers who leave, and whatever else is cut: the provider's work ends with it, and nothing is left behind."""

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import msgspec
import pytest
from tests.gateway.calls import ANNA, QUICK, call, counted, opened, provider, read, replied, streamed

from gimle.foundation.config import GatewaySettings
from gimle.foundation.errors import GimleError, UpstreamError
from gimle.gateway.gateway import Gateway
from gimle.gateway.types import ChatReply
from gimle.testing import WORDS, Behaviour, Upstream

DRAINS = msgspec.structs.replace(QUICK, on_disconnect="drain")


def sockets() -> int:
    """How many sockets this process holds."""
    held = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            held += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except FileNotFoundError:
            continue
    return held


def slots(gateway: Gateway) -> int:
    """How many connections could still be opened."""
    return gateway._outbound._free


async def until_idle(upstream: Upstream) -> None:
    async with asyncio.timeout(30):
        while upstream.open_streams:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def over(folder: Path, upstream: Upstream, settings: GatewaySettings = QUICK) -> AsyncIterator[Gateway]:
    async with opened(folder, {"mock": provider(upstream)}, settings) as gateway:
        yield gateway


# -- a caller who leaves


@pytest.mark.parametrize("chunks", [1, 40])
async def test_a_stream_is_read_to_its_end_where_that_is_the_policy(
    upstream: Upstream, tmp_path: Path, chunks: int
) -> None:
    """Who left has still used the tokens: their number is known, and the provider was not cut off."""
    upstream.plan.append(Behaviour(chunks=chunks, event_delay=0.002))
    drained, tokens = counted("gimle_model_streams_drained", "mock"), counted("gimle_model_tokens", "mock")
    async with over(tmp_path, upstream, DRAINS) as gateway:
        stream = streamed(await gateway.chat(ANNA, call(stream=True)))
        await anext(aiter(stream))
        await stream.close()
        # Nobody waited for the rest.
        assert chunks == 1 or upstream.open_streams == 1
        await until_idle(upstream)
        async with asyncio.timeout(2):
            while counted("gimle_model_streams_drained", "mock") == drained:
                await asyncio.sleep(0.005)
        assert upstream.gone == 0
        assert counted("gimle_model_tokens", "mock") == tokens + 11 + len(WORDS) * chunks
        # The connection serves again.
        await gateway.chat(ANNA, call())
        assert upstream.connections == 1
        assert slots(gateway) == 1024


async def test_what_never_ends_is_drained_for_a_while_only(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gimle.gateway.upstream._DRAIN_SECONDS", 0.1)
    upstream.plan.append(Behaviour(chunks=300, event_delay=0.01))
    async with over(tmp_path, upstream, DRAINS) as gateway:
        stream = streamed(await gateway.chat(ANNA, call(stream=True)))
        await stream.close()
        await stream.close()
        await asyncio.wait_for(upstream.left.wait(), 2)
        assert slots(gateway) == 1024


async def test_a_stop_does_not_wait_for_those_who_have_left(upstream: Upstream, tmp_path: Path) -> None:
    upstream.plan.append(Behaviour(chunks=300, event_delay=0.01))
    async with over(tmp_path, upstream, DRAINS) as gateway:
        stream = streamed(await gateway.chat(ANNA, call(stream=True)))
        await anext(aiter(stream))
        await stream.close()
        started = time.monotonic()
    assert time.monotonic() - started < 10
    await asyncio.wait_for(upstream.left.wait(), 5)


async def test_a_call_that_waits_for_its_retry_ends_with_the_caller(upstream: Upstream, tmp_path: Path) -> None:
    upstream.usual = Behaviour(status=429, headers={"retry-after": "2"})
    async with over(tmp_path, upstream) as gateway:
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            asking = group.create_task(gateway.chat(ANNA, call()))
            while not upstream.received:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            asking.cancel()
        await asyncio.sleep(0.05)
        assert slots(gateway) == 1024
    assert len(upstream.received) == 1


# -- nothing is left behind

ENDS = (
    Behaviour(),
    Behaviour(chunks=5, event_delay=0.002),
    Behaviour(cut_after=0),
    Behaviour(cut_after=1),
    Behaviour(cut_after=4),
    Behaviour(stall_after=4),
    Behaviour(status=500),
    Behaviour(status=429, headers={"retry-after": "60"}),
    Behaviour(status=400),
    Behaviour(hang_up=True),
    Behaviour(body=b""),
    Behaviour(body=b'{"choices": ['),
    Behaviour(events=(b"data: {oops\n\n",)),
    Behaviour(events=(b": ping\n\n",) * 5),
    Behaviour(head_delay=0.3),
    Behaviour(head_delay=2),
)


@pytest.mark.parametrize("settings", [QUICK, DRAINS], ids=["cancel", "drain"])
async def test_however_calls_end_no_task_socket_or_slot_stays(
    upstream: Upstream, second: Upstream, tmp_path: Path, settings: GatewaySettings
) -> None:
    """Sound, broken and stalled answers, callers who read all, a part or nothing, and callers who are cut off."""
    random = Random(7)
    upstream.plan.extend(random.choices(ENDS, k=400))
    second.plan.extend(random.choices(ENDS, k=400))
    changed = msgspec.structs.replace(
        settings, breaker_failures=10_000, hedge_after=0.1, first_token_seconds=0.5, idle_seconds=0.2
    )
    quiet = len(asyncio.all_tasks()), sockets()
    providers = {
        "first": provider(upstream, continues_assistant=True),
        "second": provider(second, continues_assistant=True),
    }

    async def one(gateway: Gateway, number: int) -> None:
        try:
            async with asyncio.timeout(random.choice((0.01, 0.1, 5))):
                answer = await gateway.chat(ANNA, call("mock", stream=number % 4 > 0))
                if isinstance(answer, ChatReply):
                    return
                if number % 4 == 1:
                    await read(answer)
                if number % 4 == 2:
                    await anext(aiter(answer))
                await answer.close()
        except (GimleError, TimeoutError):
            return

    async with opened(tmp_path, providers, changed) as gateway:
        async with asyncio.TaskGroup() as group:
            for number in range(160):
                group.create_task(one(gateway, number))
        await until_idle(upstream)
        await until_idle(second)
        async with asyncio.timeout(30):
            while slots(gateway) < 1024:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        while (len(asyncio.all_tasks()), sockets()) > quiet:
            gc.collect()
            await asyncio.sleep(0.02)


# -- what a provider may do to a stream


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(events=(b": ping\n\n",) * 100_000),
        Behaviour(events=(b"data: \n\n",) * 100_000),
        Behaviour(events=(b'data: {"choices": []}\n\n',) * 100_000),
    ],
    ids=["comments", "empty", "chunks of nothing"],
)
async def test_a_stream_of_nothing_is_no_answer(upstream: Upstream, tmp_path: Path, behaviour: Behaviour) -> None:
    upstream.usual = behaviour
    async with over(tmp_path, upstream) as gateway:
        with pytest.raises(UpstreamError):
            await gateway.chat(ANNA, call(stream=True))
        await until_idle(upstream)
        assert slots(gateway) == 1024


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"<html>", b"{}", b'{"choices": []}', b"[" * 100_000])
async def test_a_success_that_is_none_is_a_failure(
    upstream: Upstream, tmp_path: Path, stream: bool, body: bytes
) -> None:
    upstream.usual = Behaviour(body=body)
    async with over(tmp_path, upstream) as gateway:
        with pytest.raises(UpstreamError):
            await gateway.chat(ANNA, call(stream=stream))
        assert len(upstream.received) == 3


async def test_a_whole_answer_that_is_cut_is_asked_for_again(upstream: Upstream, tmp_path: Path) -> None:
    cut = Behaviour(headers={"content-length": "500"}, body=b'{"choices": [{"message": {"content": "a"}}]}')
    upstream.plan.append(cut)
    async with over(tmp_path, upstream, msgspec.structs.replace(QUICK, total_seconds=3)) as gateway:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            asking = group.create_task(gateway.chat(ANNA, call()))
            while not upstream.received:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            for writer in list(upstream._writers):
                writer.transport.abort()
        assert replied(asking.result()).attempts == 2
