"""The nouns of trust."""

from datetime import datetime

import msgspec


class Tenant(msgspec.Struct, frozen=True):
    """A customer of this installation; all that is stored belongs to exactly one."""

    id: str
    name: str
    created_at: datetime


class ApiKey(msgspec.Struct, frozen=True):
    """What is known of a key once it was shown. `token` is set in the one answer that creates it, and never again."""

    id: str
    tenant: str
    name: str
    admin: bool
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    token: str | None = None


class Principal(msgspec.Struct, frozen=True):
    """Who makes a request. `admin` may manage tenants and keys of the whole installation."""

    tenant: str
    key: str
    admin: bool = False
