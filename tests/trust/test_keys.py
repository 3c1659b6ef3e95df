import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from gimle.foundation.db import Database
from gimle.foundation.errors import Conflict, DatabaseUnavailable, InvalidRequest, KeyNotFound, TenantNotFound
from gimle.trust.keys import KeyRing, Keys
from gimle.trust.tenants import Tenants
from gimle.trust.types import Principal


@pytest.fixture
def keys(db: Database) -> Keys:
    return Keys(db)


async def test_a_key_speaks_for_its_tenant(db: Database, keys: Keys, tenants: tuple[str, str]) -> None:
    created = await keys.create(tenants[0], "laptop", admin=True)
    ring = KeyRing(db)
    await ring.refresh()
    assert created.token is not None
    assert ring.principal(created.token) == Principal(tenants[0], created.id, admin=True)


async def test_a_wrong_secret_an_unknown_id_and_noise_open_nothing(
    db: Database, keys: Keys, tenants: tuple[str, str]
) -> None:
    created = await keys.create(tenants[0], "laptop")
    ring = KeyRing(db)
    await ring.refresh()
    assert created.token is not None
    for token in (
        created.token[:-1] + "x",
        created.token + "0",
        "gk_" + "0" * 32 + "_" + "0" * 64,
        "",
        "gk",
        "sk-1",
        "gk__",
        "ü",
    ):
        assert ring.principal(token) is None


async def test_the_secret_is_not_in_the_database(db: Database, keys: Keys, tenants: tuple[str, str]) -> None:
    created = await keys.create(tenants[0], "laptop")
    assert created.token is not None
    async with db.shared() as conn:
        found = await (await conn.execute("select row_to_json(api_key)::text as row from api_key")).fetchall()
    assert created.token.rpartition("_")[2] not in str(found)
    assert (await keys.list(tenants[0]))[0].token is None


async def test_an_expired_key_opens_nothing(db: Database, keys: Keys, tenants: tuple[str, str]) -> None:
    soon = await keys.create(tenants[0], "soon", expires_at=datetime.now(UTC) + timedelta(milliseconds=200))
    ring = KeyRing(db)
    await ring.refresh()
    assert soon.token is not None
    async with asyncio.timeout(5):
        while ring.principal(soon.token) is not None:
            await asyncio.sleep(0.02)
    with pytest.raises(InvalidRequest, match="time zone"):
        await keys.create(tenants[0], "naive", expires_at=datetime(2030, 1, 1))  # noqa: DTZ001 - the bad input itself


async def test_a_change_reaches_another_node(db: Database, keys: Keys, tenants: tuple[str, str]) -> None:
    ring = KeyRing(db)
    await ring.open()
    try:
        created = await keys.create(tenants[0], "laptop")
        assert created.token is not None
        async with asyncio.timeout(5):
            while ring.principal(created.token) is None:
                await asyncio.sleep(0.02)
            await keys.revoke(tenants[0], created.id)
            while ring.principal(created.token) is not None:
                await asyncio.sleep(0.02)
    finally:
        await ring.close()


async def test_a_key_is_revoked_also_when_the_database_could_not_tell_at_once(
    db: Database, keys: Keys, tenants: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gimle.foundation.listener._AGAIN_SECONDS", 0.01)
    created = await keys.create(tenants[0], "laptop")
    assert created.token is not None
    ring = _Failing(db)
    await ring.open()
    try:
        async with asyncio.timeout(5):
            while ring.readings < 2:
                await asyncio.sleep(0.01)
        ring.away = 3
        await keys.revoke(tenants[0], created.id)
        async with asyncio.timeout(5):
            while ring.principal(created.token) is not None:
                await asyncio.sleep(0.02)
        assert ring.away == 0
    finally:
        await ring.close()


class _Failing(KeyRing):
    """Finds the database away, as often as it is told."""

    away = 0
    readings = 0

    async def refresh(self) -> None:
        if self.away:
            self.away -= 1
            raise DatabaseUnavailable
        await super().refresh()
        self.readings += 1


async def test_a_tenant_can_not_touch_the_keys_of_another(keys: Keys, tenants: tuple[str, str]) -> None:
    created = await keys.create(tenants[0], "laptop")
    with pytest.raises(KeyNotFound):
        await keys.revoke(tenants[1], created.id)
    assert await keys.list(tenants[1]) == []


async def test_tenants_have_distinct_usable_names(db: Database) -> None:
    tenants = Tenants(db)
    created = await tenants.create(" Acme ")
    assert created.name == "Acme"
    assert await tenants.find("Acme") == await tenants.find(created.id) == created
    with pytest.raises(Conflict):
        await tenants.create("Acme")
    with pytest.raises(InvalidRequest):
        await tenants.create("  ")
    with pytest.raises(TenantNotFound):
        await tenants.find("nobody")
    assert created in await tenants.list()
