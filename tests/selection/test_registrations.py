"""What tenants say of models: kept apart, merged with what providers list, told to all nodes."""

from decimal import Decimal

import pytest
from tests.selection.tables import model

from gimle.foundation.db import Database
from gimle.foundation.errors import Conflict, InvalidRequest, ModelNotFound
from gimle.selection.registrations import Registrations, merged, read_all
from gimle.selection.types import ModelSpec

SPEC = ModelSpec(
    provider="cloud",
    name="big",
    context_window=50_000,
    capabilities=("tools",),
    parameters=7 * 10**9,
    input_usd=Decimal("0.15"),
    output_usd=Decimal("0.6"),
    region="eu",
    place=(52.5, 13.4),
    tags=("approved",),
    data_policy="no-training",
)


async def test_a_model_is_registered_changed_listed_and_forgotten(db: Database, tenants: tuple[str, str]) -> None:
    registry = Registrations(db)
    made = await registry.register(tenants[0], SPEC)
    assert (made.input_usd, made.place, made.tags) == (Decimal("0.15"), (52.5, 13.4), ("approved",))
    assert await registry.get(tenants[0], made.id) == made
    changed = await registry.change(tenants[0], made.id, ModelSpec(provider="cloud", name="big", enabled=False))
    assert (changed.enabled, changed.region) == (False, None)
    assert [one.id for one in await registry.list(tenants[0])] == [made.id]
    await registry.forget(tenants[0], made.id)
    assert await registry.list(tenants[0]) == []


async def test_what_one_tenant_says_another_neither_sees_nor_changes(db: Database, tenants: tuple[str, str]) -> None:
    registry = Registrations(db)
    made = await registry.register(tenants[0], SPEC)
    assert await registry.list(tenants[1]) == []
    with pytest.raises(ModelNotFound):
        await registry.get(tenants[1], made.id)
    with pytest.raises(ModelNotFound):
        await registry.change(tenants[1], made.id, SPEC)
    with pytest.raises(ModelNotFound):
        await registry.forget(tenants[1], made.id)
    await registry.register(tenants[1], SPEC)
    async with db.shared() as conn:
        assert {tenant: len(told) for tenant, told in (await read_all(conn)).items()} == dict.fromkeys(tenants, 1)


async def test_what_makes_no_sense_is_refused(db: Database, tenants: tuple[str, str]) -> None:
    registry = Registrations(db)
    made = await registry.register(tenants[0], SPEC)
    with pytest.raises(Conflict):
        await registry.register(tenants[0], SPEC)
    with pytest.raises(InvalidRequest):
        await registry.change(tenants[0], made.id, ModelSpec(provider="cloud", name="other"))
    for price in ("-1", "NaN", "1e9"):
        with pytest.raises(InvalidRequest):
            await registry.register(tenants[0], ModelSpec(provider="x", name="y", input_usd=Decimal(price)))


async def test_an_import_leaves_what_is_there(db: Database, tenants: tuple[str, str]) -> None:
    registry = Registrations(db)
    await registry.register(tenants[0], SPEC)
    made = await registry.register_all(tenants[0], [ModelSpec(provider="cloud", name=name) for name in ("big", "new")])
    assert [one.name for one in made] == ["new"]
    assert (await registry.list(tenants[0]))[0].region == "eu"


def test_what_is_said_goes_over_what_is_listed_and_the_rest_stays() -> None:
    listed = model("cloud/big", context_window=100, capabilities=frozenset({"vision"}), max_output=9)
    facts = model("cloud/", local=True)
    found = {one.id: one for one in merged([listed], [SPEC, ModelSpec(provider="cloud", name="new")], {"cloud": facts})}
    big = found["cloud/big"]
    assert (big.context_window, big.capabilities, big.max_output) == (50_000, frozenset({"tools"}), 9)
    assert (big.input_nano, big.output_nano, big.region) == (150_000_000, 600_000_000, "eu")
    assert found["cloud/new"].local
    assert merged([listed], [ModelSpec(provider="gone", name="x")], {}) == [listed]
    off = merged([listed], [ModelSpec(provider="cloud", name="big", enabled=False)], {})
    assert off[0].unavailable == "it is switched off"
