"""`/api/v1/tenants` and `/api/v1/keys`: who may use this installation."""

from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Response, delete, get, post
from litestar.params import JSONBody, QueryParameter

from gimle.app import App
from gimle.foundation.errors import Forbidden
from gimle.interfaces.http.given import After, Caller, Limit, Page, PathText, Rooms, cut
from gimle.trust.types import ApiKey, Principal, Tenant

_TENANTS = "/api/v1/tenants"
_KEYS = "/api/v1/keys"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
OfTenant = Annotated[
    str | None,
    QueryParameter(name="tenant", max_length=200, description="Another tenant (id or name); needs an admin key."),
]


class NewTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tenant to create."""

    name: Name


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to create. Without `tenant` (id or name), for the caller's own."""

    name: Name
    tenant: str | None = None
    admin: bool = False
    expires_at: datetime | None = None


def require_admin(principal: Caller) -> None:
    """Raises `Forbidden` unless the key is an admin's."""
    if not principal.admin:
        raise Forbidden(
            "This needs an admin key.", field="authorization", hint="The first one lies in <data>/admin.key."
        )


@get(_TENANTS, summary="List tenants", tags=["admin"])
async def list_tenants(rooms: Rooms, principal: Caller, limit: Limit = 50, after: After = None) -> Page[Tenant]:
    """All tenants of this installation. Needs an admin key."""
    require_admin(principal)
    return cut(await rooms.tenants.list(after or "", limit + 1), limit, lambda tenant: tenant.id)


@post(_TENANTS, summary="Create a tenant", tags=["admin"])
async def create_tenant(rooms: Rooms, principal: Caller, data: JSONBody[NewTenant]) -> Response[Tenant]:
    """A new tenant, who sees nothing of the others. Needs an admin key."""
    require_admin(principal)
    tenant = await rooms.tenants.create(data.name)
    return Response(tenant, status_code=201, headers={"location": f"{_TENANTS}/{tenant.id}"})


@get(f"{_TENANTS}/{{tenant:str}}", summary="Show a tenant", tags=["admin"])
async def show_tenant(rooms: Rooms, principal: Caller, tenant: PathText) -> Tenant:
    """One tenant, by id or name. Needs an admin key."""
    require_admin(principal)
    return await rooms.tenants.find(tenant)


@get(_KEYS, summary="List keys", tags=["admin"])
async def list_keys(
    rooms: Rooms, principal: Caller, of_tenant: OfTenant = None, limit: Limit = 50, after: After = None
) -> Page[ApiKey]:
    """The keys of your tenant, ended ones included; never their secrets. Needs an admin key."""
    tenant = await _tenant(rooms, principal, of_tenant)
    return cut(await rooms.keys.list(tenant, after or "", limit + 1), limit, lambda key: key.id)


@post(_KEYS, summary="Create a key", tags=["admin"])
async def create_key(rooms: Rooms, principal: Caller, data: JSONBody[NewKey]) -> Response[ApiKey]:
    """A new key. Its `token` is in this answer and can't be seen again. Needs an admin key."""
    tenant = await _tenant(rooms, principal, data.tenant)
    key = await rooms.keys.create(tenant, data.name, admin=data.admin, expires_at=data.expires_at)
    return Response(key, status_code=201, headers={"location": f"{_KEYS}/{key.id}"})


@delete(f"{_KEYS}/{{key:str}}", summary="End a key", tags=["admin"])
async def revoke_key(rooms: Rooms, principal: Caller, key: PathText, of_tenant: OfTenant = None) -> None:
    """End a key, on all nodes within a second. Needs an admin key."""
    await rooms.keys.revoke(await _tenant(rooms, principal, of_tenant), key)


async def _tenant(rooms: App, principal: Principal, named: str | None) -> str:
    """The tenant whose keys are meant. Raises `Forbidden` or `TenantNotFound`."""
    require_admin(principal)
    return (await rooms.tenants.find(named)).id if named else principal.tenant


HANDLERS = (list_tenants, create_tenant, show_tenant, list_keys, create_key, revoke_key)
