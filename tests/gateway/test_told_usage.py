"""What providers tell of tokens: odd figures are no reason to throw a good answer away, and give no money back."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gimle.foundation import plugins
from gimle.gateway.neutral import Usage
from gimle.gateway.types import Dialect

Json = dict[str, Any]
MESSAGE: Json = {"role": "assistant", "content": "Hi"}
SPOKEN: Json = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}


def dialect(name: str) -> Dialect:
    found: Dialect = plugins.load("gimle.gateway.dialects", name).DIALECT
    return found


# By dialect: a whole answer without its usage, the field of that, and its names for what went in and came out.
CHATS: dict[str, tuple[Json, str, str, str]] = {
    "openai": ({"choices": [{"message": MESSAGE}]}, "usage", "prompt_tokens", "completion_tokens"),
    "completions": ({"choices": [{"text": "Hi"}]}, "usage", "prompt_tokens", "completion_tokens"),
    "anthropic": ({"content": [{"type": "text", "text": "Hi"}]}, "usage", "input_tokens", "output_tokens"),
    "responses": ({"status": "completed", "output": [SPOKEN]}, "usage", "input_tokens", "output_tokens"),
    "gemini": (
        {"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]},
        "usageMetadata", "promptTokenCount", "candidatesTokenCount",
    ),
}  # fmt: skip
SENSE: list[tuple[object, object, Usage]] = [
    (7.0, 12.0, Usage(uncached=7, output=12)),
    ("7", "12", Usage(uncached=7, output=12)),
    (-7, -12, Usage()),
]


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("read, made, usage", SENSE)
def test_figures_that_make_sense_are_read(name: str, read: object, made: object, usage: Usage) -> None:
    body, field, sent, written = CHATS[name]
    chat = dialect(name).chat
    assert chat is not None
    answer = json.dumps({**body, field: {sent: read, written: made}}).encode()
    assert chat.read_usage(answer) == usage
    assert chat.read_reply(answer).usage == usage


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize(
    "odd", ["n/a", [], {"counts": [7]}, {"counts": 7.5}, {"counts": "many"}, {"counts": 2**32 - 1}]
)
def test_an_answer_is_good_though_its_usage_is_none(name: str, odd: Any) -> None:
    body, field, sent, written = CHATS[name]
    chat = dialect(name).chat
    assert chat is not None
    told = {sent: odd["counts"], written: odd["counts"]} if isinstance(odd, dict) else odd
    answer = json.dumps({**body, field: told}).encode()
    assert chat.read_usage(answer) is None
    reply = chat.read_reply(answer)
    assert (reply.choices[0].text, reply.usage) == ("Hi", None)


@pytest.mark.parametrize(
    "name, event",
    [
        ("openai", {"choices": [{"index": 0, "delta": {"content": "Hi"}}], "usage": "n/a"}),
        ("completions", {"choices": [{"index": 0, "text": "Hi"}], "usage": "n/a"}),
        ("anthropic", {"type": "message_start", "message": {"usage": "n/a"}}),
        ("responses", {"type": "response.completed", "response": {"status": "completed", "usage": "n/a"}}),
        ("gemini", {"candidates": [{"content": {"parts": [{"text": "Hi"}]}}], "usageMetadata": "n/a"}),
    ],
)
def test_a_stream_goes_on_though_its_usage_is_none(name: str, event: Json) -> None:
    chat = dialect(name).chat
    assert chat is not None
    assert chat.watch()(json.dumps(event).encode()).usage is None
    assert chat.read_events()(json.dumps(event).encode())


VECTORS = {"data": [{"embedding": [1.0]}]}
VALUES = {"embeddings": [{"values": [1.0]}]}
FLOATS = {"embeddings": {"float": [[1.0]]}}


@pytest.mark.parametrize(
    "name, body, told",
    [
        ("openai", VECTORS, lambda count: {"usage": {"prompt_tokens": count}}),
        ("gemini", VALUES, lambda count: {"usageMetadata": {"promptTokenCount": count}}),
        ("cohere", FLOATS, lambda count: {"meta": {"billed_units": {"input_tokens": count}}}),
    ],
)
def test_vectors_are_good_whatever_they_are_said_to_have_used(
    name: str, body: Json, told: Callable[[object], Json]
) -> None:
    embeddings = dialect(name).embeddings
    assert embeddings is not None
    counts = [7.0, "7", -7, "many", []]
    assert [embeddings.read(json.dumps({**body, **told(count)}).encode(), 1)[1] for count in counts] == [
        7, 7, 0, None, None
    ]  # fmt: skip


@pytest.mark.parametrize("field", ["usage", "meta"])
def test_a_ranking_is_good_whatever_it_is_said_to_have_used(field: str) -> None:
    rerank = dialect("cohere").rerank
    assert rerank is not None
    body: Json = {"results": [{"index": 0, "relevance_score": 0.5}]}

    def used(count: object) -> Usage | None:
        told = {"prompt_tokens": count} if field == "usage" else {"tokens": {"input_tokens": count}}
        return rerank.read(json.dumps({**body, field: told}).encode(), 1)[1]

    assert [used(count) for count in (7.0, "7", -7, "many")] == [Usage(uncached=7), Usage(uncached=7), Usage(), None]


def test_a_transcript_gives_no_money_back() -> None:
    speech = dialect("openai").transcription
    assert speech is not None
    told: Json = {"usage": {"type": "tokens", "input_tokens": -1_000_000, "output_tokens": -5}}
    assert speech.read_usage(json.dumps({"text": "Hi", **told}).encode()) == Usage()
    assert speech.watch()(json.dumps({"type": "transcript.text.done", **told}).encode()).usage == Usage()
    assert speech.watch()(b'{"type": "transcript.text.done", "usage": "n/a"}').usage is None
