"""The walk when all goes well: bytes pass, names resolve, engines answer, and it is counted."""

import asyncio
import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.gateway.calls import ANNA, MODELS, QUICK, call, opened, parsed, provider, read, replied, streamed

from gimle.foundation import config
from gimle.foundation.config import GatewaySettings, Settings
from gimle.foundation.errors import (
    InvalidRequest,
    ModelNotFound,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
)
from gimle.foundation.telemetry import exposition
from gimle.gateway.gateway import Gateway
from gimle.gateway.inside import Engines
from gimle.gateway.neutral import Usage
from gimle.gateway.tokens import Tokens
from gimle.gateway.types import Message
from gimle.selection.types import Need
from gimle.testing import WORDS, Behaviour, ScriptedEngine, Upstream, vector

TEXT = "".join(WORDS)


# -- bytes pass


async def test_the_callers_bytes_pass_but_for_the_model(gateway: Gateway, upstream: Upstream) -> None:
    body = b'{"model": "mock/mock", "messages": [ {"role":"user","content":"\\u00fc  \\n"} ], "x_new": {"a" : 1.50}}'
    await gateway.chat(ANNA, parsed(body, "mock/mock"))
    sent = upstream.received[0]
    assert sent.path == "/v1/chat/completions"
    assert sent.body == (
        b'{"model":"mock","messages":[ {"role":"user","content":"\\u00fc  \\n"} ],"x_new":{"a" : 1.50}}'
    )


async def test_the_providers_bytes_come_back(gateway: Gateway, upstream: Upstream) -> None:
    body = b'{ "choices":[{"index":0,"message":{"role":"assistant","content":"\\u00fc"}} ],\n "new": [1.0]}'
    upstream.plan.append(Behaviour(body=body))
    reply = replied(await gateway.chat(ANNA, call()))
    assert (reply.status, reply.body, reply.attempts) == (200, body, 1)
    assert (reply.provider, reply.model, reply.usage) == ("mock", "mock", None)


async def test_usage_of_a_whole_answer_is_read(gateway: Gateway) -> None:
    usage = replied(await gateway.chat(ANNA, call())).usage
    assert usage is not None
    assert (usage.uncached, usage.cache_read, usage.output, usage.exact) == (7, 4, 8, True)


