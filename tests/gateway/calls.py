"""Calls, a gateway over stand-ins, what these say, and what is counted, for the tests of this room."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from gimle.foundation.config import GatewaySettings, LedgerSettings, Settings
from gimle.foundation.db import Database
from gimle.foundation.telemetry import REGISTRY
from gimle.gateway.gateway import Gateway
from gimle.gateway.inside import Engines
from gimle.gateway.tokens import Tokens
from gimle.gateway.types import ChatCall, ChatReply, ChatStream
from gimle.selection.types import Model
from gimle.testing import Behaviour, ScriptedEngine, Upstream
from gimle.trust.types import Principal

ANNA = Principal("ten_" + "a" * 32, "key_" + "a" * 32)
QUICK = GatewaySettings(connect_seconds=1, first_token_seconds=0.5, idle_seconds=0.5, total_seconds=5)
LENIENT = LedgerSettings()
MODELS = (
    Model(provider="builtin", name="extract", local=True),
    Model(provider="builtin", name="minilm", kind="embedding", local=True, dimensions=8, version="v1"),
    Model(provider="builtin", name="minilm", kind="rerank", local=True),
)


def call(model: str = "mock/mock", *, stream: bool = False, **fields: Any) -> ChatCall:
    """A chat request as a door hands it over."""
    body = {"model": model, "messages": [{"role": "user", "content": "When do bees swarm?"}], **fields}
    if stream:
        body["stream"] = True
    return parsed(msgspec.json.encode(body), model, stream=stream)


def parsed(body: bytes, model: str = "any", *, stream: bool = False, dialect: str = "openai") -> ChatCall:
    """A request from its bytes."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return ChatCall(body=fields, model=model, stream=stream, dialect=dialect)


def provider(upstream: Upstream, **facts: Any) -> dict[str, Any]:
    """The stand-in as a provider with one model of each kind."""
    models = [{"name": "mock", **facts}, {"name": "vectors", "kind": "embedding", "dimensions": 8}]
    return {"base_url": upstream.url, "models": models}


@asynccontextmanager
async def opened(
    folder: Path,
    providers: dict[str, dict[str, Any]],
    settings: GatewaySettings = QUICK,
    db: Database | None = None,
    ledger: LedgerSettings = LENIENT,
) -> AsyncIterator[Gateway]:
    """A gateway over these providers and a scripted engine in the place of the builtin one."""
    engines = Engines({"builtin": ScriptedEngine(available=frozenset({"extract"}))}, MODELS, Tokens(None))
    known = Settings(data=folder, gateway=settings, ledger=ledger, providers=providers)
    gateway = await Gateway.assemble(db, known, engines, Tokens(None))
    try:
        yield gateway
    finally:
        await gateway.close()


def replied(answer: ChatReply | ChatStream) -> ChatReply:
    """The answer as the whole one that it must be."""
    assert isinstance(answer, ChatReply)
    return answer


def streamed(answer: ChatReply | ChatStream) -> ChatStream:
    """The answer as the stream that it must be."""
    assert isinstance(answer, ChatStream)
    return answer


async def read(stream: ChatStream) -> bytes:
    """All bytes of a stream, which is closed then."""
    try:
        return b"".join([piece async for piece in stream])
    finally:
        await stream.close()


def chunk(**choice: Any) -> bytes:
    """An event of a stream with one choice."""
    said = {"id": "chatcmpl-2", "object": "chat.completion.chunk", "created": 1, "model": "mock"}
    return b"data: " + json.dumps({**said, "choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


def saying(*pieces: str, **more: Any) -> Behaviour:
    """A stream of these pieces of text, with its proper end."""
    return Behaviour(events=events_of(*pieces), **more)


def events_of(*pieces: str) -> tuple[bytes, ...]:
    """The events of such a stream: one for the role, one a piece, and three for its end."""
    usage = {"prompt_tokens": 20, "completion_tokens": len(pieces), "total_tokens": 20 + len(pieces)}
    events = [chunk(delta={"role": "assistant", "content": ""}, finish_reason=None)]
    events += [chunk(delta={"content": piece}, finish_reason=None) for piece in pieces]
    events.append(chunk(delta={}, finish_reason="stop"))
    events.append(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
    return (*events, b"data: [DONE]\n\n")


def counted(metric: str, *labels: str) -> float:
    """The sum of a metric's rows whose labels begin so."""
    totals = REGISTRY.totals().items()
    return sum(cells[0] for (name, values), cells in totals if name == metric and values[: len(labels)] == labels)
