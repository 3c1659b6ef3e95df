"""Streams that break off, through the front door and read by the vendors' own SDKs."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import anthropic
import openai
import pytest
from tests.gateway.calls import saying
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.testing import WORDS, Behaviour, Upstream

TEXT = "".join(WORDS)
HELLO = "When do bees swarm?"


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream, second: Upstream) -> AsyncIterator[Served]:
    """Two providers of one model, of which the second goes on with a begun answer."""
    async with serving(app, tenants[0]) as running:
        for name, stand, goes_on in (("first", upstream, False), ("second", second, True)):
            models = [{"name": "mock", "continues_assistant": goes_on}]
            await running.provide({"name": name, "base_url": stand.url, "models": models})
        # In the order of the registry, where usually the two would share the calls.
        pinned = await running.http.put("/api/v1/selection/preferences", json={"policy": "pinned"})
        assert pinned.status_code == 200, pinned.text
        yield running


async def test_openais_sdk_reads_a_continued_text(
    sdk: openai.AsyncOpenAI, upstream: Upstream, second: Upstream
) -> None:
    upstream.plan.append(Behaviour(cut_after=4))
    second.plan.append(saying(*WORDS[3:]))
    stream = await sdk.chat.completions.create(
        model="mock",
        messages=[{"role": "user", "content": HELLO}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens > 20
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices].count("stop") == 1


async def test_anthropics_sdk_reads_a_continued_text(served: Served, upstream: Upstream, second: Upstream) -> None:
    upstream.plan.append(Behaviour(stall_after=4))
    second.plan.append(saying(*WORDS[3:]))
    async with anthropic.AsyncAnthropic(base_url=served.url, api_key=served.token, max_retries=0) as client:
        asked = client.messages.stream(
            model="mock", max_tokens=100, messages=[{"role": "user", "content": HELLO}], timeout=20
        )
        async with asyncio.timeout(20), asked as stream:
            told = ""
            async for text in stream.text_stream:
                told += text
                if told == "The bees leave":
                    # It stands still; and then its machine is switched off.
                    for writer in tuple(upstream._writers):
                        writer.transport.abort()
            message = await stream.get_final_message()
    assert [block.text for block in message.content if block.type == "text"] == [TEXT]
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens > len(WORDS[3:])


async def test_a_cut_that_can_not_be_mended_is_raised_by_the_sdks(
    served: Served, sdk: openai.AsyncOpenAI, upstream: Upstream, second: Upstream
) -> None:
    second.usual = Behaviour(status=500)
    upstream.plan.append(Behaviour(cut_after=4))
    stream = await sdk.chat.completions.create(model="mock", messages=[{"role": "user", "content": HELLO}], stream=True)
    with pytest.raises(openai.APIError):
        async for _ in stream:
            pass
    upstream.plan.append(Behaviour(cut_after=4))
    async with anthropic.AsyncAnthropic(base_url=served.url, api_key=served.token, max_retries=0) as client:
        asked = client.messages.stream(model="mock", max_tokens=100, messages=[{"role": "user", "content": HELLO}])
        with pytest.raises(anthropic.APIError):
            async with asked as messages:
                await messages.get_final_message()


async def test_a_caller_who_hangs_up_ends_the_work_within_a_tenth_of_a_second(
    served: Served, upstream: Upstream
) -> None:
    upstream.usual = Behaviour(chunks=300, event_delay=0.01)
    body = json.dumps({"model": "mock", "stream": True, "messages": [{"role": "user", "content": HELLO}]}).encode()
    took = []
    for _ in range(5):
        upstream.left.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(served.head("POST", "/v1/chat/completions", len(body)) + body)
        await reader.readuntil(b"bees")
        assert upstream.open_streams == 1
        began = time.perf_counter()
        writer.transport.abort()
        await asyncio.wait_for(upstream.left.wait(), 5)
        took.append(time.perf_counter() - began)
    # The best, since the machine may be busy with something else.
    assert min(took) < 0.1
    assert upstream.gone == 5


async def test_an_open_breaker_tells_when_to_come_again(
    served: Served, upstream: Upstream, tenants: tuple[str, str]
) -> None:
    upstream.usual = Behaviour(status=500)
    body = {"model": "first/mock", "messages": [{"role": "user", "content": HELLO}]}
    answers = [await served.http.post("/v1/chat/completions", json=body) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [502, 502, 503]
    assert 50 < int(answers[-1].headers["retry-after"]) <= 60
    assert "failed several times in a row" in answers[-1].json()["error"]["message"]
    told = (await served.http.get("/metrics")).text
    assert f'gimle_model_breakers_open{{model="mock",owner="{tenants[0]}",provider="first"}} 1.0' in told
