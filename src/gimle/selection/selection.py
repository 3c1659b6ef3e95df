"""The room's door: decides with what is known, remembers what was decided, and learns from what came of it.

A decision touches memory only. What other processes measure comes every two seconds; what tenants set or judge comes
within a second, told by the database.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Self

import msgspec

from gimle.foundation import ids, logs
from gimle.foundation.config import SelectionSettings
from gimle.foundation.db import Connection, Database, Jsonb, queries, rows, scalar
from gimle.foundation.errors import ConfigError, DatabaseUnavailable, GimleError, InvalidRequest
from gimle.foundation.lifecycle import Tasks
from gimle.selection import balance, choose, complexity, facts, policies, replay
from gimle.selection.balance import RoundRobin
from gimle.selection.board import Board
from gimle.selection.decision import Decision, Moment, Order
from gimle.selection.factors import FACTORS, References
from gimle.selection.facts import Facts
from gimle.selection.policies import Policy
from gimle.selection.quality import SIGNALS, Judgement, Judgements, Posterior, Said, Signal, rated
from gimle.selection.records import Record, Records
from gimle.selection.registry import AUTO
from gimle.selection.replay import Logged, Report
from gimle.selection.table import Table
from gimle.selection.types import Model, Need

SQL = queries("gimle.selection")
log = logs.get("selection")

_FLUSH_SECONDS = 1.0
_EXCHANGE_SECONDS = 2.0
_SWEEP_SECONDS = 3600.0
_MOST_TABLES, _MOST_ORDERS = 256, 4096
# How long an order may serve for further calls of the same need; a fault ends it at once.
_ORDER_SECONDS = 1.0
_REMEMBERED_SECONDS = 3600.0
# So many of the last decisions judge a policy.
_JUDGED_BY = 5000


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A call that needs a model: what it needs, and by which policy it was asked for, if by any.

    `text` is what the user said last, and `turns` how often somebody spoke: for how hard it looks. `begins` is how the
    prompt begins, by which calls stay together.
    """

    need: Need
    requested: str = AUTO
    policy: str | None = None
    weights: Mapping[str, float] = {}
    begins: str | None = None
    text: str | None = None
    turns: int = 1
    held: Mapping[str, str] = {}


