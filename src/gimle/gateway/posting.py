"""Carries the facts from the journals into the database: those of this process, and those of processes that have died.

A fact may be posted twice, as when a commit was not heard of, and is entered once: its id says which it is. What the
database can't take now stays in the journal.
"""

import asyncio
from collections import deque
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import msgspec

from gimle.foundation import logs
from gimle.foundation.db import Database, queries, scalar
from gimle.foundation.errors import GimleError
from gimle.foundation.lifecycle import Tasks
from gimle.gateway import facts, metrics
from gimle.gateway.facts import Fact, Intent, Outcome, Record
from gimle.gateway.journal import Abandoned, Journal, Segment, abandoned

SQL = queries("gimle.gateway")
log = logs.get("gateway")

# It takes some 3 ms, in which no call goes on. In smaller ones each attempt would cost a third more to post.
_BATCH = 250
_PAUSE_SECONDS = 0.5
# After so many passes it is looked whether somebody has died.
_LOOK_EVERY = 4
_PATIENCE_SECONDS = 5.0

Posted = tuple[str, Fact]


class Matcher:
    """Brings the two records of an attempt together. `waiting` are the attempts whose end was not read yet."""

    def __init__(self) -> None:
        self.waiting: dict[bytes, tuple[Intent, Segment | None]] = {}

    def match(self, records: Iterable[Record], segment: Segment | None = None) -> Iterator[Posted]:
        """The facts of the attempts whose end is among these records."""
        for record in records:
            if isinstance(record, Intent):
                self.waiting[record.id] = record, segment
            elif (began := self.waiting.pop(record.id, None)) is not None and record.outcome != facts.UNSENT:
                yield began[0].account.tenant, facts.fact(began[0], record)

    def unheard(self, living: Container[bytes] = ()) -> Iterator[Posted]:
        """The facts of the attempts of whose end nothing will be read any more: all but the living."""
        for id in [id for id in self.waiting if id not in living]:
            intent, _ = self.waiting.pop(id)
            yield intent.account.tenant, facts.fact(intent, None)


class Posting:
    """Posts the journal of this process twice a second, and takes over what others have left."""

    def __init__(self, db: Database, journal: Journal, root: Path) -> None:
        self._db = db
        self._journal = journal
        self._root = root
        self._matcher = Matcher()
        self._unposted: list[Posted] = []
        self._late: list[Outcome] = []
        self._living: Container[bytes] = ()
        self._loose: deque[Record] = deque()
        self._tasks = Tasks()
        self._one_pass = asyncio.Lock()
        self._behind = False

    def start(self, living: Container[bytes], loose: deque[Record]) -> None:
        """Post from now on. `living` are the attempts under way, `loose` is what the journal could not take."""
        self._living, self._loose = living, loose
        self._tasks.start(self._run(), "gateway.ledger")

    async def close(self) -> None:
        """Post the rest, and let go of the journal; what can't be posted within seconds is left for others."""
        await self._tasks.close()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self.post()
        except (GimleError, TimeoutError):
            log.warning("ledger_left", bytes=self._journal.size, hint="The next start on this data directory posts it.")
            self._journal.close(delete=False)
        else:
            self._journal.close(delete=True)

    async def _run(self) -> None:
        passes = 0
        while True:
            try:
                if passes % _LOOK_EVERY == 0:
                    await self.take_over()
                await self.post()
                self._told(None)
            except GimleError as error:
                self._told(error)
            metrics.LEDGER_BEHIND.set(self._journal.size)
            passes += 1
            await asyncio.sleep(_PAUSE_SECONDS)

    def _told(self, error: GimleError | None) -> None:
        """Say once that the database is away, and once that it is back."""
        if error is not None and not self._behind:
            log.error("ledger_behind", error=error.code, detail=error.message, hint="Calls are journalled meanwhile.")
        elif error is None and self._behind:
            log.info("ledger_caught_up")
        self._behind = error is not None

    # -- the journal of this process

    async def post(self) -> None:
        """Post what is in the journal, and delete what is posted. Raises `DatabaseUnavailable`."""
        async with self._one_pass:
            while found := self._unposted or self._next():
                self._unposted = found
                await self._post(found)
                self._unposted = []
                if len(found) < _BATCH:
                    # What has come meanwhile waits for more to come: a transaction for each handful costs too much.
                    break
            self._tidy()

    def _next(self) -> list[Posted]:
        # Without a wait in it: what is loose was so before its other half was journalled.
        self._take_loose()
        found: list[Posted] = []
        for segment in self._journal.segments:
            while len(found) < _BATCH and (records := segment.unread()):
                found.extend(self._matcher.match(facts.decoded(records), segment))
            if len(found) >= _BATCH:
                return found
        # All is read up to this moment.
        found.extend(self._matcher.match(self._late))
        self._late.clear()
        found.extend(self._matcher.unheard(self._living))
        return found

    def _take_loose(self) -> None:
        while self._loose:
            record = self._loose.popleft()
            if isinstance(record, Intent):
                self._matcher.waiting[record.id] = record, None
            else:
                self._late.append(record)

    def _tidy(self) -> None:
        """Delete the segments that are read; an attempt that still runs is carried over to the newest."""
        *old, newest = self._journal.segments
        if not old:
            return
        try:
            for intent, segment in [*self._matcher.waiting.values()]:
                if segment in old and intent.id in self._living:
                    self._matcher.waiting[intent.id] = intent, self._journal.append(facts.encode(intent))
        except OSError:
            return
        held = {segment for _, segment in self._matcher.waiting.values()}
        for segment in old:
            if segment not in held and segment.read_up_to >= segment.size:
                self._journal.delete(segment)

    # -- the journals of the dead

    async def take_over(self) -> None:
        """Post the journals of processes that have died. Raises `DatabaseUnavailable`; they stay as they were then."""
        for found in abandoned(self._root):
            posted = False
            try:
                await self._post_all(found)
                posted = True
            finally:
                found.close(delete=posted)

    async def _post_all(self, left: Abandoned) -> None:
        matcher, batch, count, unheard = Matcher(), list[Posted](), 0, 0
        for posted in matcher.match(facts.decoded(left.records())):
            batch.append(posted)
            if len(batch) >= _BATCH:
                count += await self._post(batch)
                batch = []
        unheard = len(matcher.waiting)
        count += await self._post([*batch, *matcher.unheard()])
        metrics.LEDGER_TAKEN_OVER.inc()
        log.info("ledger_taken_over", attempts=count, unheard=unheard, damaged_bytes=left.damaged)

    # -- the database

    async def _post(self, found: list[Posted]) -> int:
        """Enter facts, all or none; how many were new."""
        by_tenant: dict[str, list[Fact]] = {}
        for tenant, fact in found:
            by_tenant.setdefault(tenant, []).append(fact)
        total = lost = 0
        if not by_tenant:
            return 0
        async with self._db.shared() as conn:
            # All writers lock the sums in one order.
            for tenant in sorted(by_tenant):
                await conn.execute(SQL["as_tenant"], {"tenant": tenant})
                rows = msgspec.json.encode(by_tenant[tenant]).decode()
                new = await scalar(conn, SQL["post_attempts"], {"facts": rows})
                total += new or 0
                lost += len(by_tenant[tenant]) if new is None else 0
        metrics.LEDGER_POSTED.inc(total)
        if lost:
            metrics.LEDGER_LOST.inc(lost)
            log.warning("ledger_without_tenant", attempts=lost)
        return total
