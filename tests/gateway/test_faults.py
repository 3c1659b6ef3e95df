"""What goes wrong behind the gateway: a whole answer or a clear error, never a silent cut."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from tests.gateway.calls import ANNA, call, opened, provider, read, replied, streamed

from gimle.foundation.config import GatewaySettings
from gimle.foundation.errors import (
    ContextTooLong,
    InvalidRequest,
    RateLimitedError,
    UpstreamError,
    UpstreamTimeout,
)
from gimle.gateway.gateway import Gateway
from gimle.testing import WORDS, Behaviour, Upstream

TEXT = "".join(WORDS)


# -- faults before the first byte


@pytest.mark.parametrize("status", [500, 502, 503, 529])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_target_is_replaced_at_once(
    pair: Gateway, upstream: Upstream, second: Upstream, status: int, stream: bool
) -> None:
    upstream.plan.append(Behaviour(status=status))
    answer = await pair.chat(ANNA, call("mock", stream=stream))
    assert (answer.provider, answer.attempts) == ("second", 2)
    assert len(upstream.received) == len(second.received) == 1
    if stream:
        await streamed(answer).close()


async def test_one_target_is_asked_three_times_with_growing_pauses(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan.extend([Behaviour(status=500)] * 3)
    started = time.monotonic()
    with pytest.raises(UpstreamError, match="HTTP 500"):
        await gateway.chat(ANNA, call())
    assert len(upstream.received) == 3
    assert time.monotonic() - started >= 0.125 + 0.25


async def test_a_retry_can_succeed(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan.extend([Behaviour(hang_up=True), Behaviour(status=503)])
    assert replied(await gateway.chat(ANNA, call())).attempts == 3


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(body=b""),
        Behaviour(body=b'{"choices": ['),
        Behaviour(body=b'{"choices": []}'),
        Behaviour(body=b"<html>hello</html>"),
        Behaviour(body=b"\xff\xfe"),
        Behaviour(body=b'{"error": {"message": "overloaded"}}'),
        Behaviour(hang_up=True),
    ],
)
async def test_a_success_that_is_none_goes_to_the_next_target(
    pair: Gateway, upstream: Upstream, behaviour: Behaviour
) -> None:
    upstream.plan.append(behaviour)
    assert replied(await pair.chat(ANNA, call("mock"))).provider == "second"


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(cut_after=1),
        Behaviour(stall_after=1),
        Behaviour(events=()),
        Behaviour(events=(b"data: {\n\n",)),
        Behaviour(events=(b'data: {"error": {"message": "overloaded"}}\n\n',)),
        Behaviour(body=b'{"choices": [{"message": {}}]}'),
        Behaviour(head_delay=2),
    ],
)
async def test_a_stream_that_dies_before_its_first_word_falls_over_unseen(
    pair: Gateway, upstream: Upstream, second: Upstream, behaviour: Behaviour
) -> None:
    upstream.plan.append(behaviour)
    stream = streamed(await pair.chat(ANNA, call("mock", stream=True)))
    assert (stream.provider, stream.attempts) == ("second", 2)
    told = await read(stream)
    assert told.count(b'"role"') == 1
    assert told.endswith(b"data: [DONE]\n\n")


async def test_a_target_that_lets_the_time_run_out_is_asked_once(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(head_delay=3))
    with pytest.raises(UpstreamTimeout):
        await gateway.chat(ANNA, call(stream=True))
    assert len(upstream.received) == 1
    await asyncio.wait_for(upstream.left.wait(), 5)


async def test_the_total_time_bounds_a_call_with_all_its_retries(upstream: Upstream, tmp_path: Path) -> None:
    settings = GatewaySettings(total_seconds=0.4)
    upstream.usual = Behaviour(status=500, head_delay=0.15)
    async with opened(tmp_path, {"mock": provider(upstream)}, settings) as gateway:
        started = time.monotonic()
        with pytest.raises(UpstreamError):
            await gateway.chat(ANNA, call())
    assert time.monotonic() - started < 1


async def test_nobody_listens(tmp_path: Path) -> None:
    async with opened(
        tmp_path, {"mock": {"base_url": "http://127.0.0.1:9/v1", "models": [{"name": "mock"}]}}
    ) as gateway:
        with pytest.raises(UpstreamError, match=r"127\.0\.0\.1:9 can't be reached"):
            await gateway.chat(ANNA, call())


async def test_a_short_retry_after_is_waited_out(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(status=429, headers={"retry-after": "1"}))
    started = time.monotonic()
    assert replied(await gateway.chat(ANNA, call())).attempts == 2
    assert time.monotonic() - started >= 1


async def test_a_long_retry_after_is_told_and_not_waited_out(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(status=429, headers={"retry-after": "120"}))
    with pytest.raises(RateLimitedError) as raised:
        await gateway.chat(ANNA, call())
    assert raised.value.after == 120
    assert len(upstream.received) == 1


async def test_a_limited_target_is_replaced(pair: Gateway, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(status=429, headers={"retry-after": "120"}))
    assert replied(await pair.chat(ANNA, call("mock"))).provider == "second"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 404, 422])
async def test_the_callers_fault_goes_back_in_the_providers_words(
    pair: Gateway, upstream: Upstream, second: Upstream, status: int, stream: bool
) -> None:
    body = b'{ "error": {"message": "Bad temperature.", "type": "invalid_request_error", "param": "temperature"}}'
    upstream.plan.append(Behaviour(status=status, body=body))
    reply = replied(await pair.chat(ANNA, call("mock", stream=stream)))
    assert (reply.status, reply.body) == (status, body)
    assert not second.received


async def test_a_refusal_without_words_is_still_the_callers(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(status=400, body=b"<html>no</html>"))
    with pytest.raises(InvalidRequest):
        await gateway.chat(ANNA, call())


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_never_shown(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("MOCK_API_KEY", "sk-secret-1234")
    upstream.usual = Behaviour(status=status, body=b'{"error": {"message": "Incorrect API key: sk-secret-1234"}}')
    async with opened(tmp_path, {"mock": {**provider(upstream), "api_key_env": "MOCK_API_KEY"}}) as gateway:
        with pytest.raises(UpstreamError) as raised:
            await gateway.chat(ANNA, call())
    assert "sk-secret" not in f"{raised.value} {raised.value.message} {raised.value.hint}"
    assert raised.value.status == 502
    assert len(upstream.received) == 1


@pytest.mark.parametrize("status", [400, 500])
async def test_a_key_that_a_provider_quotes_is_struck_out(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("MOCK_API_KEY", "sk-secret-1234")
    upstream.usual = Behaviour(status=status, body=b'{"error": {"message": "With sk-secret-1234 this fails"}}')
    async with opened(tmp_path, {"mock": {**provider(upstream), "api_key_env": "MOCK_API_KEY"}}) as gateway:
        if status == 400:
            assert b"sk-secret" not in replied(await gateway.chat(ANNA, call())).body
        else:
            with pytest.raises(UpstreamError) as raised:
                await gateway.chat(ANNA, call())
            assert "sk-secret" not in raised.value.message


async def test_too_long_a_prompt_goes_to_a_larger_window(pair: Gateway, upstream: Upstream) -> None:
    told = {"error": {"message": "This model's maximum context length is 1000.", "code": "context_length_exceeded"}}
    upstream.plan.append(Behaviour(status=400, body=json.dumps(told).encode()))
    assert replied(await pair.chat(ANNA, call("mock"))).provider == "second"


async def test_too_long_for_every_window(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(status=400, body=b'{"error": {"message": "maximum context length is 9"}}'))
    with pytest.raises(ContextTooLong, match="maximum context length"):
        await gateway.chat(ANNA, call())


async def test_a_redirect_is_not_followed(gateway: Gateway, upstream: Upstream, second: Upstream) -> None:
    upstream.usual = Behaviour(status=307, headers={"location": f"{second.url}/chat/completions"})
    with pytest.raises(UpstreamError, match="307"):
        await gateway.chat(ANNA, call())
    assert not second.received


# -- faults after the first byte


async def _broken(gateway: Gateway) -> tuple[bytes, UpstreamError]:
    stream = streamed(await gateway.chat(ANNA, call(stream=True)))
    told = b""
    with pytest.raises(UpstreamError) as raised:
        async for piece in stream:
            told += piece
    await stream.close()
    return told, raised.value


@pytest.mark.parametrize("cut_after", [3, 5, 8])
async def test_a_cut_stream_is_an_error(gateway: Gateway, upstream: Upstream, cut_after: int) -> None:
    upstream.plan.append(Behaviour(cut_after=cut_after))
    told, _ = await _broken(gateway)
    assert b'"The"' in told
    assert b"[DONE]" not in told


async def test_a_stream_that_just_ends_is_an_error(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(events=(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',)))
    _, error = await _broken(gateway)
    assert "before its answer was complete" in error.message


async def test_a_stream_that_stands_still_is_an_error(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(stall_after=4))
    _, error = await _broken(gateway)
    assert isinstance(error, UpstreamTimeout)
    await asyncio.wait_for(upstream.left.wait(), 5)


async def test_a_bad_event_among_good_ones_is_an_error(gateway: Gateway, upstream: Upstream) -> None:
    good = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    upstream.plan.append(Behaviour(events=(good, b"data: {oops\n\n", good, b"data: [DONE]\n\n"), event_delay=0.02))
    told, _ = await _broken(gateway)
    assert told == good


async def test_an_error_told_in_the_stream_is_an_error(gateway: Gateway, upstream: Upstream) -> None:
    good = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    upstream.plan.append(
        Behaviour(
            events=(good, b'data: {"error":{"message":"GPU on fire"}}\n\n', b"data: [DONE]\n\n"), event_delay=0.02
        )
    )
    _, error = await _broken(gateway)
    assert "GPU on fire" in error.message


async def test_an_end_without_done_is_an_end(gateway: Gateway, upstream: Upstream) -> None:
    events = (b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n',)
    upstream.plan.append(Behaviour(events=events))
    assert await read(streamed(await gateway.chat(ANNA, call(stream=True)))) == events[0]


async def test_a_stream_without_an_end_is_cut_at_the_total_time(upstream: Upstream, tmp_path: Path) -> None:
    upstream.usual = Behaviour(chunks=100, event_delay=0.02)
    async with opened(tmp_path, {"mock": provider(upstream)}, GatewaySettings(total_seconds=0.3)) as gateway:
        with pytest.raises(UpstreamTimeout):
            await read(streamed(await gateway.chat(ANNA, call(stream=True))))


# -- the caller leaves


async def test_closing_a_stream_cancels_the_provider_at_once(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(chunks=100, event_delay=0.01))
    stream = streamed(await gateway.chat(ANNA, call(stream=True)))
    await anext(aiter(stream))
    await stream.close()
    await stream.close()
    await asyncio.wait_for(upstream.left.wait(), 5)
    assert upstream.open_streams == 0


async def test_a_stream_closed_before_its_first_read_leaves_nothing_open(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(stall_after=4))
    stream = streamed(await gateway.chat(ANNA, call(stream=True)))
    await stream.close()
    await asyncio.wait_for(upstream.left.wait(), 5)


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_a_call_cancels_the_provider_at_once(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    upstream.plan.append(Behaviour(head_delay=5))
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(gateway.chat(ANNA, call(stream=stream)))
        while not upstream.received:
            await asyncio.sleep(0.01)
        asking.cancel()
    await asyncio.wait_for(upstream.left.wait(), 5)
    assert len(upstream.received) == 1


async def test_a_slow_reader_slows_the_provider(gateway: Gateway, upstream: Upstream) -> None:
    """Nobody may buffer what a caller does not read: what is sent stays bounded by the sockets' own buffers."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (b"a" * 60_000)
    upstream.plan.append(Behaviour(events=(event,) * 2000))
    stream = streamed(await gateway.chat(ANNA, call(stream=True)))
    await anext(aiter(stream))
    before = -1
    while before != upstream.sent:
        before = upstream.sent
        await asyncio.sleep(0.1)
    assert upstream.sent < 30_000_000
    await stream.close()


