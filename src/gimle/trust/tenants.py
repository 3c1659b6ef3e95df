"""Tenants: create, find, list."""

from gimle.foundation import ids
from gimle.foundation.db import Database, queries, row, rows
from gimle.foundation.errors import Conflict, InvalidRequest, TenantNotFound
from gimle.trust.types import Tenant

SQL = queries("gimle.trust")
_LONGEST_NAME = 200


class Tenants:
    """The tenants of this installation."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, name: str) -> Tenant:
        """A new tenant. Raises `InvalidRequest` for an unusable name, `Conflict` when the name is taken."""
        name = name.strip()
        if not 0 < len(name) <= _LONGEST_NAME:
            raise InvalidRequest(f"A tenant's name has 1 to {_LONGEST_NAME} characters.", field="name")
        async with self._db.shared() as conn:
            created = await row(conn, SQL["insert_tenant"], {"id": ids.new("ten"), "name": name}, Tenant)
        if created is None:
            raise Conflict(f"There is a tenant named {name!r} already.", field="name")
        return created

    async def find(self, tenant: str) -> Tenant:
        """A tenant by id or name. Raises `TenantNotFound`."""
        async with self._db.shared() as conn:
            found = await row(conn, SQL["tenant"], {"tenant": tenant}, Tenant)
        if found is None:
            raise TenantNotFound(f"There is no tenant {tenant!r}.", field="tenant")
        return found

    async def list(self, after: str = "", limit: int = 50) -> list[Tenant]:
        """A page of tenants, those made after `after` (an id)."""
        async with self._db.shared() as conn:
            return await rows(conn, SQL["list_tenants"], {"after": after, "limit": limit}, Tenant)
