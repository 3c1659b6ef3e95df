"""Gemini's answers, whole and streamed, its refusals and its vectors."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.geminis import (
    CALLS,
    CHAT,
    EVENTS,
    GEMINI,
    RECORDED,
    REPLY,
    SPOKEN,
    USAGE,
    call,
)

from gimle.foundation.errors import InvalidRequest, RateLimitedError, UpstreamError
from gimle.gateway import neutral
from gimle.gateway.neutral import (
    Choice,
    Delta,
    Foreign,
    Logprob,
    Refusal,
    Reply,
    Text,
    Thinking,
    ToolCall,
    Usage,
)


def test_an_answer() -> None:
    reply = CHAT.read_reply(REPLY)
    (choice,) = reply.choices
    thought, text, first, second = choice.parts
    assert thought == Thinking(text="The user asks for a flight, so a function fits.")
    assert text == Text(text="I look it up.")
    assert first == ToolCall(
        id="x3v8",
        name="check_flight",
        arguments='{"flight": "AA100", "price": 1.5}',
        signature="EpkOCpYOAXLI2nwMdJvMR",
    )
    assert isinstance(second, ToolCall)
    assert second.id.startswith("call_gm")
    assert second == CHAT.read_reply(REPLY).choices[0].parts[3]
    assert choice.finish == "tools"
    rivals = (Logprob(token="I", logprob=-0.12), Logprob(token="Let", logprob=-2.5))
    assert choice.logprobs == (Logprob(token="I", logprob=-0.12, rivals=rivals),)
    assert reply.usage == USAGE
    assert CHAT.read_usage(REPLY) == reply.usage
    assert (reply.id, reply.model) == ("mAitaLmkHPPlz7IPvtfUqQ4", "gemini-2.5-flash")


def test_an_answer_comes_out_as_it_went_in() -> None:
    body = json.loads(CHAT.write_reply(CHAT.read_reply(REPLY)))
    told = json.loads(REPLY)
    assert body["candidates"][0]["content"] == told["candidates"][0]["content"]
    assert body["candidates"][0]["finishReason"] == "STOP"
    for name in ("promptTokenCount", "candidatesTokenCount", "totalTokenCount", "cachedContentTokenCount"):
        assert body["usageMetadata"][name] == told["usageMetadata"][name]
    assert CHAT.read_reply(CHAT.write_reply(CHAT.read_reply(REPLY))) == CHAT.read_reply(REPLY)


def candidate(**fields: Any) -> bytes:
    return json.dumps({"candidates": [{"content": {"parts": [{"text": "Hi"}]}, **fields}], "responseId": "r"}).encode()


@pytest.mark.parametrize(
    "reason,finish",
    [
        ("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "filter"), ("RECITATION", "filter"),
        ("PROHIBITED_CONTENT", "filter"), ("SPII", "filter"), ("OTHER", "filter"), ("SOMETHING_NEW", "filter"),
    ],
)  # fmt: skip
def test_why_it_ends(reason: str, finish: str) -> None:
    assert CHAT.read_reply(candidate(finishReason=reason)).choices[0].finish == finish


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"])
def test_a_model_that_fails_is_no_success(reason: str) -> None:
    body = candidate(finishReason=reason, finishMessage="Malformed function call: f(")
    for read in (CHAT.read_reply, CHAT.read_usage, CHAT.watch(), CHAT.read_events()):
        with pytest.raises(UpstreamError, match=reason):
            read(body)


def test_a_blocked_prompt_has_an_answer_without_words() -> None:
    body = b'{"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 9}}'
    assert CHAT.read_reply(body).choices == (Choice(parts=(), finish="filter"),)
    assert CHAT.read_usage(body) == Usage(uncached=9)
    event = CHAT.watch()(body)
    assert (event.opened, event.closed, event.content) == ((0,), (0,), 0)
    assert neutral.Finished(finish="filter") in CHAT.read_events()(body)


def test_what_only_gemini_has_is_foreign() -> None:
    code = {"executableCode": {"language": "PYTHON", "code": "print(1)"}}
    picture = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
    body = json.dumps({"candidates": [{"content": {"parts": [code, picture]}, "finishReason": "STOP"}]}).encode()
    reply = CHAT.read_reply(body)
    assert reply.choices[0].parts == (Foreign(dialect="gemini", raw=code), Foreign(dialect="gemini", raw=picture))
    assert json.loads(CHAT.write_reply(reply))["candidates"][0]["content"]["parts"] == [code, picture]


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b"<html>", b'{"candidates": 3}', b'{"candidates": []}', b"\xff\xfe",
     b'{"candidates": [{"content": {"parts": [7]}}]}', b'{"candidates": [{"content": {"parts": [{"text": 7}]}}]}',
     b'{"error": {"code": 503, "message": "overloaded"}}', b"[" * 9999],
)  # fmt: skip
def test_what_is_no_answer_is_a_fault_of_the_provider(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        CHAT.read_reply(body)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_WORDS = (
    "candidates content parts text thought functionCall name args finishReason index usageMetadata promptTokenCount "
    "error promptFeedback blockReason logprobsResult chosenCandidates embeddings values inlineData functionResponse"
).split()
_LIKELY = st.recursive(
    _JSON, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(_LIKELY)
def test_no_answer_raises_anything_else(value: Any) -> None:
    body = json.dumps(value).encode()
    assert GEMINI.embeddings is not None
    embeddings = GEMINI.embeddings
    readers = (CHAT.read_reply, CHAT.read_usage, CHAT.watch(), CHAT.read_events(), GEMINI.read_models)
    for read in (*readers, lambda body: embeddings.read(body, 1)):
        try:
            read(body)
        except UpstreamError:
            continue
    GEMINI.read_fault(400, {}, body)


@given(_LIKELY, st.sampled_from(("contents", "tools", "toolConfig", "generationConfig", "systemInstruction")))
def test_no_request_raises_anything_else(value: Any, name: str) -> None:
    body = {"contents": [{"parts": [{"text": "Hi"}]}], name: value}
    with suppress(InvalidRequest):
        CHAT.inspect(call(body))


def test_ours_as_gemini_s() -> None:
    refused = Reply(id="r", model="m", choices=(Choice(parts=(Refusal(text="No."),), finish="refusal"),))
    body = json.loads(CHAT.write_reply(refused))
    assert body["candidates"][0]["content"]["parts"] == [{"text": "No."}]
    broken = Choice(parts=(ToolCall(id="c", name="f", arguments='{"a": '),), finish="tools")
    body = json.loads(CHAT.write_reply(Reply(id="r", model="m", choices=(broken,))))
    assert body["candidates"][0]["finishReason"] == "MALFORMED_FUNCTION_CALL"
    assert body["candidates"][0]["finishMessage"] == 'f({"a": )'


# -- streams


def read_all(events: Sequence[bytes]) -> list[Delta]:
    read = CHAT.read_events()
    return [delta for event in events for delta in read(event)]


def test_a_stream() -> None:
    deltas = read_all(EVENTS)
    told = [delta for delta in deltas if not isinstance(delta, neutral.Used)]
    call_id = next(d.part.id for d in told if isinstance(d, neutral.Began) and isinstance(d.part, ToolCall))
    assert told == [
        neutral.Opened(id="oQitaN6TJ7jQz7IPorGFoAE", model="gemini-2.5-flash"),
        neutral.Began(part=Thinking(), at=0),
        neutral.Added(text="**Weighing**\n", at=0),
        neutral.Began(part=Text(text=""), at=1),
        neutral.Added(text="Größe: ", at=1),
        neutral.Added(text="drei 🐝.", at=1),
        neutral.Began(part=ToolCall(id=call_id, name="check_flight", signature="EpkOCpYO"), at=2),
        neutral.Added(text='{"flight": "AA100", "n": 1.0}', at=2),
        neutral.Finished(finish="tools"),
    ]
    used = [delta.usage for delta in deltas if isinstance(delta, neutral.Used)]
    assert used[-1] == USAGE


def test_a_call_without_arguments_has_an_empty_object() -> None:
    parts = [{"functionCall": {"id": "a", "name": "look"}}]
    body = json.dumps({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}).encode()
    assert CHAT.read_reply(body).choices[0].parts == (ToolCall(id="a", name="look", arguments="{}"),)
    assert neutral.Added(text="{}", at=0) in read_all([body])


def test_a_stream_that_passes_is_watched() -> None:
    watch = CHAT.watch()
    events = [watch(event) for event in EVENTS]
    assert [bool(event.content) for event in events] == [True] * 4 + [False]
    assert [event.closed for event in events] == [()] * 4 + [(0,)]
    assert not any(event.done for event in events)
    assert events[-1].usage == USAGE


def test_a_signature_at_the_end_of_a_stream_is_kept() -> None:
    last = b'{"candidates":[{"content":{"parts":[{"text":"","thoughtSignature":"ABC="}]},"finishReason":"STOP"}]}'
    deltas = read_all([EVENTS[1], last])
    assert neutral.Signed(signature="gemini:ABC=", at=1) in deltas
    assert deltas[-1] == neutral.Finished(finish="stop")


def test_a_stream_that_goes_on_after_its_end_is_a_fault() -> None:
    with pytest.raises(UpstreamError):
        read_all([EVENTS[-1], EVENTS[1]])


def test_an_error_within_a_stream() -> None:
    body = b'{"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}'
    for read in (CHAT.watch(), CHAT.read_events()):
        with pytest.raises(UpstreamError, match="overloaded"):
            read(body)


def gathered(stream: bytes) -> Reply:
    """A written stream as one answer, put together by the test."""
    choices: dict[int, dict[str, Any]] = {}
    whole: dict[str, Any] = {}
    for event in stream.split(b"\r\n\r\n"):
        if event:
            body = json.loads(event.removeprefix(b"data: "))
            whole |= {name: value for name, value in body.items() if name != "candidates"}
            for piece in body["candidates"]:
                choice = choices.setdefault(piece["index"], {"parts": [], **piece})
                choice |= {name: value for name, value in piece.items() if name != "content"}
                for part in piece["content"]["parts"]:
                    before = choice["parts"][-1] if choice["parts"] else {}
                    if part.keys() == before.keys() and "text" in part and "thoughtSignature" not in part:
                        before["text"] += part["text"]
                    elif part != {"text": ""}:
                        choice["parts"].append(part)
    bodies = [{**one, "content": {"parts": one.pop("parts")}} for _, one in sorted(choices.items())]
    return CHAT.read_reply(json.dumps({**whole, "candidates": bodies}, ensure_ascii=False).encode())


def test_a_stream_is_written() -> None:
    write = CHAT.write_events(True)
    stream = b"".join(write(delta) for delta in [*read_all(EVENTS), neutral.Closed()])
    assert stream.count(b'"finishReason"') == 1
    reply = gathered(stream)
    assert reply.usage == USAGE
    assert [type(part) for part in reply.choices[0].parts] == [Thinking, Text, ToolCall]
    assert reply.choices[0].text == "Größe: drei 🐝."


def test_calls_that_come_mixed_are_said_whole() -> None:
    write = CHAT.write_events(True)
    deltas: list[Delta] = [
        neutral.Opened(id="r", model="m"),
        neutral.Began(part=ToolCall(id="a", name="f"), at=0),
        neutral.Began(part=ToolCall(id="b", name="g"), at=1),
        neutral.Added(text='{"x":', at=0),
        neutral.Added(text="{}", at=1),
        neutral.Added(text=" 1}", at=0),
        neutral.Finished(finish="tools"),
        neutral.Used(usage=Usage(uncached=1, output=2)),
        neutral.Closed(),
    ]
    reply = gathered(b"".join(map(write, deltas)))
    assert reply.choices[0].parts == (
        ToolCall(id="a", name="f", arguments='{"x": 1}'),
        ToolCall(id="b", name="g", arguments="{}"),
    )
    assert reply.usage == Usage(uncached=1, output=2)


@given(st.lists(SPOKEN, max_size=3), st.lists(CALLS, max_size=2, unique_by=lambda one: one.id))
def test_whatever_is_answered_survives_as_a_whole_and_as_a_stream(spoken: list[Any], calls: list[ToolCall]) -> None:
    usage = Usage(uncached=3, cache_read=2, output=5, reasoning=1)
    choice = Choice(parts=(*spoken, *calls), finish="tools" if calls else "stop")
    reply = Reply(id="r", model="m", choices=(choice,), usage=usage)
    assert CHAT.read_reply(CHAT.write_reply(reply)) == reply
    write = CHAT.write_events(True)
    streamed = gathered(b"".join(map(write, neutral.deltas(reply))))
    assert streamed.usage == usage
    assert streamed.choices[0].text == choice.text
    said_again = [part for part in streamed.choices[0].parts if isinstance(part, ToolCall)]
    assert [(part.id, json.loads(part.arguments)) for part in said_again] == [
        (part.id, json.loads(part.arguments)) for part in calls
    ]


# -- the rest


@pytest.mark.parametrize("told", RECORDED["faults"], ids=lambda one: str(one["status"]))
def test_whose_fault_it_is(told: dict[str, Any]) -> None:
    fault = GEMINI.read_fault(told["status"], told.get("headers", {}), json.dumps(told["body"]).encode())
    assert fault.error.code == told["code"]
    assert fault.again == told["again"]
    assert fault.passable == told.get("passable", False)
    if "after" in told:
        assert isinstance(fault.error, RateLimitedError)
        assert fault.error.after == told["after"]


def test_what_is_said_of_our_key_is_not_told() -> None:
    body = b'{"error": {"code": 400, "message": "API key AIzaSy-secret not valid", "status": "INVALID_ARGUMENT"}}'
    assert "AIza" not in GEMINI.read_fault(400, {}, body).error.message
    assert GEMINI.key_headers("k") == (("x-goog-api-key", "k"),)


def test_vectors() -> None:
    assert GEMINI.embeddings is not None
    assert GEMINI.embeddings.path("gemini-embedding-001") == "/models/gemini-embedding-001:batchEmbedContents"
    sent = json.loads(GEMINI.embeddings.write("gemini-embedding-001", ["a", "b"], 768))
    assert sent["requests"][1] == {
        "model": "models/gemini-embedding-001",
        "content": {"parts": [{"text": "b"}]},
        "outputDimensionality": 768,
    }
    body = b'{"embeddings": [{"values": [0.5, -0.25]}, {"values": [1, 0]}]}'
    vectors, tokens = GEMINI.embeddings.read(body, 2)
    assert np.array_equal(vectors, np.array([[0.5, -0.25], [1, 0]], np.float32))
    assert tokens is None
    for wrong, count in ((body, 3), (b"{}", 1), (b'{"embeddings": [{"values": []}]}', 1), (b"<html>", 1)):
        with pytest.raises(UpstreamError):
            GEMINI.embeddings.read(wrong, count)


def test_models() -> None:
    body = b'{"models": [{"name": "models/gemini-2.5-pro", "inputTokenLimit": 1048576}], "nextPageToken": "x"}'
    assert GEMINI.read_models(body) == 1
    with pytest.raises(UpstreamError):
        GEMINI.read_models(b"{}")
