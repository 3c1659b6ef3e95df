"""`/api/v1/allowances`: rate limits and quotas of tenants, keys and models, and how long answers are kept."""

from litestar import delete, get, put
from litestar.params import JSONBody

from gimle.gateway.allowances import Allowance, NewAllowance
from gimle.interfaces.http.admin import require_admin
from gimle.interfaces.http.given import After, Caller, Limit, Page, PathText, Rooms, cut

_ALLOWANCES = "/api/v1/allowances"


@get(_ALLOWANCES, summary="List allowances", tags=["budgets"])
async def list_allowances(rooms: Rooms, principal: Caller, limit: Limit = 50, after: After = None) -> Page[Allowance]:
    """What was set for your tenant, its keys and models; all else is as the settings say. Needs an admin key."""
    require_admin(principal)
    found = await rooms.allowances.list(principal.tenant, after or "", limit + 1)
    return cut(found, limit, lambda allowance: allowance.id)


@put(_ALLOWANCES, summary="Set an allowance", tags=["budgets"])
async def put_allowance(rooms: Rooms, principal: Caller, data: JSONBody[NewAllowance]) -> Allowance:
    """In place of what was set for this scope and subject; null: as the settings say. Needs an admin key."""
    require_admin(principal)
    return await rooms.allowances.put(principal.tenant, data)


@delete(f"{_ALLOWANCES}/{{allowance:str}}", summary="Remove an allowance", tags=["budgets"])
async def delete_allowance(rooms: Rooms, principal: Caller, allowance: PathText) -> None:
    """Back to what the settings say. Needs an admin key."""
    require_admin(principal)
    await rooms.allowances.delete(principal.tenant, allowance)


HANDLERS = (list_allowances, put_allowance, delete_allowance)
