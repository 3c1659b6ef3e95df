"""`/api/v1/llm/query` over HTTP: 202 and an id, status, result, stream, errors in Gimle's shape."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.foundation import ids
from gimle.testing import WORDS, Behaviour, Upstream

QUERY = "/api/v1/llm/query"
ASKED = {"prompt": "When do bees swarm?", "model": "stand/mock"}


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running:
        provider = {"name": "stand", "base_url": upstream.url, "models": [{"name": "mock"}]}
        await running.provide(provider)
        yield running


async def test_a_query_is_sent_watched_and_fetched(served: Served, app: App) -> None:
    headers = {"idempotency-key": "once"}
    sent = [await served.http.post(QUERY, json=ASKED, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in sent] == [202, 202]
    query = sent[0].json()["id"]
    assert query == sent[1].json()["id"]
    assert sent[0].headers["location"] == f"{QUERY}/{query}/status"
    async with asyncio.timeout(20):
        while (status := (await served.http.get(f"{QUERY}/{query}/status")).json())["status"] != "done":
            assert status["status"] in ("queued", "running")
            await asyncio.sleep(0.1)
    assert (await served.http.get(f"/api/v1/jobs/{status['job']}")).json()["kind"] == "query"
    answer = (await served.http.get(f"{QUERY}/{query}/result")).json()
    assert (answer["text"], answer["provider"], answer["metrics"]["attempts"]) == ("".join(WORDS), "stand", 1)
    async with serving(app, await other_tenant(app)) as stranger:
        for path in ("status", "result"):
            refused = await stranger.http.get(f"{QUERY}/{query}/{path}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "query_not_found")


async def other_tenant(app: App) -> str:
    tenant = ids.new("ten")
    async with app.db.shared() as conn:
        await conn.execute("insert into tenant (id, name) values (%s, 'stranger')", (tenant,))
    return tenant


async def test_errors_name_the_field(served: Served) -> None:
    wrong: tuple[tuple[dict[str, object], int, str], ...] = (
        ({}, 400, "prompt"),
        ({"prompt": "a", "surprise": 1}, 400, "surprise"),
        ({"prompt": "a", "temperature": 9}, 400, "temperature"),
        ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens"),
        ({"prompt": "a", "metadata": {"a": 1}}, 400, "metadata"),
        ({"messages": [{"content": "a"}]}, 400, "messages[0]"),
        ({"prompt": "a", "model": "nobody/nothing"}, 404, "model"),
    )
    for body, status, field in wrong:
        for path in (QUERY, f"{QUERY}/stream"):
            answer = await served.http.post(path, json=body)
            error = answer.json()["error"]
            assert answer.status_code == status, body
            assert (error["field"] or "").startswith(field), (body, error)
            assert error["request_id"] == answer.headers["x-request-id"]


async def test_a_stream_has_progress_and_done(served: Served) -> None:
    answer = await served.http.post(f"{QUERY}/stream", json=ASKED)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event.split("\n") for event in answer.text.strip().split("\n\n")]
    assert [lines[0] for lines in events] == ["event: progress"] * (len(events) - 1) + ["event: done"]
    told = [json.loads(lines[1].removeprefix("data: ")) for lines in events]
    assert "".join(each["text"] for each in told[:-1]) == told[-1]["text"] == "".join(WORDS)


async def test_a_stream_that_breaks_ends_with_an_error(served: Served, upstream: Upstream) -> None:
    upstream.usual = Behaviour(cut_after=4)
    answer = await served.http.post(f"{QUERY}/stream", json=ASKED)
    name, data = answer.text.strip().split("\n\n")[-1].split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "upstream_error"
    assert "event: done" not in answer.text


async def test_a_caller_who_leaves_ends_the_stream_upstream(served: Served, upstream: Upstream) -> None:
    upstream.usual = Behaviour(chunks=1000, event_delay=0.01)
    async with served.http.stream("POST", f"{QUERY}/stream", json=ASKED) as answer:
        await anext(answer.aiter_bytes())
    await asyncio.wait_for(upstream.left.wait(), 5)
