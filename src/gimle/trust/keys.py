"""API keys `gk_<id>_<secret>`: made, listed, ended; and the index in memory by which the edge knows a caller.

Only a SHA-256 of the secret is kept: it has 256 random bits, so there is nothing to guess and no slow hash is needed.
The index costs no database round trip a request; a change reaches all nodes by a notification, within a second.
"""

import hashlib
import hmac
import math
import secrets
import time
from datetime import datetime

import msgspec

from gimle.foundation import ids
from gimle.foundation.db import Database, queries, row, rows
from gimle.foundation.errors import InvalidRequest, KeyNotFound
from gimle.foundation.lifecycle import Tasks
from gimle.trust.types import ApiKey, Principal

SQL = queries("gimle.trust")
_LONGEST_NAME = 200


class Keys:
    """The keys of the tenants."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(
        self, tenant: str, name: str, *, admin: bool = False, expires_at: datetime | None = None
    ) -> ApiKey:
        """A new key; the answer carries its `token`, the only time it can be seen. Raises `InvalidRequest`."""
        if not 0 < len(name.strip()) <= _LONGEST_NAME:
            raise InvalidRequest(f"A key's name has 1 to {_LONGEST_NAME} characters.", field="name")
        if expires_at is not None and expires_at.tzinfo is None:
            raise InvalidRequest("The expiry needs a time zone.", field="expires_at", hint="2027-01-31T00:00:00Z")
        key, secret = ids.new("key"), secrets.token_hex(32)
        params = {
            "id": key,
            "tenant": tenant,
            "name": name.strip(),
            "secret_sha256": _digest(secret),
            "admin": admin,
            "expires_at": expires_at,
        }
        async with self._db.shared() as conn:
            created = await row(conn, SQL["insert_key"], params, ApiKey)
            await conn.execute(SQL["announce"])
        assert created is not None
        return msgspec.structs.replace(created, token=f"gk_{key.removeprefix('key_')}_{secret}")

    async def list(self, tenant: str, after: str = "", limit: int = 50) -> list[ApiKey]:
        """A page of a tenant's keys, ended ones included."""
        async with self._db.shared() as conn:
            return await rows(conn, SQL["list_keys"], {"tenant": tenant, "after": after, "limit": limit}, ApiKey)

    async def revoke(self, tenant: str, key: str) -> ApiKey:
        """End a key, on all nodes within a second. Raises `KeyNotFound`."""
        async with self._db.shared() as conn:
            ended = await row(conn, SQL["revoke_key"], {"tenant": tenant, "id": key}, ApiKey)
            await conn.execute(SQL["announce"])
        if ended is None:
            raise KeyNotFound(f"There is no key {key!r}.", field="key")
        return ended


class _Live(msgspec.Struct, frozen=True):
    id: str
    tenant: str
    secret_sha256: bytes
    admin: bool
    expires_at: datetime | None


_NOBODY: tuple[Principal | None, float] = (None, 0.0)


class KeyRing:
    """All live keys, in memory."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._keys: dict[str, _Live] = {}
        # Tokens that were found good, so that a caller's next request costs no hash: at most one for each key.
        self._known: dict[str, tuple[Principal, float]] = {}
        self._tasks = Tasks()

    async def open(self) -> None:
        """Read the keys, and follow their changes until `close`."""
        await self.refresh()
        self._tasks.start(self._db.listener.follow("gimle_keys", lambda _: self.refresh()), "keys")

    async def close(self) -> None:
        """Stop following."""
        await self._tasks.close()

    async def refresh(self) -> None:
        """Read all live keys anew."""
        async with self._db.shared() as conn:
            found = await rows(conn, SQL["live_keys"], {}, _Live)
        self._keys = {live.id: live for live in found}
        self._known = {}

    def principal(self, token: str) -> Principal | None:
        """Who this token speaks for, or `None`. Compares the secret in constant time."""
        principal, until = self._known.get(token, _NOBODY)
        return principal if until > time.time() else self._verified(token)

    def _verified(self, token: str) -> Principal | None:
        prefix, _, rest = token.partition("_")
        key, _, secret = rest.partition("_")
        live = self._keys.get(f"key_{key}")
        if prefix != "gk" or live is None or not hmac.compare_digest(live.secret_sha256, _digest(secret)):
            return None
        until = math.inf if live.expires_at is None else live.expires_at.timestamp()
        if until <= time.time():
            return None
        principal = Principal(live.tenant, live.id, live.admin)
        self._known[token] = principal, until
        return principal

    def has_admin(self) -> bool:
        """Whether any key opens the administration."""
        return any(live.admin for live in self._keys.values())


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
