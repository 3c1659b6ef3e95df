"""Telling people that a budget comes to its end: the log, a metric, and a webhook that is called until it answers.

The call to the webhook is sent in the transaction in which the budget passed the mark: it happens though the process
dies, and once for each mark of a period.
"""

from datetime import datetime
from typing import Any

import msgspec

from gimle.foundation import logs
from gimle.foundation.db import Connection
from gimle.gateway import limit_metrics, rates
from gimle.gateway.slices import Terms
from gimle.gateway.webhooks import Webhooks

log = logs.get("budgets")


class Alert(msgspec.Struct, frozen=True):
    """A budget of which 80 or 100 per cent are spent."""

    terms: Terms
    percent: int
    spent: int
    since: datetime
    until: datetime


class Alerts:
    """Raises alerts."""

    def __init__(self, webhooks: Webhooks | None) -> None:
        self._webhooks = webhooks

    async def raise_in(self, conn: Connection, alert: Alert) -> None:
        """Tell of it, if the transaction of `conn` commits."""
        terms = alert.terms
        limit_metrics.BUDGET_ALERTS.labels(str(alert.percent)).inc()
        log.warning("budget_alert", budget=terms.id, tenant=terms.tenant, percent=alert.percent, spent=alert.spent)
        if terms.webhook is not None and self._webhooks is not None:
            await self._webhooks.call_in(conn, terms.tenant, terms.id, _event(alert))


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
