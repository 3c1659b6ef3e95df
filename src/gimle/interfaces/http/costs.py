"""`/api/v1/costs`: what calls and storage have cost, as JSON or CSV."""

import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Literal

from litestar import Request, Response, get
from litestar.datastructures import State
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


@get(_BASE, summary="See what it costs", tags=["costs"])
async def list_costs(
    request: Request[object, object, State],
    rooms: Rooms,
    principal: Caller,
    by: By = "day",
    since: Since = None,
    until: Until = None,
    of_tenant: OfTenant = None,
    key: OfKey = None,
    user: OfUser = None,
    case: OfCase = None,
    workflow: OfWorkflow = None,
    model: OfModel = None,
    kind: OfKind = None,
    format: Format = None,
    limit: Limit = 50,
    after: After = None,
) -> Response[Page[Cost]] | Stream:
    """Your sums of days, by what you name; as CSV all of them. Those of others need an admin key."""
    today = datetime.now(UTC).date()
    wanted = Wanted(
        since=since or today.replace(day=1),
        until=until or today,
        by=costs.columns(by),
        key=key,
        user=user,
        case=case,
        workflow=workflow,
        model=model,
        kind=kind,
    )
    tenants = await _tenants(rooms, principal, of_tenant, wanted)
    if _wants_csv(request, format):
        return _csv(rooms.costs.all(tenants, wanted), wanted, f"costs-{wanted.since}-{wanted.until}.csv")
    return Response(Page(*await rooms.costs.page(tenants, wanted, limit, after)))


@get(f"{_BASE}/report", summary="Report a month", tags=["costs"])
async def report_costs(
    request: Request[object, object, State],
    rooms: Rooms,
    principal: Caller,
    month: Month = None,
    of_tenant: OfTenant = None,
    format: Format = None,
) -> Response[Report] | Stream:
    """A month: its sum, and by day, model, kind, case, workflow, key and user. As CSV one line for each combination."""
    month = month or datetime.now(UTC).strftime("%Y-%m")
    since, until = costs.days_of(month)
    wanted = Wanted(since=since, until=until, by=costs.COLUMNS[2:])
    (tenant,) = await _tenants(rooms, principal, of_tenant, wanted)
    if _wants_csv(request, format):
        return _csv(rooms.costs.all([tenant], wanted), wanted, f"costs-{month}.csv")
    return Response(await rooms.costs.report(tenant, month))


async def _tenants(rooms: App, principal: Principal, named: str | None, wanted: Wanted) -> Sequence[str]:
    """Whose costs are meant. Raises `Forbidden`, `TenantNotFound` or `InvalidRequest`."""
    if wanted.until < wanted.since:
        raise InvalidRequest("The last day lies before the first.", field="until")
    if named:
        require_admin(principal)
        return [(await rooms.tenants.find(named)).id]
    if "tenant" not in wanted.by:
        return [principal.tenant]
    require_admin(principal)
    found: list[str] = []
    while page := await rooms.tenants.list(found[-1] if found else ""):
        found += [tenant.id for tenant in page]
    return found


def _wants_csv(request: Request[object, object, State], named: str | None) -> bool:
    return named == "csv" if named is not None else "text/csv" in request.headers.get("accept", "")


def _csv(pages: AsyncIterator[Sequence[Cost]], wanted: Wanted, name: str) -> Stream:
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Stream(_lines(pages, wanted), media_type="text/csv; charset=utf-8", headers=headers)


async def _lines(pages: AsyncIterator[Sequence[Cost]], wanted: Wanted) -> AsyncIterator[bytes]:
    heads = [*wanted.by, *_SUMS]
    yield _written([heads])
    async for page in pages:
        yield _written([[_cell(getattr(cost, name)) for name in heads] for cost in page])


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _written(lines: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


HANDLERS = (list_costs, report_costs)
