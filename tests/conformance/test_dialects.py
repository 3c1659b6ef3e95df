"""What every wire format keeps to. A new one brings `tests/fixtures/dialects/<name>.json`.

The payloads in it are the vendor's own examples as published, never what our code has written.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.gateway.calls import parsed

from gimle.foundation import plugins
from gimle.foundation.errors import UpstreamError
from gimle.gateway import faults
from gimle.gateway.neutral import Usage
from gimle.gateway.streams import Relay, Translation
from gimle.gateway.types import Chat, ChatCall, Dialect, Embeddings, Provider

DIALECTS = "gimle.gateway.dialects"
NAMES = plugins.names(DIALECTS)
FIXTURES = Path(__file__).parents[1] / "fixtures" / "dialects"
PROVIDER = Provider(name="acme", base_url="https://api.acme.example/v1")


def dialect(name: str) -> Dialect:
    found: Dialect = plugins.load(DIALECTS, name).DIALECT
    return found


def recorded(name: str) -> dict[str, Any]:
    payloads: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text("utf-8"))
    return payloads


def call(name: str, stream: bool = False) -> ChatCall:
    return parsed(json.dumps(recorded(name)["request"]).encode(), stream=stream, dialect=name)


def chat(name: str) -> Chat:
    found = dialect(name).chat
    assert found is not None
    return found


def vectors(name: str) -> Embeddings:
    found = dialect(name).embeddings
    assert found is not None
    return found


def usage_of(name: str) -> Usage:
    return Usage(**recorded(name)["usage"])


def stream_of(name: str) -> bytes:
    return "".join(recorded(name)["stream"]).encode()


CHATS = [name for name in NAMES if dialect(name).chat is not None]
EMBEDDERS = [name for name in NAMES if dialect(name).embeddings is not None]


@pytest.mark.parametrize("name", CHATS)
def test_it_reads_a_request(name: str) -> None:
    prompt = chat(name).inspect(call(name))
    ask = chat(name).read_request(call(name))
    assert prompt.max_tokens == ask.max_tokens == recorded(name)["max_tokens"]
    assert [turn.text for turn in ask.turns] == recorded(name)["said"]


@pytest.mark.parametrize("name", CHATS)
def test_a_request_passes_with_only_its_model_changed(name: str) -> None:
    """Fields that we have never heard of reach the provider as the caller wrote them."""
    sent = json.loads(chat(name).patch(call(name), "their-model", PROVIDER))
    sent.pop("model", None)
    assert sent == recorded(name)["request"]


@pytest.mark.parametrize("name", CHATS)
def test_a_shorter_answer_is_asked_for_with_only_that_changed(name: str) -> None:
    shorter = chat(name).read_request(chat(name).shorten(call(name), 7, PROVIDER))
    assert shorter == msgspec.structs.replace(chat(name).read_request(call(name)), max_tokens=7)


@pytest.mark.parametrize("name", CHATS)
def test_a_request_comes_back_out_of_the_neutral_form(name: str) -> None:
    ask = chat(name).read_request(call(name))
    written = chat(name).write_request(ask, "their-model", PROVIDER)
    assert chat(name).read_request(parsed(written.body, dialect=name)) == ask


@pytest.mark.parametrize("name", CHATS)
def test_it_reads_an_answer(name: str) -> None:
    body = json.dumps(recorded(name)["reply"]).encode()
    reply = chat(name).read_reply(body)
    assert reply.choices[0].text == recorded(name)["text"]
    assert reply.usage == chat(name).read_usage(body) == usage_of(name)


@pytest.mark.parametrize("name", CHATS)
def test_it_writes_an_answer_that_it_can_read(name: str) -> None:
    reply = chat(name).read_reply(json.dumps(recorded(name)["reply"]).encode())
    again = chat(name).read_reply(chat(name).write_reply(reply))
    assert (again.choices, again.usage) == (reply.choices, reply.usage)


@pytest.mark.parametrize("name", CHATS)
def test_a_stream_passes_byte_by_byte(name: str) -> None:
    relay = Relay(chat(name).watch(), show_usage=True)
    told = b"".join(relay.feed(bytes([byte])) for byte in stream_of(name))
    assert told + relay.end() == stream_of(name)
    assert relay.fault is None
    assert relay.usage == usage_of(name)


@pytest.mark.parametrize("name", CHATS)
def test_a_stream_comes_back_out_of_the_neutral_form(name: str) -> None:
    first = Translation(chat(name).read_events(), chat(name).write_events(True))
    written = first.feed(stream_of(name))
    written += b"" if first.over else first.end()
    second = Translation(chat(name).read_events(), chat(name).write_events(True))
    again = second.feed(written)
    again += b"" if second.over else second.end()
    assert first.fault is second.fault is None
    assert again == written
    assert first.usage == second.usage == usage_of(name)


@pytest.mark.parametrize("name", CHATS)
def test_a_stream_that_is_cut_is_no_answer(name: str) -> None:
    events = recorded(name)["stream"]
    for whole in range(recorded(name)["closes_at"]):
        for carrier in (
            Relay(chat(name).watch(), show_usage=True),
            Translation(chat(name).read_events(), chat(name).write_events(True)),
        ):
            carrier.feed("".join(events[:whole]).encode())
            with pytest.raises(UpstreamError):
                carrier.end()


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b"<html>", b'{"choices": 3}', b"\xff\xfe", b"[" * 99_999])
def test_what_is_no_answer_is_a_fault_of_the_provider(name: str, body: bytes) -> None:
    for read in (chat(name).read_usage, chat(name).read_reply):
        with pytest.raises(UpstreamError):
            read(body)


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("data", [b"", b"null", b"<html>", b"[3]", b"\xff\xfe", b"[" * 99_999])
def test_what_is_no_event_is_a_fault_of_the_provider(name: str, data: bytes) -> None:
    for begin in (chat(name).watch, chat(name).read_events):
        with pytest.raises(UpstreamError):
            begin()(data)


@pytest.mark.parametrize("name", NAMES)
def test_it_knows_whose_fault_it_is(name: str) -> None:
    for told in recorded(name)["faults"]:
        headers = told.get("headers", {})
        fault = dialect(name).read_fault(told["status"], headers, json.dumps(told["body"]).encode())
        fault = faults.held(fault, told["status"], faults.waiting(headers, now=0.0))
        assert fault.error.code == told["code"], told
        assert fault.again == told.get("again", fault.again), told


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b"<html>", b'{"error": 3}', b"\xff\xfe", b"[" * 99_999])
@pytest.mark.parametrize("status", [302, 400, 401, 404, 408, 413, 429, 500, 503, 529])
def test_any_refusal_means_something(name: str, status: int, body: bytes) -> None:
    assert dialect(name).read_fault(status, {}, body).error.message


@pytest.mark.parametrize("name", NAMES)
def test_it_never_repeats_what_a_provider_says_about_a_key(name: str) -> None:
    (told,) = [told for told in recorded(name)["faults"] if told["status"] == 401]
    fault = dialect(name).read_fault(401, {}, json.dumps(told["body"]).encode())
    assert "sk-12" not in fault.error.message
    assert not fault.passable


@pytest.mark.parametrize("name", EMBEDDERS)
def test_vectors_come_in_the_order_of_the_texts(name: str) -> None:
    found, tokens = vectors(name).read(json.dumps(recorded(name)["embeddings"]).encode(), 2)
    assert np.array_equal(found, np.array(recorded(name)["vectors"], np.float32))
    with pytest.raises(UpstreamError):
        vectors(name).read(json.dumps(recorded(name)["embeddings"]).encode(), 3)


@pytest.mark.parametrize("name", NAMES)
def test_it_counts_the_models_of_a_provider(name: str) -> None:
    assert dialect(name).read_models(json.dumps(recorded(name)["models"]).encode()) == recorded(name)["models_count"]
