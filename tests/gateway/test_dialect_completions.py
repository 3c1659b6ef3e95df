"""OpenAI's older completions: a prompt is a turn of the user, and what a chat can't do is refused."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion
from tests.gateway.calls import parsed
from tests.gateway.responses import JSON

from gimle.foundation.errors import InvalidRequest, Unsayable, UpstreamError
from gimle.gateway.dialects.completions import DIALECT
from gimle.gateway.lanes import Call
from gimle.gateway.neutral import Ask, Choice, Image, Logprob, Refusal, Reply, Text, Thinking, Tool, Turn, deltas
from gimle.gateway.types import ChatCall, Dialect, Provider

assert DIALECT.chat is not None
CHAT = DIALECT.chat
ACME = Provider(name="acme", base_url="https://api.acme.example/v1")


def call(stream: bool = False, **body: Any) -> ChatCall:
    return parsed(json.dumps(body).encode(), stream=stream, dialect="completions")


@pytest.mark.parametrize(
    "fields, field",
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": [{}]}, "prompt[0]"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "a", "n": 0}, "n"),
        ({"prompt": "a", "temperature": "hot"}, "temperature"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        CHAT.inspect(call(**fields))
    assert raised.value.field == field


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "suffix": "z"}, "suffix"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
    ],
)
def test_what_a_chat_can_not_do_is_refused(fields: dict[str, Any], field: str) -> None:
    CHAT.inspect(call(**fields))
    with pytest.raises(Unsayable) as raised:
        CHAT.read_request(call(**fields))
    assert raised.value.field == field


def test_a_prompt_is_a_turn_of_the_user() -> None:
    ask = CHAT.read_request(
        call(prompt=["Bees"], max_tokens=5, stop="\n", n=2, best_of=2, echo=False, suffix="", logprobs=1, logit_bias={})
    )
    assert [(turn.role, turn.text) for turn in ask.turns] == [("user", "Bees")]
    assert (ask.max_tokens, ask.stop, ask.n, ask.logprobs, ask.top_logprobs) == (5, ("\n",), 2, True, 1)
    assert ask.extra == {"completions": {"logit_bias": {}}}


@pytest.mark.parametrize(
    "ask, field",
    [
        (Ask(turns=()), "turns"),
        (Ask(turns=(Turn(role="system", parts=(Text(text="a"),)),)), "turns"),
        (Ask(turns=(Turn(role="user", parts=(Image(url="https://x/y"),)),)), "turns[0].parts[0]"),
        (Ask(turns=(Turn(role="user", parts=(Text(text="a"),)),), tools=(Tool(name="f"),)), "tools"),
    ],
)
def test_a_conversation_is_no_prompt(ask: Ask, field: str) -> None:
    with pytest.raises(Unsayable) as raised:
        CHAT.write_request(ask, "m", ACME)
    assert raised.value.field == field


def test_a_provider_of_openais_chat_is_sent_a_completion_as_it_came() -> None:
    chat = Dialect(**{**msgspec.structs.asdict(DIALECT), "chat": None})
    lane = Call(call(prompt=["a", "b"], echo=True, x_own=1), DIALECT).lane(chat, "openai", "m", ACME)
    sent = lane.request()
    assert lane.same
    assert (sent.path, json.loads(sent.body)) == (
        "/completions",
        {"prompt": ["a", "b"], "echo": True, "x_own": 1, "model": "m"},
    )


def test_an_answer_of_a_chat_is_a_text() -> None:
    logprobs = (
        Logprob(token="Be", logprob=-0.5, rivals=(Logprob(token="A", logprob=-2.0),)),
        Logprob(token="es", logprob=-1.0),
    )
    parts = (Thinking(text="Hm."), Text(text="Bees"), Refusal(text="!"))
    reply = Reply(id="x", model="m", choices=(Choice(parts=parts, finish="length", logprobs=logprobs),))
    told = Completion.model_validate(json.loads(CHAT.write_reply(reply)))
    assert (told.choices[0].text, told.choices[0].finish_reason) == ("Bees!", "length")
    assert told.choices[0].logprobs is not None
    assert told.choices[0].logprobs.text_offset == [0, 2]
    write = CHAT.write_events(True)
    events = b"".join(write(delta) for delta in deltas(reply)).split(b"\n\n")
    assert events[-2] == b"data: [DONE]"
    pieces = [json.loads(event.removeprefix(b"data: "))["choices"][0] for event in events[:-2]]
    assert "".join(piece["text"] for piece in pieces) == "Bees!"
    assert [piece["finish_reason"] for piece in pieces] == [None, None, "length"]


def test_log_probabilities_are_read() -> None:
    told = {"tokens": ["a", "b"], "token_logprobs": [None, -1.5], "top_logprobs": [None, {"b": -1.5, "c": -2.0}]}
    reply = CHAT.read_reply(json.dumps({"choices": [{"text": "ab", "logprobs": told}]}).encode())
    found = reply.choices[0].logprobs
    assert found is not None
    assert [(one.token, one.logprob, len(one.rivals)) for one in found] == [("a", 0.0, 0), ("b", -1.5, 2)]


@settings(deadline=None)
@given(JSON | st.fixed_dictionaries({"choices": st.lists(st.fixed_dictionaries({"text": JSON, "logprobs": JSON}))}))
def test_nothing_breaks_the_readers(body: Any) -> None:
    data = json.dumps(body).encode()
    for reading in (CHAT.read_reply, CHAT.read_usage, CHAT.watch(), CHAT.read_events()):
        with suppress(UpstreamError):
            reading(data)
    with suppress(InvalidRequest):
        CHAT.read_request(call(prompt=body))
