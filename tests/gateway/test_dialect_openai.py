"""OpenAI's wire format: what is checked of a caller, and how a provider's refusals are understood."""

import base64
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.gateway.calls import call, parsed

from gimle.foundation.errors import ContextTooLong, InvalidRequest, RateLimitedError, UpstreamError
from gimle.gateway.dialects.openai import DIALECT
from gimle.gateway.inside import word_by_word
from gimle.gateway.neutral import (
    Added,
    Ask,
    Began,
    Choice,
    Delta,
    Finished,
    Opened,
    Reasoning,
    Reply,
    Text,
    Thinking,
    ToolCall,
    Turn,
    Usage,
)
from gimle.gateway.streams import Relay
from gimle.gateway.types import Chat, Embeddings, Provider, ProviderModel

PLAIN = Provider(name="mock", base_url="http://127.0.0.1:1/v1")
ASK = Ask(turns=(Turn(role="user", parts=(Text(text="Hi"),)),), max_tokens=5)


def _spoken(text: str) -> Reply:
    usage = Usage(uncached=1, output=2)
    return Reply(
        id="chatcmpl_1", model="builtin/extract", created=1, choices=(Choice(parts=(Text(text=text),)),), usage=usage
    )


assert DIALECT.chat is not None
assert DIALECT.embeddings is not None
CHAT: Chat = DIALECT.chat
VECTORS: Embeddings = DIALECT.embeddings


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
        CHAT.inspect(call(**fields))
    assert raised.value.field == field


def test_nesting_without_end_is_refused() -> None:
    asked = call()
    asked.body["tools"] = msgspec.Raw(b'[{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}]")
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        CHAT.inspect(asked)
    for read in (CHAT.watch(), CHAT.read_usage, CHAT.read_reply, CHAT.read_events(), DIALECT.read_models):
        with pytest.raises(UpstreamError):
            read(b'{"choices":[{"delta":{"x":' + b"[" * 100_000)


def test_messages_must_be_there() -> None:
    asked = call()
    del asked.body["messages"]
    with pytest.raises(InvalidRequest) as raised:
        CHAT.inspect(asked)
    assert raised.value.field == "messages"


def test_nulls_and_unknown_fields_are_no_fault() -> None:
    prompt = CHAT.inspect(call(max_tokens=None, temperature=None, stop=None, tools=None, x_new=[1], n=1))
    assert prompt.max_tokens is None
    assert not prompt.capabilities


def test_what_a_request_needs() -> None:
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]
    assert CHAT.inspect(call(messages=image)).capabilities == {"vision"}
    assert CHAT.inspect(call(tools=[{"type": "function"}])).capabilities == {"tools"}
    assert CHAT.inspect(call(response_format={"type": "json_object"})).capabilities == {"json_schema"}
    assert CHAT.inspect(call(response_format={"type": "text"})).capabilities == frozenset()


def test_stream_options_of_the_caller_are_kept() -> None:
    asked = call(stream=True, stream_options={"include_usage": False, "include_obfuscation": False})
    body = json.loads(CHAT.patch(asked, "m", PLAIN))
    assert body["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert body["model"] == "m"


def test_a_whole_request_is_not_asked_for_its_usage() -> None:
    assert "stream_options" not in json.loads(CHAT.patch(call(), "m", PLAIN))


def test_the_limit_has_the_name_that_the_provider_knows() -> None:
    newer = msgspec.structs.replace(PLAIN, max_tokens_field="max_completion_tokens")
    assert json.loads(CHAT.write_request(ASK, "m", newer).body)["max_completion_tokens"] == 5
    assert json.loads(CHAT.write_request(ASK, "m", PLAIN).body)["max_tokens"] == 5
    asked = call(max_tokens=9, max_completion_tokens=8)
    assert json.loads(CHAT.patch(CHAT.shorten(asked, 5, newer), "m", newer)) == {
        "model": "m", "messages": json.loads(bytes(asked.body["messages"])), "max_completion_tokens": 5,
    }  # fmt: skip


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
    vectors, tokens = VECTORS.read(body, 1)
    assert (vectors.tolist(), tokens) == ([[1.0, -2.0]], 2)


@pytest.mark.parametrize("embedding", ["!!", "YQ==", [1e39], []])
def test_vectors_that_are_none(embedding: object) -> None:
    body = json.dumps({"data": [{"index": 0, "embedding": embedding}]}).encode()
    with pytest.raises(UpstreamError):
        VECTORS.read(body, 1)


@pytest.mark.parametrize("text", ["", " ", "a", " a  b\n\nc ", "Grüße, 🐝!\n", "\n"])
def test_what_an_engine_says_is_streamed_whole(text: str) -> None:
    write = CHAT.write_events(True)
    events = b"".join(map(write, word_by_word(_spoken(text)))).split(b"\n\n")[:-1]
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
    assert events[-1] == b"data: [DONE]"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == text
    assert chunks[-1]["usage"]["total_tokens"] == 3
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert CHAT.read_reply(CHAT.write_reply(_spoken(text))).choices[0].text == text


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
    assert CHAT.inspect(asked).max_tokens == 50
    assert json.loads(CHAT.patch(asked, "m", PLAIN)) == {**body, "model": "m"}


def _answered(message: dict[str, Any], reason: str | None = "stop") -> bytes:
    choices = [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}]
    return json.dumps({"id": "chatcmpl-1", "model": "m", "created": 1, "choices": choices}).encode()