async def test_no_header_of_the_caller_goes_upstream(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOCK_API_KEY", "sk-upstream")
    async with opened(tmp_path, {"mock": {**provider(upstream), "api_key_env": "MOCK_API_KEY"}}) as gateway:
        await gateway.chat(ANNA, call())
    headers = upstream.received[0].headers
    assert headers["authorization"] == "Bearer sk-upstream"
    assert headers.keys() == {"authorization", "content-type", "content-length", "host", "accept", "user-agent"}
    assert "accept-encoding" not in headers


async def test_connections_are_kept(gateway: Gateway, upstream: Upstream) -> None:
    for stream in (False, True, False, True, True, False):
        answer = await gateway.chat(ANNA, call(stream=stream))
        if stream:
            await read(streamed(answer))
    assert upstream.connections == 1


# -- streams


async def test_a_stream_passes_byte_for_byte(gateway: Gateway, upstream: Upstream) -> None:
    events = (
        b": warming up\n\n",
        b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\r\n\r\n',
        b'event: message\ndata: {"choices":[{"index":0,"delta":{"content":"\xc3\xbc"}}],"new":1}\n\n',
        b'data:{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        b"data: [DONE]\n\n",
    )
    for piece in (1, 7, 0):
        upstream.plan.append(Behaviour(events=events, piece=piece))
        assert await read(streamed(await gateway.chat(ANNA, call(stream=True)))) == b"".join(events)


async def test_usage_is_asked_of_a_stream_and_hidden_from_who_did_not_ask(gateway: Gateway, upstream: Upstream) -> None:
    stream = streamed(await gateway.chat(ANNA, call(stream=True)))
    told = await read(stream)
    assert upstream.received[0].json["stream_options"] == {"include_usage": True}
    assert b'"prompt_tokens"' not in told
    assert told.endswith(b"data: [DONE]\n\n")
    assert stream.usage is not None
    assert stream.usage.output_tokens == 8


async def test_usage_is_shown_to_who_asked(gateway: Gateway) -> None:
    asked = call(stream=True, stream_options={"include_usage": True})
    assert b'"prompt_tokens": 11' in await read(streamed(await gateway.chat(ANNA, asked)))


async def test_usage_is_not_asked_of_a_provider_that_can_not(upstream: Upstream, tmp_path: Path) -> None:
    async with opened(tmp_path, {"mock": {**provider(upstream), "stream_usage": False}}) as gateway:
        await read(streamed(await gateway.chat(ANNA, call(stream=True))))
    assert "stream_options" not in upstream.received[0].json


async def test_the_first_word_does_not_wait_for_the_second(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(stall_after=2))
    stream = streamed(await gateway.chat(ANNA, call(stream=True)))
    assert b'"The"' in await anext(aiter(stream))
    await stream.close()


# -- names, choice, engines


async def test_an_unknown_model_names_the_nearest(gateway: Gateway) -> None:
    with pytest.raises(ModelNotFound) as raised:
        await gateway.chat(ANNA, call("builtin/extrakt"))
    assert raised.value.field == "model"
    assert "builtin/extract" in str(raised.value.hint)


async def test_auto_takes_a_language_model_before_the_builtin_one(gateway: Gateway) -> None:
    assert [model.id for model in gateway.resolve(ANNA, "auto")] == ["mock/mock", "builtin/extract"]


async def test_no_model_named_means_the_default(upstream: Upstream, tmp_path: Path) -> None:
    settings = GatewaySettings(default_model="builtin/extract")
    async with opened(tmp_path, {"mock": provider(upstream)}, settings) as gateway:
        assert replied(await gateway.chat(ANNA, call(""))).provider == "builtin"


async def test_a_provider_without_its_key_is_listed_and_not_chosen(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOCK_API_KEY", raising=False)
    async with opened(tmp_path, {"mock": {**provider(upstream), "api_key_env": "MOCK_API_KEY"}}) as gateway:
        listed = {model.id: model.unavailable for model in gateway.models(ANNA)}
        assert listed["mock/mock"] == "the environment variable MOCK_API_KEY is not set"
        assert listed["builtin/extract"] is None
        assert [model.id for model in gateway.resolve(ANNA, "auto")] == ["builtin/extract"]
        with pytest.raises(Unavailable, match="MOCK_API_KEY"):
            await gateway.chat(ANNA, call())


async def test_auto_finds_nothing_that_can_do_tools(tmp_path: Path) -> None:
    async with opened(tmp_path, {}) as gateway:
        with pytest.raises(ModelNotFound, match="tools"):
            await gateway.chat(ANNA, call("auto", tools=[{"type": "function", "function": {"name": "f"}}]))


async def test_the_builtin_model_answers_as_openai_does(gateway: Gateway) -> None:
    reply = replied(await gateway.chat(ANNA, call("builtin/extract")))
    body = json.loads(reply.body)
    assert body["object"] == "chat.completion"
    assert body["model"] == "builtin/extract"
    assert body["choices"][0]["message"]["content"] == TEXT
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]


async def test_the_builtin_model_honours_max_tokens(gateway: Gateway) -> None:
    body = json.loads(replied(await gateway.chat(ANNA, call("builtin/extract", max_tokens=3))).body)
    assert body["choices"][0]["finish_reason"] == "length"
    assert TEXT.startswith(body["choices"][0]["message"]["content"])
    assert 0 < body["usage"]["completion_tokens"] <= 3


async def test_the_builtin_model_streams_the_same_text(gateway: Gateway) -> None:
    told = await read(streamed(await gateway.chat(ANNA, call("builtin/extract", stream=True))))
    events = [line.removeprefix("data: ") for line in told.decode().split("\n\n") if line]
    assert events.pop() == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == TEXT
    assert len(deltas) > 4


async def test_pictures_are_refused_by_a_model_that_reads_text(gateway: Gateway) -> None:
    asked = call(
        "builtin/extract",
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/a.png"}}]}],
    )
    with pytest.raises(InvalidRequest) as raised:
        await gateway.chat(ANNA, asked)
    assert raised.value.field == "messages[0].content"


# -- completions for the rooms above


async def test_a_completion_with_a_schema(gateway: Gateway, upstream: Upstream) -> None:
    schema = {"type": "object"}
    done = await gateway.complete(ANNA, "auto", [{"role": "user", "content": "Hi"}], 50, schema)
    assert (done.text, done.provider, done.model, done.usage.output_tokens) == (TEXT, "mock", "mock", 8)
    sent = upstream.received[0].json
    assert sent["max_tokens"] == 50
    assert sent["response_format"]["json_schema"]["schema"] == schema


async def test_a_schema_is_never_given_to_a_model_that_can_not_keep_it(tmp_path: Path) -> None:
    async with opened(tmp_path, {}) as gateway:
        with pytest.raises(ModelNotFound, match="json_schema"):
            await gateway.complete(ANNA, "auto", [{"role": "user", "content": "Hi"}], 50, {"type": "object"})
        assert (await gateway.complete(ANNA, "auto", [{"role": "user", "content": "Hi"}], 50)).provider == "builtin"


# -- vectors


async def test_vectors_come_in_the_order_of_the_texts(gateway: Gateway) -> None:
    texts = ["one", "two", "three"]
    embedded = await gateway.embed(ANNA, "mock/vectors", texts)
    np.testing.assert_allclose(embedded.vectors, [vector(text) for text in texts], rtol=1e-6)
    assert (embedded.vectors.dtype.name, embedded.tokens, embedded.provider) == ("float32", 9, "mock")


async def test_many_texts_go_in_batches(gateway: Gateway, upstream: Upstream) -> None:
    texts = [str(number) for number in range(1100)]
    embedded = await gateway.embed(ANNA, "mock/vectors", texts)
    assert len(upstream.received) == 3
    np.testing.assert_allclose(embedded.vectors[[0, 600, 1099]], [vector(texts[n]) for n in (0, 600, 1099)], rtol=1e-6)


async def test_other_dimensions_are_asked_of_the_provider(gateway: Gateway, upstream: Upstream) -> None:
    embedded = await gateway.embed(ANNA, "mock/vectors", ["a"], dimensions=4)
    assert embedded.vectors.shape == (1, 4)
    assert upstream.received[0].json["dimensions"] == 4


@pytest.mark.parametrize("body", [b"", b'{"data": []}', b'{"data": [{"index": 0, "embedding": []}]}', b'{"data": 1}'])
async def test_vectors_that_are_none_are_a_fault(gateway: Gateway, upstream: Upstream, body: bytes) -> None:
    upstream.usual = Behaviour(body=body)
    with pytest.raises(UpstreamError):
        await gateway.embed(ANNA, "mock/vectors", ["a"])


async def test_vectors_without_weights_say_what_to_do(gateway: Gateway) -> None:
    with pytest.raises(Unavailable) as raised:
        await gateway.embed(ANNA, "builtin/minilm", ["a"])
    assert "gimle setup" in str(raised.value.hint)
    with pytest.raises(Unavailable):
        gateway.space("builtin/minilm")


async def test_the_facts_of_a_space(gateway: Gateway) -> None:
    facts = gateway.space("mock/vectors")
    assert (facts["model"], facts["version"], facts["dimensions"]) == ("mock/vectors", "vectors", 8)


async def test_a_chat_model_gives_no_vectors(gateway: Gateway) -> None:
    with pytest.raises(ModelNotFound, match="not a model for embedding"):
        await gateway.embed(ANNA, "mock/mock", ["a"])


# -- metrics


def _metric(name: str, **labels: str) -> float:
    shown = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    found = re.search(rf"^{name}\{{{re.escape(shown)}\}} (\S+)$", exposition().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_calls_tokens_and_faults_are_counted(gateway: Gateway, upstream: Upstream) -> None:
    def counted() -> list[float]:
        target = {"model": "mock", "provider": "mock", "owner": ""}
        return [
            _metric("gimle_model_calls_total", kind="chat", **target),
            _metric("gimle_model_attempts_total", **target),
            _metric("gimle_model_tokens_total", direction="out", exact="true", **target),
            _metric("gimle_model_faults_total", fault="upstream_error", **target),
        ]

    before = counted()
    upstream.plan.append(Behaviour(status=500))
    await gateway.chat(ANNA, call())
    await read(streamed(await gateway.chat(ANNA, call(stream=True))))
    assert np.subtract(counted(), before).tolist() == [2, 3, 16, 1]


def test_the_settings_of_time_reach_the_gateway() -> None:
    loaded = config.load({"gateway.connect_seconds": 1.0, "gateway.first_token_seconds": 0.5}, {}, Path("/nowhere"))
    assert loaded.gateway.connect_seconds == QUICK.connect_seconds
    assert Need().kind == "chat"


async def test_names_that_only_callers_know_do_not_fill_the_metrics(upstream: Upstream, tmp_path: Path) -> None:
    async with opened(tmp_path, {"mock": {**provider(upstream), "any_model": True}}) as gateway:
        for number in range(5):
            await gateway.chat(ANNA, call(f"mock/made-up-{number}"))
    assert b"made-up" not in exposition()
    assert _metric("gimle_model_calls_total", kind="chat", model="(unlisted)", owner="", provider="mock") >= 5


async def test_an_engine_that_hangs_is_given_up(tmp_path: Path) -> None:
    class Hanging(ScriptedEngine):
        async def chat(self, messages: list[Message], max_tokens: int | None = None) -> tuple[str, Usage]:
            await asyncio.Event().wait()
            return await super().chat(messages, max_tokens)

    engines = Engines({"builtin": Hanging(available=frozenset({"extract"}))}, MODELS, Tokens(None))
    settings = Settings(data=tmp_path, gateway=GatewaySettings(total_seconds=0.2))
    gateway = await Gateway.assemble(None, settings, engines, Tokens(None))
    with pytest.raises(UpstreamTimeout):
        await gateway.chat(ANNA, call("builtin/extract"))
    await gateway.close()
