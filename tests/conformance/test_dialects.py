"""What every wire format keeps to. A new one brings `tests/fixtures/dialects/<name>.json`.

The payloads in it are the vendor's own examples as published, never what our code has written.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gimle.foundation import plugins
from gimle.foundation.errors import UpstreamError
from gimle.gateway.types import ChatCall, Dialect, Provider, Usage

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
    body = {field: msgspec.Raw(json.dumps(value).encode()) for field, value in recorded(name)["request"].items()}
    return ChatCall(body=body, model="any", stream=stream, dialect=name)


def is_recorded(usage: Usage | None, told: dict[str, int]) -> bool:
    return usage == Usage(input_tokens=told["input"], output_tokens=told["output"], cached_tokens=told["cached"])


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_a_request(name: str) -> None:
    prompt = dialect(name).read_chat(call(name))
    assert prompt.max_tokens == recorded(name)["max_tokens"]
    assert [message["content"] for message in dialect(name).read_messages(call(name))] == recorded(name)["said"]


@pytest.mark.parametrize("name", NAMES)
def test_a_request_passes_with_only_its_model_changed(name: str) -> None:
    """Fields that we have never heard of reach the provider as the caller wrote them."""
    sent = json.loads(dialect(name).write_chat(call(name), "their-model", PROVIDER))
    assert sent == {**recorded(name)["request"], "model": "their-model"}


@pytest.mark.parametrize("name", NAMES)
def test_usage_is_asked_of_a_stream(name: str) -> None:
    quiet = Provider(name="acme", base_url="https://api.acme.example/v1", stream_usage=False)
    asked = dialect(name).write_chat(call(name, stream=True), "their-model", PROVIDER)
    assert asked != dialect(name).write_chat(call(name, stream=True), "their-model", quiet)


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_an_answer(name: str) -> None:
    body = json.dumps(recorded(name)["reply"]).encode()
    assert dialect(name).read_text(body) == recorded(name)["text"]
    assert is_recorded(dialect(name).read_reply(body), recorded(name)["usage"])


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_a_stream(name: str) -> None:
    events = [dialect(name).read_event(data.encode()) for data in recorded(name)["events"]]
    assert [event.done for event in events] == [False] * (len(events) - 1) + [True]
    assert [event.content for event in events].index(True) == recorded(name)["first_content"]
    (usage,) = [event.usage for event in events if event.usage is not None]
    assert is_recorded(usage, recorded(name)["usage"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b"<html>", b'{"choices": 3}', b"\xff\xfe"])
def test_what_is_no_answer_is_a_fault_of_the_provider(name: str, body: bytes) -> None:
    for read in (dialect(name).read_reply, dialect(name).read_text):
        with pytest.raises(UpstreamError):
            read(body)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", [b"", b"null", b"<html>", b'{"choices": 3}', b"\xff\xfe"])
def test_what_is_no_event_is_a_fault_of_the_provider(name: str, data: bytes) -> None:
    with pytest.raises(UpstreamError):
        dialect(name).read_event(data)


@pytest.mark.parametrize("name", NAMES)
def test_it_knows_whose_fault_it_is(name: str) -> None:
    for told in recorded(name)["faults"]:
        fault = dialect(name).read_fault(told["status"], told.get("headers", {}), json.dumps(told["body"]).encode())
        assert fault.error.code == told["code"], told
        assert fault.again == told.get("again", fault.again), told


@pytest.mark.parametrize("name", NAMES)
def test_it_never_repeats_what_a_provider_says_about_a_key(name: str) -> None:
    (told,) = [told for told in recorded(name)["faults"] if told["status"] == 401]
    fault = dialect(name).read_fault(401, {}, json.dumps(told["body"]).encode())
    assert "sk-12" not in fault.error.message
    assert not fault.passable


@pytest.mark.parametrize("name", NAMES)
def test_vectors_come_in_the_order_of_the_texts(name: str) -> None:
    vectors, tokens = dialect(name).read_embeddings(json.dumps(recorded(name)["embeddings"]).encode(), 2)
    assert np.array_equal(vectors, np.array(recorded(name)["vectors"], np.float32))
    assert tokens is not None
    with pytest.raises(UpstreamError):
        dialect(name).read_embeddings(json.dumps(recorded(name)["embeddings"]).encode(), 3)


@pytest.mark.parametrize("name", NAMES)
def test_it_counts_the_models_of_a_provider(name: str) -> None:
    listed = recorded(name)["models"]
    assert dialect(name).read_models(json.dumps(listed).encode()) == len(listed["data"])
