"""Limits each minute over HTTP: they hold on every surface that asks a model, and what is left is told."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import pytest
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.testing import Behaviour, Upstream

HIVE = "The bees leave the hive in May. Honey is made in June."
QUESTION = "When do the bees leave the hive?"
SAID = [{"role": "user", "content": QUESTION}]
# What a model says that answers from documents.
CLAIM = {"claims": [{"text": "In May.", "chunk": 1, "quote": "The bees leave the hive in May."}]}
WRITTEN = {
    **{"id": "x", "object": "chat.completion", "created": 1, "model": "scribe"},
    "choices": [{"index": 0, "message": {"role": "assistant", "content": json.dumps(CLAIM)}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 70, "completion_tokens": 7, "total_tokens": 77},
}
Ask = Callable[[httpx.AsyncClient], Coroutine[Any, Any, httpx.Response]]


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running, Upstream(Behaviour(body=json.dumps(WRITTEN).encode())) as scribe:
        models = [
            {"name": "mock"},
            {"name": "vectors", "kind": "embedding", "dimensions": 8},
            {"name": "ranker", "kind": "rerank"},
            {"name": "whisper", "kind": "transcription"},
        ]
        await running.provide({"name": "stand", "base_url": upstream.url, "models": models})
        await running.provide({"name": "scribe", "base_url": scribe.url, "models": [{"name": "claims"}]})
        answer = await running.http.post("/api/v1/knowledge/documents", json={"name": "hive.md", "text": HIVE})
        job = answer.json()["items"][0]["job"]
        async with asyncio.timeout(60):
            while (await running.http.get(f"/api/v1/jobs/{job}")).json()["status"] != "done":
                await asyncio.sleep(0.1)
        yield running


def posted(path: str, body: dict[str, Any]) -> Ask:
    return lambda http: http.post(path, json=body)


def spoken(http: httpx.AsyncClient) -> Coroutine[Any, Any, httpx.Response]:
    file = ("speech.mp3", b"ID3" + bytes(100), "audio/mpeg")
    return http.post("/v1/audio/transcriptions", data={"model": "stand/whisper"}, files={"file": file})


SURFACES: dict[str, Ask] = {
    "chat": posted("/v1/chat/completions", {"model": "stand/mock", "messages": SAID}),
    "chat, streamed": posted("/v1/chat/completions", {"model": "stand/mock", "messages": SAID, "stream": True}),
    "messages": posted("/v1/messages", {"model": "stand/mock", "max_tokens": 9, "messages": SAID}),
    "responses": posted("/v1/responses", {"model": "stand/mock", "input": QUESTION}),
    "embeddings": posted("/v1/embeddings", {"model": "stand/vectors", "input": ["bees"], "user": "ann"}),
    "embeddings, inside": posted("/v1/embeddings", {"model": "builtin/minilm", "input": ["bees"]}),
    "rerank": posted("/v1/rerank", {"model": "stand/ranker", "query": QUESTION, "documents": ["In May.", "No."]}),
    "rerank, inside": posted("/v1/rerank", {"model": "builtin/minilm", "query": QUESTION, "documents": ["In May."]}),
    "transcription": spoken,
    "collection": posted("/v1/chat/completions", {"messages": SAID, "gimle": {"collection": "default"}}),
    "collection, streamed": posted(
        "/v1/chat/completions", {"messages": SAID, "gimle": {"collection": "default"}, "stream": True}
    ),
    "collection, from a model": posted(
        "/v1/messages",
        {"model": "scribe/claims", "max_tokens": 9, "messages": SAID, "gimle": {"collection": "default"}},
    ),
    "ask": posted("/api/v1/knowledge/ask", {"question": QUESTION, "model": "builtin/extract"}),
    "ask, streamed": posted("/api/v1/knowledge/ask", {"question": QUESTION, "stream": True}),
    "query, streamed": posted("/api/v1/llm/query/stream", {"prompt": QUESTION, "model": "stand/mock"}),
}


@pytest.mark.parametrize("surface", SURFACES)
async def test_each_request_counts_once(served: Served, surface: str) -> None:
    await served.http.put("/api/v1/allowances", json={"scope": "tenant", "requests_minute": 2})
    answers = [await SURFACES[surface](served.http) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers.get("ratelimit-limit") for answer in answers] == ["2", "2", "2"]
    assert [answer.headers.get("ratelimit-remaining") for answer in answers] == ["1", "0", "0"]
    assert 0 < int(answers[0].headers["ratelimit-reset"]) <= 30
    error = answers[2].json()["error"]
    assert "The limit of your tenant is reached: 2 requests a minute." in error["message"]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30


@pytest.mark.parametrize(
    "surface,scope", [("embeddings", "model"), ("rerank", "key"), ("transcription", "model"), ("ask", "key")]
)
async def test_keys_and_models_have_their_own(served: Served, app: App, surface: str, scope: str) -> None:
    principal = app.ring.principal(served.token)
    assert principal is not None
    model = {"embeddings": "stand/vectors", "transcription": "whisper"}.get(surface)
    terms = {"scope": scope, "subject": model or principal.key, "requests_minute": 1}
    assert (await served.http.put("/api/v1/allowances", json=terms)).status_code == 200
    answers = [await SURFACES[surface](served.http) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert ("this model" if model else "this key") in answers[1].json()["error"]["message"]


@pytest.mark.parametrize("surface", ["embeddings", "rerank", "collection, from a model"])
async def test_tokens_are_counted_as_they_were_used(served: Served, surface: str) -> None:
    # Whatever is expected of a call passes where all is left; what it has used is gone for the next ones.
    await served.http.put("/api/v1/allowances", json={"scope": "tenant", "tokens_minute": 5})
    answers = [await SURFACES[surface](served.http) for _ in range(4)]
    codes = [answer.status_code for answer in answers]
    assert codes[0] == 200
    assert codes[-1] == 429
    assert "5 tokens a minute" in answers[-1].json()["error"]["message"]


async def test_what_gimle_embeds_for_documents_and_searches_does_not_count(served: Served) -> None:
    await served.http.put("/api/v1/allowances", json={"scope": "tenant", "requests_minute": 1})
    document = {"name": "more.md", "text": "The queen has a mark."}
    assert (await served.http.post("/api/v1/knowledge/documents", json=document)).status_code == 202
    for _ in range(3):
        found = await served.http.post("/api/v1/knowledge/search", json={"query": QUESTION})
        assert found.status_code == 200
    assert (await SURFACES["embeddings"](served.http)).status_code == 200


async def test_the_ledger_knows_whom_every_call_was_for(served: Served, app: App, tenants: tuple[str, str]) -> None:
    headers = {"x-gimle-case": "case-9", "x-request-id": "mine"}
    for surface in ("embeddings", "rerank", "transcription", "collection, from a model"):
        served.http.headers.update(headers)
        assert (await SURFACES[surface](served.http)).status_code == 200
    query = (await served.http.post("/api/v1/llm/query", json={"prompt": QUESTION, "model": "stand/mock"})).json()["id"]
    async with asyncio.timeout(60):
        while (await served.http.get(f"/api/v1/llm/query/{query}/status")).json()["status"] != "done":
            await asyncio.sleep(0.1)
    assert app.ledger.posting is not None
    await app.ledger.posting.post()
    async with app.db.tenant(tenants[0]) as conn:
        sql = "select kind, case_id, user_id, request, overhead_seconds from call_attempt where provider <> 'builtin'"
        rows = await (await conn.execute(sql)).fetchall()
    assert sorted(row["kind"] for row in rows) == ["chat", "chat", "embedding", "rerank", "transcription"]
    assert {row["kind"] for row in rows if row["user_id"] == "ann"} == {"embedding"}
    assert {(row["case_id"], row["request"]) for row in rows} == {("case-9", "mine")}
    assert all(0 < row["overhead_seconds"] < 5 for row in rows)
