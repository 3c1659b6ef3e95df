"""The providers and their models, as one immutable snapshot a tenant, kept in memory and swapped by reference.

A tenant sees what files and settings give, and its own rows of the database, which win. A change is told to all nodes.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from gimle.foundation import ids, logs, plugins
from gimle.foundation.config import Settings
from gimle.foundation.db import Connection, Database, Jsonb, queries, row, rows
from gimle.foundation.errors import Conflict, GimleError, InvalidRequest, NotFound, ProviderNotFound, Unavailable
from gimle.foundation.lifecycle import Tasks
from gimle.foundation.outbound import Outbound, Request
from gimle.gateway import discovery, metrics, nodes, prices, sources
from gimle.gateway.local import offer
from gimle.gateway.local.host import LOCAL, Host
from gimle.gateway.metrics import ProviderMetrics
from gimle.gateway.prices import PriceList
from gimle.gateway.rates import Price, Rates
from gimle.gateway.types import Dialect, Headers, Provider, ProviderCredentials, ProviderModel, ProviderStatus
from gimle.selection import registrations
from gimle.selection.board import Board
from gimle.selection.registry import Registry
from gimle.selection.table import key_of
from gimle.selection.types import Model, ModelSpec

SQL = queries("gimle.gateway")
log = logs.get("gateway")

_PROBE_SECONDS = 5.0
# How often it is looked whether a model was installed or removed, by whatever process.
_LOCAL_SECONDS = 1.0
_PROBE_BYTES = 8 * 1024 * 1024
_OFF = "it is switched off"
# Kept by the row itself, or of no meaning in it.
_NOT_IN_SPEC = ("name", "source", "id", "created_at", "updated_at")


class Row(msgspec.Struct, frozen=True):
    """A provider as the database keeps it."""

    id: str
    tenant: str
    name: str
    spec: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class Access(msgspec.Struct, frozen=True):
    """How a provider is reached: its data, its dialect, and the headers with its key. Never logged, never returned.

    `revision` is another after each change of it: what one has answered is not what the next would.
    """

    provider: Provider
    dialect: Dialect
    headers: Headers
    prices: PriceList
    key: str | None = None
    missing: str | None = None
    revision: str = ""

    def url(self, path: str, model: str | None = None) -> str:
        """The address of a path of its dialect: for a model's calls, or without one for what concerns them all."""
        base, query = self.provider.base_url.rstrip("/"), self.provider.query
        if model is not None and self.provider.model_path:
            base += self.provider.model_path.replace("{model}", quote(model, safe=""))
        elif model is not None and self.provider.name == LOCAL:
            base = offer.address(model)
        if query:
            path += ("&" if "?" in path else "?") + urlencode(query)
        return base + path

    def rates(self, model: str) -> Rates | None:
        """What a model asks now for short prompts; `None` when nobody knows."""
        tariff = self.prices.of(model)
        return None if tariff is None else tariff.at(time.time()).steps[0]


class Snapshot(msgspec.Struct, frozen=True):
    """What one tenant can reach, at one moment."""

    access: Mapping[str, Access]
    registry: Registry
    # Whose it is, where that is not everybody's.
    tenant: str = ""

    def price(self, model: Model, moment: float) -> Price | None:
        """What a model costs at a moment (Unix seconds); `None` when nobody knows."""
        access = self.access.get(model.provider)
        tariff = prices.inside() if access is None else access.prices.of(model.name)
        return None if tariff is None else tariff.at(moment)


