"""OpenAI's wire format: what is checked of a caller, and how a provider's refusals are understood."""

import base64
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.gateway.calls import call

from gimle.foundation.errors import ContextTooLong, InvalidRequest, RateLimitedError, UpstreamError
from gimle.gateway.dialects.openai import DIALECT
from gimle.gateway.streams import Relay
from gimle.gateway.types import Provider, Spoken, Usage

PLAIN = Provider(name="mock", base_url="http://127.0.0.1:1/v1")
SAID = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"content": "Hi"}]}, "messages[0]"),
        ({"messages": [{"role": "boss", "content": "Hi"}]}, "messages[0].role"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 0}, "n"),
        ({"tools": {}}, "tools"),
        ({"stop": 3}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": "json"}, "response_format"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        DIALECT.read_chat(call(**fields))
    assert raised.value.field == field


def test_nesting_without_end_is_refused() -> None:
    asked = call()
    asked.body["tools"] = msgspec.Raw(b'[{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}]")
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        DIALECT.read_chat(asked)
    for read in (DIALECT.read_event, DIALECT.read_reply, DIALECT.read_models):
        with pytest.raises(UpstreamError):
            read(b'{"choices":[{"delta":{"x":' + b"[" * 100_000)


def test_messages_must_be_there() -> None:
    asked = call()
    del asked.body["messages"]
    with pytest.raises(InvalidRequest) as raised:
        DIALECT.read_chat(asked)
    assert raised.value.field == "messages"


def test_nulls_and_unknown_fields_are_no_fault() -> None:
    prompt = DIALECT.read_chat(call(max_tokens=None, temperature=None, stop=None, tools=None, x_new=[1], n=1))
    assert prompt.max_tokens is None
    assert not prompt.capabilities


def test_what_a_request_needs() -> None:
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]
    assert DIALECT.read_chat(call(messages=image)).capabilities == {"vision"}
    assert DIALECT.read_chat(call(tools=[{"type": "function"}])).capabilities == {"tools"}
    assert DIALECT.read_chat(call(response_format={"type": "json_object"})).capabilities == {"json_schema"}
    assert DIALECT.read_chat(call(response_format={"type": "text"})).capabilities == frozenset()


def test_parts_of_text_are_joined_for_an_engine() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    asked = call(messages=[{"role": "system", "content": None}, {"role": "user", "content": parts}])
    assert DIALECT.read_messages(asked) == [
        {"role": "system", "content": ""},
        {"role": "user", "content": "one\ntwo"},
    ]


def test_stream_options_of_the_caller_are_kept() -> None:
    asked = call(stream=True, stream_options={"include_usage": False, "include_obfuscation": False})
    body = json.loads(DIALECT.write_chat(asked, "m", PLAIN))
    assert body["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert body["model"] == "m"


def test_a_whole_request_is_not_asked_for_its_usage() -> None:
    assert "stream_options" not in json.loads(DIALECT.write_chat(call(), "m", PLAIN))


def test_the_limit_has_the_name_that_the_provider_knows() -> None:
    newer = msgspec.structs.replace(PLAIN, max_tokens_field="max_completion_tokens")
    assert "max_completion_tokens" in DIALECT.compose_chat(newer, SAID, 5, None).body
    assert "max_tokens" in DIALECT.compose_chat(PLAIN, SAID, 5, None).body


@pytest.mark.parametrize(
    "status, body, kind, again",
    [
        (500, b"", UpstreamError, True),
        (503, b"<html>", UpstreamError, True),
        (529, b'{"error":{"message":"overloaded"}}', UpstreamError, True),
        (408, b"", UpstreamError, True),
        (401, b"", UpstreamError, False),
        (403, b"", UpstreamError, False),
        (402, b"", UpstreamError, False),
        (302, b"", UpstreamError, False),
        (429, b'{"error":{"message":"slow down"}}', RateLimitedError, True),
        (429, b'{"error":{"message":"broke","type":"insufficient_quota"}}', RateLimitedError, False),
        (400, b'{"error":{"message":"bad"}}', InvalidRequest, False),
        (400, b'{"error":{"message":"x","code":"context_length_exceeded"}}', ContextTooLong, False),
        (400, b'{"error":{"message":"the prompt exceeds the context window"}}', ContextTooLong, False),
        (422, b'{"detail":"bad"}', InvalidRequest, False),
        (400, b"\xff", InvalidRequest, False),
        (400, b"[" * 100_000, InvalidRequest, False),
    ],
)
def test_what_a_refusal_means(status: int, body: bytes, kind: type[Exception], again: bool) -> None:
    fault = DIALECT.read_fault(status, {}, body)
    assert type(fault.error) is kind
    assert fault.again is again


@pytest.mark.parametrize(
    "headers, after",
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1.0),
        ({"retry-after": "inf"}, 1.0),
        ({"retry-after": "nan"}, 1.0),
        ({"retry-after": "-5"}, 1.0),
        ({}, 1.0),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], after: float) -> None:
    assert DIALECT.read_fault(429, headers, b"").after == after


def test_vectors_in_base64() -> None:
    packed = base64.b64encode(np.asarray([1.0, -2.0], dtype="<f4").tobytes()).decode()
    body = json.dumps({"data": [{"index": 0, "embedding": packed}], "usage": {"prompt_tokens": 2}}).encode()
    vectors, tokens = DIALECT.read_embeddings(body, 1)
    assert (vectors.tolist(), tokens) == ([[1.0, -2.0]], 2)


@pytest.mark.parametrize("embedding", ["!!", "YQ==", [1e39], []])
def test_vectors_that_are_none(embedding: object) -> None:
    body = json.dumps({"data": [{"index": 0, "embedding": embedding}]}).encode()
    with pytest.raises(UpstreamError):
        DIALECT.read_embeddings(body, 1)


@pytest.mark.parametrize("text", ["", " ", "a", " a  b\n\nc ", "Grüße, 🐝!\n", "\n"])
def test_what_an_engine_says_is_streamed_whole(text: str) -> None:
    usage = Usage(input_tokens=1, output_tokens=2)
    spoken = Spoken(id="chatcmpl_1", model="builtin/extract", created=1, text=text, usage=usage)
    events = list(DIALECT.write_events(spoken, True))
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
    assert events[-1] == b"data: [DONE]\n\n"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == text
    assert chunks[-1]["usage"]["total_tokens"] == 3
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert DIALECT.read_text(DIALECT.write_reply(spoken)) == text


def test_a_request_with_everything_in_it_passes_as_it_is() -> None:
    body: dict[str, Any] = {
        "messages": [
            {"role": "developer", "content": "Answer in one word."},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_1", "type": "function", "function": {}}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "a hive"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {}, "strict": True}}],
        "tool_choice": "auto",
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
        "max_completion_tokens": 50,
        "seed": 7,
        "logprobs": True,
        "top_logprobs": 3,
        "reasoning_effort": "low",
        "metadata": {"a": "b"},
    }
    asked = call(**body)
    assert DIALECT.read_chat(asked).max_tokens == 50
    assert json.loads(DIALECT.write_chat(asked, "m", PLAIN)) == {**body, "model": "m"}


def test_what_it_writes_it_can_read() -> None:
    spoken = Spoken(id="x", model="m", created=1, text="Grüße, 🐝!", usage=Usage(input_tokens=2, output_tokens=3))
    assert DIALECT.read_reply(DIALECT.write_reply(spoken)) == spoken.usage
    relay = Relay(DIALECT.read_event, show_usage=True)
    for event in DIALECT.write_events(spoken, True):
        assert relay.feed(event) == event
    assert relay.over
    assert relay.usage == spoken.usage
