"""What a tenant may use of this installation: vectors a day and bytes of documents. (Requests a minute: `limits`.)

Who has used up a quota is told which one, how much it is, and when there is more.
"""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from gimle.foundation import ids
from gimle.foundation.db import Database, queries, row
from gimle.foundation.errors import BudgetExceeded, QuotaExceeded
from gimle.gateway import spending
from gimle.gateway.allowances import Allowances
from gimle.gateway.budgets import Budgets, Payer
from gimle.gateway.slices import NOTHING, Hold
from gimle.gateway.spending import Claim

SQL = queries("gimle.gateway", "limits.sql")
_BUDGETS_SQL = queries("gimle.gateway", "budgets.sql")

_MEGABYTE = 10**6
# Far from its end a quota of storage is measured now and then only.
_NEAR = 0.9
_MEASURED_SECONDS = 60.0
_LATER_SECONDS = 3600.0


class Quotas:
    """The quotas of all tenants."""

    def __init__(self, db: Database, allowances: Allowances, budgets: Budgets) -> None:
        self._db = db
        self._allowances = allowances
        self._budgets = budgets
        self._ensured: dict[str, int] = {}
        self._stored: dict[str, tuple[int, float]] = {}

    async def embeddings(self, tenant: str, count: int, seconds: float) -> Hold:
        """Reserve so many vectors of today's, for at most so many seconds; `settle` with how many were made.

        Asks nobody, as a rule. Raises `QuotaExceeded` or `DatabaseUnavailable`.
        """
        amount = self._allowances.embeddings_day(tenant)
        if not amount:
            return NOTHING
        if self._ensured.get(tenant) != amount:
            await self._ensure(tenant, amount)
        accounts = self._budgets.of(Payer(tenant), unit="embeddings")
        claim = Claim(count, count, count)
        try:
            return self._budgets.reserve(accounts, claim, seconds) or await self._budgets.acquire(
                accounts, claim, seconds
            )
        except BudgetExceeded as spent:
            _, until = spending.window("day", None, datetime.now(UTC))
            said = f"The quota of {amount} vectors a day does not suffice for {count} more"
            raise QuotaExceeded(f"{said} until {until:%Y-%m-%dT%H:%M:%SZ}.", after=spent.after, limit=amount) from None

    async def storage(self, tenant: str, adding: int, measure: Callable[[], Awaitable[int]]) -> None:
        """Check that there is room for more bytes; `measure` tells how many there are. Raises `QuotaExceeded`."""
        amount = self._allowances.storage_bytes(tenant)
        if not amount:
            return
        now = time.monotonic()
        used, at = self._stored.get(tenant, (0, 0.0))
        if not at or now - at > _MEASURED_SECONDS or used + adding > amount * _NEAR:
            used, at = await measure(), now
        if used + adding > amount:
            raise QuotaExceeded(
                f"The quota of {amount / _MEGABYTE:.0f} MB of documents is used up: there are "
                f"{used / _MEGABYTE:.1f} MB, and this is {adding / _MEGABYTE:.1f} MB more.",
                after=_LATER_SECONDS,
                hint="Delete documents, or have the quota raised.",
            )
        self._stored[tenant] = used + adding, at

    async def _ensure(self, tenant: str, amount: int) -> None:
        """A quota of vectors is a budget of pieces: as strict, over all processes, and as cheap."""
        async with self._db.tenant(tenant) as conn:
            changed = await row(conn, SQL["ensure_embedding_quota"], {"id": ids.new("bud"), "amount": amount}, dict)
            if changed is not None:
                await conn.execute(_BUDGETS_SQL["tell_budgets"], {"note": "changed"})
        await self._budgets.refresh()
        self._ensured[tenant] = amount