def _read(*pieces: dict[str, Any], reason: str | None = None) -> list[Delta]:
    """What a stream says whose chunks hold these deltas, the last of them with the end."""
    reader, deltas = CHAT.read_events(), list[Delta]()
    for at, piece in enumerate(pieces, 1):
        choices = [{"index": 0, "delta": piece, "finish_reason": reason if at == len(pieces) else None}]
        deltas += reader(json.dumps({"id": "chatcmpl-1", "model": "m", "created": 1, "choices": choices}).encode())
    return deltas[1:]


def _called(id_: str, arguments: str, index: int = 0) -> dict[str, Any]:
    return {"index": index, "id": id_, "type": "function", "function": {"name": "look", "arguments": arguments}}


def test_a_named_tool_s_call_ends_as_calls_do() -> None:
    said = {"tool_calls": [_called("call_1", "{}")]}
    assert CHAT.read_reply(_answered(said)).choices[0].finish == "tools"
    assert _read(said, {}, reason="stop")[-1] == Finished(finish="tools")
    assert CHAT.read_reply(_answered(said, "length")).choices[0].finish == "length"


@pytest.mark.parametrize("reason", ["error", "insufficient_system_resource", "abort"])
def test_an_answer_that_the_provider_gave_up_is_none(reason: str) -> None:
    with pytest.raises(UpstreamError, match=reason):
        CHAT.read_reply(_answered({"content": "The bees"}, reason))
    with pytest.raises(UpstreamError, match=reason):
        _read({"content": "The bees"}, {}, reason=reason)


def test_an_answer_up_to_the_end_of_the_window_is_cut() -> None:
    assert CHAT.read_reply(_answered({"content": "The bees"}, "model_length")).choices[0].finish == "length"


