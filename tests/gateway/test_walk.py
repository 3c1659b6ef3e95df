"""The walk over a call's targets: who is asked, when, how often, and what is said when nobody answers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.gateway import claude
from tests.gateway.calls import ANNA, QUICK, call, counted, opened, provider, replied, streamed

from gimle.foundation.config import GatewaySettings
from gimle.foundation.errors import (
    ContextTooLong,
    GimleError,
    InvalidRequest,
    ModelNotFound,
    RateLimitedError,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
)
from gimle.foundation.telemetry import REGISTRY
from gimle.gateway import metrics
from gimle.gateway.gateway import Gateway
from gimle.testing import Behaviour, Upstream


@asynccontextmanager
async def over(
    folder: Path, upstreams: Mapping[str, Upstream], settings: GatewaySettings = QUICK, **more: Any
) -> AsyncIterator[Gateway]:
    """A gateway over providers of these names, each with a model `mock`."""
    changed = msgspec.structs.replace(settings, **more)
    async with opened(folder, {name: provider(one) for name, one in upstreams.items()}, changed) as gateway:
        yield gateway


async def failing(gateway: Gateway, model: str = "mock/mock") -> GimleError:
    with pytest.raises(GimleError) as raised:
        await gateway.chat(ANNA, call(model))
    return raised.value


# -- who is left alone


async def test_who_fails_five_times_in_a_row_is_left_alone(upstream: Upstream, tmp_path: Path) -> None:
    upstream.usual = Behaviour(status=500)
    open_before = counted("gimle_model_breakers_open", "mock")
    async with over(tmp_path, {"mock": upstream}) as gateway:
        assert isinstance(await failing(gateway), UpstreamError)
        assert len(upstream.received) == 3
        await failing(gateway)
        assert len(upstream.received) == 5
        assert counted("gimle_model_breakers_open", "mock") == open_before + 1
        refused = await failing(gateway)
        assert len(upstream.received) == 5
    assert isinstance(refused, Unavailable)
    assert refused.after is not None
    assert 50 < refused.after <= 60
    assert "failed several times in a row" in refused.message


async def test_one_probe_finds_out_whether_it_is_well_again(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gimle.gateway.faults.LONGEST_WAIT", 0.1)
    upstream.usual = Behaviour(status=500)
    async with over(tmp_path, {"mock": upstream}, breaker_failures=1, breaker_seconds=0.3) as gateway:
        await failing(gateway)
        assert len(upstream.received) == 1
        upstream.usual, upstream.received = Behaviour(head_delay=1.5), []
        async with asyncio.timeout(5):
            while not upstream.received:
                async with asyncio.TaskGroup() as group:
                    asking = [group.create_task(_tried(gateway)) for _ in range(10)]
        # While the probe was under way nobody else was let through.
        assert (len(upstream.received), sum(task.result() for task in asking)) == (1, 1)
        upstream.usual = None
        assert replied(await gateway.chat(ANNA, call())).status == 200


async def _tried(gateway: Gateway) -> bool:
    try:
        await gateway.chat(ANNA, call())
    except Unavailable:
        return False
    return True


async def test_an_open_breaker_is_passed_by_unseen(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.usual = Behaviour(status=500)
    async with over(tmp_path, {"first": upstream, "second": second}) as gateway:
        for number in range(8):
            reply = replied(await gateway.chat(ANNA, call("mock")))
            assert (reply.provider, reply.attempts) == ("second", 2 if number < 5 else 1)
    assert (len(upstream.received), len(second.received)) == (5, 8)


async def test_each_model_of_a_provider_has_its_own_breaker(upstream: Upstream, tmp_path: Path) -> None:
    upstream.plan.append(Behaviour(status=500))
    two = {**provider(upstream), "models": [{"name": "mock"}, {"name": "other"}]}
    settings = msgspec.structs.replace(QUICK, breaker_failures=1)
    async with opened(tmp_path, {"mock": two}, settings) as gateway:
        await failing(gateway)
        assert replied(await gateway.chat(ANNA, call("mock/other"))).status == 200
        assert isinstance(await failing(gateway), Unavailable)


async def test_a_stream_that_is_cut_counts_as_a_failure(upstream: Upstream, tmp_path: Path) -> None:
    upstream.plan.append(Behaviour(cut_after=4))
    async with over(tmp_path, {"mock": upstream}, breaker_failures=1) as gateway:
        stream = streamed(await gateway.chat(ANNA, call(stream=True)))
        with pytest.raises(UpstreamError):
            async for _ in stream:
                pass
        await stream.close()
        assert isinstance(await failing(gateway), Unavailable)


async def test_a_caller_who_leaves_is_no_failure(upstream: Upstream, tmp_path: Path) -> None:
    upstream.plan.append(Behaviour(chunks=50, event_delay=0.01))
    async with over(tmp_path, {"mock": upstream}, breaker_failures=1) as gateway:
        stream = streamed(await gateway.chat(ANNA, call(stream=True)))
        await anext(aiter(stream))
        await stream.close()
        assert replied(await gateway.chat(ANNA, call())).attempts == 1


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_the_callers_faults_are_no_failures(upstream: Upstream, tmp_path: Path, status: int) -> None:
    upstream.plan.extend([Behaviour(status=status)] * 6)
    async with over(tmp_path, {"mock": upstream}, breaker_failures=1) as gateway:
        for _ in range(6):
            assert replied(await gateway.chat(ANNA, call())).status == status
        assert replied(await gateway.chat(ANNA, call())).status == 200
    assert len(upstream.received) == 7


async def test_a_refused_key_is_not_shown_again(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.usual = Behaviour(status=401)
    async with over(tmp_path, {"first": upstream, "second": second}) as gateway:
        for _ in range(3):
            assert replied(await gateway.chat(ANNA, call("mock"))).provider == "second"
        refused = await failing(gateway, "first/mock")
    assert len(upstream.received) == 1
    assert "refuses Gimle's key" in refused.message


# -- Retry-After and the deadline


@pytest.mark.parametrize("status", [429, 503])
async def test_nobody_asks_before_the_time_that_a_provider_names(
    upstream: Upstream, tmp_path: Path, status: int
) -> None:
    upstream.plan.append(Behaviour(status=status, headers={"retry-after": "1"}))
    async with over(tmp_path, {"mock": upstream}) as gateway:
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(gateway.chat(ANNA, call())) for _ in range(1)]
            while not upstream.received:
                await asyncio.sleep(0.005)
        assert time.monotonic() - started >= 1
        assert replied(asking[0].result()).attempts == 2


async def test_all_calls_keep_to_the_time_that_one_was_told(upstream: Upstream, tmp_path: Path) -> None:
    upstream.plan.append(Behaviour(status=429, headers={"retry-after": "90"}))
    async with over(tmp_path, {"mock": upstream}) as gateway:
        first, second = await failing(gateway), await failing(gateway)
    assert isinstance(first, RateLimitedError)
    assert isinstance(second, RateLimitedError)
    assert 80 < second.after <= 90
    assert len(upstream.received) == 1


async def test_a_date_is_a_time_too(upstream: Upstream, tmp_path: Path) -> None:
    later = formatdate(time.time() + 300, usegmt=True)
    upstream.plan.append(Behaviour(status=429, headers={"retry-after": later}))
    async with over(tmp_path, {"mock": upstream}) as gateway:
        limited = await failing(gateway)
    assert isinstance(limited, RateLimitedError)
    assert 290 < limited.after <= 300
    assert len(upstream.received) == 1


async def test_a_wait_beyond_the_deadline_is_not_waited_out(upstream: Upstream, tmp_path: Path) -> None:
    upstream.usual = Behaviour(status=429, headers={"retry-after": "4"})
    async with over(tmp_path, {"mock": upstream}, total_seconds=3.0) as gateway:
        started = time.monotonic()
        assert isinstance(await failing(gateway), RateLimitedError)
        assert time.monotonic() - started < 3
    assert len(upstream.received) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_dead_slow_target_is_asked_once(upstream: Upstream, tmp_path: Path, stream: bool) -> None:
    upstream.usual = Behaviour(head_delay=5)
    async with over(tmp_path, {"mock": upstream}, total_seconds=0.4) as gateway:
        with pytest.raises(UpstreamTimeout):
            await gateway.chat(ANNA, call(stream=stream))
        await asyncio.wait_for(upstream.left.wait(), 4)
    assert len(upstream.received) == 1


async def test_one_deadline_holds_for_all_targets(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.usual = second.usual = Behaviour(head_delay=20)
    async with over(
        tmp_path, {"first": upstream, "second": second}, total_seconds=0.8, first_token_seconds=0.5
    ) as gateway:
        started = time.monotonic()
        with pytest.raises(UpstreamTimeout):
            await gateway.chat(ANNA, call("mock", stream=True))
        assert time.monotonic() - started < 10
    assert (len(upstream.received), len(second.received)) == (1, 1)


# -- retries


@pytest.mark.parametrize("retry_share", [0.2, 0.0])
async def test_retries_are_a_share_of_the_traffic(upstream: Upstream, tmp_path: Path, retry_share: float) -> None:
    """However many calls fail: beyond the reserve, at most every fifth is followed by another attempt."""
    upstream.usual = Behaviour(status=500)
    before = counted("gimle_retries_refused")
    # On a slow machine a hundred calls at once take their time, and none may run out of it.
    settings = msgspec.structs.replace(QUICK, breaker_failures=10_000, total_seconds=60)
    async with over(tmp_path, {"mock": upstream}, settings) as gateway, asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(failing(gateway))
    # The reserve of 10 grows by one in two seconds.
    assert 100 + 10 <= len(upstream.received) <= 100 + 10 + 100 * retry_share + 3
    assert counted("gimle_retries_refused") > before


async def test_retries_and_fallbacks_are_counted(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.plan.extend([Behaviour(status=500)] * 2)
    second.plan.append(Behaviour(status=500))
    names = ("gimle_model_retries", "gimle_model_fallbacks")
    before = {name: (counted(name, "first"), counted(name, "second")) for name in names}
    faults = counted("gimle_model_faults", "first", "mock", "", "upstream_error")
    async with over(tmp_path, {"first": upstream, "second": second}) as gateway:
        # Both fail, then the first once more, and the second one answers: as a retry.
        assert replied(await gateway.chat(ANNA, call("mock"))).attempts == 4
        upstream.plan.append(Behaviour(status=500))
        assert replied(await gateway.chat(ANNA, call("mock"))).provider == "second"
    after = {name: (counted(name, "first"), counted(name, "second")) for name in names}
    assert [after[names[0]][at] - before[names[0]][at] for at in (0, 1)] == [1, 1]
    assert [after[names[1]][at] - before[names[1]][at] for at in (0, 1)] == [0, 1]
    assert counted("gimle_model_faults", "first", "mock", "", "upstream_error") == faults + 3


async def test_times_and_rates_are_counted_by_provider_and_model(upstream: Upstream, tmp_path: Path) -> None:
    def row(name: str) -> list[float]:
        return REGISTRY.totals().get((name, ("timed", "mock", "")), [])

    async with over(tmp_path, {"timed": upstream}) as gateway:
        upstream.plan.append(Behaviour(event_delay=0.01))
        stream = streamed(await gateway.chat(ANNA, call("timed/mock", stream=True)))
        async for _ in stream:
            pass
        await stream.close()
    for metric in (metrics.FIRST_SECONDS, metrics.TOTAL_SECONDS, metrics.TOKEN_RATE):
        total, *ranges = row(metric.name)
        assert sum(ranges) == 1
        assert total > 0
    # 8 words, each 10 ms after the one before.
    assert 20 < row(metrics.TOKEN_RATE.name)[0] < 120


# -- fallbacks


async def test_a_stand_in_of_another_provider_and_dialect_serves(
    upstream: Upstream, second: Upstream, tmp_path: Path
) -> None:
    upstream.usual = Behaviour(status=503)
    second.plan.append(Behaviour(body=json.dumps(claude.PUBLISHED["reply"]).encode()))
    providers = {
        "first": provider(upstream),
        "other": {"base_url": second.url, "dialect": "anthropic", "models": [{"name": "claude", "kind": "chat"}]},
    }
    settings = msgspec.structs.replace(QUICK, fallbacks={"first/mock": ("nowhere/gone", "other/claude")})
    async with opened(tmp_path, providers, settings) as gateway:
        reply = replied(await gateway.chat(ANNA, call("first/mock")))
    assert (reply.provider, reply.model, reply.attempts) == ("other", "claude", 2)
    assert json.loads(reply.body)["object"] == "chat.completion"
    assert second.received[0].path == "/v1/messages"


async def test_stand_ins_are_tried_in_their_order(
    upstream: Upstream, second: Upstream, third: Upstream, tmp_path: Path
) -> None:
    upstream.usual = third.usual = Behaviour(status=500)
    fallbacks = {"first/mock": ("third/mock", "second/mock")}
    ways = {"first": upstream, "second": second, "third": third}
    async with over(tmp_path, ways, fallbacks=fallbacks) as gateway:
        reply = replied(await gateway.chat(ANNA, call("first/mock")))
        assert (reply.provider, reply.attempts) == ("second", 3)
        # A stand-in has no stand-ins of its own, and other names have none.
        third.received.clear()
        await failing(gateway, "third/mock")
    assert len(third.received) == 3


async def test_a_stand_in_serves_where_the_named_one_can_not(second: Upstream, tmp_path: Path) -> None:
    providers = {
        "keyless": {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH_KEY", "models": [{"name": "mock"}]},
        "second": provider(second),
    }
    settings = msgspec.structs.replace(QUICK, fallbacks={"keyless/mock": ("second/mock",)})
    async with opened(tmp_path, providers, settings) as gateway:
        assert replied(await gateway.chat(ANNA, call("keyless/mock"))).provider == "second"
        with pytest.raises(ModelNotFound):
            await gateway.chat(ANNA, call("nobody/mock"))


async def test_a_stand_in_with_a_larger_window_takes_what_is_too_long(
    upstream: Upstream, second: Upstream, third: Upstream, tmp_path: Path
) -> None:
    told = {"error": {"message": "maximum context length is 1000", "code": "context_length_exceeded"}}
    upstream.usual = Behaviour(status=400, body=json.dumps(told).encode())
    providers = {
        "first": provider(upstream, context_window=1000),
        "second": provider(second, context_window=500),
        "third": provider(third, context_window=9000),
    }
    settings = msgspec.structs.replace(QUICK, fallbacks={"first/mock": ("second/mock", "third/mock")})
    async with opened(tmp_path, providers, settings) as gateway:
        reply = replied(await gateway.chat(ANNA, call("first/mock")))
        assert (reply.provider, reply.attempts) == ("third", 2)
        third.usual = upstream.usual
        assert isinstance(await failing(gateway, "first/mock"), ContextTooLong)
    assert not second.received


async def test_the_callers_own_fault_goes_to_no_stand_in(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.usual = Behaviour(status=400)
    fallbacks = {"first/mock": ("second/mock",)}
    async with over(tmp_path, {"first": upstream, "second": second}, fallbacks=fallbacks) as gateway:
        assert replied(await gateway.chat(ANNA, call("first/mock"))).status == 400
        upstream.usual = Behaviour(status=400, body=b"no")
        assert isinstance(await failing(gateway, "first/mock"), InvalidRequest)
    assert not second.received


async def test_vectors_walk_too_but_never_into_another_space(
    upstream: Upstream, second: Upstream, tmp_path: Path
) -> None:
    upstream.usual = Behaviour(status=500)
    async with over(tmp_path, {"first": upstream, "second": second}) as gateway:
        embedded = await gateway.embed(ANNA, "vectors", ["bees"])
        assert (embedded.provider, embedded.model) == ("second", "vectors")
        with pytest.raises(UpstreamError):
            await gateway.embed(ANNA, "first/vectors", ["bees"])


@pytest.mark.parametrize("cloud_to_local", [True, False])
async def test_own_machines_stand_in_for_the_cloud_unless_that_is_off(tmp_path: Path, cloud_to_local: bool) -> None:
    async with Upstream() as cloud, Upstream() as own:
        cloud.usual = Behaviour(status=503, body=b"{}")
        small = {"base_url": own.url, "local": True, "models": [{"name": "small"}]}
        settings = msgspec.structs.replace(QUICK, cloud_to_local=cloud_to_local)
        async with opened(tmp_path, {"cloud": provider(cloud), "own": small}, settings) as gateway:
            if cloud_to_local:
                assert replied(await gateway.chat(ANNA, call("cloud/mock"))).provider == "own"
            else:
                with pytest.raises(UpstreamError):
                    await gateway.chat(ANNA, call("cloud/mock"))
