"""Kept answers through the front door: who gets them, who never does, what they cost, and when they are forgotten."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
import httpx
import msgspec
import openai
import pytest
from tests.conftest import RedisServer
from tests.interfaces.claude import KEY, Claude
from tests.interfaces.claude import WORDS as CLAUDE_WORDS
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.foundation.config import Settings
from gimle.foundation.redis import Redis
from gimle.gateway.allowances import NewAllowance
from gimle.testing import WORDS, Behaviour, Upstream
from gimle.trust.types import Principal

CHAT = "/v1/chat/completions"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
KEEP = {"gimle": {"cache": True}}
PRICE = [{"input": 1, "cache_read": 1, "output": 1}]
# The stand-in tells of 7 tokens in, 4 from its cache and 8 out, at a thousand nano-dollars each.
NANO = 19_000
# One request in each dialect, and the model that it is sent to.
DIALECTS: dict[str, dict[str, Any]] = {
    CHAT: {"model": "stand/mock", "messages": HELLO, "user": "ann"},
    "/v1/completions": {"model": "claude/opus", "prompt": "Hello", "max_tokens": 20},
    "/v1/responses": {"model": "stand/mock", "input": "Hello", "metadata": {"a": "1"}},
    "/v1/messages": {"model": "claude/opus", "messages": HELLO, "max_tokens": 20},
}


@pytest.fixture
async def claude() -> AsyncIterator[Claude]:
    async with Claude() as provider:
        yield provider


@pytest.fixture
async def served(
    app: App, tenants: tuple[str, str], upstream: Upstream, claude: Claude, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    monkeypatch.setenv("CLAUDE_API_KEY", KEY)
    async with serving(app, tenants[0]) as running:
        await running.provide(stand(upstream))
        theirs = {"name": "claude", "dialect": "anthropic", "base_url": claude.url, "models": [{"name": "opus"}]}
        await running.provide({**theirs, "api_key_env": "CLAUDE_API_KEY", "local": False})
        yield running


def stand(upstream: Upstream) -> dict[str, Any]:
    """The stand-in as a provider in the cloud."""
    models = [{"name": "mock", "price": PRICE, "max_output": 50}, {"name": "ranks", "kind": "rerank"}]
    return {"name": "stand", "base_url": upstream.url, "local": False, "image_urls": True, "models": models}


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "stand/mock", "messages": HELLO, **KEEP, **more}


async def said(served: Served, *, headers: dict[str, str] | None = None, **more: Any) -> str | None:
    """What the cache did for one chat, which must be answered."""
    answer = await served.http.post(CHAT, json=asked(**more), headers=headers)
    assert answer.status_code == 200, answer.text
    cache: str | None = answer.headers.get("x-gimle-cache")
    return cache


# -- hits


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", DIALECTS)
async def test_the_second_of_two_equal_calls_is_played_again(
    served: Served, upstream: Upstream, claude: Claude, path: str, stream: bool
) -> None:
    body = {**DIALECTS[path], **KEEP, "stream": stream}
    first, second = [await served.http.post(path, json=body) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 200), first.text + second.text
    assert [answer.headers["x-gimle-cache"] for answer in (first, second)] == ["miss", "hit"]
    assert [answer.headers["x-gimle-attempts"] for answer in (first, second)] == ["1", "0"]
    assert len(upstream.received) + len(claude.received) == 1
    # A response has an id of its own each time, since conversations go on from it.
    one, other = (re.sub(rb"resp_\w+", b"resp_", answer.content) for answer in (first, second))
    assert one == other
    for name in ("content-type", "x-gimle-model", "x-gimle-provider"):
        assert first.headers[name] == second.headers[name]
    assert second.headers["x-gimle-cost-usd"] == "0.00"
    assert int(second.headers["age"]) < 30


async def test_the_order_of_fields_makes_no_difference_and_another_word_does(served: Served) -> None:
    one = {"model": "stand/mock", "messages": HELLO, **KEEP}
    other = {**KEEP, "messages": HELLO, "user": "ben", "model": "stand/mock"}
    answers = [await served.http.post(CHAT, json=body) for body in (one, other, {**one, "temperature": 0.5})]
    assert [answer.headers["x-gimle-cache"] for answer in answers] == ["miss", "hit", "miss"]


async def test_the_vendors_sdks_read_them(served: Served, upstream: Upstream, claude: Claude) -> None:
    gpt: dict[str, Any] = {"model": "stand/mock", "messages": HELLO, "extra_body": KEEP}
    opus: dict[str, Any] = {"model": "claude/opus", "messages": HELLO, "max_tokens": 20, "extra_body": KEEP}
    async with (
        openai.AsyncOpenAI(base_url=served.url + "/v1", api_key=served.token, max_retries=0) as one,
        anthropic.AsyncAnthropic(base_url=served.url, api_key=served.token, max_retries=0) as other,
    ):
        for _ in range(2):
            whole = await one.chat.completions.create(**gpt)
            assert whole.choices[0].message.content == "".join(WORDS)
            chunks = [chunk async for chunk in await one.chat.completions.create(**gpt, stream=True)]
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(WORDS)
            message = await other.messages.create(**opus)
            assert [block.text for block in message.content if block.type == "text"] == ["".join(CLAUDE_WORDS)]
            async with other.messages.stream(**opus) as stream:
                assert await stream.get_final_text() == "".join(CLAUDE_WORDS)
    assert (len(upstream.received), len(claude.received)) == (2, 2)


async def test_a_conversation_goes_on_from_a_response_that_was_played_again(served: Served, upstream: Upstream) -> None:
    body = {"model": "stand/mock", "input": "Hello", **KEEP}
    first, second = [(await served.http.post("/v1/responses", json=body)).json() for _ in range(2)]
    assert first["id"] != second["id"]
    more = {"model": "stand/mock", "input": "More", "previous_response_id": second["id"]}
    assert (await served.http.post("/v1/responses", json=more)).status_code == 200
    assert [turn["content"] for turn in upstream.received[-1].json["messages"]] == ["Hello", "".join(WORDS), "More"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_of_fifty_equal_calls_at_once_one_goes(served: Served, upstream: Upstream, stream: bool) -> None:
    upstream.usual = Behaviour(head_delay=2, event_delay=0.01)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(served.http.post(CHAT, json=asked(stream=stream))) for _ in range(50)]
    answers = [call.result() for call in calls]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(upstream.received) == 1
    assert sorted(answer.headers["x-gimle-cache"] for answer in answers) == ["hit"] * 49 + ["miss"]
    # To wait for the provider is no work of ours.
    assert all(float(answer.headers["x-gimle-overhead-ms"]) < 1000 for answer in answers)


# -- who is asked


async def test_nothing_is_kept_for_those_who_do_not_ask(served: Served, upstream: Upstream) -> None:
    assert [await said(served, gimle={}) for _ in range(2)] == [None, None]
    assert len(upstream.received) == 2


async def test_an_allowance_decides_for_a_key(served: Served, app: App, tenants: tuple[str, str]) -> None:
    key = app.ring.principal(served.token)
    assert key is not None
    await app.allowances.put(tenants[0], NewAllowance(scope="key", subject=key.key, cache_seconds=60))
    assert [await said(served, gimle={}) for _ in range(2)] == ["miss", "hit"]
    await app.allowances.put(tenants[0], NewAllowance(scope="key", subject=key.key, cache_seconds=0))
    answer = await served.http.post(CHAT, json=asked())
    assert "x-gimle-cache" not in answer.headers
    # Silence would be a promise.
    assert answer.headers["x-gimle-dropped"] == "cache"


async def test_what_one_tenant_was_told_another_never_is(
    served: Served, app: App, tenants: tuple[str, str], upstream: Upstream
) -> None:
    assert await said(served) == "miss"
    async with serving(app, tenants[1]) as another:
        await another.provide(stand(upstream))
        assert await said(another) == "miss"
    assert len(upstream.received) == 2


async def test_callers_decide_by_header_and_by_field(served: Served, upstream: Upstream) -> None:
    store, cache = {"cache-control": "no-store"}, {"cache-control": "no-cache"}
    assert await said(served) == "miss"
    assert [await said(served, headers=store), await said(served, gimle={"cache": False})] == [None, None]
    assert [await said(served, headers=cache), await said(served, gimle={"cache": "no-cache"})] == ["miss", "miss"]
    assert await said(served) == "hit"
    assert await said(served, gimle={}, headers={"cache-control": "max-age=60"}) == "hit"
    await asyncio.sleep(1.1)
    assert await said(served, gimle={"cache": "max-age=1"}) == "miss"
    assert len(upstream.received) == 6


@pytest.mark.parametrize("path", DIALECTS)
async def test_a_value_that_is_none_is_refused_in_the_caller_s_dialect(served: Served, path: str) -> None:
    answer = await served.http.post(path, json={**DIALECTS[path], "gimle": {"cache": "always"}})
    assert answer.status_code == 400
    error = answer.json()["error"]
    if path == "/v1/messages":
        assert (answer.json()["type"], error["type"]) == ("error", "invalid_request_error")
    else:
        assert (error["type"], error["param"]) == ("invalid_request_error", "gimle.cache")
    assert "'always'" in error["message"]


# -- what is not kept


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_failed_is_asked_for_again(served: Served, upstream: Upstream, stream: bool) -> None:
    refusal = json.dumps({"error": {"message": "no", "type": "invalid_request_error"}}).encode()
    for failing, status in ((Behaviour(status=400, body=refusal), 400), (Behaviour(status=500, body=b"{}"), 502)):
        upstream.usual = failing
        assert (await served.http.post(CHAT, json=asked(stream=stream))).status_code == status
    upstream.usual = None
    assert [await said(served, stream=stream) for _ in range(2)] == ["miss", "hit"]


async def test_a_stream_that_broke_off_is_not_kept(served: Served, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(cut_after=4))
    broken = await served.http.post(CHAT, json=asked(stream=True))
    assert "[DONE]" not in broken.text
    assert [await said(served, stream=True) for _ in range(2)] == ["miss", "hit"]
    assert (await served.http.post(CHAT, json=asked(stream=True))).text.endswith("data: [DONE]\n\n")


async def test_a_caller_who_leaves_in_mid_stream_keeps_nothing(served: Served, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(stall_after=3))
    async with served.http.stream("POST", CHAT, json=asked(stream=True)) as answer:
        assert answer.headers["x-gimle-cache"] == "miss"
        await anext(answer.aiter_bytes())
    async with asyncio.timeout(10):
        await upstream.left.wait()
    assert await said(served, stream=True) == "miss"
    assert (await served.http.post(CHAT, json=asked(stream=True))).text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_when_the_first_leaves_the_next_goes(served: Served, upstream: Upstream, stream: bool) -> None:
    upstream.plan.append(Behaviour(head_delay=30, stall_after=2))
    async with asyncio.TaskGroup() as group:
        first = group.create_task(served.http.post(CHAT, json=asked(stream=stream)))
        async with asyncio.timeout(10):
            while not upstream.received:
                await asyncio.sleep(0.01)
        others = [group.create_task(served.http.post(CHAT, json=asked(stream=stream))) for _ in range(5)]
        await asyncio.sleep(0.3)
        assert len(upstream.received) == 1
        first.cancel()
    assert {other.result().status_code for other in others} == {200}
    assert sorted(other.result().headers["x-gimle-cache"] for other in others) == ["hit"] * 4 + ["miss"]
    assert len(upstream.received) == 2


async def test_an_answer_of_a_stand_in_is_not_kept(served: Served, upstream: Upstream) -> None:
    async with Upstream() as own:
        await served.provide({"name": "own", "base_url": own.url, "models": [{"name": "small"}]})
        upstream.usual = Behaviour(status=500, body=b"{}")
        answer = await served.http.post(CHAT, json=asked())
        assert (answer.headers["x-gimle-provider"], answer.headers["x-gimle-cache"]) == ("own", "miss")
        upstream.usual = None
        again = await served.http.post(CHAT, json=asked())
        assert (again.headers["x-gimle-provider"], again.headers["x-gimle-cache"]) == ("stand", "miss")


async def test_an_answer_that_a_budget_has_cut_short_is_not_kept(served: Served, upstream: Upstream) -> None:
    await served.http.post("/api/v1/budgets", json={"limit": "0.00005", "period": "total"})
    assert await said(served) == "miss"
    assert upstream.received[-1].json["max_tokens"] < 50
    assert await said(served) == "miss"


async def test_what_the_cache_does_not_serve_is_named(served: Served) -> None:
    large = await served.http.post(CHAT, json=asked(messages=[{"role": "user", "content": "x" * 1_100_000}]))
    ranked = await served.http.post(
        "/v1/rerank", json={"model": "stand/ranks", "query": "x", "documents": ["a"], **KEEP}
    )
    assert [answer.headers.get("x-gimle-dropped") for answer in (large, ranked)] == ["cache", "cache"]
    forbidden = await served.http.post(CHAT, json=asked(gimle={"cache": "no-store"}))
    assert "x-gimle-dropped" not in forbidden.headers


# -- what it costs


async def test_a_hit_is_in_the_metrics_and_in_no_ledger(served: Served, app: App, tenants: tuple[str, str]) -> None:
    before = await counted(served.http)
    for stream in (False, True):
        assert [await said(served, stream=stream) for _ in range(3)] == ["miss", "hit", "hit"]
    after = await counted(served.http)
    assert {name: after[name] - before.get(name, 0) for name in ("hits", "misses", "saved_nano_usd")} == {
        "hits": 4, "misses": 2, "saved_nano_usd": 4 * NANO,
    }  # fmt: skip
    assert after["bytes"] > before.get("bytes", 0)
    assert app.ledger.posting is not None
    await app.ledger.posting.post()
    async with app.db.tenant(tenants[0]) as conn:
        rows = await (await conn.execute("select * from call_attempt")).fetchall()
    assert [row["cost_nano"] for row in rows] == [NANO, NANO]


async def counted(http: httpx.AsyncClient) -> dict[str, float]:
    """The numbers of the cache, by what they count."""
    text = (await http.get("/metrics")).text
    return {name: float(value) for name, value in re.findall(r"^gimle_cache_(\w+?)(?:_total)? (\S+)$", text, re.M)}


async def test_a_hit_counts_as_a_request_and_as_no_tokens(served: Served) -> None:
    await served.http.put("/api/v1/allowances", json={"requests_minute": 3})
    answers = [await served.http.post(CHAT, json=asked()) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers.get("ratelimit-remaining") for answer in answers[:3]] == ["2", "1", "0"]
    # A call uses 19 of them.
    await served.http.put("/api/v1/allowances", json={"requests_minute": 0, "tokens_minute": 40})
    assert [await said(served) for _ in range(9)] == ["hit"] * 9


async def test_a_hit_needs_no_budget(served: Served) -> None:
    assert await said(served) == "miss"
    await served.http.post("/api/v1/budgets", json={"limit": "0.000001", "period": "total"})
    assert await said(served) == "hit"
    assert (await served.http.post(CHAT, json=asked(temperature=0.1))).status_code == 429


async def test_a_question_in_other_words_gets_the_same_answer_where_that_is_set(
    settings: Settings, tenants: tuple[str, str], upstream: Upstream
) -> None:
    alike = msgspec.structs.replace(settings.cache, similarity=0.8)
    async with (
        await App.open(msgspec.structs.replace(settings, cache=alike)) as app,
        serving(app, tenants[0]) as served,
    ):
        if any(model.id == "builtin/minilm" and model.unavailable for model in app.gateway.models(Principal("", ""))):
            pytest.skip("the weights are not installed: run `gimle setup`")
        await served.provide(stand(upstream))
        for words, found in (
            ("When do the bees swarm?", "miss"),
            ("When do bees swarm?", "hit"),
            ("When do bees not swarm?", "miss"),
            ("How is honey made?", "miss"),
        ):
            assert await said(served, messages=[{"role": "user", "content": words}]) == found
        assert app.ledger.posting is not None
        await app.ledger.posting.post()
        async with app.db.tenant(tenants[0]) as conn:
            rows = await (await conn.execute("select kind from call_attempt")).fetchall()
    assert [row["kind"] for row in rows] == ["chat"] * 3


# -- several nodes


def elsewhere(settings: Settings, folder: Path, **more: Any) -> Settings:
    """Another node on the same database."""
    jobs = msgspec.structs.replace(settings.jobs, in_process=False)
    return msgspec.structs.replace(settings, data=folder, jobs=jobs, **more)


async def test_a_change_of_the_provider_is_heeded_at_once_on_each_node(
    served: Served, settings: Settings, tenants: tuple[str, str], upstream: Upstream, tmp_path: Path
) -> None:
    async with await App.open(elsewhere(settings, tmp_path)) as node, serving(node, tenants[0]) as other:
        for each in (served, other):
            assert [await said(each) for _ in range(2)] == ["miss", "hit"]
        known = node.gateway.catalog.get(tenants[0], "stand").updated_at
        # Nothing but the moment of the change is another.
        assert (await served.http.put("/api/v1/llm/providers/stand", json=stand(upstream))).status_code == 200
        assert await said(served) == "miss"
        async with asyncio.timeout(10):
            while node.gateway.catalog.get(tenants[0], "stand").updated_at == known:
                await asyncio.sleep(0.01)
        assert [await said(other) for _ in range(2)] == ["miss", "hit"]


async def test_nodes_with_a_redis_share_what_they_keep_and_do_without_it(
    settings: Settings,
    tenants: tuple[str, str],
    upstream: Upstream,
    tmp_path: Path,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It has 5 ms otherwise, and on a busy machine a node does without it.
    monkeypatch.setattr("gimle.app.Redis", partial(Redis, patience=5.0))
    shared = msgspec.structs.replace(settings.shared, redis_url=redis_server.url)
    always = msgspec.structs.replace(settings.cache, mode="on")
    one, other = (elsewhere(settings, tmp_path / name, shared=shared, cache=always) for name in "ab")
    async with (
        await App.open(one) as first,
        await App.open(other) as second,
        serving(first, tenants[0]) as here,
        serving(second, tenants[0]) as there,
    ):
        await here.provide(stand(upstream))
        async with asyncio.timeout(20):
            while "stand" not in second.gateway.catalog.snapshot(tenants[0]).access:
                await asyncio.sleep(0.01)
            found, number = "miss", 0
            # It is written in the background.
            while found != "hit":
                number += 1
                assert await said(here, gimle={}, seed=number) == "miss"
                await asyncio.sleep(0.1)
                found = str(await said(there, gimle={}, seed=number))
        assert len(upstream.received) == 2 * number - 1
        redis_server.kill()
        assert [await said(there, gimle={}, seed=0) for _ in range(2)] == ["miss", "hit"]
