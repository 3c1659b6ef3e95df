"""Callers of OpenAI's dialect before a stand-in that speaks Gemini's: whole, streamed, refused."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.calls import ANNA, call, opened, read, replied, streamed
from tests.gateway.geminis import RECORDED

from gimle.foundation.errors import InvalidRequest, RateLimitedError, UpstreamError
from gimle.gateway.gateway import Gateway
from gimle.testing import Behaviour, Upstream

STREAM = "".join(RECORDED["stream"]).encode()


@pytest.fixture
async def gateway(upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setenv("GEMINI_API_KEY", "secret")
    async with opened(tmp_path, {"google": {"base_url": upstream.url}}) as gateway:
        yield gateway


def chunks(told: bytes) -> list[dict[str, Any]]:
    datas = [line.removeprefix(b"data: ") for line in told.split(b"\n\n") if line]
    assert datas[-1] == b"[DONE]"
    return [json.loads(data) for data in datas[:-1]]


async def test_a_whole_answer(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(body=json.dumps(RECORDED["reply"]).encode()))
    reply = replied(await gateway.chat(ANNA, call("google/gemini-2.5-flash", max_tokens=9, user="u1")))
    asked = upstream.received[0]
    assert asked.path == "/v1/models/gemini-2.5-flash:generateContent"
    assert asked.headers["x-goog-api-key"] == "secret"
    assert "authorization" not in asked.headers
    assert asked.json == {
        "contents": [{"role": "user", "parts": [{"text": "When do bees swarm?"}]}],
        "generationConfig": {"maxOutputTokens": 9},
    }
    assert reply.dropped == ("user",)
    body = json.loads(reply.body)
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "I look it up."
    first, second = choice["message"]["tool_calls"]
    assert (first["id"], first["function"]["name"]) == ("x3v8", "check_flight")
    assert json.loads(first["function"]["arguments"]) == {"flight": "AA100", "price": 1.5}
    assert second["id"]
    assert body["usage"]["prompt_tokens"] == 120
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 100
    assert body["usage"]["completion_tokens"] == 31 + 74


async def test_a_stream(gateway: Gateway, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(body=STREAM, headers={"content-type": "text/event-stream"}))
    asked = call("google/gemini-2.5-flash", stream=True, stream_options={"include_usage": True})
    told = chunks(await read(streamed(await gateway.chat(ANNA, asked))))
    assert upstream.received[0].path == "/v1/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    deltas = [choice["delta"] for chunk in told for choice in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Größe: drei 🐝."
    (tool,) = [made for delta in deltas for made in delta.get("tool_calls", []) if made.get("id")]
    assert tool["function"]["name"] == "check_flight"
    assert [c["finish_reason"] for chunk in told for c in chunk["choices"] if c["finish_reason"]] == ["tool_calls"]
    assert told[-1]["usage"]["prompt_tokens"] == 120


async def test_a_stream_that_is_cut_is_no_answer(gateway: Gateway, upstream: Upstream) -> None:
    whole = STREAM[: STREAM.rindex(b"data: ")]
    upstream.plan.append(Behaviour(body=whole, headers={"content-type": "text/event-stream"}))
    stream = streamed(await gateway.chat(ANNA, call("google/gemini-2.5-flash", stream=True)))
    with pytest.raises(UpstreamError):
        await read(stream)


async def test_a_conversation_with_tools_goes_back(gateway: Gateway, upstream: Upstream) -> None:
    """The answer's calls come back from the caller with their results, as OpenAI's clients send them."""
    reply_body = json.dumps(RECORDED["reply"]).encode()
    upstream.plan.extend([Behaviour(body=reply_body), Behaviour(body=reply_body)])
    first = json.loads(replied(await gateway.chat(ANNA, call("google/gemini-2.5-flash"))).body)["choices"][0]["message"]
    results = [
        {"role": "tool", "tool_call_id": made["id"], "content": f"result {n}"}
        for n, made in enumerate(first["tool_calls"])
    ]
    messages = [{"role": "user", "content": "When?"}, first, *reversed(results)]
    await gateway.chat(ANNA, call("google/gemini-2.5-flash", messages=messages))
    _, model, answers = upstream.received[1].json["contents"]
    assert [part["functionCall"].get("id") for part in model["parts"] if "functionCall" in part] == ["x3v8", None]
    said = [part["functionResponse"] for part in answers["parts"]]
    assert {(one["name"], one["response"]["output"]) for one in said} == {
        ("check_flight", "result 0"),
        ("get_time", "result 1"),
    }


@pytest.mark.parametrize(
    "status,error", [(400, InvalidRequest), (429, RateLimitedError), (403, UpstreamError), (503, UpstreamError)]
)
async def test_a_refusal(gateway: Gateway, upstream: Upstream, status: int, error: type[Exception]) -> None:
    told = [fault for fault in RECORDED["faults"] if fault["status"] == status][-1]
    upstream.usual = Behaviour(status=status, body=json.dumps(told["body"]).encode())
    with pytest.raises(error):
        await gateway.chat(ANNA, call("google/gemini-2.5-flash"))


async def test_many_texts_are_embedded_in_as_many_requests_as_it_takes(gateway: Gateway, upstream: Upstream) -> None:
    def vectors(count: int) -> Behaviour:
        return Behaviour(body=json.dumps({"embeddings": [{"values": [1.0, 0.0]}] * count}).encode())

    upstream.plan.extend([vectors(100), vectors(50)])
    made = await gateway.embed(ANNA, "gemini-embedding-001", ["bee"] * 150)
    assert made.vectors.shape == (150, 2)
    assert [len(asked.json["requests"]) for asked in upstream.received] == [100, 50]