class Preferences(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By which policy a tenant's calls are decided, and the weights that differ from the policy's own."""

    policy: str = policies.DEFAULT
    weights: dict[str, float] = {}


class Feedback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How good an answer was: stars from 1 to 5, or a signal. `over` is a model whose answer was worse."""

    decision: Annotated[str, msgspec.Meta(pattern=r"^[!-~]+$")]
    rating: float | None = None
    signal: Signal | None = None
    over: str | None = None


class Selection:
    """Chooses models. Without a database, what it learns ends with the process."""

    def __init__(self, db: Database | None, settings: SelectionSettings) -> None:
        self.settings = settings
        self.board = Board()
        self.records = Records(db)
        self._db = db
        self._policy = _known(settings.policy)
        self._shadow = tuple(_known(name) for name in settings.shadow)
        self._references = References(
            parameters=settings.largest_parameters,
            price_nano=settings.highest_price * 1e9,
            km=settings.farthest_km,
            latency_seconds=settings.slowest_ms / 1000.0,
            place=settings.place,
        )
        self._tables: dict[tuple[Model, ...], Table] = {}
        # The same by the identity of the models, which are kept alive with it: comparing a hundred takes long.
        self._seen: dict[tuple[int, ...], tuple[tuple[Model, ...], Table]] = {}
        self._orders: dict[object, tuple[float, int, Order]] = {}
        self._robins: dict[tuple[str, str], RoundRobin] = {}
        self._judgements: dict[str, Judgements] = {}
        self._outside: Mapping[str, float] = {}
        self._preferences: dict[str, Policy] = {}
        # By tenant, and there by class and model: good and bad answers that are not written yet.
        self._noticed: dict[str, dict[tuple[str, str], list[float]]] = {}
        self._writer = ids.new("prc")
        self._theirs: dict[str, dict[str, Facts]] = {}
        self._since = 0.0
        self._exchanged = 0.0
        self._tasks = Tasks()

    @classmethod
    async def open(cls, db: Database | None, settings: SelectionSettings) -> Self:
        """Read what was measured, judged and set before, and follow it. Raises `ConfigError`."""
        selection = cls(db, settings)
        if db is not None:
            selection._since = time.time() - _REMEMBERED_SECONDS
            await selection._read("")
            await selection._exchange(db)
            selection._tasks.start(db.listener.follow("gimle_selection", selection._read), "selection.follow")
            selection._tasks.start(selection._keep(db), "selection.keep")
        return selection

    async def close(self) -> None:
        """Write what waits, and stop."""
        await self._tasks.close()
        if self._db is not None:
            try:
                await self.records.flush()
                await self._learn(self._db)
                await self._exchange(self._db)
            except (GimleError, Connection.Error) as error:
                log.warning("selection_not_kept", error=type(error).__name__)

    # -- decisions

    def decide(self, tenant: str, candidates: Sequence[Model], asked: Asked) -> Decision:
        """The models to try for a call, best first. Raises `InvalidRequest` for a wrong policy or wrong weights."""
        table = self._table(tuple(candidates))
        policy = self._policy_of(tenant, asked)
        hard = None
        if asked.text is not None and self.settings.complexity and asked.need.kind == "chat":
            hard = complexity.classify(asked.text, asked.need.tokens, asked.turns)
        need = asked.need
        if hard is not None and not need.subject:
            need = msgspec.structs.replace(need, subject=f"{need.kind}/{hard.language}/{hard.level}")
        now = time.time()
        moment = Moment(
            now=now,
            roll=random.random(),
            second_roll=random.random(),
            held=asked.held,
            quality=self._judged(tenant).utility(need.subject, table.ids, table.size.value, now),
            complexity=hard,
            explore=self.settings.explore,
            prefix=balance.prefix_of(asked.begins) if self.settings.affinity and asked.begins else None,
        )
        robin = self._robins.setdefault((tenant, policy.name), RoundRobin())
        key = (id(table), tenant, need, policy, hard and hard.level)
        kept = None if asked.held else self._kept(key, now)
        decision = choose.decide(table, need, policy, moment, robin, kept)
        if kept is None and not asked.held:
            self._keep_order(key, now, decision.order)
        return decision

    def remember(
        self, tenant: str, asked: Asked, decision: Decision, *, whole: bool = False, dry_run: bool = False
    ) -> str:
        """Keep a decision for the log, with all its candidates or the most important; gives its id."""
        id = ids.new("dec")
        shadow: dict[str, str] = {}
        for policy in self._shadow:
            found = choose.ordered(decision.table, decision.order.need, policy, decision.moment).ranked
            if found:
                shadow[policy.name] = decision.table.ids[found[0]]
        self.records.add(Record(id, tenant, asked.requested, decision, shadow, whole, dry_run))
        return id

    async def judge(self, tenant: str, feedback: Feedback) -> None:
        """Learn how good an answer was; the last word on it counts. Raises `DecisionNotFound` or `InvalidRequest`."""
        judgement = _judgement(feedback)
        await self.records.flush()
        logged = await self.records.find(tenant, feedback.decision)
        if logged.decision.dry_run:
            raise InvalidRequest("No call was made by this decision: there is no answer to judge.", field="decision")
        if feedback.over == logged.outcome.model:
            raise InvalidRequest("An answer is better than that of another model.", field="over")
        if feedback.over is not None and all(one.model != feedback.over for one in logged.decision.verdicts):
            raise InvalidRequest(f"{feedback.over[:80]!r} was no candidate.", field="over")
        judgements = {logged.outcome.model: judgement}
        if feedback.over is not None:
            judgements[feedback.over] = SIGNALS["passed_over"]
        said = Said(time.time(), judgements)
        if self._db is not None:
            await self._judge(self._db, tenant, logged, said)
            return
        for model, change in said.instead_of(self.records.judge(logged.decision.id, said)):
            self._judged(tenant).add(logged.decision.subject, model, change, said.at)
        self._orders.clear()

    def noticed(self, tenant: str, subject: str, model: str, signal: Signal) -> None:
        """Learn from what an answer itself shows (refused, cut short, valid by its schema). Written a second later."""
        said = SIGNALS[signal]
        self._judged(tenant).add(subject, model, said, time.time())
        if self._db is not None:
            for of in {subject, ""}:
                self._note(tenant, of, model, said.weight * said.good, said.weight * (1.0 - said.good))

    def heed(self, outside: Mapping[str, float]) -> None:
        """Take over how good models are, from 0 to 1 by id, as a source outside says."""
        self._outside = outside
        for judgements in self._judgements.values():
            judgements.heed(outside)
        self._orders.clear()

    async def promote(self, tenant: str, policy: str, worth_nano: float) -> Report:
        """Follow another policy from now on, if the log says that it is surely better; the report says why or why not.

        Raises `InvalidRequest` for a policy that there is not.
        """
        wanted = policies.named(policy)
        log_ = await self.records.page(tenant, None, _JUDGED_BY)
        report = await asyncio.to_thread(replay.report, log_, wanted, worth_nano)
        if report.promote:
            await self.prefer(tenant, Preferences(policy=policy))
        return report

    async def may_probe(self) -> bool:
        """Whether this process is the one that probes the providers now: one of all that share a database."""
        if self._db is None:
            return True
        async with self._db.shared() as conn:
            return bool(await scalar(conn, SQL["take_probe"], {"seconds": 0.9 * self.settings.probe_seconds}))

    # -- what a tenant sets

    def preferences(self, tenant: str) -> Preferences:
        """By which policy a tenant's calls are decided."""
        policy = self._preferences.get(tenant, self._policy)
        usual = policies.named(policy.name).weights
        changed = {
            name: weight
            for name, weight, before in zip(FACTORS, policy.weights, usual, strict=True)
            if weight != before
        }
        return Preferences(policy=policy.name, weights=changed)

    async def prefer(self, tenant: str, wanted: Preferences) -> Preferences:
        """Decide a tenant's calls otherwise, on all nodes within a second. Raises `InvalidRequest`."""
        self._preferences[tenant] = policies.weighted(policies.named(wanted.policy), wanted.weights)
        if self._db is not None:
            async with self._db.tenant(tenant) as conn:
                values = {"policy": wanted.policy, "weights": Jsonb(wanted.weights)}
                await conn.execute(SQL["put_selection_setting"], values)
                await conn.execute(SQL["announce_selection"], {"tenant": tenant})
        return self.preferences(tenant)

    # -- inside

    def _table(self, models: tuple[Model, ...]) -> Table:
        key = tuple(map(id, models))
        seen = self._seen.get(key)
        if seen is not None:
            return seen[1]
        if len(self._seen) >= _MOST_TABLES:
            self._seen.clear()
            self._tables.clear()
            self._orders.clear()
        table = self._tables.get(models)
        if table is None:
            table = self._tables[models] = Table(models, self.board, self._references)
            self._join(table.keys)
        self._seen[key] = (models, table)
        return table

    def _policy_of(self, tenant: str, asked: Asked) -> Policy:
        preferred = self._preferences.get(tenant, self._policy)
        if asked.policy == policies.NAMED.name:
            return policies.NAMED
        policy = preferred if asked.policy in (None, preferred.name) else policies.named(asked.policy or "")
        return policies.weighted(policy, asked.weights)

    def _judged(self, tenant: str) -> Judgements:
        known = self._judgements.get(tenant)
        if known is None:
            known = self._judgements[tenant] = Judgements(self._outside)
        return known

    def _kept(self, key: object, now: float) -> Order | None:
        kept = self._orders.get(key)
        if kept is None or now >= kept[0] or kept[1] != self.board.version:
            return None
        return kept[2]

    def _keep_order(self, key: object, now: float, order: Order) -> None:
        if len(self._orders) >= _MOST_ORDERS:
            self._orders.clear()
        self._orders[key] = (now + _ORDER_SECONDS, self.board.version, order)

    async def _judge(self, db: Database, tenant: str, logged: Logged, said: Said) -> None:
        decision = logged.decision
        async with db.tenant(tenant) as conn:
            before = await scalar(conn, SQL["judged_before"], {"id": decision.id})
            for model, change in said.instead_of(msgspec.convert(before, Said | None)):
                good, bad = change.weight * change.good, change.weight * (1.0 - change.good)
                values = {"model": model, "good": good, "bad": bad, "at": said.at}
                for subject in sorted({decision.subject, ""}):
                    await conn.execute(SQL["add_judgement"], values | {"subject": subject})
            quality, judged = said.judgements[logged.outcome.model].good, Jsonb(msgspec.to_builtins(said))
            await conn.execute(SQL["judge_decision"], {"id": decision.id, "quality": quality, "judged": judged})
            await conn.execute(SQL["announce_selection"], {"tenant": tenant})
        await self._read(tenant)

    async def _learn(self, db: Database) -> None:
        """Write what was noticed, and tell the other processes, a tenant at a time."""
        for tenant in sorted(self._noticed):
            noticed, now = self._noticed.pop(tenant), time.time()
            sums = [
                {"subject": subject, "model": model, "good": good, "bad": bad, "at": now}
                for (subject, model), (good, bad) in noticed.items()
            ]
            try:
                async with db.tenant(tenant) as conn:
                    async with conn.cursor() as cursor:
                        await cursor.executemany(SQL["add_judgement"], sums)
                    await conn.execute(SQL["announce_selection"], {"tenant": tenant})
            except DatabaseUnavailable:
                for (subject, model), (good, bad) in noticed.items():
                    self._note(tenant, subject, model, good, bad)
                raise
            except (GimleError, Connection.Error) as refused:
                log.error("judgements_refused", tenant=tenant, count=len(sums), error=type(refused).__name__)

    def _note(self, tenant: str, subject: str, model: str, good: float, bad: float) -> None:
        sums = self._noticed.setdefault(tenant, {}).setdefault((subject, model), [0.0, 0.0])
        sums[0] += good
        sums[1] += bad

    async def _read(self, tenant: str) -> None:
        """What tenants have set and judged: one's, or with "" that of all."""
        assert self._db is not None
        async with self._db.shared() as conn:
            settings = await rows(conn, SQL["all_selection_settings"], {}, _Setting)
            sums = await rows(conn, SQL["all_quality"], {"tenant": tenant or None}, _Sum)
        for one in settings:
            try:
                self._preferences[one.tenant] = policies.weighted(policies.named(one.policy), one.weights)
            except InvalidRequest:
                # Another version knows more policies: the usual one serves here.
                self._preferences.pop(one.tenant, None)
        for known in sums:
            self._judged(known.tenant).keep(known.subject, known.model, Posterior(known.good, known.bad, known.at))
        self._orders.clear()

    async def _keep(self, db: Database) -> None:
        """Write decisions each second, and exchange facts with the other processes every other."""
        swept = 0.0
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            try:
                await self.records.flush()
                await self._learn(db)
                if time.time() - self._exchanged >= _EXCHANGE_SECONDS:
                    await self._exchange(db)
                if time.time() - swept >= _SWEEP_SECONDS:
                    swept = time.time()
                    async with db.shared() as conn:
                        await conn.execute(SQL["sweep_facts"])
            except (GimleError, Connection.Error) as error:
                # What waits is written when the database is back.
                log.warning("selection_not_kept", error=type(error).__name__)

    async def _exchange(self, db: Database) -> None:
        self._exchanged = time.time()
        changed = self.board.changed()
        told = [
            {"writer": self._writer, "model": _digest(key), "facts": Jsonb(msgspec.to_builtins(known, str_keys=True))}
            for key, known in changed.items()
        ]
        try:
            async with db.shared() as conn:
                if told:
                    async with conn.cursor() as cursor:
                        await cursor.executemany(SQL["put_fact"], told)
                new = await rows(conn, SQL["new_facts"], {"writer": self._writer, "since": self._since}, _Fact)
        except DatabaseUnavailable:
            self.board.tell_again(changed)
            raise
        for one in new:
            self._since = max(self._since, one.updated_at)
            self._theirs.setdefault(one.model, {})[one.writer] = msgspec.convert(one.facts, Facts, strict=False)
        theirs = {one.model for one in new}
        self._join(key for key in self.board.known if _digest(key) in theirs)

    def _join(self, keys: Iterable[str]) -> None:
        """Have the board know what other processes have measured of some models."""
        found = {key: self._theirs.get(_digest(key)) for key in keys}
        self.board.join({key: facts.merged(parts.values()) for key, parts in found.items() if parts})


class _Setting(msgspec.Struct, frozen=True):
    tenant: str
    policy: str
    weights: dict[str, float]


class _Sum(msgspec.Struct, frozen=True):
    tenant: str
    subject: str
    model: str
    good: float
    bad: float
    at: float


class _Fact(msgspec.Struct, frozen=True):
    writer: str
    model: str
    facts: dict[str, Any]
    updated_at: float


def _digest(key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def _known(policy: str) -> Policy:
    try:
        return policies.named(policy)
    except InvalidRequest as wrong:
        raise ConfigError(wrong.message, field="selection.policy", hint=wrong.hint) from None


def _judgement(feedback: Feedback) -> Judgement:
    if (feedback.rating is None) == (feedback.signal is None):
        raise InvalidRequest("Give a rating or a signal.", field="rating")
    if feedback.signal is not None:
        return SIGNALS[feedback.signal]
    if feedback.rating is None or not 1.0 <= feedback.rating <= 5.0:
        raise InvalidRequest("A rating is from 1 to 5.", field="rating")
    return rated(feedback.rating)
