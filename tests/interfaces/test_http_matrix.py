"""Some of the matrix through the front door: each surface before providers of each dialect, on sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.conformance.matrix import ANSWERS, CALLERS, MODELS, PROVIDERS, REQUESTS
from tests.conformance.readers import as_read, assembled
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.testing import Behaviour, Upstream

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "responses": "/v1/responses"}


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    """The server, and the stand-in as four providers, each of another dialect."""
    async with serving(app, tenants[0]) as running:
        stands = [
            {"name": f"of-{name}", "base_url": upstream.url, "dialect": name, "any_model": True} for name in MODELS
        ]
        await running.provide(*stands)
        yield running


def asked(name: str, caller: str, provider: str, *, stream: bool = False) -> dict[str, Any]:
    """A request of the matrix, as its caller sends it."""
    fields = {field: json.loads(bytes(raw)) for field, raw in REQUESTS[name].callers[caller].items()}
    model = REQUESTS[name].model(provider)
    usage = {"stream_options": {"include_usage": True}} if caller == "openai" and stream else {}
    return {**fields, "model": f"of-{provider}/{model}", **({"stream": True} if stream else {}), **usage}


@pytest.mark.parametrize("caller", CALLERS)
async def test_calls_of_tools_go_there_and_back(served: Served, upstream: Upstream, caller: str) -> None:
    answered = ANSWERS["tools"]
    for provider in PROVIDERS:
        given = answered.providers[provider]
        upstream.plan += [Behaviour(body=bytes(given.whole)), Behaviour(events=(given.events(provider),), piece=7)]
        whole = await served.http.post(PATHS[caller], json=asked("tools", caller, provider))
        assert whole.status_code == 200, whole.text
        assert as_read(caller, whole.json()) == answered.expected(caller, provider)
        assert whole.headers["x-gimle-provider"] == f"of-{provider}"
        streamed = await served.http.post(PATHS[caller], json=asked("tools", caller, provider, stream=True))
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert as_read(caller, assembled(caller, streamed.content)) == answered.expected(caller, provider)
        assert all(b"K\xc3\xb6ln" in received.body for received in upstream.received[-2:])


@pytest.mark.parametrize("caller", CALLERS)
async def test_hints_are_dropped_and_named(served: Served, upstream: Upstream, caller: str) -> None:
    for provider in PROVIDERS:
        upstream.plan.append(Behaviour(body=bytes(ANSWERS["text"].providers[provider].whole)))
        answer = await served.http.post(PATHS[caller], json=asked("hints", caller, provider))
        assert answer.status_code == 200, answer.text
        told = answer.headers.get("x-gimle-dropped", "")
        assert sorted(filter(None, told.split(", "))) == sorted(REQUESTS["hints"].pair(caller, provider).dropped)


@pytest.mark.parametrize("name, caller, provider", [
    ("logprobs", "openai", "anthropic"),
    ("several", "openai", "responses"),
    ("results", "anthropic", "openai"),
    ("vendors_tools", "anthropic", "gemini"),
    ("results", "responses", "openai"),
    ("json_object", "responses", "anthropic"),
])  # fmt: skip
async def test_what_can_not_be_said_is_refused_by_name(
    served: Served, upstream: Upstream, name: str, caller: str, provider: str
) -> None:
    refused = REQUESTS[name].pair(caller, provider).refused
    assert refused is not None
    for stream in (False, True):
        answer = await served.http.post(PATHS[caller], json=asked(name, caller, provider, stream=stream))
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
        if caller == "anthropic":
            assert error["message"].startswith(f"{refused}: ")
        else:
            assert error["param"] == refused
    assert not upstream.received


async def test_many_callers_of_all_dialects_at_once(served: Served, upstream: Upstream) -> None:
    """Nobody gets another's answer, nor another's dialect."""
    upstream.usual = Behaviour(body=bytes(ANSWERS["text"].providers["openai"].whole), head_delay=0.02)
    pairs = [caller for caller in CALLERS for _ in range(8)]
    async with asyncio.TaskGroup() as group:
        sent = [
            group.create_task(served.http.post(PATHS[caller], json=asked("conversation", caller, "openai")))
            for caller in pairs
        ]
    for caller, answer in zip(pairs, sent, strict=True):
        assert as_read(caller, answer.result().json()) == ANSWERS["text"].expected(caller, "openai")
