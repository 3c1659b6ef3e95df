"""A stream that breaks off goes on at another model: one text, without a gap and without a repetition."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conformance.readers import events as events_in
from tests.gateway.calls import (
    ANNA,
    QUICK,
    call,
    chunk,
    counted,
    events_of,
    opened,
    parsed,
    provider,
    read,
    saying,
    streamed,
)

from gimle.foundation.config import GatewaySettings
from gimle.foundation.errors import UpstreamError, UpstreamTimeout
from gimle.gateway.splice import Splice
from gimle.gateway.types import ChatCall, ChatStream
from gimle.testing import WORDS, Behaviour, Upstream

TEXT = "".join(WORDS)
REST = (" It", " is", " warm", " then", ".")
ABLE = {"continues_assistant": True}


def chunks(told: bytes) -> list[Any]:
    """The chunks of a stream as a client of OpenAI reads it."""
    assert told.count(b"data: [DONE]\n\n") == 1
    assert told.endswith(b"data: [DONE]\n\n")
    return events_in(told)


def said(told: bytes) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks(told)
        if chunk["choices"]
        for choice in chunk["choices"]
    )


async def asked(
    folder: Path,
    upstreams: Sequence[Upstream],
    request: ChatCall,
    settings: GatewaySettings = QUICK,
    facts: dict[str, Any] = ABLE,
) -> tuple[bytes, ChatStream]:
    """All bytes of a stream over these providers of one model, in their order of preference."""
    names = ("first", "second", "third")
    providers = {name: provider(one, **facts) for name, one in zip(names, upstreams, strict=False)}
    async with opened(folder, providers, settings) as gateway:
        stream = streamed(await gateway.chat(ANNA, request))
        return await read(stream), stream


# -- what breaks, and how it goes on

BEGUN = events_of("The", " bees", " leave")[:4]
BREAKS = {
    "cut": Behaviour(cut_after=4),
    "stalled": Behaviour(stall_after=4),
    "malformed": Behaviour(events=(*BEGUN, b"data: {oops\n\n")),
    "an error": Behaviour(events=(*BEGUN, b'data: {"error": {"message": "fire"}}\n\n')),
    "without an end": Behaviour(events=BEGUN),
}


@pytest.mark.parametrize("how", BREAKS)
async def test_whatever_breaks_a_text_it_goes_on_elsewhere(
    upstream: Upstream, second: Upstream, tmp_path: Path, how: str
) -> None:
    upstream.plan.append(BREAKS[how])
    second.plan.append(saying(*WORDS[3:]))
    before = counted("gimle_model_continuations", "second")
    told, stream = await asked(tmp_path, [upstream, second], call("mock", stream=True))
    assert said(told) == TEXT
    assert told.count(b'"role"') == 1
    assert told.count(b'"finish_reason":"stop"') == 1
    assert b": continued by second/mock\n\n" in told
    assert (stream.provider, stream.model, stream.attempts) == ("second", "mock", 2)
    assert second.received[0].json["messages"][1:] == [{"role": "assistant", "content": "The bees leave"}]
    assert second.received[0].json["stream"] is True
    assert counted("gimle_model_continuations", "second") == before + 1


async def test_nobody_goes_on_when_the_time_is_over(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    """Who was asked then would seem to fail, and be left alone for it."""
    upstream.usual = Behaviour(chunks=50, event_delay=0.1)
    sent = counted("gimle_model_attempts", "second")
    with pytest.raises(UpstreamTimeout):
        await asked(
            tmp_path, [upstream, second], call("mock", stream=True), msgspec.structs.replace(QUICK, total_seconds=0.4)
        )
    assert counted("gimle_model_attempts", "second") == sent


async def test_both_parts_are_reported_as_used(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.plan.append(Behaviour(cut_after=4))
    second.plan.append(saying(*WORDS[3:]))
    before = counted("gimle_model_tokens", "first")
    request = call("mock", stream=True, stream_options={"include_usage": True})
    told, stream = await asked(tmp_path, [upstream, second], request)
    assert stream.usage is not None
    # The second has told its own; what the first has used is an estimate, and counted as one.
    assert stream.usage.output_tokens > len(WORDS[3:])
    assert stream.usage.input_tokens > 20
    assert not stream.usage.exact
    assert chunks(told)[-1]["usage"]["prompt_tokens"] == stream.usage.input_tokens
    assert chunks(told)[-1]["usage"]["completion_tokens"] == stream.usage.output_tokens
    assert counted("gimle_model_tokens", "first") - before == stream.usage.input_tokens + stream.usage.output_tokens - (
        20 + len(WORDS[3:])
    )


async def test_what_is_given_back_is_not_said_twice(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.plan.append(Behaviour(cut_after=5))
    second.plan.append(saying("The bees", " leave the", " hive", " in", " May."))
    told, _ = await asked(tmp_path, [upstream, second], call("mock", stream=True))
    assert said(told) == TEXT


async def test_it_may_break_more_than_once(
    upstream: Upstream, second: Upstream, third: Upstream, tmp_path: Path
) -> None:
    upstream.plan.append(Behaviour(cut_after=3))
    second.plan.append(saying(*WORDS[2:], cut_after=3))
    third.plan.append(saying(*WORDS[4:]))
    told, stream = await asked(tmp_path, [upstream, second, third], call("mock", stream=True))
    assert said(told) == TEXT
    assert (stream.provider, stream.attempts) == ("third", 3)
    assert third.received[0].json["messages"][-1]["content"] == "The bees leave the"


async def test_who_broke_off_is_asked_again_when_nobody_else_goes_on(upstream: Upstream, tmp_path: Path) -> None:
    upstream.plan.extend([Behaviour(cut_after=4), saying(*WORDS[3:])])
    told, stream = await asked(tmp_path, [upstream], call("mock", stream=True))
    assert said(told) == TEXT
    assert stream.attempts == 2


async def test_who_stands_still_is_not_asked_again(upstream: Upstream, tmp_path: Path) -> None:
    upstream.plan.append(Behaviour(stall_after=4))
    with pytest.raises(UpstreamTimeout):
        await asked(tmp_path, [upstream], call("mock", stream=True))
    assert len(upstream.received) == 1


async def test_a_target_that_fails_before_its_first_word_is_passed_by(
    upstream: Upstream, second: Upstream, third: Upstream, tmp_path: Path
) -> None:
    upstream.plan.append(Behaviour(cut_after=4))
    # A piece and nonsense in one go: nobody has seen the piece.
    second.plan.append(Behaviour(events=(chunk(delta={"content": " unseen"}) + b"data: {oops\n\n",)))
    third.plan.append(saying(*WORDS[3:]))
    told, stream = await asked(tmp_path, [upstream, second, third], call("mock", stream=True))
    assert said(told) == TEXT
    assert stream.provider == "third"


async def test_a_long_text_is_read_as_it_comes(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    """More than is kept unread: still all of it is the beginning that the next one gets."""
    upstream.plan.append(Behaviour(chunks=400, cut_after=1 + 399 * len(WORDS)))
    second.plan.append(saying("The", " end."))
    told, _ = await asked(tmp_path, [upstream, second], call("mock", stream=True))
    assert said(told) == TEXT * 399 + "The end."
    assert second.received[0].json["messages"][-1]["content"] == TEXT * 399


async def test_what_was_said_counts_against_the_limit(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.plan.append(Behaviour(cut_after=6))
    second.plan.append(saying(*WORDS[5:]))
    await asked(tmp_path, [upstream, second], call("mock", stream=True, max_tokens=50))
    assert 40 <= second.received[0].json["max_tokens"] < 50


async def test_a_caller_who_began_the_answer_himself(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "Well: "}]
    upstream.plan.append(Behaviour(cut_after=4))
    second.plan.append(saying(*WORDS[3:]))
    told, _ = await asked(tmp_path, [upstream, second], call("mock", stream=True, messages=messages))
    assert said(told) == TEXT
    assert second.received[0].json["messages"][1:] == [{"role": "assistant", "content": "Well: The bees leave"}]


async def test_a_provider_is_told_in_its_own_way_that_the_answer_has_begun(
    upstream: Upstream, second: Upstream, tmp_path: Path
) -> None:
    upstream.plan.append(Behaviour(cut_after=4))
    second.plan.append(saying(*WORDS[3:]))
    facts = {"continue_message": {"prefix": True}, "continue_request": {"add_generation_prompt": False}}
    providers = {"first": provider(upstream), "second": {**provider(second), "continues_assistant": True, **facts}}
    async with opened(tmp_path, providers) as gateway:
        assert said(await read(streamed(await gateway.chat(ANNA, call("mock", stream=True))))) == TEXT
    assert second.received[0].json["messages"][-1] == {"role": "assistant", "content": "The bees leave", "prefix": True}
    assert second.received[0].json["add_generation_prompt"] is False
    # Only who goes on is told so.
    assert "add_generation_prompt" not in upstream.received[0].json


# -- where it can't go on, the caller learns of the cut


@pytest.mark.parametrize(
    "facts, fields",
    [
        ({}, {}),
        (ABLE, {"tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}]}),
        (ABLE, {"response_format": {"type": "json_object"}}),
        (ABLE, {"n": 2}),
    ],
)
async def test_only_a_text_goes_on_and_only_at_who_can(
    upstream: Upstream, second: Upstream, tmp_path: Path, facts: dict[str, Any], fields: dict[str, Any]
) -> None:
    upstream.plan.append(Behaviour(cut_after=4))
    with pytest.raises(UpstreamError):
        await asked(tmp_path, [upstream, second], call("mock", stream=True, **fields), facts=facts)
    assert not second.received


async def test_a_cut_is_told_where_that_is_the_policy(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.plan.append(Behaviour(cut_after=4))
    settings = msgspec.structs.replace(QUICK, on_cut="error")
    with pytest.raises(UpstreamError):
        await asked(tmp_path, [upstream, second], call("mock", stream=True), settings)
    assert not second.received


async def test_the_cut_is_told_when_nobody_goes_on(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    body = b'data: {"error": {"message": "The GPU is on fire."}}\n\n'
    upstream.plan.append(Behaviour(events=(chunk(delta={"content": "a"}), body), event_delay=0.01))
    upstream.usual = second.usual = Behaviour(status=400)
    with pytest.raises(UpstreamError, match="on fire"):
        await asked(tmp_path, [upstream, second], call("mock", stream=True))


async def test_who_goes_on_with_anything_but_text_does_not_go_on(
    upstream: Upstream, second: Upstream, tmp_path: Path
) -> None:
    upstream.plan.append(Behaviour(cut_after=4))
    calls = [{"index": 0, "id": "call_1", "function": {"name": "look", "arguments": "{}"}}]
    second.usual = Behaviour(events=(chunk(delta={"tool_calls": calls}),))
    upstream.usual = Behaviour(status=500)
    with pytest.raises(UpstreamError):
        await asked(tmp_path, [upstream, second], call("mock", stream=True))


async def test_an_answer_that_was_whole_but_for_its_last_words_is_whole(
    upstream: Upstream, second: Upstream, tmp_path: Path
) -> None:
    """All choices are finished, and then the connection breaks: nothing is missing."""
    upstream.plan.append(Behaviour(cut_after=10))
    told, stream = await asked(tmp_path, [upstream, second], call("mock", stream=True))
    assert told.count(b'"finish_reason": "stop"') == 1
    assert stream.provider == "first"
    assert not second.received


# -- in the words of other callers


def _anthropic() -> ChatCall:
    body = {
        "model": "mock",
        "max_tokens": 100,
        "stream": True,
        "messages": [{"role": "user", "content": "When do bees swarm?"}],
    }
    return parsed(msgspec.json.encode(body), "mock", stream=True, dialect="anthropic")


async def test_anthropics_callers_see_one_message(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.plan.append(Behaviour(cut_after=4))
    second.plan.append(saying(*WORDS[3:]))
    told, _ = await asked(tmp_path, [upstream, second], _anthropic())
    events = events_in(told)
    kinds = [event["type"] for event in events]
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * len(deltas),
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert "".join(deltas) == TEXT
    assert {event["index"] for event in events if "index" in event} == {0}
    assert events[-2]["usage"]["output_tokens"] > len(WORDS[3:])


async def test_the_events_of_a_response_are_numbered_on(upstream: Upstream, second: Upstream, tmp_path: Path) -> None:
    upstream.plan.append(Behaviour(cut_after=4))
    second.plan.append(saying(*WORDS[3:]))
    body = b'{"model": "mock", "stream": true, "input": "When?"}'
    request = parsed(body, "mock", stream=True, dialect="responses")
    told, _ = await asked(tmp_path, [upstream, second], request)
    events = events_in(told)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == TEXT


# -- the caller leaves


async def test_who_leaves_while_it_goes_on_leaves_nothing_open(
    upstream: Upstream, second: Upstream, tmp_path: Path
) -> None:
    upstream.plan.append(Behaviour(cut_after=4))
    second.plan.append(Behaviour(head_delay=30))
    providers = {"first": provider(upstream), "second": provider(second, **ABLE)}
    async with opened(tmp_path, providers, GatewaySettings()) as gateway:
        stream = streamed(await gateway.chat(ANNA, call("mock", stream=True)))
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            reading = group.create_task(read(stream))
            while not second.received:
                await asyncio.sleep(0.005)
            reading.cancel()
        await asyncio.wait_for(second.left.wait(), 5)
        assert (upstream.open_streams, second.open_streams) == (0, 0)


# -- the splice, alone


def spliced(text: str, pieces: Sequence[str]) -> str:
    splice = Splice(text)
    return "".join([*map(splice.feed, pieces), splice.rest()])


@pytest.mark.parametrize(
    "text, pieces, new",
    [
        ("The bees leave", [" the", " hive"], " the hive"),
        ("The bees leave", ["The bees leave the"], " the"),
        ("The bees leave", ["The", " bees", " leave", " the"], " the"),
        ("The bees leave the hive in early May", ["leave the hive in early May", ", mostly"], ", mostly"),
        # Blanks at the end were not shown: they are said again, or they are not.
        ("The bees leave ", ["the"], "the"),
        ("The bees leave ", [" the"], "the"),
        ("One.\n\n", ["\n\nTwo."], "Two."),
        ("One.\n", ["\n\nTwo."], "\nTwo."),
        # What is short may be said twice on purpose.
        ("ha", ["ha", " ha"], "ha ha"),
        ("No, no", [", no"], ", no"),
        ("1", ["1"], "1"),
        ("", ["Well"], "Well"),
        ("The bees", [], ""),
    ],
)
def test_a_splice(text: str, pieces: list[str], new: str) -> None:
    assert spliced(text, pieces) == new


@given(st.text("ab \n", max_size=60), st.text("xyz", min_size=1, max_size=30), st.lists(st.integers(0, 90), max_size=6))
def test_a_splice_loses_nothing_and_doubles_nothing(text: str, new: str, cuts: list[int]) -> None:
    def pieces(whole: str) -> list[str]:
        at = sorted(min(cut, len(whole)) for cut in cuts)
        return [whole[a:b] for a, b in zip([0, *at], [*at, len(whole)], strict=True)]

    assert spliced(text, pieces(new)) == new
    if len(text.rstrip()) >= 8:
        assert spliced(text, pieces(text + new)) == new
        assert spliced(text, pieces(text.rstrip() + new)) == new
