"""`/api/v1/budgets`: what may be spent, by whom, in which period."""

from litestar import Response, delete, get, post, put
from litestar.params import JSONBody

from gimle.gateway.budgeting import Budget, NewBudget
from gimle.interfaces.http.admin import require_admin
from gimle.interfaces.http.given import After, Caller, Limit, Page, PathText, Rooms, cut

_BUDGETS = "/api/v1/budgets"


@get(_BUDGETS, summary="List budgets", tags=["budgets"])
async def list_budgets(rooms: Rooms, principal: Caller, limit: Limit = 50, after: After = None) -> Page[Budget]:
    """The budgets of your tenant, and how they stand. Needs an admin key."""
    require_admin(principal)
    found = await rooms.budget_book.list(principal.tenant, after or "", limit + 1)
    return cut(found, limit, lambda budget: budget.id)


@post(_BUDGETS, summary="Set a budget", tags=["budgets"])
async def create_budget(rooms: Rooms, principal: Caller, data: JSONBody[NewBudget]) -> Response[Budget]:
    """A limit in USD for a tenant, key, user, model or case, in each period. Needs an admin key."""
    require_admin(principal)
    budget = await rooms.budget_book.create(principal.tenant, data)
    # The other processes hear of it; in this one it holds from now on.
    await rooms.budgets.refresh()
    return Response(budget, status_code=201, headers={"location": f"{_BUDGETS}/{budget.id}"})


@get(f"{_BUDGETS}/{{budget:str}}", summary="Show a budget", tags=["budgets"])
async def show_budget(rooms: Rooms, principal: Caller, budget: PathText) -> Budget:
    """One budget, and how it stands. Needs an admin key."""
    require_admin(principal)
    return await rooms.budget_book.get(principal.tenant, budget)


@put(f"{_BUDGETS}/{{budget:str}}", summary="Change a budget", tags=["budgets"])
async def change_budget(rooms: Rooms, principal: Caller, budget: PathText, data: JSONBody[NewBudget]) -> Budget:
    """Another limit, mode, alert or rule; what is spent stays, and holds from now on. Needs an admin key."""
    require_admin(principal)
    changed = await rooms.budget_book.change(principal.tenant, budget, data)
    await rooms.budgets.refresh()
    return changed


@delete(f"{_BUDGETS}/{{budget:str}}", summary="Remove a budget", tags=["budgets"])
async def delete_budget(rooms: Rooms, principal: Caller, budget: PathText) -> None:
    """Forget a budget, and what was spent of it; the ledger keeps its rows. Needs an admin key."""
    require_admin(principal)
    await rooms.budget_book.delete(principal.tenant, budget)
    await rooms.budgets.refresh()


HANDLERS = (list_budgets, create_budget, show_budget, change_budget, delete_budget)
