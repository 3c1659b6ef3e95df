"""What becomes of a notice on its way to the webhook."""

import asyncio

from gimle.app import App
from gimle.foundation.outbound import Outbound
from gimle.gateway.notice_board import NoticeBoard
from gimle.gateway.notices import Notice
from gimle.gateway.webhooks import KIND, Webhooks
from gimle.testing import Upstream


async def test_one_that_can_not_be_sent_does_not_hold_up_the_others(
    app: App, tenants: tuple[str, str], upstream: Upstream
) -> None:
    async with Outbound() as outbound:
        board = NoticeBoard(app.db, Webhooks(app.jobs, outbound), f"{upstream.url}/notices")
        board.open()
        for tenant in ("ten_gone", tenants[0]):
            board.pin(tenant, Notice("LocalLlmUsed", "A local model answers.", "cloud/big", "own/small"))
        async with asyncio.timeout(20):
            while not upstream.received:
                await asyncio.sleep(0.05)
        assert upstream.received[0].json["tenant"] == tenants[0]
        await board.close()
    assert [job.kind for job in (await app.jobs.list(tenants[0]))[0]] == [KIND]
