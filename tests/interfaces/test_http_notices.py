"""Who is told, and how, that another model answers than the one that was asked for: callers, and a webhook."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.foundation.config import Settings
from gimle.foundation.errors import ConfigError
from gimle.testing import WORDS, Behaviour, Upstream

ASKED = {"model": "cloud/big", "messages": [{"role": "user", "content": "When do the bees leave?"}]}
NOTICE = "CloudProviderUnavailable: cloud/big can't be reached, so own/small on your own machines answers."
HINWEIS = "CloudProviderUnavailable: cloud/big ist nicht erreichbar, darum antwortet own/small auf eigenen Rechnern."
GERMAN = {"accept-language": "de-DE,de;q=0.9"}


@pytest.fixture
async def hook() -> AsyncIterator[Upstream]:
    async with Upstream(Behaviour(body=b"{}")) as listening:
        yield listening


@pytest.fixture
async def settings(settings: Settings, hook: Upstream, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("gimle.gateway.webhooks._PAUSE_SECONDS", 0.5)
    gateway = msgspec.structs.replace(settings.gateway, notice_webhook=f"{hook.url}/notices", on_cut="error")
    return msgspec.structs.replace(settings, gateway=gateway)


@pytest.fixture
async def own() -> AsyncIterator[Upstream]:
    async with Upstream() as standing:
        yield standing


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream, own: Upstream) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running:
        upstream.usual = Behaviour(status=503, body=b"{}")
        big = {"name": "cloud", "base_url": upstream.url, "local": False, "models": [{"name": "big"}]}
        await running.provide(big, {"name": "own", "base_url": own.url, "models": [{"name": "small"}]})
        yield running


@pytest.mark.parametrize(
    "path,body",
    [
        ("/v1/chat/completions", ASKED),
        ("/v1/messages", {**ASKED, "max_tokens": 9}),
        ("/v1/responses", {"model": "cloud/big", "input": "When?"}),
    ],
)
async def test_the_head_and_a_comment_in_the_stream_tell_of_it(served: Served, path: str, body: dict[str, Any]) -> None:
    whole = await served.http.post(path, json=body, headers=GERMAN)
    assert (whole.status_code, whole.headers["x-gimle-notice"]) == (200, HINWEIS)
    streamed = await served.http.post(path, json={**body, "stream": True})
    assert streamed.headers["x-gimle-notice"] == NOTICE
    assert streamed.text.startswith(f": notice {NOTICE}\n\n")
    own = await served.http.post(path, json={**body, "model": "own/small", "stream": True})
    assert "notice" not in own.text
    assert "x-gimle-notice" not in own.headers


async def test_a_model_that_is_left_alone_is_still_why(served: Served, upstream: Upstream) -> None:
    for _ in range(5):
        answer = await served.http.post("/v1/chat/completions", json=ASKED)
        assert answer.headers["x-gimle-notice"] == NOTICE
    asked = len(upstream.received)
    # By now it has failed often enough not to be asked.
    assert (await served.http.post("/v1/chat/completions", json=ASKED)).headers["x-gimle-notice"] == NOTICE
    assert len(upstream.received) == asked


async def test_our_own_streams_have_an_event_for_it(served: Served) -> None:
    answer = await served.http.post("/api/v1/llm/query/stream", json={"prompt": "When?", "model": "cloud/big"})
    first, *_, last = [
        (event.split("\n")[0], json.loads(event.split("\n")[1].removeprefix("data: ")))
        for event in answer.text.strip().split("\n\n")
    ]
    code, message = NOTICE.split(": ", 1)
    told = {"code": code, "message": message, "asked": "cloud/big", "served": "own/small"}
    assert first == ("event: notice", told)
    assert last[0] == "event: done"
    assert (last[1]["text"], last[1]["notice"]) == ("".join(WORDS), told)


async def test_answers_from_documents_tell_of_it_too(served: Served, own: Upstream) -> None:
    document = {"name": "hive.md", "text": "The bees leave the hive in May."}
    job = (await served.http.post("/api/v1/knowledge/documents", json=document)).json()["items"][0]["job"]
    async with asyncio.timeout(60):
        while (await served.http.get(f"/api/v1/jobs/{job}")).json()["status"] != "done":
            await asyncio.sleep(0.1)
    claims = {"claims": [{"text": "In May.", "chunk": 1, "quote": document["text"]}]}
    message = {"role": "assistant", "content": json.dumps(claims)}
    written = {"id": "x", "object": "chat.completion", "created": 1, "model": "small"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    own.usual = Behaviour(body=json.dumps({**written, "choices": choices}).encode())
    asked = {"question": "When do the bees leave the hive?", "model": "cloud/big"}
    for path, body in (
        ("/api/v1/knowledge/ask", asked),
        ("/v1/chat/completions", {**ASKED, "gimle": {"collection": "default"}}),
    ):
        answer = await served.http.post(path, json=body, headers=GERMAN)
        assert (answer.status_code, answer.headers["x-gimle-notice"]) == (200, HINWEIS)
    streamed = await served.http.post("/api/v1/knowledge/ask", json={**asked, "stream": True})
    assert "event: notice\ndata: " in streamed.text
    assert streamed.headers["ratelimit-limit"] == "100"


async def test_a_webhook_hears_of_it_once_a_minute(served: Served, hook: Upstream, tenants: tuple[str, str]) -> None:
    # It fails once, and is called again.
    hook.plan.append(Behaviour(status=500, body=b"{}"))
    for _ in range(5):
        assert (await served.http.post("/v1/chat/completions", json=ASKED)).status_code == 200
    async with asyncio.timeout(60):
        while len(hook.received) < 2:
            await asyncio.sleep(0.1)
    code, message = NOTICE.split(": ", 1)
    events = {each.json["minute"]: each for each in hook.received}
    # All five came within a minute, or a new one had begun.
    sent = [job for job in (await served.http.get("/api/v1/jobs")).json()["items"] if job["kind"] == "webhook"]
    assert 1 <= len(sent) <= 2
    told = next(iter(events.values()))
    assert told.headers["x-gimle-event"] == "model.notice"
    assert {name: value for name, value in told.json.items() if name != "minute"} == {
        **{"event": "model.notice", "code": code, "message": message, "asked": "cloud/big", "served": "own/small"},
        "tenant": tenants[0],
    }
    metrics = (await served.http.get("/metrics")).text
    assert 'gimle_notices_total{code="CloudProviderUnavailable"}' in metrics


async def test_an_address_that_is_none_stops_the_start(settings: Settings) -> None:
    gateway = msgspec.structs.replace(settings.gateway, notice_webhook="ftp://example.org")
    with pytest.raises(ConfigError) as wrong:
        await App.open(msgspec.structs.replace(settings, gateway=gateway))
    assert wrong.value.field == "gateway.notice_webhook"
