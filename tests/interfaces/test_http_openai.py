"""The inference routes with OpenAI's own SDK against a running server."""

import asyncio
import json
import struct
from base64 import b64decode
from collections.abc import AsyncIterator

import openai
import pytest
from tests.interfaces import vendor
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.testing import WORDS, Behaviour, Upstream
from gimle.trust.types import Principal

HELLO = [{"role": "user", "content": "Hello"}]
# With spaces, escapes and fields of a provider's own, so that a test sees whether the bytes were touched.
WHOLE = (
    b'{"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "mock", "x_own": {"a": 1.50},\n'
    b' "choices": [{"index": 0, "message": {"role": "assistant", "content": "Gr\\u00fc\\u00dfe"},'
    b' "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}'
)


def _event(delta: bytes, finish: bytes = b"null") -> bytes:
    return (
        b'data: {"id":"chatcmpl-1", "object":"chat.completion.chunk","created":1,"model":"mock","x_own":1.50,'
        b'"choices":[{"index":0,"delta":' + delta + b',"finish_reason":' + finish + b"}]}\n\n"
    )


EVENTS = (
    _event(b'{"role":"assistant","content":""}'),
    _event(b'{"content":"Hello"}'),
    _event(b'{"content":" \\ud83d\\ude00"}'),
    _event(b"{}", b'"stop"'),
    b"data: [DONE]\n\n",
)
ENDLESS = Behaviour(chunks=1_000_000_000)


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    """The server, with the upstream added as a provider over REST."""
    async with serving(app, tenants[0]) as running:
        await running.provide(vendor.provider(upstream))
        yield running


@pytest.fixture
def needs_weights(app: App, admin: Principal) -> None:
    if any(model.id == "builtin/minilm" and model.unavailable for model in app.gateway.models(admin)):
        pytest.skip("the weights are not installed: run `gimle setup`")


async def test_the_sdk_gets_an_answer_and_the_headers_of_the_contract(sdk: openai.AsyncOpenAI) -> None:
    raw = await sdk.chat.completions.with_raw_response.create(
        model="stand/mock",
        messages=[{"role": "user", "content": "Hello"}],
        extra_headers={"x-request-id": "mine-1"},
    )
    assert raw.parse().choices[0].message.content == "".join(WORDS)
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.headers["x-gimle-provider"] == "stand"
    assert raw.headers["x-gimle-model"].endswith("mock")
    assert raw.headers["x-gimle-attempts"] == "1"
    assert 0 < float(raw.headers["x-gimle-overhead-ms"]) < 1000


async def test_our_fields_and_the_callers_key_never_reach_the_provider(served: Served, upstream: Upstream) -> None:
    body = {
        "model": "stand/mock",
        "messages": HELLO,
        "x_unknown": {"kept": 1},
        "gimle": {"case": "c1"},
    }
    answer = await served.http.post("/v1/chat/completions", json=body, headers={"x-gimle-policy": "cheapest"})
    assert answer.status_code == 200
    sent = upstream.received[-1].json
    assert "gimle" not in sent
    assert sent["x_unknown"] == {"kept": 1}
    assert sent["model"] == "mock"
    assert served.token not in str(upstream.received[-1].headers)
    assert "x-gimle-dropped" not in answer.headers
    assert answer.headers["x-gimle-decision"] == "named; stand/mock"


async def test_a_plain_answer_comes_back_byte_for_byte(served: Served, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(body=WHOLE))
    answer = await served.http.post("/v1/chat/completions", json={"model": "stand/mock", "messages": HELLO})
    assert answer.content == WHOLE


async def test_a_stream_comes_back_byte_for_byte(served: Served, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(events=EVENTS))
    body = {"model": "stand/mock", "messages": HELLO, "stream": True}
    answer = await served.http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.content == b"".join(EVENTS)