async def test_many_streams_leave_nothing_behind(upstream: Upstream, tmp_path: Path) -> None:
    async def one(gateway: Gateway, number: int) -> None:
        upstream.plan.append(Behaviour(cut_after=6) if number % 3 else Behaviour(chunks=3))
        try:
            stream = streamed(await gateway.chat(ANNA, call(stream=True)))
        except UpstreamError:
            return
        try:
            if number % 2:
                await read(stream)
        except UpstreamError:
            return
        finally:
            await stream.close()

    async with opened(tmp_path, {"mock": provider(upstream)}, GatewaySettings()) as gateway:
        before = len(asyncio.all_tasks())
        async with asyncio.TaskGroup() as group:
            for number in range(60):
                group.create_task(one(gateway, number))
        async with asyncio.timeout(2):
            while upstream.open_streams:
                await asyncio.sleep(0.01)
    # What stays are the stand-in's own connections, which their closing ends.
    async with asyncio.timeout(2):
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.01)


# -- limits


async def test_an_answer_without_end_is_refused(
    gateway: Gateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gimle.gateway.upstream._LARGEST_REPLY", 1000)
    upstream.usual = Behaviour(body=b'{"choices": [{"message": {"content": "%s"}}]}' % (b"a" * 2000))
    with pytest.raises(UpstreamError, match="larger than"):
        await gateway.chat(ANNA, call())


async def test_an_event_without_end_is_refused(
    gateway: Gateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gimle.gateway.streams.LARGEST_EVENT", 100_000)
    upstream.usual = Behaviour(events=(b"data: " + b"a" * 20_000,) * 50)
    with pytest.raises(UpstreamError, match="event of more than"):
        await gateway.chat(ANNA, call(stream=True))
    assert upstream.sent < 3_000_000
