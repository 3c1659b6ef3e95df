"""Anthropic's answers, streams and refusals, as the vendor publishes them."""

import json
from typing import Any

import pytest
from tests.gateway.claude import CHAT, PUBLISHED, asked, datas, fixture, read, written_events

from gimle.foundation.errors import UpstreamError
from gimle.gateway import faults
from gimle.gateway.dialects.anthropic import DIALECT
from gimle.gateway.neutral import (
    Added,
    Began,
    Choice,
    Closed,
    Delta,
    Finished,
    Foreign,
    Opened,
    Refusal,
    Reply,
    Signed,
    Text,
    Thinking,
    ToolCall,
    Usage,
    Used,
)

# -- answers


def test_an_answer_says_all_that_it_says() -> None:
    body = json.dumps(fixture("reply.json")).encode()
    reply = CHAT.read_reply(body)
    (choice,) = reply.choices
    assert (reply.id, reply.model, choice.finish) == ("msg_01Aq9w938a90dw8q", "claude-opus-4-8", "tools")
    kinds = [type(part) for part in choice.parts]
    assert kinds == [Thinking, Thinking, Text, Foreign, ToolCall]
    assert reply.usage == Usage(uncached=2095, cache_read=1024, cache_write=2051, output=103, reasoning=400)
    assert CHAT.read_usage(body) == reply.usage
    written = json.loads(CHAT.write_reply(reply))
    expected = fixture("reply.json")
    for name in ("cache_creation", "service_tier"):
        del expected["usage"][name]
    assert written == expected


@pytest.mark.parametrize(
    "reason, finish",
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("stop_sequence", "stop"),
        ("tool_use", "tools"),
        ("pause_turn", "pause"),
        ("refusal", "refusal"),
        ("model_context_window_exceeded", "length"),
        ("a_new_reason", "stop"),
        (None, "stop"),
    ],
)
def test_why_an_answer_ended(reason: str | None, finish: str) -> None:
    reply = CHAT.read_reply(json.dumps({"content": [], "stop_reason": reason}).encode())
    assert reply.choices[0].finish == finish


def test_the_words_of_a_refusal_are_kept() -> None:
    details = {"type": "refusal", "category": None, "explanation": "I won't."}
    reply = CHAT.read_reply(json.dumps({"content": [], "stop_reason": "refusal", "stop_details": details}).encode())
    assert reply.choices[0].parts == (Refusal(text="I won't."),)
    assert json.loads(CHAT.write_reply(reply))["stop_details"] == details


def test_a_stop_sequence_is_told() -> None:
    reply = Reply(id="a", model="b", choices=(Choice(parts=(), finish="stop", stop_sequence="END"),))
    written = json.loads(CHAT.write_reply(reply))
    assert (written["stop_reason"], written["stop_sequence"]) == ("stop_sequence", "END")
    assert written["usage"]["input_tokens"] == 0


def test_a_call_that_is_no_json_is_no_answer() -> None:
    reply = Reply(id="a", model="b", choices=(Choice(parts=(ToolCall(id="a", name="b", arguments="{"),)),))
    with pytest.raises(UpstreamError):
        CHAT.write_reply(reply)


def test_a_foreign_signature_comes_back_with_its_call() -> None:
    part = ToolCall(id="a", name="b", arguments="{}", signature="sig")
    told = json.loads(CHAT.write_reply(Reply(id="a", model="b", choices=(Choice(parts=(part,), finish="tools"),))))
    said = CHAT.read_request(asked(messages=[{"role": "assistant", "content": told["content"]}]))
    assert said.turns[0].parts == (part,)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{}", b"<html>", b'{"content": 3}', b"\xff\xfe", b'{"error":{}}']
)
def test_what_is_no_answer_is_a_fault_of_the_provider(body: bytes) -> None:
    for check in (CHAT.read_usage, CHAT.read_reply):
        with pytest.raises(UpstreamError):
            check(body)


