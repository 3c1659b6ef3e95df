"""What calls over HTTP owe: limits, budgets, their turn; who serves in whose place; and what of it callers are told."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.testing import Behaviour, Upstream
from gimle.trust.types import Principal

PATH = "/v1/chat/completions"
PRICE = [{"input": 1, "cache_read": 1, "output": 1}]
# The stand-in tells of 7 tokens in and 12 out, at a thousand nano-dollars each.
COST = "0.000019"
# 8 tokens in and 23 out, by their bytes.
COST_SEEN = "0.000031"


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running:
        dear = {"name": "dear", "price": PRICE, "max_output": 50}
        cheap = {"name": "cheap", "price": PRICE, "max_output": 20}
        await running.provide({"name": "cloud", "base_url": upstream.url, "local": False, "models": [dear, cheap]})
        yield running


def asked(model: str = "cloud/dear", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}]} | more


async def test_a_strict_budget_is_used_up_and_never_overspent(served: Served, upstream: Upstream) -> None:
    budget = (await served.http.post("/api/v1/budgets", json={"limit": "0.00007", "period": "total"})).json()
    answers = [await served.http.post(PATH, json=asked()) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers.get("x-gimle-cost-usd") for answer in answers] == [COST, COST, COST, None]
    # The provider is told how much may be written where less is left than an answer may be long.
    most = [received.json.get("max_tokens", 50) for received in upstream.received]
    assert most[0] == 50 > most[1] > most[2] >= 12
    refused = answers[3].json()["error"]
    assert refused["code"] == "budget_exceeded"
    spent = (await served.http.get(f"/api/v1/budgets/{budget['id']}")).json()
    assert Decimal(spent["spent"]) + Decimal(spent["held"]) <= Decimal(spent["limit"])


async def test_a_strict_budget_reserves_for_a_prompt_of_many_tokens(served: Served, upstream: Upstream) -> None:
    await served.http.post("/api/v1/budgets", json={"limit": "0.00065", "period": "total"})
    # Each sign has three bytes, and may be three tokens: 600 for the prompt, and the marks around it.
    await served.http.post(PATH, json=asked(messages=[{"role": "user", "content": "鸞" * 200}]))
    (sent,) = upstream.received
    assert 16 <= sent.json["max_tokens"] < 50


async def test_what_no_provider_tells_costs_a_strict_budget_the_most(served: Served, upstream: Upstream) -> None:
    """All 50 tokens that the answer might have had, thoughts that nobody sees included; else what can be seen of it."""
    upstream.usual = Behaviour(body=b'{"choices": [{"message": {"content": "Hi"}}]}')
    budget = (await served.http.post("/api/v1/budgets", json={"limit": "1", "mode": "overdraft"})).json()
    seen = await served.http.post(PATH, json=asked())
    await served.http.put(f"/api/v1/budgets/{budget['id']}", json={"limit": "1", "mode": "strict"})
    async with asyncio.timeout(20):
        # Every node follows within a second.
        while (most := await served.http.post(PATH, json=asked())).headers["x-gimle-cost-usd"] == COST_SEEN:
            await asyncio.sleep(0.05)
    assert seen.headers["x-gimle-cost-usd"] == COST_SEEN
    assert Decimal(most.headers["x-gimle-cost-usd"]) > Decimal("0.00005")


async def test_a_budget_that_is_not_renewed_tells_of_no_time(served: Served) -> None:
    await served.http.post("/api/v1/budgets", json={"limit": "0", "period": "total"})
    refused = await served.http.post(PATH, json=asked())
    assert (refused.status_code, refused.headers.get("retry-after")) == (429, None)
    told = await served.http.post("/v1/messages", json=asked(max_tokens=10))
    assert "Try again" not in refused.text + told.text
    assert "is spent and is not renewed" in refused.text


async def test_a_strict_budget_knows_a_longest_answer(served: Served, upstream: Upstream) -> None:
    """Also where its caller's limit is the largest integer."""
    await served.http.put("/api/v1/allowances", json={"scope": "tenant", "tokens_minute": 1000})
    await served.http.post("/api/v1/budgets", json={"limit": "1", "period": "total"})
    answer = await served.http.post(PATH, json=asked(max_tokens=2**63 - 1))
    assert answer.status_code == 200, answer.text
    (sent,) = upstream.received
    # For a dollar, at a thousand nano-dollars each.
    assert 900_000 < sent.json["max_tokens"] < 1_000_000