async def test_the_sdk_reads_a_stream(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(events=EVENTS))
    stream = await sdk.chat.completions.create(
        model="stand/mock", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "Hello 😀"


async def test_a_providers_refusal_of_the_request_is_passed_on(served: Served, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(status=400, body=b'{"error":{"message":"no","type":"invalid_request_error"}}'))
    body = {"model": "stand/mock", "messages": HELLO}
    answer = await served.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json() == {"error": {"message": "no", "type": "invalid_request_error"}}


async def test_a_caller_who_leaves_takes_a_waiting_call_along(served: Served, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(head_delay=60.0))
    body = json.dumps({"model": "stand/mock", "messages": HELLO}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(served.head("POST", "/v1/chat/completions", len(body)) + body)
    await asyncio.wait_for(upstream.arrived.wait(), 5)
    writer.close()
    await asyncio.wait_for(upstream.left.wait(), 5)


async def test_a_caller_who_leaves_ends_the_stream_upstream(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.plan.append(ENDLESS)
    stream = await sdk.chat.completions.create(
        model="stand/mock", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    await anext(aiter(stream))
    await stream.close()
    await asyncio.wait_for(upstream.left.wait(), 5)


async def test_a_caller_who_reads_slowly_slows_the_provider_down(served: Served, upstream: Upstream) -> None:
    upstream.plan.append(ENDLESS)
    body = {"model": "stand/mock", "messages": HELLO, "stream": True}
    async with served.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        await anext(answer.aiter_raw())
        held = -1
        # The caller reads no more: buffers fill, and then nothing may move.
        while held != upstream.sent:
            held = upstream.sent
            await asyncio.sleep(1)
        assert held < 64 * 1024 * 1024
    await asyncio.wait_for(upstream.left.wait(), 5)


async def test_a_stream_that_breaks_never_looks_finished(
    sdk: openai.AsyncOpenAI, served: Served, upstream: Upstream
) -> None:
    upstream.usual = Behaviour(events=EVENTS, cut_after=2)
    stream = await sdk.chat.completions.create(
        model="stand/mock", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    with pytest.raises(openai.APIError):
        async for _ in stream:
            pass
    body = {"model": "stand/mock", "messages": HELLO, "stream": True}
    answer = await served.http.post("/v1/chat/completions", json=body)
    assert b"[DONE]" not in answer.content
    last = answer.content.rstrip().rsplit(b"\n\n", 1)[-1]
    assert json.loads(last.removeprefix(b"data: "))["error"]["type"] == "server_error"


async def test_a_question_of_ten_megabytes_to_the_documents_names_its_message(served: Served) -> None:
    messages = [*HELLO, {"role": "user", "content": "long words " * 1_000_000}]
    for stream in (False, True):
        body = {"messages": messages, "gimle": {"collection": "default"}, "stream": stream}
        answer = await served.http.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[1]")
    assert (await served.http.get("/health/live")).status_code == 200


async def test_models_are_listed_and_found(sdk: openai.AsyncOpenAI) -> None:
    listed = [model.id async for model in sdk.models.list()]
    assert "builtin/extract" in listed
    assert "stand/mock" in listed
    assert (await sdk.models.retrieve("builtin/extract")).owned_by == "builtin"
    with pytest.raises(openai.NotFoundError) as unknown:
        await sdk.models.retrieve("builtin/none")
    assert unknown.value.code == "model_not_found"


async def test_the_builtin_model_chats(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(
        model="builtin/extract", messages=[{"role": "user", "content": "Who are you?"}]
    )
    assert answer.choices[0].message.content
    stream = await sdk.chat.completions.create(
        model="builtin/extract", messages=[{"role": "user", "content": "Who are you?"}], stream=True
    )
    said = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert "".join(said) == answer.choices[0].message.content


async def test_embeddings_are_the_same_as_floats_and_as_base64(served: Served, needs_weights: None) -> None:
    body = {"model": "builtin/minilm", "input": ["a bee", "a hive"]}
    floats = (await served.http.post("/v1/embeddings", json=body)).json()
    packed = (await served.http.post("/v1/embeddings", json=body | {"encoding_format": "base64"})).json()
    assert [len(item["embedding"]) for item in floats["data"]] == [384, 384]
    for as_list, as_text in zip(floats["data"], packed["data"], strict=True):
        assert struct.unpack("<384f", b64decode(as_text["embedding"])) == pytest.approx(as_list["embedding"])
    assert floats["usage"]["prompt_tokens"] > 0


async def test_the_sdk_embeds(sdk: openai.AsyncOpenAI, needs_weights: None) -> None:
    one = await sdk.embeddings.create(model="builtin/minilm", input="a bee")
    assert len(one.data[0].embedding) == 384
    with pytest.raises(openai.BadRequestError) as wrong:
        await sdk.embeddings.create(model="builtin/minilm", input="a bee", dimensions=100)
    assert wrong.value.param == "dimensions"


WRONG_EMBEDDINGS: tuple[tuple[dict[str, object], str], ...] = (
    ({"model": "builtin/minilm"}, "input"),
    ({"input": "a"}, "model"),
    ({"model": "builtin/minilm", "input": [1, 2, 3]}, "input"),
    ({"model": "builtin/minilm", "input": [[1, 2], [3]]}, "input"),
    ({"model": "builtin/minilm", "input": []}, "input"),
    ({"model": "builtin/minilm", "input": ["a", " "]}, "input[1]"),
    ({"model": "builtin/minilm", "input": {"a": 1}}, "input"),
    ({"model": "builtin/minilm", "input": "a", "encoding_format": "hex"}, "encoding_format"),
    ({"model": "builtin/minilm", "input": "a", "dimensions": "many"}, "dimensions"),
)


async def test_a_wrong_embeddings_request_names_its_field(served: Served) -> None:
    for body, param in WRONG_EMBEDDINGS:
        answer = await served.http.post("/v1/embeddings", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), body


async def test_an_unknown_model_names_the_field_and_the_code(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await sdk.chat.completions.create(model="nobody/nothing", messages=[{"role": "user", "content": "Hello"}])
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