@pytest.mark.parametrize("body", [b'{"content":[3]}', b'{"content":[{"type":"text"}]}', b'{"content":[{}]}'])
def test_a_block_that_is_none_is_a_fault_of_the_provider(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        CHAT.read_reply(body)


# -- streams


def test_a_stream_of_text() -> None:
    opened, *rest = read(datas("text.sse"))
    assert opened == Opened(
        id="msg_1nZdL29xx5MUA1yADyHTEsnR8uuvGzszyY",
        model="claude-opus-4-8",
        usage=Usage(uncached=25, cache_read=7, output=1),
    )
    assert rest == [
        Began(part=Text(text=""), at=0),
        Added(text="Grüß", at=0),
        Added(text=" Gott 🐝!", at=0),
        Finished(finish="stop", stop_sequence="END"),
        Used(usage=Usage(uncached=25, cache_read=7, output=15)),
        Closed(),
    ]


def test_a_stream_of_thoughts_and_tools() -> None:
    _, *rest = read(datas("tools.sse"))
    search = {
        "type": "server_tool_use",
        "id": "srvtoolu_014hJH82Qum7Td6UV8gDXThB",
        "name": "web_search",
        "input": {"query": "weather NYC"},
    }
    assert rest == [
        Began(part=Thinking(), at=0),
        Added(text="I need the weather.", at=0),
        Signed(signature="EqQBCgIYAhIM1gbcDa9GJwZA2b3h", at=0),
        Began(part=Thinking(sealed="EmwKAhgBEgy3va3pzix/LafPsn4a"), at=1),
        Began(part=Text(text=""), at=2),
        Added(text="Okay", at=2),
        Began(part=Foreign(dialect="anthropic", raw=search), at=3),
        Began(part=ToolCall(id="toolu_01T1x1fJ34qAmk2tNTrN7Up6", name="get_weather"), at=4),
        Added(text='{"location":', at=4),
        Added(text='  "San Francisco, CA"}', at=4),
        Began(part=ToolCall(id="toolu_01T1x1fJ34qAmk2tNTrN7Up7", name="look"), at=5),
        Added(text="{}", at=5),
        Finished(finish="tools"),
        Used(usage=Usage(uncached=472, output=69, reasoning=20)),
        Closed(),
    ]


def test_a_stream_of_a_refusal() -> None:
    _, *rest = read(datas("refusal.sse"))
    assert rest[:3] == [
        Began(part=Refusal(text=""), at=0),
        Added(text="This request would enable harm.", at=0),
        Finished(finish="refusal"),
    ]
    written = json.loads(written_events(read(datas("refusal.sse")))[-2][1])
    assert written["delta"]["stop_details"]["explanation"] == "This request would enable harm."


def test_an_error_in_a_stream_is_the_providers() -> None:
    for check in (CHAT.watch(), CHAT.read_events()):
        with pytest.raises(UpstreamError, match="overloaded_error.*Overloaded"):
            for data in datas("error.sse"):
                check(data)


@pytest.mark.parametrize("data", [b"", b"null", b"<html>", b"{}", b'{"type": 3}', b"\xff\xfe", b'{"type":"error"}'])
def test_what_is_no_event_is_a_fault_of_the_provider(data: bytes) -> None:
    for check in (CHAT.watch(), CHAT.read_events()):
        with pytest.raises(UpstreamError):
            check(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"type":"content_block_delta","index":3,"delta":{"type":"text_delta","text":"a"}}',
        b'{"type":"content_block_start","index":0}',
        b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":3}}',
        b'{"type":"content_block_start","index":0,"content_block":{"type":"image","source":{"type":"url","url":"a"}}}',
        b'{"type":"content_block_delta","delta":3}',
    ],
)
def test_an_event_out_of_place_is_a_fault_of_the_provider(data: bytes) -> None:
    with pytest.raises(UpstreamError):
        CHAT.read_events()(data)