def test_thoughts_among_the_words() -> None:
    """As Mistral tells them."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Bees"}, {"type": "text", "text": "..."}]}
    cited = {"type": "reference", "reference_ids": [1]}
    said = {"content": [thought, {"type": "text", "text": "In May."}, cited]}
    assert CHAT.read_reply(_answered(said)).choices[0].parts == (Thinking(text="Bees..."), Text(text="In May."))
    assert _read({"content": [thought]}, {"content": [thought]}, {"content": "In "}, {"content": "May."}) == [
        Began(part=Thinking(), at=0),
        Added(text="Bees...", at=0),
        Added(text="Bees...", at=0),
        Began(part=Text(text=""), at=1),
        Added(text="In ", at=1),
        Added(text="May.", at=1),
    ]


@pytest.mark.parametrize(
    "written",
    [
        # xAI's thoughts are no part of the completion; OpenAI's are.
        {"completion_tokens": 1499, "total_tokens": 14428},
        {"completion_tokens": 4308, "total_tokens": 14428},
        {"completion_tokens": 4308},
    ],
)
def test_thoughts_are_counted_once(written: dict[str, Any]) -> None:
    told = {"prompt_tokens": 10120, "completion_tokens_details": {"reasoning_tokens": 2809}, **written}
    usage = CHAT.read_usage(json.dumps({"choices": [{"message": {}}], "usage": told}).encode())
    assert usage == Usage(uncached=10120, output=1499, reasoning=2809)


def test_thoughts_go_back_with_their_calls_where_the_provider_wants_them() -> None:
    """As DeepSeek does; Mistral refuses the field."""
    called = ToolCall(id="call_1", name="look", arguments="{}")
    turns = (
        Turn(role="assistant", parts=(Thinking(text="Hm"), called)),
        Turn(role="assistant", parts=(called,)),
        Turn(role="assistant", parts=(Thinking(text="So"), Text(text="A hive."))),
    )
    ask = msgspec.structs.replace(ASK, turns=turns)
    deepseek = CHAT.write_request(ask, "m", msgspec.structs.replace(PLAIN, takes_thoughts=True))
    sent = [message.get("reasoning_content") for message in json.loads(deepseek.body)["messages"]]
    assert sent == ["Hm", "", None]
    assert deepseek.dropped == ("turns[2].parts[0]",)
    other = CHAT.write_request(ask, "m", PLAIN)
    assert b"reasoning_content" not in other.body
    assert other.dropped == ("turns[0].parts[0]", "turns[2].parts[0]")


def test_calls_that_share_an_index_stay_apart() -> None:
    more = {"index": 0, "function": {"arguments": "1}"}}
    parts = _read({"tool_calls": [_called("a", '{"x":'), more]}, {"tool_calls": [_called("b", '{"y":'), more]})
    assert parts == [
        Began(part=ToolCall(id="a", name="look"), at=0),
        Added(text='{"x":', at=0),
        Added(text="1}", at=0),
        Began(part=ToolCall(id="b", name="look"), at=1),
        Added(text='{"y":', at=1),
        Added(text="1}", at=1),
    ]


def test_a_call_that_is_named_again_is_the_same() -> None:
    """Some servers repeat the id and the name with each piece, and some make up an id for each."""
    begun = [Began(part=ToolCall(id="a", name="look"), at=0), Added(text='{"x":', at=0), Added(text="1}", at=0)]
    unnamed = {"index": 0, "id": "c", "function": {"arguments": "1}"}}
    for more in (_called("a", "1}"), unnamed):
        assert _read({"tool_calls": [_called("a", '{"x":')]}, {"tool_calls": [more]}) == begun


def test_a_stream_opens_where_the_answer_begins() -> None:
    """As Azure tells it."""
    reader = CHAT.read_events()
    filtered = b'{"id":"","model":"","created":0,"object":"","choices":[],"prompt_filter_results":[{"prompt_index":0}]}'
    said = b'{"id":"chatcmpl-1","model":"gpt-4o","created":7,"choices":[{"index":0,"delta":{"role":"assistant"}}]}'
    assert [*reader(filtered), *reader(said)] == [Opened(id="chatcmpl-1", model="gpt-4o", created=7)]


def test_what_it_writes_it_can_read() -> None:
    spoken = _spoken("Grüße, 🐝!")
    assert CHAT.read_usage(CHAT.write_reply(spoken)) == spoken.usage
    relay, write = Relay(CHAT.watch(), show_usage=True), CHAT.write_events(True)
    for event in map(write, word_by_word(spoken)):
        assert relay.feed(event) == event
    assert relay.over
    assert relay.usage == spoken.usage


EVERYTHING: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "developer", "content": "Answer in one word."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What are these?"},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/"}},
                {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
            ],
            "name": "anna",
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1.0}'}},
                {
                    "id": "call_2",
                    "type": "function",
                    "function": {"name": "look", "arguments": "{}"},
                    "extra_content": {"google": {"thought_signature": "c2ln"}},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "a hive"},
        {"role": "tool", "tool_call_id": "call_2", "content": "a bee"},
        {"role": "assistant", "content": "I won't.", "refusal": "No."},
        {"role": "user", "content": "Why?"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}},
        },
        {"type": "custom", "custom": {"name": "grammar"}},
    ],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": {"x": 1}}},
    "max_tokens": 50,
    "temperature": 0.5,
    "top_p": 0.9,
    "stop": ["END"],
    "seed": 7,
    "n": 2,
    "logprobs": True,
    "top_logprobs": 3,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.2,
    "reasoning_effort": "low",
    "verbosity": "low",
    "user": "u",
    "service_tier": "flex",
    "metadata": {"a": "b"},
    "logit_bias": {"50256": -100},
}


def test_all_that_a_request_says_comes_through() -> None:
    asked = parsed(json.dumps(EVERYTHING).encode(), "m")
    written = CHAT.write_request(CHAT.read_request(asked), "m", PLAIN)
    assert json.loads(written.body) == EVERYTHING
    assert written.dropped == ()


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "film"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": 3}]}]}, "messages[0].tool_calls[0].id"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [3]}, "tools[0]"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
    ],
)
def test_what_can_not_be_said_otherwise_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        CHAT.read_request(call(**fields))
    assert raised.value.field == field


def test_a_budget_of_thinking_becomes_an_effort_and_is_told() -> None:
    ask = msgspec.structs.replace(ASK, reasoning=Reasoning(budget=3000), top_k=4)
    written = CHAT.write_request(ask, "m", PLAIN)
    assert json.loads(written.body)["reasoning_effort"] == "low"
    assert written.dropped == ("top_k", "reasoning.budget")


@pytest.mark.parametrize(
    "reasoning, effort", [(Reasoning(budget=-1), None), (Reasoning(effort="none", budget=0), "none")]
)
def test_gemini_s_budgets_that_are_no_numbers(reasoning: Reasoning, effort: str | None) -> None:
    written = CHAT.write_request(msgspec.structs.replace(ASK, reasoning=reasoning), "m", PLAIN)
    assert json.loads(written.body).get("reasoning_effort") == effort
    assert written.dropped == ()


def test_a_model_that_does_not_reason_is_not_told_how_much() -> None:
    listed = (ProviderModel(name="plain"), ProviderModel(name="deep", capabilities=("reasoning",)))
    vendor, ask = (
        msgspec.structs.replace(PLAIN, models=listed),
        msgspec.structs.replace(ASK, reasoning=Reasoning(effort="low")),
    )
    own = msgspec.structs.replace(vendor, local=True)
    for model, provider, effort in (
        ("plain", vendor, None), ("deep", vendor, "low"), ("unlisted", vendor, "low"), ("plain", own, "low"),
    ):  # fmt: skip
        written = CHAT.write_request(ask, model, provider)
        assert json.loads(written.body).get("reasoning_effort") == effort
        assert written.dropped == (() if effort else ("reasoning",))
