"""The relay of a stream: the same bytes out, wherever the pieces are cut, and no cut stream passes for whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.foundation.errors import UpstreamError
from gimle.gateway.dialects.openai.events import Reader, Writer
from gimle.gateway.dialects.openai.passing import watch
from gimle.gateway.streams import Relay, Translation

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
WORD = 'data: {"choices":[{"index":0,"delta":{"content":"Flügel 🐝"}}],"usage":null}\n\n'.encode()
CRLF = b'data: {"choices":[{"index":0,"delta":{"content":"b"}}]}\r\n\r\n'
COMMENT = b": keep-alive\n\n"
SPLIT = b'event: x\ndata: {"choices":\ndata: [{"index":0,"delta":{"content":"c"}}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def relayed(stream: bytes, cuts: list[int], *, show_usage: bool = True) -> tuple[bytes, Relay]:
    relay = Relay(watch(), show_usage=show_usage)
    told = b""
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        told += relay.feed(stream[start:end])
    return told + relay.end(), relay


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    middle = draw(st.lists(st.sampled_from([WORD, CRLF, COMMENT, SPLIT]), max_size=6))
    stream = b"".join([ROLE, *middle, STOP, USAGE, DONE])
    cuts = draw(st.lists(st.integers(0, len(stream)), max_size=20))
    return stream, sorted(cuts)


@given(cut_streams())
def test_bytes_pass_wherever_they_are_cut(case: tuple[bytes, list[int]]) -> None:
    stream, cuts = case
    told, relay = relayed(stream, cuts)
    assert told == stream
    assert relay.over
    assert relay.usage is not None
    assert (relay.usage.input_tokens, relay.usage.output_tokens) == (3, 2)


@given(cut_streams())
def test_usage_alone_is_hidden_wherever_it_is_cut(case: tuple[bytes, list[int]]) -> None:
    stream, cuts = case
    told, _ = relayed(stream, cuts, show_usage=False)
    assert told == stream.replace(USAGE, b"")


@given(cut_streams(), st.integers(min_value=1))
def test_a_stream_that_stops_before_its_end_is_an_error(case: tuple[bytes, list[int]], short: int) -> None:
    stream, _ = case
    body = stream.removesuffix(STOP + USAGE + DONE)
    with pytest.raises(UpstreamError):
        relayed(body[: len(body) - short % len(body)], [])


def test_it_begins_with_the_first_content() -> None:
    relay = Relay(watch(), show_usage=False)
    for event, begun in ((COMMENT, False), (ROLE, False), (WORD, True), (STOP, True)):
        relay.feed(event)
        assert relay.begun is begun


@pytest.mark.parametrize(
    "delta",
    [b'"tool_calls":[{"index":0}]', b'"reasoning_content":"hm"', b'"refusal":"no"', b'"audio":{"id":"a"}'],
)
def test_all_kinds_of_content_are_content(delta: bytes) -> None:
    relay = Relay(watch(), show_usage=False)
    relay.feed(b'data: {"choices":[{"index":0,"delta":{%s}}]}\n\n' % delta)
    assert relay.begun


def test_the_last_event_may_lack_its_empty_line() -> None:
    stream = WORD + DONE.rstrip()
    assert relayed(stream, [5])[0] == stream


def test_a_finish_without_done_is_an_end() -> None:
    assert relayed(WORD + STOP, [])[0] == WORD + STOP


def test_one_choice_of_two_that_finishes_is_no_end() -> None:
    other = b'data: {"choices":[{"index":1,"delta":{"content":"x"}}]}\n\n'
    with pytest.raises(UpstreamError):
        relayed(WORD + other + STOP, [])


def test_nothing_passes_after_done() -> None:
    assert relayed(WORD + DONE + WORD + b"garbage", [])[0] == WORD + DONE


@pytest.mark.parametrize("bad", [b"data: {oops\n\n", b"data: 7\n\n", b"data: \xff\xfe\n\n", b'data: {"choices":7}\n\n'])
def test_good_events_before_a_bad_one_are_given_first(bad: bytes) -> None:
    relay = Relay(watch(), show_usage=False)
    assert relay.feed(ROLE + WORD + bad + DONE) == ROLE + WORD
    assert isinstance(relay.fault, UpstreamError)


def test_an_error_told_in_the_stream() -> None:
    relay = Relay(watch(), show_usage=False)
    relay.feed(WORD + b'event: error\ndata: {"error":{"message":"overloaded"}}\n\n')
    assert relay.fault is not None
    assert "overloaded" in relay.fault.message


def test_an_event_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gimle.gateway.streams.LARGEST_EVENT", 1000)
    relay = Relay(watch(), show_usage=False)
    for _ in range(11):
        assert relay.fault is None
        relay.feed(b"x" * 100)
    assert relay.fault is not None


@given(cut_streams())
def test_a_stream_reads_the_same_wherever_it_is_cut(case: tuple[bytes, list[int]]) -> None:
    stream, cuts = case
    whole, pieces = Translation(Reader(), Writer(True)), Translation(Reader(), Writer(True))
    told = whole.feed(stream)
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        told = told.removeprefix(pieces.feed(stream[start:end]))
    assert told == b""
    assert whole.over
    assert pieces.over
    assert pieces.usage == whole.usage


@pytest.mark.parametrize("stream", [ROLE, ROLE + WORD, WORD[:-20], b""])
def test_a_translation_of_a_cut_stream_is_an_error(stream: bytes) -> None:
    translation = Translation(Reader(), Writer(False))
    translation.feed(stream)
    with pytest.raises(UpstreamError):
        translation.end()


def test_a_translation_ends_properly_when_the_provider_says_no_more() -> None:
    translation = Translation(Reader(), Writer(False))
    assert translation.feed(ROLE + WORD + STOP).endswith(b'"finish_reason":"stop"}]}\n\n')
    assert translation.end() == DONE