def test_what_is_seen_of_a_stream_that_passes() -> None:
    watch = CHAT.watch()
    events = [watch(data) for data in datas("tools.sse")]
    assert events[0].opened == (0,)
    assert [bool(event.content) for event in events].index(True) == 2
    assert [event.done for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-2].closed == (0,)
    assert events[-2].usage == Usage(uncached=472, output=69, reasoning=20)


def test_arguments_that_come_with_the_beginning() -> None:
    begun = {"type": "tool_use", "id": "a", "name": "b", "input": {"x": 1}}
    said = read([json.dumps({"type": "content_block_start", "index": 0, "content_block": begun}).encode()])
    assert said == [Began(part=ToolCall(id="a", name="b"), at=0), Added(text='{"x": 1}', at=0)]


@pytest.mark.parametrize("name", ["text.sse", "tools.sse", "refusal.sse"])
def test_what_is_written_is_read_the_same(name: str) -> None:
    told = read(datas(name))
    written = written_events(told)
    assert all(json.loads(data)["type"] == name for name, data in written)
    again = read([data.encode() for _, data in written])
    assert again == told


def test_the_order_of_a_written_stream() -> None:
    names = [name for name, _ in written_events(read(datas("tools.sse")))]
    # No block begins before the one before it has ended.
    opens = 0
    for name in names:
        opens += (name == "content_block_start") - (name == "content_block_stop")
        assert opens in (0, 1)
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]


def test_parts_that_are_mixed_come_under_their_numbers() -> None:
    told: list[Delta] = [
        Opened(id="a", model="b"),
        Began(part=Refusal(text=""), at=0),
        Began(part=ToolCall(id="x", name="x"), at=1),
        Began(part=ToolCall(id="y", name="y"), at=2),
        Added(text="{}", at=1),
        Added(text="[]", at=2),
        Began(part=Foreign(dialect="openai", raw={}), at=3),
        Began(part=Text(text=""), at=0, choice=1),
        Signed(signature="s", at=1),
        Closed(),
    ]
    events = [json.loads(data) for _, data in written_events(told)]
    added = [(event["index"], event["delta"]["partial_json"]) for event in events if "partial_json" in str(event)]
    assert added == [(0, "{}"), (1, "[]")]
    assert events[-2]["delta"]["stop_reason"] == "end_turn"


# -- faults


@pytest.mark.parametrize("told", PUBLISHED["faults"], ids=lambda told: f"{told['status']} {told['code']}")
def test_it_knows_whose_fault_it_is(told: dict[str, Any]) -> None:
    headers = told.get("headers", {})
    fault = DIALECT.read_fault(told["status"], headers, json.dumps(told["body"]).encode())
    fault = faults.held(fault, told["status"], faults.waiting(headers, now=0.0))
    assert fault.error.code == told["code"]
    assert fault.again == told["again"]
    assert fault.passable == told.get("passable", False)
    assert fault.after == told.get("after", 0.0)
    assert "sk-12" not in fault.error.message


@pytest.mark.parametrize(
    "headers, after",
    [
        ({"retry-after": "soon"}, 1.0),
        ({"retry-after": "-1"}, 1.0),
        ({"anthropic-ratelimit-tokens-remaining": "0"}, 1.0),
        ({"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "soon", "date": "now"}, 1.0),
        ({}, 1.0),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], after: float) -> None:
    assert DIALECT.read_fault(429, headers, b"").after == after


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 100_000, b'{"error": 3}'])
def test_a_refusal_in_no_form_is_still_one(body: bytes) -> None:
    assert DIALECT.read_fault(400, {}, body).error.code == "invalid_request"
    assert DIALECT.read_fault(500, {}, body).again


def test_a_key_and_a_version_go_along() -> None:
    assert DIALECT.key_headers("sk-ant-1") == (("x-api-key", "sk-ant-1"), ("anthropic-version", "2023-06-01"))
    assert DIALECT.read_models(json.dumps(PUBLISHED["models"]).encode()) == 2
