"""Budgets as people set them: create, list, show, change, delete. Every node follows within a second."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import msgspec

from gimle.foundation import ids
from gimle.foundation.db import Database, queries, row, rows
from gimle.foundation.errors import BudgetNotFound, Conflict, InvalidRequest
from gimle.gateway import spending
from gimle.gateway.rates import NANO, shown
from gimle.gateway.slices import Mode, Scope, Terms, Unit
from gimle.gateway.spending import Period
from gimle.gateway.webhooks import is_address

SQL = queries("gimle.gateway", "budgets.sql")

# In USD: its nano-dollars must fit into the database's integers.
_HIGHEST = 10**9

Text = Annotated[str, msgspec.Meta(max_length=300)]


class NewBudget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A budget to set. `limit` in USD for each period.

    `subject` is whose it is: the id of a key, the name of a user or case as calls give it, a model's name or id; empty
    for the whole tenant. Periods are those of the calendar in UTC, or counted from `anchor`. `strict` is never
    overspent: a call reserves the most that it can cost. With `overdraft` it reserves what is likely, and the last
    calls may go above. When `downgrade_percent` of it are spent, bulk traffic goes to `downgrade_model`. `webhook` is
    called at 80 and 100 per cent.
    """

    limit: Decimal
    scope: Scope = "tenant"
    subject: Text = ""
    period: Period = "month"
    anchor: datetime | None = None
    mode: Mode = "strict"
    name: Text = ""
    webhook: Annotated[str, msgspec.Meta(max_length=2000)] | None = None
    downgrade_percent: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    downgrade_model: Text | None = None


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A budget and how it stands: `spent` is settled, `held` is with the processes that spend it, in flight or ready.

    `unknown` is the part of `spent` that was entered for processes that died and left no account: at most that much.
    Money is in USD, as decimal text.
    """

    id: str
    name: str
    scope: Scope
    subject: str
    period: Period
    anchor: datetime | None
    mode: Mode
    unit: Unit
    limit: str
    spent: str
    held: str
    unknown: str
    remaining: str
    period_start: datetime
    resets_at: datetime | None
    webhook: str | None
    downgrade_percent: int | None
    downgrade_model: str | None
    created_at: datetime
    updated_at: datetime


class _State(msgspec.Struct, frozen=True):
    spent: int = 0
    unknown: int = 0
    held: int = 0


class BudgetBook:
    """The budgets of all tenants; every call names whose it is about."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, tenant: str, new: NewBudget) -> Budget:
        """Set a budget. Raises `InvalidRequest`, and `Conflict` when there is one for the same thing and period."""
        async with self._db.tenant(tenant) as conn:
            values = _values(new) | {"id": ids.new("bud"), "unit": "usd"}
            created = await row(conn, SQL["insert_budget"], values, Terms)
            await conn.execute(SQL["tell_budgets"], {"note": "changed"})
        if created is None:
            raise Conflict("There is a budget for this subject and period already.", field="subject")
        return await self._shown(created)

    async def list(self, tenant: str, after: str = "", limit: int = 50) -> Sequence[Budget]:
        """A page of a tenant's budgets, with how they stand."""
        async with self._db.tenant(tenant) as conn:
            found = await rows(conn, SQL["list_budgets"], {"after": after, "limit": limit}, Terms)
        return [await self._shown(terms) for terms in found]

    async def get(self, tenant: str, budget: str) -> Budget:
        """One budget. Raises `BudgetNotFound`."""
        async with self._db.tenant(tenant) as conn:
            found = await row(conn, SQL["budget_by_id"], {"id": budget}, Terms)
        if found is None:
            raise _unknown(budget)
        return await self._shown(found)

    async def change(self, tenant: str, budget: str, new: NewBudget) -> Budget:
        """Another limit, mode, alert or rule; what is spent stays. Raises `BudgetNotFound`, `InvalidRequest`."""
        async with self._db.tenant(tenant) as conn:
            known = await row(conn, SQL["budget_by_id"], {"id": budget}, Terms)
            if known is None:
                raise _unknown(budget)
            if (known.scope, known.subject, known.period, known.anchor) != (
                new.scope, new.subject, new.period, new.anchor,
            ):  # fmt: skip
                raise InvalidRequest(
                    "Scope, subject, period and anchor of a budget can't be changed.",
                    field="scope",
                    hint="Delete the budget, and create another.",
                )
            changed = await row(conn, SQL["update_budget"], _values(new) | {"id": budget}, Terms)
            await conn.execute(SQL["tell_budgets"], {"note": "changed"})
        assert changed is not None
        return await self._shown(changed)

    async def delete(self, tenant: str, budget: str) -> None:
        """Forget a budget. Raises `BudgetNotFound`."""
        async with self._db.tenant(tenant) as conn:
            gone = await (await conn.execute(SQL["delete_budget"], {"id": budget})).fetchone()
            await conn.execute(SQL["tell_budgets"], {"note": "changed"})
        if gone is None:
            raise _unknown(budget)

    async def _shown(self, terms: Terms) -> Budget:
        since, until = spending.window(terms.period, terms.anchor, datetime.now(UTC))
        async with self._db.tenant(terms.tenant) as conn:
            state = await row(conn, SQL["budget_spent"], {"id": terms.id, "since": since}, _State) or _State()

        def told(amount: int) -> str:
            return shown(amount, terms.unit)

        same = {
            name: value for name, value in msgspec.structs.asdict(terms).items() if name in Budget.__struct_fields__
        }
        return Budget(
            **same,
            limit=told(terms.amount),
            spent=told(state.spent),
            held=told(state.held),
            unknown=told(state.unknown),
            remaining=told(max(0, terms.amount - state.spent)),
            period_start=since,
            resets_at=None if terms.period == "total" else until,
        )


def _values(new: NewBudget) -> dict[str, object]:
    if not new.limit.is_finite() or not 0 <= new.limit <= _HIGHEST:
        raise InvalidRequest("A limit is 0 or more USD, and at most a thousand million.", field="limit")
    if (new.scope == "tenant") != (not new.subject):
        raise InvalidRequest(
            "A budget for a tenant has no subject, any other has one.", field="subject", hint="The id of a key, say."
        )
    if new.anchor is not None and new.anchor.tzinfo is None:
        raise InvalidRequest("The anchor needs a time zone.", field="anchor", hint="2027-01-15T00:00:00Z")
    if (new.downgrade_percent is None) != (new.downgrade_model is None):
        raise InvalidRequest("A downgrade needs a percentage and a model.", field="downgrade_model")
    if new.webhook is not None and not is_address(new.webhook):
        raise InvalidRequest("A webhook is an http or https address.", field="webhook")
    return msgspec.structs.asdict(new) | {"amount": int(new.limit * NANO)}


def _unknown(budget: str) -> BudgetNotFound:
    return BudgetNotFound(f"There is no budget {budget[:64]!r}.", field="budget")