async def test_all_choices_together_stay_within_a_strict_budget(served: Served, upstream: Upstream) -> None:
    await served.http.post("/api/v1/budgets", json={"limit": "0.000065", "period": "total"})
    await served.http.post(PATH, json=asked(n=2))
    (sent,) = upstream.received
    # Two answers of 50 tokens would cost more than there is.
    assert 16 <= sent.json["max_tokens"] <= 65 // 2


async def test_answers_for_other_rooms_stay_within_it_too(
    served: Served, app: App, upstream: Upstream, tenants: tuple[str, str]
) -> None:
    await served.http.post("/api/v1/budgets", json={"limit": "0.00004", "period": "total"})
    said = [{"role": "user", "content": "Hello"}]
    await app.gateway.complete(Principal(tenants[0], "key_1"), "cloud/dear", said, 50)
    assert 16 <= upstream.received[0].json["max_tokens"] < 40


async def test_an_answer_that_nobody_limits_is_limited_by_a_strict_budget(served: Served, upstream: Upstream) -> None:
    free = {"name": "endless", "base_url": upstream.url, "local": False, "models": [{"name": "m", "price": PRICE}]}
    await served.provide(free)
    await served.http.post(PATH, json=asked("endless/m"))
    await served.http.post("/api/v1/budgets", json={"limit": "1", "period": "total"})
    await served.http.post(PATH, json=asked("endless/m"))
    assert [received.json.get("max_tokens") for received in upstream.received] == [None, 4096]


@pytest.mark.parametrize(
    "more",
    [
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
        {"messages": [{"role": "assistant", "content": "A", "reasoning_content": "Hm"}], "top_k": 5},
    ],
)
async def test_a_limit_of_a_budget_leaves_the_rest_of_a_call_as_it_is(
    served: Served, upstream: Upstream, more: dict[str, Any]
) -> None:
    free = {"name": "endless", "base_url": upstream.url, "local": False, "models": [{"name": "m", "price": PRICE}]}
    await served.provide(free)
    await served.http.post("/api/v1/budgets", json={"limit": "1", "period": "total"})
    answer = await served.http.post(PATH, json=asked("endless/m", **more))
    assert answer.status_code == 200
    (sent,) = upstream.received
    assert sent.json == asked("m", max_tokens=4096, **more)


async def test_a_stream_pays_too(served: Served) -> None:
    await served.http.post("/api/v1/budgets", json={"limit": "0.00003", "period": "total"})
    first = await served.http.post(PATH, json=asked(stream=True))
    assert first.text.endswith("data: [DONE]\n\n")
    assert (await served.http.post(PATH, json=asked(stream=True))).status_code == 429


async def test_limits_refuse_at_once_and_say_how_much_is_left(served: Served) -> None:
    await served.http.put("/api/v1/allowances", json={"scope": "tenant", "requests_minute": 2})
    answers = [await served.http.post(PATH, json=asked()) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers.get("ratelimit-remaining") for answer in answers[:2]] == ["1", "0"]
    assert answers[2].json()["error"]["code"] == "rate_limited"
    assert int(answers[2].headers["retry-after"]) >= 1


async def test_one_tenant_s_provider_does_not_hold_up_another_s_of_its_name(
    served: Served, app: App, tenants: tuple[str, str], upstream: Upstream, second: Upstream
) -> None:
    key = await app.keys.create(tenants[1], "other", admin=True)
    await app.ring.refresh()
    other = {"authorization": f"Bearer {key.token}"}
    own = {"name": "cloud", "base_url": second.url, "local": True, "models": [{"name": "dear"}]}
    assert (await served.http.post("/api/v1/llm/providers", json=own, headers=other)).status_code == 201
    upstream.usual = Behaviour(status=429, headers={"retry-after": "600"})
    assert (await served.http.post(PATH, json=asked())).status_code == 429
    assert (await served.http.post(PATH, json=asked(), headers=other, timeout=5)).status_code == 200
    assert (len(upstream.received), len(second.received)) == (1, 1)
    figures = (await served.http.get("/api/v1/llm/providers/cloud/metrics", headers=other)).json()
    assert (figures["attempts"], figures["calls"], figures["faults"]) == (1, 1, {})


async def test_the_ledger_knows_whom_a_call_was_for(served: Served, app: App, tenants: tuple[str, str]) -> None:
    ours = {"case": "case-7", "workflow": "letters", "priority": "bulk"}
    assert (await served.http.post(PATH, json=asked(gimle=ours, user="ann"))).status_code == 200
    for case in (b"case-8", "Müller".encode(), "Müller".encode("latin-1")):
        assert (await served.http.post(PATH, json=asked(), headers={b"x-gimle-case": case})).status_code == 200
    assert app.ledger.posting is not None
    await app.ledger.posting.post()
    async with app.db.tenant(tenants[0]) as conn:
        rows = await (await conn.execute("select * from call_attempt order by started_at")).fetchall()
    assert [(row["case_id"], row["workflow"], row["user_id"]) for row in rows] == [
        ("case-7", "letters", "ann"), ("case-8", "", ""), ("Müller", "", ""), ("Müller", "", ""),
    ]  # fmt: skip


