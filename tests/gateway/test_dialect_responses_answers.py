"""What OpenAI's responses answer, whole and in pieces: what we write is what OpenAI's own SDK reads."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response
from tests.conformance.readers import events
from tests.gateway.responses import (
    CHAT,
    ITEM,
    JSON,
    USAGE,
    as_the_sdk_reads,
    raw,
    read,
    together,
    written,
)

from gimle.foundation.errors import UpstreamError
from gimle.gateway.neutral import (
    Added,
    Began,
    Choice,
    Closed,
    Delta,
    Finished,
    Foreign,
    Logprob,
    Opened,
    Part,
    Refusal,
    Reply,
    Text,
    Thinking,
    ToolCall,
    deltas,
)
from gimle.gateway.streams import Relay, Translation

# -- answers


def test_an_answer_with_tools_is_read() -> None:
    reply = CHAT.read_reply(raw("tools.json"))
    calls = [part for part in reply.choices[0].parts if isinstance(part, ToolCall)]
    assert [(one.id, one.arguments) for one in calls] == [
        ("call_zPQ1", '{"location":"Paris"}'),
        ("call_zPQ2", '{"location":"Zürich 🏔"}'),
    ]
    assert (reply.choices[0].finish, reply.usage, reply.created) == ("tools", USAGE, 1745272778)


def test_an_answer_that_stopped_short_is_read() -> None:
    choice = CHAT.read_reply(raw("incomplete.json")).choices[0]
    assert (choice.text, choice.finish) == ("Bees", "length")
    assert choice.logprobs is not None
    assert choice.logprobs[0].rivals[1].token == "The"


def test_what_a_built_in_tool_did_is_kept_for_its_own_dialect() -> None:
    reply = CHAT.read_reply(raw("search.json"))
    assert isinstance(reply.choices[0].parts[0], Foreign)
    text = reply.choices[0].parts[1]
    assert isinstance(text, Text)
    assert text.extra["responses"]["annotations"][0]["url"] == "https://example.com/bees"
    assert [item["type"] for item in json.loads(CHAT.write_reply(reply))["output"]] == ["web_search_call", "message"]


@pytest.mark.parametrize("read_it", [CHAT.read_reply, CHAT.read_usage])
def test_an_answer_that_failed_is_none(read_it: Callable[[bytes], object]) -> None:
    with pytest.raises(UpstreamError, match="failed to generate"):
        read_it(raw("failed.json"))
    with pytest.raises(UpstreamError, match="not complete"):
        read_it(b'{"id": "resp_1", "status": "queued", "output": []}')


@pytest.mark.parametrize(
    "finish, status, reason",
    [
        ("stop", "completed", None),
        ("tools", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("filter", "incomplete", "content_filter"),
        ("pause", "incomplete", None),
    ],
)
def test_an_end_is_told(finish: Any, status: str, reason: str | None) -> None:
    parts = (Text(text="a"),)
    whole = json.loads(CHAT.write_reply(Reply(id="x", model="m", choices=(Choice(parts=parts, finish=finish),))))
    told = Response.model_validate(whole)
    assert told.status == status
    assert (told.incomplete_details.reason if told.incomplete_details else None) == reason
    streamed = events(written([Opened(id="x", model="m"), Finished(finish=finish), Closed()]))
    assert streamed[-1]["type"] == f"response.{status}"


# -- streams


@pytest.mark.parametrize("name", ["tools", "incomplete"])
def test_a_stream_says_what_the_whole_answer_says(name: str) -> None:
    parts, finish, usage = together(read(raw(f"{name}.sse")))
    whole = CHAT.read_reply(raw(f"{name}.json"))
    bare = [part for part in whole.choices[0].parts if not isinstance(part, Text)]
    assert [msgspec.structs.replace(part, extra={}) for part in parts if isinstance(part, ToolCall | Thinking)] == [
        msgspec.structs.replace(part, extra={}) for part in bare if isinstance(part, ToolCall | Thinking)
    ]
    assert "".join(part.text for part in parts if isinstance(part, Text)) == whole.choices[0].text
    assert (finish, usage) == (whole.choices[0].finish, whole.usage)


def test_a_refusal_is_streamed() -> None:
    parts, finish, _ = together(read(raw("refusal.sse")))
    assert parts == [Refusal(text="I'm sorry, but I can't help with that.")]
    assert finish == "refusal"


def test_a_failure_in_a_stream_is_the_providers() -> None:
    for begin in (CHAT.read_events, CHAT.watch):
        reader = begin()
        with pytest.raises(UpstreamError, match="failed to generate"):
            for event in events(raw("failed.sse")):
                reader(json.dumps(event).encode())
    for data in (
        b'{"type":"error","code":"server_error","message":"Overloaded.","param":null,"sequence_number":1}',
        b'{"type":"error","error":{"type":"server_error","message":"Overloaded."},"sequence_number":1}',
        b'{"error":{"message":"Overloaded."}}',
    ):
        for begin in (CHAT.read_events, CHAT.watch):
            with pytest.raises(UpstreamError, match=r"Overloaded\."):
                begin()(data)


def test_a_stream_of_whole_items_is_read_too() -> None:
    """Some servers send no pieces, or do not announce what they send."""
    kept = ("response.created", "response.output_item.done", "response.completed")
    for name in ("tools.sse", "refusal.sse", "incomplete.sse"):
        told = [event for event in events(raw(name)) if event["type"] in (*kept, "response.incomplete")]
        stream = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in told)
        sparse, whole = together(read(stream)), together(read(raw(name)))
        assert sparse[1:] == whole[1:]
        assert [type(part) for part in sparse[0]] == [type(part) for part in whole[0]]


def test_unknown_events_are_no_fault() -> None:
    for data in (b'{"type":"response.new_thing.delta","delta":"x"}', b'{"type":"keepalive"}', b"[DONE]"):
        assert CHAT.read_events()(data) == () or CHAT.read_events()(data) == []
        assert not CHAT.watch()(data).done


@settings(deadline=None)
@given(st.data())
def test_a_stream_is_the_same_however_it_is_cut(data: st.DataObject) -> None:
    stream = raw("tools.sse")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    relay, translation = Relay(CHAT.watch(), show_usage=True), Translation(CHAT.read_events(), CHAT.write_events(True))
    passed = b"".join(relay.feed(piece) for piece in pieces)
    told = b"".join(translation.feed(piece) for piece in pieces)
    assert passed == stream
    assert relay.over
    assert relay.usage == USAGE
    assert [item.type for item in as_the_sdk_reads(told).output] == ["reasoning", "function_call", "function_call"]
    assert translation.over


PARTS = st.one_of(
    st.builds(Text, text=st.text(min_size=1)),
    st.builds(Refusal, text=st.text(min_size=1)),
    st.builds(Thinking, text=st.text(), signature=st.none() | st.text(min_size=1)),
    st.builds(Thinking, sealed=st.text(min_size=1)),
    st.builds(ToolCall, id=st.text(min_size=1), name=st.text(min_size=1), arguments=st.text()),
)


def _seen(parts: list[Part] | tuple[Part, ...]) -> list[object]:
    seen: list[object] = []
    for part in parts:
        match part:
            case ToolCall():
                seen.append((part.id, part.name, part.arguments))
            case Text() | Refusal():
                seen.append((type(part), part.text))
            case Thinking(text=text) if text:
                seen.append(text)
            case _:
                pass
    return seen


@settings(deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=6), st.sampled_from(["stop", "length", "filter"]))
def test_any_answer_is_one_that_the_sdk_reads(parts: list[Any], finish: Any) -> None:
    names = {part.id for part in parts if isinstance(part, ToolCall)}
    if len(names) < sum(isinstance(part, ToolCall) for part in parts):
        return
    reply = Reply(id="chatcmpl-1", model="m", choices=(Choice(parts=tuple(parts), finish=finish),), usage=USAGE)
    whole = CHAT.write_reply(reply)
    Response.model_validate(json.loads(whole))
    stream = written(list(deltas(reply)))
    streamed = as_the_sdk_reads(stream)
    assert [item.type for item in streamed.output] == [item["type"] for item in json.loads(whole)["output"]]
    assert _seen(together(read(stream))[0]) == _seen(CHAT.read_reply(whole).choices[0].parts) == _seen(parts)
    assert together(read(stream))[2] == USAGE


def test_calls_that_are_mixed_stay_apart() -> None:
    told: list[Delta] = [Opened(id="x", model="m")]
    told += [Began(part=Text(text=""), at=0), Added(text="Let me ", at=0)]
    told += [Began(part=ToolCall(id=f"c{n}", name="f"), at=n) for n in (1, 2)]
    told += [Added(text='{"a":', at=1), Added(text="{", at=2), Added(text="1}", at=1), Added(text="}", at=2)]
    told += [Added(text="look", at=0), Finished(finish="tools"), Closed()]
    output: list[Any] = as_the_sdk_reads(written(told)).output
    assert [(one.call_id, one.arguments) for one in output[1:3]] == [("c1", '{"a":1}'), ("c2", "{}")]
    assert output[0].content[0].text + output[3].content[0].text == "Let me look"


def test_log_probabilities_come_with_their_text() -> None:
    logprobs = (Logprob(token="a", logprob=-0.5, rivals=(Logprob(token="b", logprob=-1.5),)),)
    reply = Reply(id="x", model="m", choices=(Choice(parts=(Text(text="a"),), logprobs=logprobs),))
    output: list[Any] = as_the_sdk_reads(written(list(deltas(reply)))).output
    assert output[0].content[0].logprobs[0].top_logprobs[0].token == "b"
    back = CHAT.read_reply(CHAT.write_reply(reply)).choices[0].logprobs
    assert back is not None
    assert [(one.token, one.logprob) for one in back] == [("a", -0.5)]


# -- whatever comes

_TYPES = [event["type"] for event in events(raw("tools.sse"))] + ["response.refusal.delta", "error"]


@settings(deadline=None)
@given(JSON | st.fixed_dictionaries({"status": JSON, "output": st.lists(ITEM) | JSON, "usage": JSON}))
def test_no_answer_breaks_the_reader(body: Any) -> None:
    for reading in (CHAT.read_reply, CHAT.read_usage):
        with suppress(UpstreamError):
            reading(json.dumps(body).encode())


EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from(_TYPES)},
    optional={
        "item": ITEM | JSON,
        "response": JSON,
        "delta": st.text() | JSON,
        "output_index": st.integers(-1, 3),
        "content_index": st.integers(-1, 3),
        "summary_index": st.integers(-1, 3),
        "logprobs": JSON,
    },
)


@settings(deadline=None)
@given(st.lists(JSON | EVENTS, max_size=8))
def test_no_stream_breaks_the_reader(told: list[Any]) -> None:
    reader, look, write = CHAT.read_events(), CHAT.watch(), CHAT.write_events(True)
    for event in told:
        data = json.dumps(event).encode()
        with suppress(UpstreamError):
            for delta in reader(data):
                write(delta)
        with suppress(UpstreamError):
            look(data)
