"""`/api/v1/budgets` over HTTP, and the webhook of an alert."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.foundation import ids
from gimle.gateway.budgets import Payer
from gimle.gateway.spending import Claim
from gimle.testing import Behaviour, Upstream

BUDGETS = "/api/v1/budgets"
CENT = 10_000_000


@pytest.fixture
async def served(app: App, tenants: tuple[str, str]) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running:
        yield running


async def test_a_budget_is_set_listed_shown_changed_and_removed(served: Served, app: App) -> None:
    asked = {"limit": "25", "scope": "key", "subject": "key_1", "period": "month", "name": "Ann"}
    made = await served.http.post(BUDGETS, json=asked)
    assert made.status_code == 201, made.text
    budget = made.json()
    assert made.headers["location"] == f"{BUDGETS}/{budget['id']}"
    shown = {name: budget[name] for name in ("limit", "spent", "held", "unknown", "remaining", "unit", "mode")}
    assert shown == {
        "limit": "25.00", "spent": "0.00", "held": "0.00", "unknown": "0.00", "remaining": "25.00", "unit": "usd",
        "mode": "strict",
    }  # fmt: skip
    assert budget["period_start"] < budget["resets_at"]
    again = await served.http.post(BUDGETS, json=asked)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    total = await served.http.post(BUDGETS, json={"limit": 0.5, "period": "total", "mode": "overdraft"})
    assert (total.json()["limit"], total.json()["resets_at"]) == ("0.50", None)
    page = (await served.http.get(BUDGETS, params={"limit": 1})).json()
    assert [one["id"] for one in page["items"]] == [budget["id"]]
    rest = (await served.http.get(BUDGETS, params={"after": page["next"]})).json()
    assert [one["id"] for one in rest["items"]] == [total.json()["id"]]
    path = f"{BUDGETS}/{budget['id']}"
    changed = await served.http.put(path, json=asked | {"limit": "30.5", "mode": "overdraft"})
    assert (changed.json()["limit"], changed.json()["mode"]) == ("30.50", "overdraft")
    refused = await served.http.put(path, json=asked | {"period": "day"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "scope")
    assert (await served.http.get(path)).json()["limit"] == "30.50"
    assert (await served.http.delete(path)).status_code == 204
    for method in ("GET", "DELETE"):
        gone = await served.http.request(method, path)
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "budget_not_found")


@pytest.mark.parametrize(
    "given,field",
    [
        ({"limit": "-1"}, "limit"),
        ({"limit": "1e30"}, "limit"),
        ({"limit": "1e999999"}, "limit"),
        ({"limit": "1", "scope": "key"}, "subject"),
        ({"limit": "1", "subject": "key_1"}, "subject"),
        ({"limit": "1", "anchor": "2026-01-01T00:00:00"}, "anchor"),
        ({"limit": "1", "downgrade_percent": 80}, "downgrade_model"),
        ({"limit": "1", "webhook": "ftp://example.com"}, "webhook"),
        ({"limit": "1", "period": "year"}, "period"),
        ({"limit": "1", "colour": "red"}, "colour"),
        ({}, "limit"),
    ],
)
async def test_a_budget_that_makes_no_sense_is_refused(served: Served, given: dict[str, object], field: str) -> None:
    refused = await served.http.post(BUDGETS, json=given)
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, field)


async def test_budgets_are_for_admins_and_of_one_tenant(served: Served, app: App, tenants: tuple[str, str]) -> None:
    budget = (await served.http.post(BUDGETS, json={"limit": "1"})).json()["id"]
    async with serving(app, tenants[1]) as stranger:
        assert (await stranger.http.get(BUDGETS)).json()["items"] == []
        for method in ("GET", "DELETE"):
            assert (await stranger.http.request(method, f"{BUDGETS}/{budget}")).status_code == 404
        changed = await stranger.http.put(f"{BUDGETS}/{budget}", json={"limit": "9"})
        assert changed.status_code == 404
    plain = await app.keys.create(tenants[0], f"plain {ids.new('t')}")
    await app.ring.refresh()
    headers = {"authorization": f"Bearer {plain.token}"}
    assert (await served.http.get(BUDGETS, headers=headers)).status_code == 403


async def test_a_webhook_is_called_at_80_and_at_100_per_cent(
    served: Served, app: App, tenants: tuple[str, str]
) -> None:
    async with Upstream(Behaviour(body=b"{}")) as hook:
        # It fails once, and is called again.
        hook.plan.append(Behaviour(status=500, body=b"{}"))
        made = await served.http.post(BUDGETS, json={"limit": "0.10", "webhook": f"{hook.url}/chat/completions"})
        await app.budgets.refresh()
        payer = Payer(tenants[0])
        for _ in range(8):
            held = await app.budgets.acquire(app.budgets.of(payer), Claim(CENT, CENT, CENT), 60)
            held.settle(CENT)
        await told(hook, 1)
        for _ in range(2):
            held = await app.budgets.acquire(app.budgets.of(payer), Claim(CENT, CENT, CENT), 60)
            held.settle(CENT)
        await told(hook, 2)
        events = {each.json["percent"]: each for each in hook.received}
        assert set(events) == {80, 100}
        assert events[80].json["budget"] == made.json()["id"]
        assert (events[80].json["spent"], events[80].json["limit"]) == ("0.08", "0.10")
        assert events[100].headers["x-gimle-event"] == "budget.alert"
        # Every key of the tenant sees the jobs, and the address may be a secret.
        assert hook.url not in (await served.http.get("/api/v1/jobs")).text


async def told(hook: Upstream, times: int) -> None:
    """Wait until the webhook has heard of so many marks."""
    async with asyncio.timeout(90):
        while len({each.json["percent"] for each in hook.received}) < times:
            await asyncio.sleep(0.1)
