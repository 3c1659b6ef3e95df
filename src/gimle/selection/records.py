"""Decisions on their way into the log: kept in memory at once, written a second's worth at a time, never waited for."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from gimle.foundation import logs
from gimle.foundation.db import Connection, Database, queries, row, rows
from gimle.foundation.errors import DatabaseUnavailable, DecisionNotFound, GimleError
from gimle.selection.decision import Decision
from gimle.selection.quality import Said
from gimle.selection.replay import Logged, Outcome
from gimle.selection.types import Explanation

SQL = queries("gimle.selection")
log = logs.get("selection")

# What waits to be written, and how many candidates of a decision are told in the log: all who passed the gates,
# since another policy might have taken them, and others as long as there is room.
_MOST_WAITING = 20_000
_TOLD = 12
# Between so many rows others get their turn: telling a decision takes a part of a millisecond.
_AT_ONCE = 20


class Record(msgspec.Struct):
    """A decision of this process, and what has come of it so far."""

    id: str
    tenant: str
    requested: str
    decision: Decision
    shadow: Mapping[str, str]
    # Whether all candidates are told, or the best and a few more.
    whole: bool = False
    dry_run: bool = False
    outcome: Outcome | None = None
    judged: Said | None = None

    def told(self) -> Explanation:
        """The decision, as it is kept."""
        told = self.decision.explain(self.id, self.requested, self.shadow, None if self.whole else _TOLD)
        return msgspec.structs.replace(told, dry_run=self.dry_run)


class Row(msgspec.Struct, frozen=True):
    """A decision as the database keeps it."""

    id: str
    body: dict[str, Any]
    model: str | None
    quality: float | None
    cost_nano: int | None
    seconds: float | None
    failed: bool

    def logged(self) -> Logged:
        """The decision and what came of it."""
        told = msgspec.convert(self.body, Explanation)
        who = self.model or told.chosen or ""
        return Logged(told, Outcome(who, self.quality, self.cost_nano, self.seconds, self.failed))


class Records:
    """The log of decisions. When more come than can be written, the oldest that wait are lost and counted."""

    def __init__(self, db: Database | None) -> None:
        self._db = db
        self._waiting: OrderedDict[str, Record] = OrderedDict()
        self._settled: dict[str, tuple[str, Outcome]] = {}
        self._lost = 0

    def add(self, record: Record) -> None:
        """Keep a decision."""
        self._waiting[record.id] = record
        if len(self._waiting) > _MOST_WAITING:
            self._waiting.popitem(last=False)
            self._lost += 1

    def settle(self, tenant: str, id: str, outcome: Outcome) -> None:
        """Say what came of a decision."""
        if (record := self._waiting.get(id)) is not None:
            record.outcome = outcome
        elif len(self._settled) < _MOST_WAITING:
            self._settled[id] = (tenant, outcome)

    def judge(self, id: str, said: Said) -> Said | None:
        """Keep what was said of a decision that is not written yet; gives what was said before."""
        record = self._waiting[id]
        before, record.judged = record.judged, said
        return before

    async def find(self, tenant: str, id: str) -> Logged:
        """One decision. Raises `DecisionNotFound`, also for another tenant's."""
        waiting = self._waiting.get(id)
        if waiting is not None and waiting.tenant == tenant:
            told = waiting.told()
            return Logged(told, waiting.outcome or Outcome(told.chosen or ""))
        found = None
        if self._db is not None:
            async with self._db.tenant(tenant) as conn:
                found = await row(conn, SQL["find_decision"], {"id": id}, Row)
        if found is None:
            raise DecisionNotFound(f"There is no decision {id[:64]!r}.", field="id")
        return found.logged()

    async def page(self, tenant: str, before: str | None, limit: int) -> list[Logged]:
        """A page of decisions, the newest first."""
        await self.flush()
        if self._db is None:
            return []
        async with self._db.tenant(tenant) as conn:
            found = await rows(conn, SQL["list_decisions"], {"before": before, "limit": limit}, Row)
        return [one.logged() for one in found]

    async def flush(self) -> None:
        """Write what waits; what the database refuses of a tenant is lost and logged. Raises `DatabaseUnavailable`."""
        if self._db is None or not (self._waiting or self._settled):
            return
        if self._lost:
            log.warning("decisions_lost", count=self._lost)
            self._lost = 0
        by_tenant: dict[str, list[Record]] = {}
        for record in self._waiting.values():
            by_tenant.setdefault(record.tenant, []).append(record)
        settled, self._settled = self._settled, {}
        for tenant in {*by_tenant, *(tenant for tenant, _ in settled.values())}:
            records = by_tenant.get(tenant, ())
            ends = [_end(outcome, id) for id, (of, outcome) in settled.items() if of == tenant]
            try:
                await self._write(self._db, tenant, records, ends)
            except DatabaseUnavailable:
                # What is written twice says the same.
                self._settled = settled | self._settled
                raise
            except (GimleError, Connection.Error) as refused:
                # A tenant that was deleted meanwhile, say: the others' decisions must not wait for it.
                log.error("decisions_refused", tenant=tenant, count=len(records), error=type(refused).__name__)
                for record in records:
                    self._waiting.pop(record.id, None)

    async def sweep(self, tenant: str, days: int) -> None:
        """Forget what is older."""
        if self._db is not None:
            async with self._db.tenant(tenant) as conn:
                await conn.execute(SQL["sweep_decisions"], {"days": days})

    async def _write(
        self, db: Database, tenant: str, records: Sequence[Record], ends: Sequence[Mapping[str, Any]]
    ) -> None:
        async with db.tenant(tenant) as conn:
            for at in range(0, len(records), _AT_ONCE):
                told = [_row(record) for record in records[at : at + _AT_ONCE]]
                await conn.execute(SQL["insert_decisions"], {name: [one[name] for one in told] for name in told[0]})
            if ends:
                async with conn.cursor() as cursor:
                    await cursor.executemany(SQL["settle_decision"], ends)
        for record in records:
            # What came of it meanwhile is written next time.
            if self._waiting.pop(record.id, None) is not None and record.outcome is not None:
                self._settled[record.id] = (record.tenant, record.outcome)


def _row(record: Record) -> dict[str, Any]:
    decided_at = datetime.fromtimestamp(record.decision.moment.now, UTC)
    outcome = record.outcome or Outcome("")
    return {
        **_end(outcome, record.id),
        "decided_at": decided_at,
        "body": msgspec.json.encode(record.told()).decode(),
    }


def _end(outcome: Outcome, id: str) -> dict[str, Any]:
    return {
        "id": id,
        "model": outcome.model or None,
        "quality": outcome.quality,
        "cost_nano": outcome.cost_nano,
        "seconds": outcome.seconds,
        "failed": outcome.failed,
    }
