"""Alerts: each mark once, in the log, in a metric and at a webhook."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.foundation.config import LedgerSettings, Settings
from gimle.foundation.db import Database
from gimle.foundation.outbound import Outbound
from gimle.gateway import alerts
from gimle.gateway.alerts import Alerts, crossed
from gimle.jobs.jobs import Jobs
from gimle.testing import Behaviour, Upstream

NANO = 10**9


@pytest.mark.parametrize(
    "before, after, marks",
    [
        (0, 79, ()),
        (0, 80, (80,)),
        (79, 80, (80,)),
        (80, 99, ()),
        (99, 100, (100,)),
        (0, 500, (80, 100)),
        (100, 900, ()),
    ],
)
def test_a_mark_is_reached_once(before: int, after: int, marks: tuple[int, ...]) -> None:
    assert crossed(before, after, 100) == marks
    assert crossed(before * NANO, after * NANO, 100 * NANO) == marks


@given(st.lists(st.integers(0, 50), max_size=50), st.integers(1, 1000))
def test_however_the_spending_is_cut_each_mark_is_told_once(steps: list[int], limit: int) -> None:
    told: list[int] = []
    spent = 0
    for step in steps:
        told += crossed(spent, spent + step, limit)
        spent += step
    assert told == [mark for mark in alerts.MARKS if spent * 100 >= limit * mark]


@pytest.fixture
async def jobs(db: Database, settings: Settings) -> AsyncIterator[Jobs]:
    opened = await Jobs.open(db, [], settings.jobs)
    yield opened
    await opened.close()


async def test_the_webhook_is_told_of_each_mark_once(db: Database, jobs: Jobs, tenants: tuple[str, str]) -> None:
    async with Upstream() as hook, Outbound() as outbound:
        hook.plan.append(Behaviour(status=500))
        settings = LedgerSettings(alert_webhook=f"{hook.url}/alerts")
        told = Alerts(db, jobs, outbound, settings.alert_webhook)
        jobs.register(told.kind())
        await jobs.start()
        for before, after in ((0, 85), (0, 85), (85, 100)):
            await told.spent(
                tenants[0], "bud_1", before=before * NANO, after=after * NANO, limit=100 * NANO, period="2026-11"
            )
        async with asyncio.timeout(30):
            while len(hook.received) < 3:
                await asyncio.sleep(0.05)
        bodies = {(each.json["mark"], each.json["spent_usd"]) for each in hook.received}
        assert bodies == {(80, "85.00"), (100, "100.00")}
        assert len({each.headers["idempotency-key"] for each in hook.received}) == 2
        body = hook.received[0].json
        assert (body["budget"], body["tenant"], body["limit_usd"], body["period"]) == (
            "bud_1", tenants[0], "100.00", "2026-11",
        )  # fmt: skip
        await jobs.close()


async def test_without_a_webhook_it_is_in_the_log(
    db: Database, jobs: Jobs, tenants: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    async with Outbound() as outbound:
        told = Alerts(db, jobs, outbound, None)
        jobs.register(told.kind())
        await told.spent(tenants[0], "bud_1", before=0, after=NANO, limit=NANO, period="2026-11")
    assert await jobs.list(tenants[0], None, 10, None) == ([], None)
    assert capsys.readouterr().out.count("budget_alert") == 2
