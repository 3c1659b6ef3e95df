"""What calls and storage have cost: sums of days, by whatever one asks for.

Exact and estimated costs stand together; `estimated` says which part no provider has told. Where nobody knew a price
there is no cost, and `unpriced` counts these attempts.
"""

import base64
import calendar
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, Literal, get_args

import msgspec

from gimle.foundation.db import Connection, Database, queries, rows
from gimle.foundation.errors import InvalidRequest
from gimle.gateway.rates import NANO, money

SQL = queries("gimle.gateway")

Column = Literal["tenant", "day", "key", "user", "case", "workflow", "model", "kind"]
COLUMNS: Final[tuple[Column, ...]] = get_args(Column)
# In the order of the SQL; the tenant is the transaction's.
_WITHIN: Final = COLUMNS[1:]
_PAGE = 200
_MILLION = 1_000_000
_TOP = 100


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which sums: from `since` to `until`, both included (days in UTC), a sum for each combination of the columns `by`.

    A filter that is None takes all; the empty text takes what has none.
    """

    since: date
    until: date
    by: tuple[Column, ...] = ("day",)
    key: str | None = None
    user: str | None = None
    case: str | None = None
    workflow: str | None = None
    model: str | None = None
    kind: str | None = None


class Cost(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sum. Columns that were not asked for are left out; tokens are in classes that share none.

    `cost_usd` is null where nobody knows any of the prices; `estimated_usd` is the part of it that no provider has
    told. `stored` is how many numbers were kept in vectors, at most on any of the days.
    """

    attempts: int
    failed: int
    estimated: int
    unpriced: int
    uncached_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: str | None
    estimated_usd: str
    stored: int = 0
    tenant: str | None = None
    day: str | None = None
    key: str | None = None
    user: str | None = None
    case: str | None = None
    workflow: str | None = None
    model: str | None = None
    kind: str | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A month: its sum, and the same by each column. Of the longer lists the hundred dearest."""

    month: str
    currency: str
    total: Cost | None
    by_day: Sequence[Cost]
    by_model: Sequence[Cost]
    by_kind: Sequence[Cost]
    by_case: Sequence[Cost]
    by_workflow: Sequence[Cost]
    by_key: Sequence[Cost]
    by_user: Sequence[Cost]


class _Sums(msgspec.Struct, frozen=True):
    day: str
    key: str
    user: str
    case: str
    workflow: str
    model: str
    kind: str
    attempts: int
    failed: int
    estimated: int
    unpriced: int
    uncached: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int
    stored: int
    cost_nano: int
    estimated_nano: int

    def within(self) -> list[str]:
        told = msgspec.structs.asdict(self)
        return [told[name] for name in _WITHIN]


class _Cursor(msgspec.Struct, frozen=True, array_like=True):
    tenant: str
    within: list[str]


Found = tuple[str, _Sums]


class Costs:
    """Reads the sums. Whoever asks says whose: `tenants` are read in the order of their ids."""

    def __init__(self, db: Database, storage_usd: float) -> None:
        self._db = db
        self._storage_usd = Decimal(str(storage_usd))

    async def page(
        self, tenants: Sequence[str], wanted: Wanted, limit: int, after: str | None = None
    ) -> tuple[Sequence[Cost], str | None]:
        """A page of sums, and the cursor of the next. Raises `InvalidRequest`."""
        found = await self._found(tenants, wanted, limit + 1, _read_cursor(after))
        costs = [_cost(tenant, sums, wanted.by) for tenant, sums in found[:limit]]
        return costs, _write_cursor(found[limit - 1]) if len(found) > limit else None

    async def all(self, tenants: Sequence[str], wanted: Wanted) -> AsyncIterator[Sequence[Cost]]:
        """All sums, a page at a time."""
        after: str | None = None
        while True:
            page, after = await self.page(tenants, wanted, _PAGE, after)
            yield page
            if after is None:
                return

    async def report(self, tenant: str, month: str) -> Report:
        """What a month (`2026-11`) has cost. Raises `InvalidRequest`."""
        since, until = days_of(month)
        by: dict[str, Sequence[Cost]] = {}
        for column in _WITHIN:
            wanted = Wanted(since=since, until=until, by=(column,))
            by[f"by_{column}"] = [cost async for page in self.all([tenant], wanted) for cost in page]
        total, _ = await self.page([tenant], Wanted(since=since, until=until, by=()), 1)
        longer = {name: _dearest(costs) for name, costs in by.items() if name != "by_day"}
        return Report(month=month, currency="USD", total=total[0] if total else None, **(by | longer))

    async def charge_storage(self, tenant: str, stored: int) -> None:
        """Enter how many numbers a tenant keeps in vectors today, and what that costs for the day."""
        if not stored:
            return
        day = datetime.now(UTC).date()
        values = {"day": day, "stored": stored, "nano": storage_nano(stored, self._storage_usd, day)}
        async with self._db.tenant(tenant) as conn:
            await conn.execute(SQL["charge_storage"], values)

    async def _found(self, tenants: Sequence[str], wanted: Wanted, limit: int, after: _Cursor | None) -> list[Found]:
        found: list[Found] = []
        async with self._db.shared() as conn:
            for tenant in sorted(tenants):
                if after is not None and tenant < after.tenant:
                    continue
                within = after.within if after is not None and after.tenant == tenant else None
                sums = await _sums(conn, tenant, wanted, limit - len(found), within)
                found += [(tenant, each) for each in sums]
                if len(found) >= limit:
                    break
        return found


async def _sums(conn: Connection, tenant: str, wanted: Wanted, limit: int, after: list[str] | None) -> list[_Sums]:
    await conn.execute(SQL["as_tenant"], {"tenant": tenant})
    asked = {f"by_{name}": name in wanted.by for name in _WITHIN}
    values = {**msgspec.structs.asdict(wanted), **asked, "after": after, "limit": limit}
    return await rows(conn, SQL["costs"], values, _Sums)


def _cost(tenant: str, sums: _Sums, by: Sequence[Column]) -> Cost:
    known = sums.attempts > sums.unpriced or bool(sums.stored)
    told = msgspec.structs.asdict(sums) | {"tenant": tenant}
    return Cost(
        attempts=sums.attempts,
        failed=sums.failed,
        estimated=sums.estimated,
        unpriced=sums.unpriced,
        uncached_tokens=sums.uncached,
        cache_read_tokens=sums.cache_read,
        cache_write_tokens=sums.cache_write,
        output_tokens=sums.output,
        reasoning_tokens=sums.reasoning,
        cost_usd=money(sums.cost_nano) if known else None,
        estimated_usd=money(sums.estimated_nano),
        stored=sums.stored,
        **{name: told[name] for name in by},
    )


def _dearest(costs: Sequence[Cost]) -> Sequence[Cost]:
    return sorted(costs, key=lambda cost: Decimal(cost.cost_usd or 0), reverse=True)[:_TOP]


def columns(text: str) -> tuple[Column, ...]:
    """The columns that are named with commas between them. Raises `InvalidRequest`."""
    named = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not all(name in COLUMNS for name in named):
        raise InvalidRequest(f"Sums can be had by {', '.join(COLUMNS)}.", field="by")
    return tuple(name for name in COLUMNS if name in named)


def days_of(month: str) -> tuple[date, date]:
    """The first and the last day of a month (`2026-11`). Raises `InvalidRequest`."""
    try:
        first = date.fromisoformat(f"{month}-01")
    except ValueError:
        raise InvalidRequest("A month is written as 2026-11.", field="month") from None
    return first, first.replace(day=calendar.monthrange(first.year, first.month)[1])


def storage_nano(stored: int, usd: Decimal, day: date) -> int:
    """What numbers in vectors cost for a day, in nano-dollars; `usd` is for a million of them a month."""
    days = calendar.monthrange(day.year, day.month)[1]
    return int((stored * usd * NANO / (_MILLION * days)).to_integral_value(ROUND_HALF_EVEN))


def _write_cursor(last: Found) -> str:
    tenant, sums = last
    return base64.urlsafe_b64encode(msgspec.json.encode(_Cursor(tenant, sums.within()))).decode().rstrip("=")


def _read_cursor(text: str | None) -> _Cursor | None:
    if not text:
        return None
    try:
        cursor = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=_Cursor)
    except (ValueError, msgspec.MsgspecError):
        cursor = _Cursor("", [])
    if len(cursor.within) != len(_WITHIN) or any("\0" in part for part in cursor.within):
        raise InvalidRequest("This is not the `next` of a page of these sums.", field="after")
    return cursor