async def test_another_priority_is_refused_by_name(served: Served) -> None:
    answer = await served.http.post(PATH, json=asked(gimle={"priority": "urgent"}))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "gimle.priority")


async def test_own_machines_answer_when_the_budget_of_the_cloud_is_spent(served: Served, upstream: Upstream) -> None:
    await served.provide({"name": "own", "base_url": upstream.url, "models": [{"name": "small"}]})
    await served.http.post("/api/v1/budgets", json={"limit": "0.000001", "period": "total"})
    for stream in (False, True):
        answer = await served.http.post(PATH, json=asked(stream=stream), headers={"accept-language": "de-DE"})
        assert answer.status_code == 200
        assert (answer.headers["x-gimle-provider"], answer.headers["x-gimle-model"]) == ("own", "small")
        assert answer.headers["x-gimle-notice"] == (
            "CloudLimitReached: cloud/dear ist an einer Grenze, darum antwortet own/small auf eigenen Rechnern."
        )


async def test_auto_passes_by_what_a_budget_no_longer_pays(served: Served, upstream: Upstream) -> None:
    await served.provide({"name": "own", "base_url": upstream.url, "models": [{"name": "small"}]})
    await served.http.post("/api/v1/budgets", json={"limit": "0.00003", "period": "total"})
    assert (await served.http.post(PATH, json=asked())).status_code == 200
    explained = asked("auto:best-quality", max_tokens=20, gimle={"explain": True})
    decision = (await served.http.post(PATH, json=explained)).json()["gimle"]["decision"]
    gates = {one["model"]: one["gates"] for one in decision["verdicts"]}
    assert gates["cloud/cheap"] == ["budget: would cost more than is left of the budget"]
    assert decision["chosen"] == "own/small"


async def test_where_nobody_else_could_serve_the_budget_refuses(served: Served) -> None:
    await served.http.post("/api/v1/budgets", json={"limit": "0.00003", "period": "total"})
    assert (await served.http.post(PATH, json=asked())).status_code == 200
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    refused = await served.http.post(PATH, json=asked("auto", tools=[tool]))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exceeded")


async def test_own_machines_answer_when_the_cloud_is_away(served: Served, upstream: Upstream) -> None:
    async with Upstream() as own:
        await served.provide({"name": "own", "base_url": own.url, "models": [{"name": "small"}]})
        upstream.usual = Behaviour(status=503, body=b"{}")
        answer = await served.http.post(PATH, json=asked())
    assert answer.headers["x-gimle-notice"].startswith("CloudProviderUnavailable: cloud/dear can't be reached")


async def test_bulk_goes_to_a_cheaper_model_when_much_is_spent(served: Served, upstream: Upstream) -> None:
    terms = {"limit": "0.0001", "period": "total", "downgrade_percent": 10, "downgrade_model": "cloud/cheap"}
    assert (await served.http.post("/api/v1/budgets", json=terms)).status_code == 201
    bulk = asked(gimle={"priority": "bulk"})
    models = []
    for request in (bulk, bulk, asked()):
        answer = await served.http.post(PATH, json=request)
        models.append(answer.headers["x-gimle-model"])
        told = answer.headers.get("x-gimle-notice", "")
        assert told.startswith("CheaperModelUsed") == (models[-1] == "cheap")
    assert models == ["dear", "cheap", "dear"]
    await served.provide({"name": "own", "base_url": upstream.url, "local": True, "models": [{"name": "small"}]})
    stays = await served.http.post(PATH, json={**bulk, "model": "own/small"})
    assert (stays.headers["x-gimle-model"], stays.headers.get("x-gimle-notice")) == ("small", None)


async def test_a_quota_of_vectors_says_how_much_and_until_when(served: Served) -> None:
    await served.http.put("/api/v1/allowances", json={"scope": "tenant", "embeddings_day": 3})
    codes = []
    for texts in (["a", "b"], ["a", "b"], ["a"]):
        answer = await served.http.post("/v1/embeddings", json={"model": "builtin/minilm", "input": texts})
        codes.append(answer.status_code)
        if answer.status_code == 429:
            error = answer.json()["error"]
            assert error["code"] == "quota_exceeded"
            assert error["message"].startswith("The quota of 3 vectors a day does not suffice for 2 more until 20")
    assert codes == [200, 429, 200]
