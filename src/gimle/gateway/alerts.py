"""Alerts: a budget has reached a share of its limit. Said in the log and a metric, and by a job to a webhook."""

from collections.abc import Sequence
from typing import Final

import msgspec

from gimle.foundation import logs
from gimle.foundation.db import Database
from gimle.foundation.errors import UpstreamError
from gimle.foundation.outbound import Outbound, Request
from gimle.foundation.telemetry import Counter
from gimle.gateway.rates import money
from gimle.jobs.jobs import Jobs
from gimle.jobs.run import Run
from gimle.jobs.types import JobKind

log = logs.get("gateway")

ALERT = "budget-alert"
# In per cent of a limit.
MARKS: Final = (80, 100)
ALERTS = Counter("gimle_budget_alerts", "Budgets that have reached a share of their limit, in per cent.", ("mark",))

_SECONDS = 10.0
_LARGEST_REPLY = 64 * 1024


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """What the webhook is told. Money in USD; `mark` in per cent; `period` names the span that the budget holds for."""

    budget: str
    tenant: str
    mark: int
    limit_usd: str
    spent_usd: str
    period: str


def crossed(before: int, after: int, limit: int, marks: Sequence[int] = MARKS) -> tuple[int, ...]:
    """The marks that spending has reached on its way from `before` to `after`; all three in one unit."""
    return tuple(mark for mark in marks if before * 100 < limit * mark <= after * 100)


class Alerts:
    """Tells of alerts. Without a webhook they are in the log and the metrics alone."""

    def __init__(self, db: Database, jobs: Jobs, outbound: Outbound, webhook: str | None) -> None:
        self._db = db
        self._jobs = jobs
        self._outbound = outbound
        self._webhook = webhook

    def kind(self) -> JobKind:
        """The kind of job that calls the webhook."""
        return JobKind(
            name=ALERT,
            queue="default",
            handler=self._deliver,
            soft_seconds=2 * _SECONDS,
            hard_seconds=3 * _SECONDS,
            tries=8,
            backoff_seconds=2.0,
        )

    async def spent(self, tenant: str, budget: str, *, before: int, after: int, limit: int, period: str) -> None:
        """Tell of the marks that this spending (nano-dollars) has reached; of each once a budget and period."""
        for mark in crossed(before, after, limit):
            alert = Alert(
                budget=budget, tenant=tenant, mark=mark, limit_usd=money(limit), spent_usd=money(after), period=period
            )
            ALERTS.labels(str(mark)).inc()
            log.warning("budget_alert", **msgspec.to_builtins(alert))
            if self._webhook is not None:
                once = f"{ALERT} {budget} {period} {mark}"
                payload = msgspec.to_builtins(alert)
                async with self._db.tenant(tenant) as conn:
                    await self._jobs.enqueue(conn, tenant, ALERT, payload, idempotency_key=once)

    async def _deliver(self, run: Run) -> dict[str, int]:
        """POST the alert as JSON; it may come twice, with the same `idempotency-key`. Raises `UpstreamError`."""
        if self._webhook is None:
            return {}
        request = Request(
            method="POST",
            url=self._webhook,
            headers=(("content-type", "application/json"), ("idempotency-key", run.id)),
            body=msgspec.json.encode(run.payload),
        )
        reply = await self._outbound.send(request, seconds=_SECONDS, limit=_LARGEST_REPLY)
        if not 200 <= reply.status < 300:
            raise UpstreamError(f"The webhook answered with status {reply.status}.")
        return {"status": reply.status}
