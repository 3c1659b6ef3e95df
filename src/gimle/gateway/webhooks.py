"""Calls to webhooks: each is a job, sent in a transaction, and made until it is answered with a 2xx.

An address may be a secret, and every key of a tenant sees its jobs: a job says whose webhook it is, and not where.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gimle.foundation.db import Connection, queries, scalar
from gimle.foundation.errors import UpstreamError
from gimle.foundation.outbound import Outbound, Request
from gimle.jobs.jobs import Jobs
from gimle.jobs.run import Run
from gimle.jobs.types import JobKind

SQL = queries("gimle.gateway", "budgets.sql")
KIND = "webhook"
NOTICES = "notices"
_SECONDS = 10.0
# Before the second call; more before each further one.
_PAUSE_SECONDS = 20.0
_ANSWER_BYTES = 64 * 1024


class Webhooks:
    """Calls webhooks by the jobs of this house: those of budgets, and the one at `notices` for notices to callers."""

    def __init__(self, jobs: Jobs, outbound: Outbound, notices: str | None) -> None:
        self._jobs = jobs
        self._outbound = outbound
        self._notices = notices

    def kind(self) -> JobKind:
        """The kind of job that calls a webhook: for about a day."""
        return JobKind(
            name=KIND,
            queue="default",
            handler=self._call,
            soft_seconds=30,
            hard_seconds=60,
            tries=12,
            backoff_seconds=_PAUSE_SECONDS,
        )

    async def call_in(
        self, conn: Connection, tenant: str, whose: str, event: Mapping[str, Any], once: str | None = None
    ) -> None:
        """Tell a webhook of an event if the transaction of `conn` commits; of those with the same `once` of one a day.

        `whose` is the id of its budget, or `NOTICES`. The `event` says under `event` what it is.
        """
        await self._jobs.enqueue(conn, tenant, KIND, {"whose": whose, "event": event}, idempotency_key=once)

    async def _call(self, run: Run) -> dict[str, Any] | None:
        event = run.payload["event"]
        if (url := await self._address(run)) is None:
            return {"skipped": "It has no webhook any more."}
        headers = (
            ("content-type", "application/json"),
            ("x-gimle-event", event["event"]),
            ("x-gimle-delivery", run.id),
        )
        request = Request(url=url, headers=headers, body=msgspec.json.encode(event))
        reply = await self._outbound.send(request, seconds=_SECONDS, limit=_ANSWER_BYTES)
        if not 200 <= reply.status < 300:
            raise UpstreamError(f"The webhook answered {reply.status}.")
        return {"status": reply.status}

    async def _address(self, run: Run) -> str | None:
        if "url" in run.payload:
            # Jobs of an earlier version say where.
            return str(run.payload["url"])
        if run.payload["whose"] == NOTICES:
            return self._notices
        async with run.db.tenant(run.tenant) as conn:
            url: str | None = await scalar(conn, SQL["budget_webhook"], {"id": run.payload["whose"]})
            return url


def is_address(url: str) -> bool:
    """Whether this is an http or https address."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
