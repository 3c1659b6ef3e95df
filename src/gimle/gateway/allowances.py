"""What tenants, keys and models are allowed, as people set it; nodes have it in memory and follow within a second."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from gimle.foundation import ids
from gimle.foundation.config import LimitSettings
from gimle.foundation.db import Database, queries, row, rows
from gimle.foundation.errors import AllowanceNotFound, InvalidRequest
from gimle.foundation.lifecycle import Tasks

SQL = queries("gimle.gateway", "limits.sql")

_GIGABYTE = 10**9
Scope = Literal["tenant", "key", "model"]
Whole = Annotated[int, msgspec.Meta(ge=0, le=10**15)]


class NewAllowance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody is allowed. `subject` is a key's id or a model's name or id; empty for the whole tenant.

    What is null is as the settings say, or has no limit of its own; 0 is no limit, and for `cache_seconds` no cache.
    Quotas (`embeddings_day`, `storage_bytes`) are the tenant's only.
    """

    scope: Scope = "tenant"
    subject: Annotated[str, msgspec.Meta(max_length=300)] = ""
    requests_minute: Whole | None = None
    tokens_minute: Whole | None = None
    embeddings_day: Whole | None = None
    storage_bytes: Whole | None = None
    cache_seconds: Whole | None = None


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody is allowed; a row of `allowance`."""

    id: str
    tenant: str
    scope: Scope
    subject: str
    requests_minute: int | None
    tokens_minute: int | None
    embeddings_day: int | None
    storage_bytes: int | None
    cache_seconds: int | None
    created_at: datetime
    updated_at: datetime


class Allowances:
    """The allowances of all tenants."""

    def __init__(self, db: Database | None, settings: LimitSettings) -> None:
        self._db = db
        self._settings = settings
        self._tasks = Tasks()
        self._known: dict[tuple[str, Scope, str], Allowance] = {}
        # How often they were read: whoever has worked something out from them sees that it is old.
        self.readings = 0

    async def open(self) -> None:
        """Read them, and follow their changes until `close`."""
        if self._db is not None:
            await self.refresh()
            self._tasks.start(self._db.listener.follow("gimle_allowances", lambda _: self.refresh()), "allowances")

    async def close(self) -> None:
        """Stop following."""
        await self._tasks.close()

    # -- what is allowed; 0: no limit

    def find(self, tenant: str, scope: Scope, subject: str = "") -> Allowance | None:
        """What was set for somebody."""
        return self._known.get((tenant, scope, subject))

    def requests_minute(self, tenant: str) -> int:
        """A tenant's requests each minute."""
        own = self.find(tenant, "tenant")
        given = own.requests_minute if own is not None else None
        return self._settings.requests_minute if given is None else given

    def tokens_minute(self, tenant: str) -> int:
        """A tenant's tokens each minute."""
        own = self.find(tenant, "tenant")
        given = own.tokens_minute if own is not None else None
        return self._settings.tokens_minute if given is None else given

    def embeddings_day(self, tenant: str) -> int:
        """The vectors that a tenant may have made each day."""
        own = self.find(tenant, "tenant")
        given = own.embeddings_day if own is not None else None
        return self._settings.embeddings_day if given is None else given

    def storage_bytes(self, tenant: str) -> int:
        """The bytes of documents that a tenant may keep."""
        own = self.find(tenant, "tenant")
        given = own.storage_bytes if own is not None else None
        return int(self._settings.storage_gb * _GIGABYTE) if given is None else given

    def cache_seconds(self, tenant: str, key: str) -> int | None:
        """How long answers for a key are kept; None: as the settings say."""
        for own in (self.find(tenant, "key", key), self.find(tenant, "tenant")):
            if own is not None and own.cache_seconds is not None:
                return own.cache_seconds
        return None

    # -- as people set it

    async def put(self, tenant: str, new: NewAllowance) -> Allowance:
        """Set what somebody is allowed, in place of what was. Raises `InvalidRequest`."""
        if (new.scope == "tenant") != (not new.subject):
            raise InvalidRequest("A tenant's allowance has no subject, any other has one.", field="subject")
        if new.scope != "tenant" and (new.embeddings_day is not None or new.storage_bytes is not None):
            raise InvalidRequest("Quotas are a tenant's.", field="embeddings_day")
        async with self._database().tenant(tenant) as conn:
            values = msgspec.structs.asdict(new) | {"id": ids.new("alw")}
            kept = await row(conn, SQL["put_allowance"], values, Allowance)
            await conn.execute(SQL["tell_allowances"])
        # The other nodes hear of it; here it holds at once.
        await self.refresh()
        assert kept is not None
        return kept

    async def list(self, tenant: str, after: str = "", limit: int = 50) -> Sequence[Allowance]:
        """A page of a tenant's allowances."""
        async with self._database().tenant(tenant) as conn:
            return await rows(conn, SQL["list_allowances"], {"after": after, "limit": limit}, Allowance)

    async def delete(self, tenant: str, allowance: str) -> None:
        """Back to what the settings say. Raises `AllowanceNotFound`."""
        async with self._database().tenant(tenant) as conn:
            gone = await (await conn.execute(SQL["delete_allowance"], {"id": allowance})).fetchone()
            await conn.execute(SQL["tell_allowances"])
        await self.refresh()
        if gone is None:
            raise AllowanceNotFound(f"There is no allowance {allowance[:64]!r}.", field="allowance")

    async def refresh(self) -> None:
        """Read all anew."""
        async with self._database().shared() as conn:
            found = await rows(conn, SQL["all_allowances"], {}, Allowance)
        self._known = {(each.tenant, each.scope, each.subject): each for each in found}
        self.readings += 1

    def _database(self) -> Database:
        assert self._db is not None, "there is no database"
        return self._db
