"""`/api/v1/costs`: sums by what is asked for, as JSON and CSV, of one's own tenant alone."""

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.foundation.config import LedgerSettings
from gimle.gateway import facts
from gimle.gateway.costs import Costs, storage_nano
from gimle.gateway.facts import account
from gimle.gateway.neutral import Usage
from gimle.gateway.rates import Price, Rates
from gimle.selection.types import Model
from gimle.trust.types import Principal

COSTS = "/api/v1/costs"
PRICE = Price("test/1", (Rates(0, 10**9, 10**9, 10**9, 10**9, 10**9),))
TODAY = datetime.now(UTC).date()


async def spend(app: App, tenant: str) -> None:
    """Two users, two cases, two models, of which nobody knows the price of one."""
    for user, case, name, price, end in (
        ("ann", "c-1", "dear", PRICE, "done"),
        ("ann", "c-2", "dear", PRICE, "broken"),
        ("=bob()", "c-1", "dear", PRICE, "done"),
        ("=bob()", "", "odd", None, "done"),
    ):
        whose = account(tenant, "key_1", user=user, case=case)
        entry = app.ledger.begin(whose, Model(provider="p", name=name), price, Usage(uncached=1, output=9))
        ended: facts.End = "done" if end == "done" else "broken"
        entry.settle(ended, Usage(uncached=3) if end == "done" else None)
    assert app.ledger.posting is not None
    await app.ledger.posting.post()


@pytest.fixture
async def served(app: App, tenants: tuple[str, str]) -> AsyncIterator[Served]:
    await spend(app, tenants[0])
    await spend(app, tenants[1])
    async with serving(app, tenants[0]) as running:
        yield running


async def get(served: Served, **query: str | int) -> list[dict[str, object]]:
    answer = await served.http.get(COSTS, params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, object]] = answer.json()["items"]
    return items


async def test_the_day_is_summed(served: Served) -> None:
    assert await get(served) == [
        {
            "day": TODAY.isoformat(), "attempts": 4, "failed": 1, "estimated": 1, "unpriced": 1, "uncached_tokens": 10,
            "cache_read_tokens": 0, "cache_write_tokens": 0, "output_tokens": 9, "reasoning_tokens": 0,
            "cost_usd": "0.000016", "estimated_usd": "0.00001",
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    "by, costs",
    [
        ("user", {("=bob()",): "0.000003", ("ann",): "0.000013"}),
        ("case", {("",): None, ("c-1",): "0.000006", ("c-2",): "0.00001"}),
        ("model", {("p/dear",): "0.000016", ("p/odd",): None}),
        ("key,kind", {("key_1", "chat"): "0.000016"}),
        ("workflow", {("",): "0.000016"}),
        (
            "case,user",
            {
                ("=bob()", ""): None,
                ("=bob()", "c-1"): "0.000003",
                ("ann", "c-1"): "0.000003",
                ("ann", "c-2"): "0.00001",
            },
        ),
    ],
)
async def test_sums_are_had_by_any_column(served: Served, by: str, costs: dict[tuple[str, ...], str | None]) -> None:
    columns = [name for name in ("key", "user", "case", "workflow", "model", "kind") if name in by.split(",")]
    items = await get(served, by=by)
    assert {tuple(str(item[name]) for name in columns): item["cost_usd"] for item in items} == costs


async def test_filters_narrow(served: Served) -> None:
    assert [item["attempts"] for item in await get(served, user="ann", case="c-1")] == [1]
    assert [item["attempts"] for item in await get(served, case="")] == [1]
    assert [item["attempts"] for item in await get(served, model="p/dear")] == [3]
    assert await get(served, workflow="none") == []
    tomorrow = (TODAY + timedelta(days=1)).isoformat()
    assert await get(served, since=tomorrow, until="9999-12-31") == []
    assert len(await get(served, since=TODAY.isoformat(), until=TODAY.isoformat())) == 1


async def test_pages_lead_through_all(served: Served) -> None:
    found: list[object] = []
    query = {"by": "user,case", "limit": "1"}
    while True:
        page = (await served.http.get(COSTS, params=query)).json()
        found += [(item["user"], item["case"]) for item in page["items"]]
        if page["next"] is None:
            break
        query["after"] = page["next"]
    assert found == [("=bob()", ""), ("=bob()", "c-1"), ("ann", "c-1"), ("ann", "c-2")]


@pytest.mark.parametrize("given", [{"format": "csv"}, {"accept": "text/csv"}], ids=["format", "accept"])
async def test_csv_holds_all_lines(served: Served, given: dict[str, str]) -> None:
    headers = {name: value for name, value in given.items() if name == "accept"}
    query = {"by": "user,case", "limit": "1", **{name: v for name, v in given.items() if name == "format"}}
    answer = await served.http.get(COSTS, params=query, headers=headers)
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"].startswith("attachment")
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    # No spreadsheet takes a name for a formula.
    assert [(line["user"], line["cost_usd"]) for line in lines] == [
        ("'=bob()", ""), ("'=bob()", "0.000003"), ("ann", "0.000003"), ("ann", "0.00001"),
    ]  # fmt: skip


async def test_a_month_is_reported(served: Served) -> None:
    report = (await served.http.get(f"{COSTS}/report")).json()
    assert (report["month"], report["currency"]) == (TODAY.strftime("%Y-%m"), "USD")
    assert report["total"]["cost_usd"] == "0.000016"
    assert [item["model"] for item in report["by_model"]] == ["p/dear", "p/odd"]
    assert [item["day"] for item in report["by_day"]] == [TODAY.isoformat()]
    assert [item["user"] for item in report["by_user"]] == ["ann", "=bob()"]
    lines = (await served.http.get(f"{COSTS}/report", params={"format": "csv"})).text.splitlines()
    assert lines[0].startswith("key,user,case,workflow,model,kind,")
    assert len(lines) == 5
    empty = (await served.http.get(f"{COSTS}/report", params={"month": "2001-01"})).json()
    assert (empty["total"], empty["by_user"]) == (None, [])


@pytest.mark.parametrize(
    "path, query, field",
    [
        (COSTS, {"by": "colour"}, "by"),
        (COSTS, {"after": "x"}, "after"),
        (COSTS, {"since": "yesterday"}, "since"),
        (COSTS, {"since": "2026-02-01", "until": "2026-01-01"}, "until"),
        (f"{COSTS}/report", {"month": "13-2026"}, "month"),
        (f"{COSTS}/report", {"month": "２０２６-11", "format": "csv"}, "month"),
        (COSTS, {"user": "\0", "format": "csv"}, None),
    ],
)
async def test_what_is_wrong_is_named(served: Served, path: str, query: dict[str, str], field: str | None) -> None:
    refused = await served.http.get(path, params=query)
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, field)


