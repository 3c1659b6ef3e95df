"""What becomes of a notice on its way to the webhook."""

import asyncio
from typing import Any

import msgspec
import pytest

from gimle.app import App
from gimle.foundation.config import Settings
from gimle.foundation.outbound import Outbound
from gimle.gateway.notice_board import NoticeBoard
from gimle.gateway.notices import Notice
from gimle.gateway.webhooks import KIND, Webhooks
from gimle.jobs.types import Job
from gimle.testing import Upstream

EVENT = {"event": "budget.alert"}


@pytest.fixture
def settings(settings: Settings, upstream: Upstream) -> Settings:
    gateway = msgspec.structs.replace(settings.gateway, notice_webhook=f"{upstream.url}/notices")
    return msgspec.structs.replace(settings, gateway=gateway)


async def test_one_that_can_not_be_sent_does_not_hold_up_the_others(
    app: App, tenants: tuple[str, str], upstream: Upstream
) -> None:
    async with Outbound() as outbound:
        url = app.settings.gateway.notice_webhook
        board = NoticeBoard(app.db, Webhooks(app.jobs, outbound, url), url)
        board.open()
        for tenant in ("ten_gone", tenants[0]):
            board.pin(tenant, Notice("LocalLlmUsed", "A local model answers.", "cloud/big", "own/small"))
        async with asyncio.timeout(20):
            while not upstream.received:
                await asyncio.sleep(0.05)
        assert upstream.received[0].json["tenant"] == tenants[0]
        await board.close()
    (job,) = (await app.jobs.list(tenants[0]))[0]
    assert job.kind == KIND
    # Every key of the tenant sees the job, and an address may be a secret.
    assert upstream.url not in str(job)


async def test_a_job_of_an_earlier_version_says_where(app: App, tenants: tuple[str, str], upstream: Upstream) -> None:
    job = await sent(app, tenants[0], {"url": f"{upstream.url}/earlier", "event": EVENT})
    assert job.status == "done"
    assert upstream.received[0].path.endswith("/earlier")


async def test_a_budget_that_is_gone_has_no_webhook(app: App, tenants: tuple[str, str], upstream: Upstream) -> None:
    job = await sent(app, tenants[0], {"whose": "bud_gone", "event": EVENT})
    assert (job.status, job.attempts) == ("done", 1)
    assert not upstream.received


async def sent(app: App, tenant: str, payload: dict[str, Any]) -> Job:
    """A call to a webhook that has come to its end."""
    async with app.db.tenant(tenant) as conn:
        job = await app.jobs.enqueue(conn, tenant, KIND, payload)
    async with asyncio.timeout(20):
        return [state async for state in app.jobs.watch(tenant, job)][-1]
