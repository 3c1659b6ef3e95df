"""What the tests of Gemini's wire format share: the recorded payloads, and shorthands for requests."""

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tests.gateway.calls import parsed

from gimle.foundation import plugins
from gimle.gateway import neutral
from gimle.gateway.neutral import (
    Ask,
    Audio,
    File,
    Image,
    Text,
    Thinking,
    ToolCall,
    Turn,
    Usage,
)
from gimle.gateway.types import Chat, ChatCall, Dialect, Provider

GEMINI: Dialect = plugins.load("gimle.gateway.dialects", "gemini").DIALECT
assert GEMINI.chat is not None
CHAT: Chat = GEMINI.chat
RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "dialects" / "gemini.json").read_text("utf-8")
)
PROVIDER = Provider(name="google", base_url="https://generativelanguage.googleapis.com/v1beta", dialect="gemini")
REQUEST: dict[str, Any] = RECORDED["request"]
REPLY = json.dumps(RECORDED["reply"]).encode()
EVENTS = [event.encode().removeprefix(b"data: ").strip() for event in RECORDED["stream"]]
USAGE = Usage(**RECORDED["usage"])


def call(body: dict[str, Any], stream: bool = False) -> ChatCall:
    return parsed(json.dumps(body).encode(), stream=stream, dialect="gemini")


def asked(**body: Any) -> Ask:
    return CHAT.read_request(call({"contents": [{"parts": [{"text": "Hi"}]}], **body}))


def written(ask: Ask, model: str = "gemini-2.5-flash") -> tuple[dict[str, Any], tuple[str, ...]]:
    out = CHAT.write_request(ask, model, PROVIDER)
    body: dict[str, Any] = json.loads(out.body)
    return body, out.dropped


def said(*parts: neutral.Part, role: neutral.Role = "user") -> Turn:
    return Turn(role=role, parts=parts)


def one(*turns: Turn, **fields: Any) -> Ask:
    return Ask(turns=turns or (said(Text(text="Hi")),), **fields)


TEXTS = st.text(min_size=1)
PARTS = st.one_of(
    st.builds(Text, text=TEXTS),
    st.builds(Image, data=st.just("AAAA"), media_type=st.sampled_from(("image/png", "image/webp"))),
    st.builds(Image, url=st.just("https://a.example/b.png"), media_type=st.just("image/png")),
    st.builds(Audio, data=st.just("AAAA"), media_type=st.just("audio/wav")),
    st.builds(File, data=st.just("AAAA"), media_type=st.just("application/pdf")),
)
OBJECTS = st.dictionaries(st.text(), st.one_of(st.none(), st.booleans(), st.integers(), st.text()), max_size=3)
CALLS = st.builds(
    ToolCall,
    id=st.uuids().map(str),
    name=st.sampled_from("fgh"),
    arguments=OBJECTS.map(json.dumps),
    signature=st.sampled_from((None, "AAA=")),
)
SPOKEN = st.one_of(
    st.builds(Text, text=TEXTS),
    st.builds(Thinking, text=TEXTS, signature=st.sampled_from((None, "gemini:AAA="))),
)
