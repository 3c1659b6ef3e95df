"""Every caller before every provider: nothing is lost that the other side can say, and nothing goes silently."""

import json
import re
from collections.abc import Iterable
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conformance.matrix import (
    ANSWERS,
    CALLERS,
    PROVIDERS,
    REQUESTS,
    Asked,
    Fields,
    call,
    dialect,
    laid_over,
    lane,
)
from tests.conformance.readers import as_read, assembled, events

from gimle.foundation.errors import Unsayable, UpstreamError
from gimle.gateway.lanes import Call
from gimle.gateway.neutral import Usage

ASKED = [(name, caller) for name, asked in REQUESTS.items() for caller in asked.callers]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name, caller", ASKED)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_request_is_said_in_the_providers_words(name: str, caller: str, provider: str, stream: bool) -> None:
    asked = REQUESTS[name]
    model, pair = asked.model(provider), asked.pair(caller, provider)
    opened = Call(call(caller, asked.callers[caller], stream=stream), dialect(caller))
    way = lane(opened, provider, model)
    if pair.refused is not None:
        with pytest.raises(Unsayable) as refused:
            way.request()
        assert opened.named(refused.value.field or "") == pair.refused
        return
    written = way.request()
    sent = json.loads(written.body)
    expected = theirs(asked, caller, provider)
    if provider != "gemini":
        expected |= {"model": model, **({"stream": True} if stream else {})}
    if provider == "openai" and stream:
        expected["stream_options"] = {"include_usage": True}
    assert sent == expected
    assert sorted(written.dropped) == sorted(pair.dropped)
    assert written.path == path(provider, model, stream)


def theirs(asked: Asked, caller: str, provider: str) -> dict[str, object]:
    """What the provider must be sent: the caller's own words where both speak one dialect."""
    if caller == provider:
        return {name: json.loads(bytes(raw)) for name, raw in asked.callers[caller].items()}
    return laid_over(asked.providers[provider], asked.pair(caller, provider).fields)


def path(provider: str, model: str, stream: bool) -> str:
    if provider == "gemini":
        return f"/models/{model}:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}"
    return {"openai": "/chat/completions", "anthropic": "/messages", "responses": "/responses"}[provider]


def test_every_caller_meets_every_provider() -> None:
    assert {caller for _, caller in ASKED} == set(CALLERS)
    for asked in REQUESTS.values():
        assert set(asked.providers) == set(PROVIDERS)


# -- answers

ASKING: dict[str, Fields] = {
    "openai": {
        "messages": msgspec.Raw(b'[{"role": "user", "content": "Hum."}]'),
    },
    "anthropic": {
        "messages": msgspec.Raw(b'[{"role": "user", "content": "Hum."}]'),
        "max_tokens": msgspec.Raw(b"64"),
    },
    "responses": {"input": msgspec.Raw(b'"Hum."')},
}
ANSWERED = [
    (name, caller, provider)
    for name, answered in ANSWERS.items()
    for caller in answered.callers
    for provider in answered.providers
]


def asking(caller: str, *, stream: bool = False) -> Call:
    """A caller who wants all that there is to tell."""
    fields = dict(ASKING[caller])
    if caller == "openai" and stream:
        fields["stream_options"] = msgspec.Raw(b'{"include_usage": true}')
    return Call(call(caller, fields, stream=stream), dialect(caller))


@pytest.mark.parametrize("name, caller, provider", ANSWERED)
def test_a_whole_answer_is_read_in_the_callers_words(name: str, caller: str, provider: str) -> None:
    answered = ANSWERS[name]
    body, usage = lane(asking(caller), provider).whole(bytes(answered.providers[provider].whole))
    assert as_read(caller, json.loads(body)) == answered.expected(caller, provider)
    assert usage is not None


@pytest.mark.parametrize("name, caller, provider", ANSWERED)
def test_a_streamed_answer_is_read_in_the_callers_words(name: str, caller: str, provider: str) -> None:
    answered = ANSWERS[name]
    told, usage = carried(caller, provider, [answered.providers[provider].events(provider)])
    assert as_read(caller, assembled(caller, told)) == answered.expected(caller, provider)
    assert usage == lane(asking(caller), provider).whole(bytes(answered.providers[provider].whole))[1]


def carried(caller: str, provider: str, pieces: Iterable[bytes]) -> tuple[bytes, Usage | None]:
    """What the caller gets of a stream that comes in these pieces."""
    carrier = lane(asking(caller, stream=True), provider).stream()
    told = b"".join([carrier.feed(piece) for piece in pieces])
    assert carrier.fault is None
    told += b"" if carrier.over else carrier.end()
    return told, carrier.usage


# -- wherever the pieces end


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("provider", PROVIDERS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_pieces_may_end_at_any_byte(caller: str, provider: str, data: st.DataObject) -> None:
    """Inside a character, a line ending, a field's name; with comments between, and any of the line endings there are.

    Half a line ending that comes behind the provider's own end belongs to nobody.
    """
    names = [name for name, one, other in ANSWERED if (one, other) == (caller, provider)]
    given = ANSWERS[data.draw(st.sampled_from(names))].providers[provider]
    plain = given.events(provider)
    ending = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    stream = plain.replace(b"\r\n", b"\n").replace(b"\n", ending)
    if data.draw(st.booleans()):
        stream = b": keep-alive" + ending + ending + stream
    borders = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=60)))
    pieces = [stream[start:end] for start, end in pairwise([0, *borders, len(stream)])]
    told, usage = carried(caller, provider, pieces)
    expected, used = carried(caller, provider, [plain])
    assert usage == used
    if caller == provider:
        assert told.rstrip() == stream.rstrip()
    else:
        assert events(told) == events(expected)


@pytest.mark.parametrize("name, caller, provider", ANSWERED)
def test_a_stream_may_come_byte_by_byte(name: str, caller: str, provider: str) -> None:
    stream = ANSWERS[name].providers[provider].events(provider)
    told, _ = carried(caller, provider, [stream[at : at + 1] for at in range(len(stream))])
    whole, _ = carried(caller, provider, [stream])
    assert told == whole


@pytest.mark.parametrize("name, caller, provider", ANSWERED)
def test_a_stream_that_is_cut_never_looks_whole(name: str, caller: str, provider: str) -> None:
    """After every event but those behind which nothing is missing any more."""
    stream = ANSWERS[name].providers[provider].events(provider)
    events = [event for event in re.split(rb"(?<=\n\n)|(?<=\r\n\r\n)", stream) if event]
    finished = next(at for at, event in enumerate(events) if ENDS.search(event))
    for whole in range(finished):
        carrier = lane(asking(caller, stream=True), provider).stream()
        carrier.feed(b"".join(events[:whole]))
        with pytest.raises(UpstreamError):
            carrier.end()


# What a vendor says when an answer is complete.
ENDS = re.compile(rb'"finish_reason": "|"stop_reason": "|"finishReason": "|"type": "response.(?:completed|incomplete)"')