class Catalog:
    """Reads, changes and probes providers.

    `engine_models` are those that run inside Gimle, `local` has those that are served by processes of its own.
    """

    def __init__(
        self,
        db: Database | None,
        settings: Settings,
        outbound: Outbound,
        engine_models: Sequence[Model],
        local: Host | None = None,
    ) -> None:
        self._db = db
        self._outbound = outbound
        self._data: Path = settings.data
        self._node_secret_file = settings.selection.node_secret_file
        self._engine_models = tuple(engine_models)
        self._engines = frozenset(model.provider for model in engine_models)
        self._configured = sources.configured(settings, self._engines)
        self._local = local
        self._own: Mapping[str, Sequence[Provider]] = {}
        self.refresh()
        self._tasks = Tasks()
        self._reading = asyncio.Lock()

    async def start(self) -> None:
        """Read the database's rows, and listen for changes, there and among the local models."""
        if self._local is not None:
            self._outbound.route(offer.DOMAIN, self._local.hold)
            self._tasks.start(self._follow_local(self._local), "gateway.local")
        if self._db is not None:
            await self._reload()
            self._tasks.start(self._db.listener.follow("gimle_providers", lambda _: self._reload()), "gateway.catalog")

    async def close(self) -> None:
        """Stop listening."""
        await self._tasks.close()

    def snapshot(self, tenant: str | None) -> Snapshot:
        """What a tenant can reach now; without a tenant, what all can."""
        return self._tenants.get(tenant, self._shared) if tenant is not None else self._shared

    # -- the nouns of the REST interface

    def list(self, tenant: str) -> Sequence[Provider]:
        """All providers of a tenant, in the order of preference."""
        return [access.provider for access in self.snapshot(tenant).access.values()]

    def get(self, tenant: str, name: str) -> Provider:
        """One provider, by its name or its id. Raises `ProviderNotFound`."""
        return self._access(tenant, name).provider

    async def create(self, tenant: str, provider: Provider) -> Provider:
        """Add a provider; it serves on all nodes within a second. Raises `InvalidRequest` or `Conflict`."""
        self._check(provider)
        params = {"id": ids.new("prv"), "name": provider.name, "spec": _spec(provider)}
        async with self._database().tenant(tenant) as conn:
            created = await row(conn, SQL["insert_provider"], params, Row)
            if created is None:
                raise Conflict(f"There is a provider {provider.name!r} already.", field="name", hint="Update it.")
            await _announce(conn, tenant)
        await self._reload()
        return self.get(tenant, created.name)

    async def update(self, tenant: str, name: str, provider: Provider) -> Provider:
        """Give a provider another specification. Raises `ProviderNotFound`, `Conflict` or `InvalidRequest`."""
        name = self._name(tenant, name)
        if provider.name != name:
            raise InvalidRequest("A provider keeps its name.", field="name", hint="Delete it and create another.")
        self._check(provider)
        async with self._database().tenant(tenant) as conn:
            found = await row(conn, SQL["update_provider"], {"name": name, "spec": _spec(provider)}, Row)
            if found is None:
                raise self._not_ours(tenant, name)
            await _announce(conn, tenant)
        await self._reload()
        return self.get(tenant, name)

    async def delete(self, tenant: str, name: str) -> None:
        """Forget a provider. Raises `ProviderNotFound`, or `Conflict` for one that files or settings give."""
        name = self._name(tenant, name)
        async with self._database().tenant(tenant) as conn:
            cursor = await conn.execute(SQL["delete_provider"], {"name": name})
            if await cursor.fetchone() is None:
                raise self._not_ours(tenant, name)
            await _announce(conn, tenant)
        await self._reload()

    async def status(self, tenant: str, name: str) -> ProviderStatus:
        """Ask a provider for its models, with its key. Raises `ProviderNotFound`; a fault is part of the status."""
        access = self._access(tenant, name)
        checked_at = datetime.now(UTC)
        name, missing = access.provider.name, access.missing
        if name == LOCAL:
            # A server is started for a call, not for a look.
            models = len(access.provider.models)
            return ProviderStatus(name=name, available=True, checked_at=checked_at, latency_ms=0.0, models=models)
        if missing is not None:
            return ProviderStatus(name=name, available=False, checked_at=checked_at, reason=missing)
        started = time.perf_counter()
        reason, listed = await self._probe(access)
        latency = (time.perf_counter() - started) * 1000
        return ProviderStatus(
            name=name,
            available=reason is None,
            checked_at=checked_at,
            reason=reason,
            latency_ms=round(latency, 1),
            models=listed,
        )

    def metrics(self, tenant: str, name: str) -> ProviderMetrics:
        """What a provider has done. Raises `ProviderNotFound`."""
        provider = self._access(tenant, name).provider
        return metrics.summary(provider.name, tenant if provider.source == "database" else "")

    def credentials(self, tenant: str, name: str) -> ProviderCredentials:
        """Where a provider's key is read, and whether it is there. Raises `ProviderNotFound`."""
        provider = self._access(tenant, name).provider
        _, missing = sources.key_of(provider, self._data)
        return ProviderCredentials(
            api_key_env=provider.api_key_env,
            api_key_file=provider.api_key_file,
            found=missing is None,
            reason=missing,
        )

    async def place_key(self, tenant: str, name: str, place: ProviderCredentials) -> ProviderCredentials:
        """Read a provider's key elsewhere from now on. Raises as `update` does."""
        provider = self.get(tenant, name)
        moved = msgspec.structs.replace(provider, api_key_env=place.api_key_env, api_key_file=place.api_key_file)
        await self.update(tenant, provider.name, moved)
        return self.credentials(tenant, provider.name)

    def statement(self, tenant: str, nonce: str) -> nodes.Signed:
        """What is said of a tenant's models to another Gimle node. Raises `NotFound` where nothing is said.

        What comes from a node is not passed on: it would come back under ever longer names.
        """
        if self._node_secret_file is None:
            raise NotFound(
                "This node tells others nothing of its models.", hint="Set selection.node_secret_file to tell them."
            )
        snapshot = self.snapshot(tenant)
        foreign = {name for name, one in snapshot.access.items() if one.provider.node_secret_file is not None}
        models = [model for model in snapshot.registry.models if model.provider not in foreign]
        return nodes.told(models, nonce, sources.secret_of(self._node_secret_file, self._data))

    @property
    def nodes(self) -> Sequence[tuple[str, str]]:
        """The other Gimle nodes that tenants have added: the tenant, and the provider's name."""
        return [
            (tenant, provider.name)
            for tenant, own in self._own.items()
            for provider in own
            if provider.node_secret_file is not None and provider.enabled
        ]

    async def discover(self, tenant: str, name: str) -> Sequence[ModelSpec]:
        """What a provider says that it serves, to be registered. Raises `ProviderNotFound`, or why not.

        Another Gimle node must sign what it says.
        """
        access = self._access(tenant, name)
        if access.missing is not None:
            raise Unavailable(f"{access.provider.name} can't be asked: {access.missing}.", field="provider")
        request, nonce = _listing(access), secrets.token_hex(16)
        if access.provider.node_secret_file is not None:
            root = access.provider.base_url.rstrip("/").removesuffix("/v1")
            request = msgspec.structs.replace(request, url=f"{root}/api/v1/selection/node?nonce={nonce}")
        reply = await self._outbound.send(request, seconds=_PROBE_SECONDS, limit=_PROBE_BYTES)
        if reply.status != 200:
            error = access.dialect.read_fault(reply.status, reply.headers, reply.body).error
            error.message = redacted(error.message, access.key)
            raise error
        if access.provider.node_secret_file is None:
            return discovery.specs(reply.body, access.provider.name)
        secret = sources.secret_of(access.provider.node_secret_file, self._data)
        return nodes.heard(reply.body, nonce, secret, access.provider.name)

    async def probe_all(self, board: Board) -> None:
        """Ask every provider that can be asked for its models, once, and tell the board who was there, and how far.

        Models of this machine are not asked: that would start their servers.
        """
        for snapshot in (self._shared, *self._tenants.values()):
            for access in snapshot.access.values():
                own = access.provider.source == "database"
                away = access.provider.probe and access.provider.name != LOCAL
                if access.missing is None and away and own == bool(snapshot.tenant):
                    await self._ping(access, snapshot, board)

    # -- inside

    async def _ping(self, access: Access, snapshot: Snapshot, board: Board) -> None:
        started = time.perf_counter()
        reason, _ = await self._probe(access)
        seconds = time.perf_counter() - started
        for model in snapshot.registry.models:
            if model.provider == access.provider.name:
                board.probed(key_of(model), time.time(), seconds if reason is None else None)

    async def _probe(self, access: Access) -> tuple[str | None, int | None]:
        try:
            reply = await self._outbound.send(_listing(access), seconds=_PROBE_SECONDS, limit=_PROBE_BYTES)
            if reply.status != 200:
                fault = access.dialect.read_fault(reply.status, reply.headers, reply.body)
                return redacted(fault.error.message, access.key), None
            return None, access.dialect.read_models(reply.body)
        except GimleError as error:
            return error.message, None

    def _access(self, tenant: str, name: str) -> Access:
        known = self.snapshot(tenant).access
        access = known.get(name) or next((one for one in known.values() if one.provider.id == name), None)
        if access is None:
            raise ProviderNotFound(f"There is no provider {name[:64]!r}.", field="name")
        return access

    def _name(self, tenant: str, name: str) -> str:
        """The name of a provider whose id may be given. What is not known here may be in the database all the same."""
        try:
            return self.get(tenant, name).name
        except ProviderNotFound:
            return name

    def _not_ours(self, tenant: str, name: str) -> GimleError:
        source = self.get(tenant, name).source
        return Conflict(
            f"The provider {name!r} comes from the {source} configuration, not from the database.",
            field="name",
            hint="Change it where it is defined, or create one of the same name, which wins.",
        )

    def _check(self, provider: Provider) -> None:
        sources.check(provider, self._engines)
        sources.check_remote(provider, self._data)

    def _database(self) -> Database:
        if self._db is None:
            raise Conflict("Providers can't be changed here: there is no database.")
        return self._db

    async def _follow_local(self, local: Host) -> None:
        seen = local.store.mark()
        while True:
            await asyncio.sleep(_LOCAL_SECONDS)
            if (mark := local.store.mark()) != seen:
                seen = mark
                self.refresh()

    async def _reload(self) -> None:
        # One reader at a time, so that an older reading never replaces a newer one.
        async with self._reading:
            async with self._database().shared() as conn:
                found = await rows(conn, SQL["all_providers"], {}, Row)
                told = await registrations.read_all(conn)
            by_tenant: dict[str, list[Provider]] = {tenant: [] for tenant in told}
            for kept in found:
                if (provider := self._read(kept)) is not None:
                    by_tenant.setdefault(kept.tenant, []).append(provider)
            self._own, self._told = by_tenant, told
            self.refresh()

    def refresh(self) -> None:
        """See what everybody can reach now, after a provider or a local model came or went."""
        self._shared = self._snapshot(self._configured)
        self._tenants: Mapping[str, Snapshot] = {
            tenant: self._merged(tenant, own, self._told.get(tenant, ())) for tenant, own in self._own.items()
        }

    def _read(self, kept: Row) -> Provider | None:
        """A row whose specification an older or newer version wrote must not stop the node: it is left out."""
        fields = {**kept.spec, "name": kept.name, "source": "database", "id": kept.id}
        try:
            provider = msgspec.convert(fields, Provider)
            self._check(provider)
        except (msgspec.ValidationError, InvalidRequest) as wrong:
            log.warning("provider_not_valid", provider=kept.id, detail=str(wrong))
            return None
        return msgspec.structs.replace(provider, created_at=kept.created_at, updated_at=kept.updated_at)

    def _merged(self, tenant: str, own: Sequence[Provider], told: Sequence[ModelSpec]) -> Snapshot:
        taken = {provider.name for provider in own}
        return self._snapshot([*own, *(given for given in self._configured if given.name not in taken)], tenant, told)

    def _snapshot(self, providers: Sequence[Provider], tenant: str = "", told: Sequence[ModelSpec] = ()) -> Snapshot:
        access = {provider.name: self._reach(provider) for provider in providers}
        if self._local is not None and (here := offer.provider(self._local)) is not None:
            access[here.name] = self._reach(here)
        models = [model for one in access.values() for model in _models(one)]
        if tenant:
            models = registrations.merged(models, told, {name: _facts(one) for name, one in access.items()})
            models = [_owned(model, access[model.provider], tenant) for model in models]
        unlisted = {name: _owned(_facts(one), one, tenant) for name, one in access.items() if one.provider.any_model}
        return Snapshot(access, Registry([*models, *self._engine_models], unlisted), tenant)

    def _reach(self, provider: Provider) -> Access:
        here = self._local if provider.name == LOCAL else None
        revision = _revision(provider, None if here is None else here.store.mark())
        key, missing = (here.key, None) if here is not None else sources.key_of(provider, self._data)
        dialect: Dialect = plugins.load("gimle.gateway.dialects", provider.dialect).DIALECT
        fixed = tuple((name.lower(), value) for name, value in provider.headers.items())
        keyed: Headers = ()
        if key is not None:
            keyed = ((provider.key_header, key),) if provider.key_header else dialect.key_headers(key)
        headers = (("content-type", "application/json"), *fixed, *keyed)
        missing = missing if provider.enabled else _OFF
        return Access(provider, dialect, headers, PriceList(provider), key, missing, revision)


