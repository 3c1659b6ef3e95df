"""The only wiring: opens the rooms in the order of the house, and closes them in the reverse order."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

from gimle.foundation import logs
from gimle.foundation.blobs import Blobs
from gimle.foundation.config import Settings, secret
from gimle.foundation.db import Database, scalar
from gimle.foundation.errors import GimleError, Unavailable
from gimle.foundation.health import Health
from gimle.foundation.lifecycle import Tasks, every
from gimle.foundation.migrate import migrate
from gimle.foundation.outbound import Outbound
from gimle.foundation.postgres import Embedded
from gimle.foundation.redis import Redis
from gimle.foundation.tally import Tally
from gimle.gateway import opinions
from gimle.gateway.admission import Admission
from gimle.gateway.alerts import Alerts
from gimle.gateway.allowances import Allowances
from gimle.gateway.budgeting import BudgetBook
from gimle.gateway.budgets import Budgets
from gimle.gateway.cache import Cache
from gimle.gateway.cached import Cached
from gimle.gateway.costs import Costs
from gimle.gateway.dues import Dues
from gimle.gateway.files import Files
from gimle.gateway.gateway import Gateway
from gimle.gateway.lane_limits import LaneLimits
from gimle.gateway.ledger import Ledger
from gimle.gateway.limits import Limits
from gimle.gateway.notice_board import NoticeBoard
from gimle.gateway.queries import Queries
from gimle.gateway.quotas import Quotas
from gimle.gateway.responses import Responses
from gimle.gateway.similar import Similar
from gimle.gateway.tab import Till
from gimle.gateway.webhooks import Webhooks
from gimle.jobs.jobs import Jobs
from gimle.knowledge import ingest
from gimle.knowledge.answer import Answers
from gimle.knowledge.embedding import Embedding
from gimle.knowledge.library import Library
from gimle.knowledge.search import Search
from gimle.selection.registrations import Registrations
from gimle.selection.selection import Selection
from gimle.trust.bootstrap import ensure_admin_key
from gimle.trust.keys import KeyRing, Keys
from gimle.trust.tenants import Tenants

log = logs.get("app")

_UPKEEP_SECONDS = 3600.0


class App:
    """All open rooms of one process: `async with await App.open(settings) as app: …`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.health = Health()
        self._rooms = AsyncExitStack()

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Open every room, and run jobs in this process unless `jobs.in_process` is off.

        Raises `ConfigError`, `Conflict` or `DatabaseUnavailable`; nothing stays open then. Call it on the main thread,
        because the embedded PostgreSQL ends with the thread that started it.
        """
        app = cls(settings)
        try:
            await app._open_foundation()
            await app._open_trust()
            await app._open_limits()
            await app._open_gateway()
            await app._open_knowledge()
            if settings.jobs.in_process:
                await app.jobs.start()
                app._start_upkeep()
        except BaseException:
            await app.close()
            raise
        return app

    async def close(self) -> None:
        """Close what is open, the last opened first; jobs that run get their time to end."""
        await self._rooms.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _open_foundation(self) -> None:
        url = self.settings.database.url
        if url is None:
            url = await self._rooms.enter_async_context(_embedded(self.settings))
        await migrate(url)
        self.db = await Database.open(url, self.settings.database.pool)
        self._rooms.push_async_callback(self.db.close)
        self.blobs = Blobs(self.settings.data)
        self.health.register("postgres", self._check_database, required=True)

    async def _open_trust(self) -> None:
        self.jobs = await Jobs.open(self.db, [], self.settings.jobs)
        self._rooms.push_async_callback(self.jobs.close)
        self.tenants, self.keys, self.ring = Tenants(self.db), Keys(self.db), KeyRing(self.db)
        await self.ring.open()
        self._rooms.push_async_callback(self.ring.close)
        # On a database of many nodes the first one makes a key: a worker's data directory needs none.
        if self.settings.database.url is None or not self.ring.has_admin():
            await ensure_admin_key(self.settings.data, self.tenants, self.keys, self.ring)

    async def _open_limits(self) -> None:
        settings = self.settings
        outbound = Outbound()
        self._rooms.push_async_callback(outbound.close)
        self._redis = redis = Redis(settings.shared.redis_url) if settings.shared.redis_url else None
        if redis is not None:
            self._rooms.push_async_callback(redis.close)
        self._webhooks = Webhooks(self.jobs, outbound, settings.gateway.notice_webhook)
        self.jobs.register(self._webhooks.kind())
        self.budget_book = BudgetBook(self.db)
        self.budgets = Budgets(self.db, settings.data / "budgets", Alerts(self._webhooks))
        await self.budgets.open()
        self._rooms.push_async_callback(self.budgets.close)
        self.allowances = Allowances(self.db, settings.limits)
        await self.allowances.open()
        self._rooms.push_async_callback(self.allowances.close)
        tally = Tally(settings.data / "limits")
        self._rooms.callback(tally.close)
        self.limits = Limits(self.allowances, tally, redis)
        self.dues = Dues(self.budgets, self.limits, LaneLimits(self.limits), Admission(settings.admission))
        self.quotas = Quotas(self.db, self.allowances, self.budgets)

    async def _open_gateway(self) -> None:
        self.costs = Costs(self.db, self.settings.ledger.storage_usd)
        self.selection = await Selection.open(self.db, self.settings.selection)
        self._rooms.push_async_callback(self.selection.close)
        self.registrations = Registrations(self.db)
        self.ledger = Ledger.open(self.db, self.settings)
        till = Till(self.ledger, self.dues, self.quotas)
        board = NoticeBoard(self.db, self._webhooks, self.settings.gateway.notice_webhook)
        board.open()
        self._rooms.push_async_callback(board.close)
        self.gateway = await Gateway.open(self.db, self.settings, till, board.pin)
        self._rooms.push_async_callback(self.gateway.close)
        self.gateway.choose_by(self.selection)
        if self.settings.cache.mode != "off":
            self.gateway.cached = await self._open_cache()
        if self.settings.selection.quality_url is not None:
            opinions.check(self.settings.selection.quality_url)
            self._repeat(self.settings.selection.quality_seconds, self._heed, "quality_not_read")
        self.health.register("local models", self._check_local, required=False)
        self.files = Files(self.db, self.settings.data)
        self.responses = Responses(self.db)
        self._rooms.push_async_callback(self.responses.close)
        self.queries = Queries(self.db, self.jobs, self.gateway, self.settings.gateway)
        self.jobs.register(self.queries.kind())

    async def _open_cache(self) -> Cached:
        settings = self.settings.cache
        cache = Cache(settings, self.db, self._redis)
        await cache.open()
        self._rooms.push_async_callback(cache.close)
        # The vectors are made by the model inside Gimle: they cost no money and stay here.
        similar = (
            None if settings.similarity is None else Similar(cache, self.gateway.embedder.here, settings.similarity)
        )
        return Cached(cache, self.settings, self.allowances, similar)

    async def _open_knowledge(self) -> None:
        self.embedding = embedding = Embedding(self.gateway)
        self.health.register("embedder", self._check_embedder, required=False)
        self.library = Library(self.db, self.jobs, self.blobs, self.quotas)
        self.search = Search(self.db, embedding)
        self.answers = Answers(self.search, self.gateway, embedding.model, self.settings.knowledge)
        count = self.gateway.count(embedding.model)
        self.jobs.register(ingest.kind(self.blobs, embedding, count, self.settings.knowledge))

    def _start_upkeep(self) -> None:
        self._repeat(_UPKEEP_SECONDS, self._upkeep, "upkeep_failed")
        if (seconds := self.settings.selection.probe_seconds) > 0:
            self._repeat(seconds, self._probe, "probes_failed", first=seconds)

    def _repeat(self, seconds: float, work: Callable[[], Awaitable[None]], event: str, *, first: float = 0.0) -> None:
        tasks = Tasks()
        self._rooms.push_async_callback(tasks.close)
        tasks.start(every(seconds, work, event, first=first), event)

    async def _heed(self) -> None:
        """Ask a source outside how good the models are."""
        settings = self.settings.selection
        assert settings.quality_url is not None
        key = secret(settings.quality_key_env) if settings.quality_key_env else None
        self.selection.heed(await self.gateway.opinions(settings.quality_url, key))

    async def _probe(self) -> None:
        """See which providers are there, from one process of all."""
        if await self.selection.may_probe():
            await self.gateway.catalog.probe_all(self.selection.board)
            await self.follow_nodes()

    async def follow_nodes(self) -> None:
        """Hear what other Gimle nodes offer now."""
        for tenant, name in self.gateway.catalog.nodes:
            try:
                found = await self.gateway.catalog.discover(tenant, name)
                await self.registrations.follow(tenant, name, found)
            except GimleError as error:
                log.warning("node_not_followed", provider=name, error=error.code, detail=error.message)

    async def _upkeep(self) -> None:
        """Embed what could not be embedded before, and tidy up."""
        after = ""
        while page := await self.tenants.list(after):
            for tenant in page:
                await self._tend(tenant.id)
            after = page[-1].id

    async def _tend(self, tenant: str) -> None:
        try:
            await self.library.tidy(tenant)
            await self.responses.sweep(tenant)
            await self.costs.charge_storage(tenant, await self.library.stored(tenant))
            await self.selection.records.sweep(tenant, self.settings.selection.keep_days)
            if self.embedding.serves:
                await self.library.embed_missing(tenant)
        except GimleError as error:
            # The next round comes in an hour; meanwhile all else serves.
            log.warning("upkeep_failed", tenant=tenant, error=error.code, detail=error.message)

    async def _check_embedder(self) -> str:
        facts = self.gateway.space(self.embedding.model)
        return f"{facts['model']}, {facts['dimensions']} dimensions"

    async def _check_local(self) -> str:
        local = self.gateway.local
        loads = [local.load(name) for name in local.store.all()] if local is not None else []
        if failing := sum(load.phase == "degraded" for load in loads):
            raise Unavailable(f"{failing} of {len(loads)} can't serve.", hint="`gimle doctor` and the log say why.")
        return f"{len(loads)} installed, {sum(load.phase == 'ready' for load in loads)} running"

    async def _check_database(self) -> str:
        async with self.db.shared() as conn:
            return f"PostgreSQL {await scalar(conn, 'show server_version', {})}"


@asynccontextmanager
async def _embedded(settings: Settings) -> AsyncIterator[str]:
    """The URL of an embedded PostgreSQL that lives as long as the block, and comes back should it die."""
    server, tasks = Embedded.start(settings.data), Tasks()
    tasks.start(server.watch(), "postgres")
    try:
        yield server.url
    finally:
        await tasks.close()
        server.stop()
