"""`/api/v1/costs`: what calls and storage have cost, as JSON or CSV."""

import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Literal

import msgspec
from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from litestar.response import Stream

from gimle.app import App
from gimle.foundation.errors import InvalidRequest
from gimle.gateway import costs
from gimle.gateway.costs import Cost, Report, Wanted
from gimle.interfaces.http.admin import OfTenant, require_admin
from gimle.interfaces.http.given import After, Caller, Limit, Page, Rooms
from gimle.trust.types import Principal

_BASE = "/api/v1/costs"
_SUMS = [name for name in Cost.__struct_fields__ if name not in costs.COLUMNS]
# A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LONGEST_WORD = 300

By = Annotated[
    str,
    QueryParameter(
        name="by",
        max_length=200,
        description="A sum for each: day, key, user, case, workflow, model, kind, with commas; tenant for an admin.",
    ),
]
Since = Annotated[date | None, QueryParameter(name="since", description="The first day (UTC). Else this month's.")]
Until = Annotated[date | None, QueryParameter(name="until", description="The last day (UTC), included. Else today.")]
Month = Annotated[str | None, QueryParameter(name="month", max_length=7, description="`2026-11`. Else this month.")]
Format = Annotated[Literal["json", "csv"] | None, QueryParameter(name="format", description="Else as `Accept` says.")]


def _only(name: str) -> QueryParameter:
    return QueryParameter(name=name, max_length=_LONGEST_WORD, description=f"Only of this {name}; empty: of none.")


OfKey = Annotated[str | None, _only("key")]
OfUser = Annotated[str | None, _only("user")]
OfCase = Annotated[str | None, _only("case")]
OfWorkflow = Annotated[str | None, _only("workflow")]
OfModel = Annotated[str | None, _only("model")]
OfKind = Annotated[str | None, _only("kind")]


async def filters(
    key: OfKey = None,
    user: OfUser = None,
    case: OfCase = None,
    workflow: OfWorkflow = None,
    model: OfModel = None,
    kind: OfKind = None,
) -> dict[str, str | None]:
    """What the sums are narrowed to, as `Wanted` names it."""
    return {"key": key, "user": user, "case": case, "workflow": workflow, "model": model, "kind": kind}


async def wanted(
    narrowed: NamedDependency[dict[str, str | None]], by: By = "day", since: Since = None, until: Until = None
) -> Wanted:
    """The sums that a request asks for. Raises `InvalidRequest`."""
    today = datetime.now(UTC).date()
    since, until = since or today.replace(day=1), until or today
    if until < since:
        raise InvalidRequest("The last day lies before the first.", field="until")
    return Wanted(since=since, until=until, by=costs.columns(by), **narrowed)


async def as_csv(request: Request[object, object, State], format: Format = None) -> bool:
    """Whether the answer shall be CSV."""
    return format == "csv" if format is not None else "text/csv" in request.headers.get("accept", "")


Csv = NamedDependency[bool]


@get(
    _BASE,
    summary="See what it costs",
    tags=["costs"],
    dependencies={"narrowed": filters, "asked": wanted, "as_csv": as_csv},
)
async def list_costs(
    rooms: Rooms,
    principal: Caller,
    asked: NamedDependency[Wanted],
    as_csv: Csv,
    of_tenant: OfTenant = None,
    limit: Limit = 50,
    after: After = None,
) -> Response[Page[Cost]] | Stream:
    """Your sums of days, by what you name; as CSV all of them. Those of others need an admin key."""
    tenants = await _tenants(rooms, principal, of_tenant, all_="tenant" in asked.by)
    if as_csv:
        return await _csv(rooms.costs.all(tenants, asked), asked, f"costs-{asked.since}-{asked.until}.csv")
    return Response(Page(*await rooms.costs.page(tenants, asked, limit, after)))


@get(f"{_BASE}/report", summary="Report a month", tags=["costs"], dependencies={"as_csv": as_csv})
async def report_costs(
    rooms: Rooms, principal: Caller, as_csv: Csv, month: Month = None, of_tenant: OfTenant = None
) -> Response[Report] | Stream:
    """A month: its sum, and by day, model, kind, case, workflow, key and user. As CSV one line for each combination."""
    month = month or datetime.now(UTC).strftime("%Y-%m")
    since, until = costs.days_of(month)
    (tenant,) = await _tenants(rooms, principal, of_tenant)
    if as_csv:
        asked = Wanted(since=since, until=until, by=costs.COLUMNS[2:])
        return await _csv(rooms.costs.all([tenant], asked), asked, f"costs-{month}.csv")
    return Response(await rooms.costs.report(tenant, month))


async def _tenants(rooms: App, principal: Principal, named: str | None, *, all_: bool = False) -> Sequence[str]:
    """Whose costs are meant. Raises `Forbidden` or `TenantNotFound`."""
    if named:
        require_admin(principal)
        return [(await rooms.tenants.find(named)).id]
    if not all_:
        return [principal.tenant]
    require_admin(principal)
    found: list[str] = []
    while page := await rooms.tenants.list(found[-1] if found else ""):
        found += [tenant.id for tenant in page]
    return found


async def _csv(pages: AsyncIterator[Sequence[Cost]], wanted: Wanted, name: str) -> Stream:
    # What is wrong can be told as long as no head is sent.
    first = await anext(pages)
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Stream(_lines(first, pages, wanted), media_type="text/csv; charset=utf-8", headers=headers)


async def _lines(first: Sequence[Cost], rest: AsyncIterator[Sequence[Cost]], wanted: Wanted) -> AsyncIterator[bytes]:
    heads = [*wanted.by, *_SUMS]

    def lines(page: Sequence[Cost]) -> list[list[object]]:
        return [[_cell(cost[name]) for name in heads] for cost in map(msgspec.structs.asdict, page)]

    yield _written([heads, *lines(first)])
    async for page in rest:
        yield _written(lines(page))


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _written(lines: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


HANDLERS = (list_costs, report_costs)
