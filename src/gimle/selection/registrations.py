"""What tenants say of models, in PostgreSQL: facts that a provider does not tell, and models that it does not list."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from gimle.foundation import ids
from gimle.foundation.db import Connection, Database, Jsonb, queries, row, rows
from gimle.foundation.errors import Conflict, InvalidRequest, ModelNotFound
from gimle.selection.types import Kind, Model, ModelSpec

SQL = queries("gimle.selection")

_NANO = 1_000_000_000
_MOST_IMPORTED = 2000
# USD a million tokens: what is above this is a slip of the pen.
_DEAREST = 1_000_000


class Registration(ModelSpec, frozen=True, kw_only=True):
    """A model as a tenant has registered it."""

    id: str
    created_at: datetime
    updated_at: datetime


class Row(msgspec.Struct, frozen=True):
    """A registration as the database keeps it."""

    id: str
    tenant: str
    provider: str
    name: str
    kind: Kind
    spec: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class Registrations:
    """Registers, changes and forgets. All nodes see a change within a second."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def register(self, tenant: str, spec: ModelSpec) -> Registration:
        """Say what is known of a model. Raises `Conflict` when it is registered already, `InvalidRequest`."""
        async with self._db.tenant(tenant) as conn:
            made = await self._insert(conn, spec)
            if made is None:
                raise Conflict(f"{spec.provider}/{spec.name} is registered already.", field="name", hint="Change it.")
            await conn.execute(SQL["announce_models"], {"tenant": tenant})
        return made

    async def register_all(self, tenant: str, specs: Sequence[ModelSpec]) -> list[Registration]:
        """Register what a provider has told of itself; what is registered already stays as it is."""
        if len(specs) > _MOST_IMPORTED:
            raise InvalidRequest(f"A provider with more than {_MOST_IMPORTED} models is not imported.")
        async with self._db.tenant(tenant) as conn:
            made = [await self._insert(conn, spec) for spec in specs]
            await conn.execute(SQL["announce_models"], {"tenant": tenant})
        return [one for one in made if one is not None]

    async def follow(self, tenant: str, provider: str, specs: Sequence[ModelSpec]) -> Sequence[Registration]:
        """Say of a node's models what it says itself; what it no longer offers is switched off. Gives what is new."""
        if len(specs) > _MOST_IMPORTED:
            raise InvalidRequest(f"A node with more than {_MOST_IMPORTED} models is not followed.")
        async with self._db.tenant(tenant) as conn:
            made = [await row(conn, SQL["put_model"], _values(spec), Row) for spec in specs]
            names = [spec.name for spec in specs]
            cursor = await conn.execute(SQL["retire_models"], {"provider": provider, "names": names})
            changed = [_read(one) for one in made if one is not None]
            if changed or await cursor.fetchone() is not None:
                await conn.execute(SQL["announce_models"], {"tenant": tenant})
        return changed

    async def list(self, tenant: str, after: str = "", limit: int = 50) -> list[Registration]:
        """A page of what a tenant has registered, by id."""
        async with self._db.tenant(tenant) as conn:
            return [_read(one) for one in await rows(conn, SQL["list_models"], {"after": after, "limit": limit}, Row)]

    async def get(self, tenant: str, id: str) -> Registration:
        """One registration. Raises `ModelNotFound`, also for another tenant's."""
        async with self._db.tenant(tenant) as conn:
            found = await row(conn, SQL["find_model"], {"id": id}, Row)
        return _read(_there(found, id))

    async def change(self, tenant: str, id: str, spec: ModelSpec) -> Registration:
        """Say something else of a model. Raises `ModelNotFound`, or `InvalidRequest` for another model."""
        known = await self.get(tenant, id)
        if (known.provider, known.name, known.kind) != (spec.provider, spec.name, spec.kind):
            raise InvalidRequest("A model keeps its provider, name and kind.", field="name", hint="Register another.")
        async with self._db.tenant(tenant) as conn:
            found = await row(conn, SQL["update_model"], {"id": id, "spec": _spec(spec)}, Row)
            await conn.execute(SQL["announce_models"], {"tenant": tenant})
        return _read(_there(found, id))

    async def forget(self, tenant: str, id: str) -> None:
        """Unregister a model. Raises `ModelNotFound`."""
        async with self._db.tenant(tenant) as conn:
            cursor = await conn.execute(SQL["delete_model"], {"id": id})
            if await cursor.fetchone() is None:
                raise ModelNotFound(f"There is no registration {id[:64]!r}.", field="id")
            await conn.execute(SQL["announce_models"], {"tenant": tenant})

    async def _insert(self, conn: Connection, spec: ModelSpec) -> Registration | None:
        made = await row(conn, SQL["insert_model"], _values(spec), Row)
        return None if made is None else _read(made)


async def read_all(conn: Connection) -> dict[str, list[ModelSpec]]:
    """What all tenants say of models, by tenant; a row that another version wrote and nobody can read is left out."""
    found: dict[str, list[ModelSpec]] = {}
    for one in await rows(conn, SQL["all_models"], {}, Row):
        try:
            found.setdefault(one.tenant, []).append(_read(one))
        except msgspec.ValidationError:
            continue
    return found


def merged(models: Sequence[Model], told: Sequence[ModelSpec], providers: Mapping[str, Model]) -> list[Model]:
    """Models with what a tenant says of them, and those that it adds; `providers` are the facts of unlisted ones."""
    found = {(model.provider, model.name, model.kind): model for model in models}
    for spec in told:
        key = (spec.provider, spec.name, spec.kind)
        known = found.get(key)
        if known is None and spec.provider in providers:
            facts = providers[spec.provider]
            price = f"{facts.price}/{spec.name}" if facts.price else None
            known = msgspec.structs.replace(facts, name=spec.name, kind=spec.kind, version=spec.name, price=price)
        if known is not None:
            found[key] = _patched(known, spec)
    return list(found.values())


def _patched(model: Model, spec: ModelSpec) -> Model:
    given = {
        name: value
        for name, value in msgspec.structs.asdict(spec).items()
        if value is not None and name in model.__struct_fields__ and name not in ("provider", "name", "kind")
    }
    if spec.capabilities is not None:
        given["capabilities"] = frozenset(spec.capabilities)
    for name, usd in (("input_nano", spec.input_usd), ("output_nano", spec.output_usd)):
        if usd is not None:
            given[name] = int(usd * _NANO)
    if not spec.enabled:
        given["unavailable"] = "it is switched off"
    return msgspec.structs.replace(model, **given)


def _values(spec: ModelSpec) -> dict[str, object]:
    values = {"id": ids.new("mdl"), "provider": spec.provider, "name": spec.name, "kind": spec.kind}
    return {**values, "spec": _spec(spec)}


def _spec(spec: ModelSpec) -> Jsonb:
    for field, usd in (("input_usd", spec.input_usd), ("output_usd", spec.output_usd)):
        if usd is not None and not (usd.is_finite() and 0 <= usd <= _DEAREST):
            raise InvalidRequest("A price is 0 or more USD for a million tokens.", field=field)
    return Jsonb({name: value for name, value in msgspec.to_builtins(spec).items() if value is not None})


def _read(one: Row) -> Registration:
    fields = {**one.spec, "provider": one.provider, "name": one.name, "kind": one.kind}
    times = {"id": one.id, "created_at": one.created_at, "updated_at": one.updated_at}
    return msgspec.convert({**fields, **times}, Registration)


def _there(found: Row | None, id: str) -> Row:
    if found is None:
        raise ModelNotFound(f"There is no registration {id[:64]!r}.", field="id")
    return found
