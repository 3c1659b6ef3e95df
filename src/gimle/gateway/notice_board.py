"""Where notices to callers are pinned up for those who run the house: a metric, the log, and a webhook.

Of the same notice to the same tenant one a minute goes to the webhook, however many calls it concerns and whichever
process they come through. It is sent off the way of the call, and waits here while the database is away.
"""

import asyncio
import time
from datetime import UTC, datetime

from gimle.foundation import logs
from gimle.foundation.db import Database
from gimle.foundation.errors import ConfigError, DatabaseUnavailable
from gimle.foundation.lifecycle import Tasks
from gimle.gateway import metrics
from gimle.gateway.notices import Notice
from gimle.gateway.webhooks import NOTICES, Webhooks, is_address

log = logs.get("gateway")

_MINUTE = 60
_PAUSE_SECONDS = 1.0
# So many notices of one minute are told apart, and so many wait.
_MOST = 1000

# Whose, and of which minute since 1970.
Pinned = tuple[str, Notice, int]


class NoticeBoard:
    """Takes notices, and tells the webhook, if there is one, at `url`. Raises `ConfigError` for what is no address."""

    def __init__(self, db: Database, webhooks: Webhooks, url: str | None) -> None:
        if url is not None and not is_address(url):
            raise ConfigError("A webhook is an http or https address.", field="gateway.notice_webhook")
        self._db = db
        self._webhooks = webhooks
        self._url = url
        self._seen: set[Pinned] = set()
        self._waiting: list[Pinned] = []
        self._news = asyncio.Event()
        self._tasks = Tasks()

    def open(self) -> None:
        """Send from now on."""
        if self._url is not None:
            self._tasks.start(self._run(), "gateway.notices")

    async def close(self) -> None:
        """Send no more."""
        await self._tasks.close()

    def pin(self, tenant: str, notice: Notice) -> None:
        """Take a notice to a caller of a tenant. Never waits."""
        metrics.NOTICES.labels(notice.code).inc()
        pinned = tenant, notice, int(time.time()) // _MINUTE
        if pinned in self._seen or len(self._waiting) >= _MOST:
            return
        if len(self._seen) >= _MOST:
            self._seen.clear()
        self._seen.add(pinned)
        log.info("notice", tenant=tenant, code=notice.code, asked=notice.asked, served=notice.served)
        if self._url is not None:
            self._waiting.append(pinned)
            self._news.set()

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                # In a task of its own: one that can't be sent, since its tenant is gone, must not end the others.
                sending = self._tasks.start(self._send(self._waiting[0]), "gateway.notice")
                await asyncio.wait({sending})
                if isinstance(sending.exception(), DatabaseUnavailable):
                    self._news.set()
                    break
                del self._waiting[0]
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _send(self, pinned: Pinned) -> None:
        tenant, notice, minute = pinned
        event = {
            "event": "model.notice",
            "code": notice.code,
            "message": notice.message,
            "asked": notice.asked,
            "served": notice.served,
            "tenant": tenant,
            "minute": datetime.fromtimestamp(minute * _MINUTE, UTC).isoformat(),
        }
        once = f"notice {minute} {notice.code} {notice.asked} {notice.served}"
        async with self._db.tenant(tenant) as conn:
            await self._webhooks.call_in(conn, tenant, NOTICES, event, once)
