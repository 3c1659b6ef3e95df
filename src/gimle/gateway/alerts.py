"""Telling people that a budget comes to its end: the log, a metric, and a webhook that is called until it answers.

The call to the webhook is a job, sent in the transaction in which the budget passed the mark: it happens though the
process dies, and once for each mark of a period.
"""

from datetime import datetime
from typing import Any

import msgspec

from gimle.foundation import logs
from gimle.foundation.db import Connection
from gimle.foundation.errors import UpstreamError
from gimle.foundation.outbound import Outbound, Request
from gimle.gateway import limit_metrics, rates
from gimle.gateway.slices import Terms
from gimle.jobs.jobs import Jobs
from gimle.jobs.run import Run
from gimle.jobs.types import JobKind

log = logs.get("budgets")

KIND = "budget_alert"
_SECONDS = 10.0
_ANSWER_BYTES = 64 * 1024


class Alert(msgspec.Struct, frozen=True):
    """A budget of which 80 or 100 per cent are spent."""

    terms: Terms
    percent: int
    spent: int
    since: datetime
    until: datetime


class Alerts:
    """Raises alerts. `jobs` carries the webhooks."""

    def __init__(self, jobs: Jobs | None, outbound: Outbound | None) -> None:
        self._jobs = jobs
        self._outbound = outbound

    def kind(self) -> JobKind:
        """The kind of job that calls a webhook: for about a day."""
        return JobKind(
            name=KIND,
            queue="default",
            handler=self._call,
            soft_seconds=30,
            hard_seconds=60,
            tries=12,
            backoff_seconds=20,
        )

    async def raise_in(self, conn: Connection, alert: Alert) -> None:
        """Tell of it, if the transaction of `conn` commits."""
        terms = alert.terms
        limit_metrics.BUDGET_ALERTS.labels(str(alert.percent)).inc()
        log.warning("budget_alert", budget=terms.id, tenant=terms.tenant, percent=alert.percent, spent=alert.spent)
        if terms.webhook is not None and self._jobs is not None:
            await self._jobs.enqueue(conn, terms.tenant, KIND, {"url": terms.webhook, "event": _event(alert)})

    async def _call(self, run: Run) -> dict[str, Any] | None:
        assert self._outbound is not None
        headers = (
            ("content-type", "application/json"),
            ("x-gimle-event", "budget.alert"),
            ("x-gimle-delivery", run.id),
        )
        request = Request(url=run.payload["url"], headers=headers, body=msgspec.json.encode(run.payload["event"]))
        reply = await self._outbound.send(request, seconds=_SECONDS, limit=_ANSWER_BYTES)
        if not 200 <= reply.status < 300:
            raise UpstreamError(f"The webhook answered {reply.status}.")
        return {"status": reply.status}


def _event(alert: Alert) -> dict[str, Any]:
    terms = alert.terms
    return {
        "event": "budget.alert",
        "budget": terms.id,
        "name": terms.name,
        "scope": terms.scope,
        "subject": terms.subject,
        "percent": alert.percent,
        "unit": terms.unit,
        "limit": rates.shown(terms.amount, terms.unit),
        "spent": rates.shown(alert.spent, terms.unit),
        "period_start": alert.since.isoformat(),
        "period_end": alert.until.isoformat(),
    }
