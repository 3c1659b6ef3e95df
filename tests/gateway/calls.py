"""Calls, and a gateway over stand-ins, for the tests of this room."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from gimle.foundation.config import GatewaySettings, LedgerSettings, Settings
from gimle.foundation.db import Database
from gimle.gateway.gateway import Gateway
from gimle.gateway.inside import Engines
from gimle.gateway.tokens import Tokens
from gimle.gateway.types import ChatCall, ChatReply, ChatStream
from gimle.selection.types import Model
from gimle.testing import ScriptedEngine, Upstream
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


def parsed(body: bytes, model: str, *, stream: bool = False) -> ChatCall:
    """A request from its bytes."""
    return ChatCall(body=msgspec.json.decode(body, type=dict[str, msgspec.Raw]), model=model, stream=stream)


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
