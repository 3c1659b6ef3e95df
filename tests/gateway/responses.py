"""OpenAI's responses, as the tests of this room read and write them."""

import json
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st
from openai.types.responses import Response
from tests.conformance.readers import assembled, events
from tests.gateway.calls import parsed

from gimle.gateway.dialects.responses import DIALECT
from gimle.gateway.neutral import (
    Added,
    Ask,
    Began,
    Delta,
    Finished,
    Part,
    Refusal,
    Signed,
    Text,
    Thinking,
    ToolCall,
    Usage,
    Used,
)
from gimle.gateway.types import ChatCall, Provider

assert DIALECT.chat is not None
CHAT = DIALECT.chat
FIXTURES = Path(__file__).parents[1] / "fixtures" / "dialects" / "responses"
ACME = Provider(name="acme", base_url="https://api.acme.example/v1")
USAGE = Usage(uncached=55, cache_read=20, output=26, reasoning=64)


def raw(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def call(body: dict[str, Any]) -> ChatCall:
    return parsed(json.dumps(body).encode(), stream=bool(body.get("stream")), dialect="responses")


def asked(*items: dict[str, Any], **fields: Any) -> Ask:
    return CHAT.read_request(call({"input": list(items), **fields}))


def sent(ask: Ask) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(CHAT.write_request(ask, "m", ACME).body)
    return body


def read(stream: bytes) -> list[Delta]:
    reader = CHAT.read_events()
    return [delta for event in events(stream) for delta in reader(json.dumps(event).encode())]


def written(told: list[Delta]) -> bytes:
    write = CHAT.write_events(True)
    return b"".join(write(delta) for delta in told)


def as_the_sdk_reads(stream: bytes) -> Response:
    """The response which OpenAI's typed stream puts together; every event must be a valid one of its types."""
    return Response.model_validate(assembled("responses", stream))


def together(told: list[Delta]) -> tuple[list[Part], str | None, Usage | None]:
    """The parts of an answer that came piece by piece."""
    parts: dict[int, Part] = {}
    finish, usage = None, None
    for delta in told:
        match delta:
            case Began(at=at):
                parts[at] = delta.part
            case Added(text=text, at=at):
                part = parts[at]
                if isinstance(part, ToolCall):
                    parts[at] = msgspec.structs.replace(part, arguments=part.arguments + text)
                elif isinstance(part, Text | Refusal | Thinking):
                    parts[at] = msgspec.structs.replace(part, text=part.text + text)
            case Signed(signature=signature, at=at):
                part = parts[at]
                assert isinstance(part, Thinking | ToolCall)
                parts[at] = msgspec.structs.replace(part, signature=signature)
            case Finished():
                finish = delta.finish
            case Used():
                usage = delta.usage
            case _:
                pass
    return list(parts.values()), finish, usage


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
_KINDS = ["message", "function_call", "reasoning", "function_call_output", "web_search_call", "input_text", "refusal"]
ITEM = st.dictionaries(
    st.sampled_from(["type", "role", "content", "summary", "call_id", "name", "arguments", "output", "id", "text"]),
    st.sampled_from([*_KINDS, "user", "assistant"]) | JSON,
)