def _revision(provider: Provider, mark: int | None) -> str:
    """A digest of all that is known of a provider; `mark` tells of the files of its models where they are here."""
    return hashlib.sha256(msgspec.json.encode((provider, mark))).hexdigest()


def _listing(access: Access) -> Request:
    """The question which models it has."""
    return Request(method="GET", url=access.url(access.dialect.models_path), headers=access.headers)


def redacted(text: str, key: str | None) -> str:
    """A provider's words without our key, should it have quoted it."""
    return text.replace(key, "[key]") if key else text


def _models(access: Access) -> list[Model]:
    return [_model(access, model, access.rates(model.name)) for model in access.provider.models]


def _model(access: Access, model: ProviderModel, rates: Rates | None) -> Model:
    provider = access.provider
    return Model(
        provider=provider.name,
        name=model.name,
        kind=model.kind,
        context_window=model.context_window,
        max_output=model.max_output,
        local=provider.local,
        dialect=provider.dialect,
        capabilities=frozenset(model.capabilities),
        dimensions=model.dimensions,
        languages=model.languages,
        version=model.name,
        tokenizer=model.tokenizer,
        unavailable=access.missing,
        parameters=model.parameters,
        price=model.price_ref or (f"{provider.price_ref}/{model.name}" if provider.price_ref else None),
        continues_assistant=(
            provider.continues_assistant if model.continues_assistant is None else model.continues_assistant
        ),
        input_nano=None if rates is None else rates.uncached,
        output_nano=None if rates is None else rates.output,
    )


def _owned(model: Model, access: Access, tenant: str) -> Model:
    """A model at a tenant's own provider is his: what is measured there is told of nobody else's."""
    return msgspec.structs.replace(model, owner=tenant) if access.provider.source == "database" else model


def _facts(access: Access) -> Model:
    """What is assumed of a model that the provider did not list."""
    provider = access.provider
    return Model(
        provider=provider.name,
        name="",
        local=provider.local,
        dialect=provider.dialect,
        capabilities=frozenset({"tools", "json_schema", "vision"}),
        unavailable=access.missing,
        price=provider.price_ref,
        continues_assistant=provider.continues_assistant,
    )


def _spec(provider: Provider) -> Jsonb:
    spec = msgspec.to_builtins(provider)
    return Jsonb({name: value for name, value in spec.items() if name not in _NOT_IN_SPEC})


async def _announce(conn: Connection, tenant: str) -> None:
    await conn.execute(SQL["announce_providers"], {"tenant": tenant})
