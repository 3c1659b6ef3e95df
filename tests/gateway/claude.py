"""Anthropic's published payloads, and requests in its format, for the tests of its dialect."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.gateway.calls import parsed

from gimle.gateway.dialects.anthropic import DIALECT
from gimle.gateway.neutral import Ask, Delta, Text, Turn
from gimle.gateway.types import ChatCall, Provider

FIXTURES = Path(__file__).parents[1] / "fixtures" / "dialects" / "anthropic"
# What the conformance suite reads too.
PUBLISHED: dict[str, Any] = json.loads(FIXTURES.with_suffix(".json").read_text("utf-8"))
PROVIDER = Provider(name="acme", base_url="https://api.acme.example/v1", dialect="anthropic")
NEW, OLD, OTHER = "claude-opus-4-8", "claude-haiku-4-5", "qwen3"
HELLO = Turn(role="user", parts=(Text(text="Hello"),))
assert DIALECT.chat is not None
CHAT = DIALECT.chat


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / name).read_text("utf-8"))


def recorded(name: str) -> bytes:
    return (FIXTURES / name).read_bytes() if name != "text.sse" else "".join(PUBLISHED["stream"]).encode()


def datas(name: str) -> list[bytes]:
    lines = recorded(name).split(b"\n")
    return [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]


def call(body: dict[str, Any], *, stream: bool = False) -> ChatCall:
    return parsed(json.dumps(body).encode(), str(body.get("model", "")), stream=stream, dialect="anthropic")


def asked(**fields: Any) -> ChatCall:
    body = {"model": NEW, "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}], **fields}
    return call({name: value for name, value in body.items() if value is not ...})


def ask(*turns: Turn, **fields: Any) -> Ask:
    return Ask(turns=turns or (HELLO,), **fields)


def sent(asking: Ask, model: str = NEW) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(CHAT.write_request(asking, model, PROVIDER).body)
    return body


def dropped(asking: Ask, model: str = NEW) -> tuple[str, ...]:
    return CHAT.write_request(asking, model, PROVIDER).dropped


def read(pieces: Sequence[bytes]) -> list[Delta]:
    reader = CHAT.read_events()
    return [delta for piece in pieces for delta in reader(piece)]


def written_events(told: Sequence[Delta]) -> list[tuple[str, str]]:
    """The events that a caller gets: each its name and its data."""
    write = CHAT.write_events(True)
    whole = b"".join(map(write, told)).decode()
    events = [event.split("\n") for event in whole.split("\n\n") if event]
    return [(name.removeprefix("event: "), data.removeprefix("data: ")) for name, data in events]