async def test_others_costs_need_an_admin(served: Served, app: App, admin: Principal, tenants: tuple[str, str]) -> None:
    key = await app.keys.create(tenants[0], "plain")
    await app.ring.refresh()
    plain = {"authorization": f"Bearer {key.token}"}
    for query in ({"tenant": tenants[1]}, {"by": "tenant"}):
        refused = await served.http.get(COSTS, params=query, headers=plain)
        assert refused.status_code == 403
    assert (await served.http.get(COSTS, headers=plain)).status_code == 200
    token = (app.settings.data / "admin.key").read_text().strip()
    headers = {"authorization": f"Bearer {token}"}
    found = (await served.http.get(COSTS, params={"by": "tenant"}, headers=headers)).json()["items"]
    assert [(item["tenant"], item["attempts"]) for item in found] == [(tenant, 4) for tenant in sorted(tenants)]
    paged = (await served.http.get(COSTS, params={"by": "tenant", "limit": 1}, headers=headers)).json()
    rest = await served.http.get(COSTS, params={"by": "tenant", "after": paged["next"]}, headers=headers)
    assert [*paged["items"], *rest.json()["items"]] == found
    other = await served.http.get(COSTS, params={"tenant": tenants[1]}, headers=headers)
    assert other.json()["items"][0]["attempts"] == 4


async def test_storage_is_charged_once_a_day(served: Served, app: App, tenants: tuple[str, str]) -> None:
    costs = Costs(app.db, LedgerSettings(storage_usd=3.0).storage_usd)
    for stored in (1_000_000, 2_000_000):
        await costs.charge_storage(tenants[0], stored)
    (item,) = await get(served, kind="storage", by="kind,model")
    assert (item["stored"], item["model"], item["attempts"]) == (2_000_000, "gimle/storage", 0)
    nano = storage_nano(2_000_000, Decimal(3), TODAY)
    assert Decimal(str(item["cost_usd"])) * 10**9 == nano


def test_a_month_of_storage_costs_its_rate() -> None:
    days = [date(2026, 11, day) for day in range(1, 31)]
    assert sum(storage_nano(1_000_000, Decimal("3"), day) for day in days) == 3 * 10**9
