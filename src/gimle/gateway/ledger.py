"""The ledger: one fact for each attempt that reached the wire, and none is lost when the process is killed.

    begin    an attempt is about to be sent: who pays, what it may cost   -> journal
    settle   it has ended, one way or another: how, and what it cost      -> journal -> database, in batches

Both write into a local journal before they return, a few µs each and without a wait; `posting` carries it from there.
"""

import time
from collections import deque
from contextlib import suppress
from typing import Self

from gimle.foundation import ids, logs
from gimle.foundation.config import Settings
from gimle.foundation.db import Database
from gimle.foundation.errors import LedgerUnavailable, Unpriced
from gimle.gateway import facts, metrics
from gimle.gateway.facts import Account, End, Intent, Record
from gimle.gateway.journal import Journal
from gimle.gateway.neutral import Usage
from gimle.gateway.posting import Posting
from gimle.gateway.rates import Price
from gimle.selection.types import Model

log = logs.get("gateway")

_FOLDER = "ledger"
_MB = 1024 * 1024
# Records that the journal could not take are kept in memory, up to so many.
_MOST_LOOSE = 20_000
_COMPLAIN_SECONDS = 10.0


class Entry:
    """An attempt in the ledger, from `Ledger.begin` to its one `settle`. `nano` is its cost from then on."""

    __slots__ = ("_began", "_intent", "_ledger", "_meters", "_price", "nano", "settled")

    def __init__(self, ledger: "Ledger", intent: Intent, price: Price | None, meters: metrics.Meters) -> None:
        self._ledger = ledger
        self._intent = intent
        self._price = price
        self._meters = meters
        self._began = time.perf_counter()
        self.settled = False
        self.nano: int | None = None

    @property
    def id(self) -> bytes:
        """The id of the attempt: the 16 bytes of a UUIDv7."""
        return self._intent.id

    def settle(
        self, end: End, usage: Usage | None = None, *, first: float | None = None, overhead: float | None = None
    ) -> int | None:
        """Enter how the attempt ended; its cost in nano-dollars, None where nobody knows the price. Never fails.

        `usage` is what the provider told, or with `exact` false an estimate of ours; without any, what was expected is
        entered. `first` is the seconds from the send to the first content, `overhead` our own seconds before it. Only
        the first call counts, so that every path may settle without asking who was there before.
        """
        if self.settled:
            return self.nano
        self.settled = True
        times = facts.Times(time.perf_counter() - self._began, first, overhead)
        ended = facts.outcome(self._intent, end, usage, self._price, times)
        self.nano = ended.nano
        if ended.nano:
            self._meters.cost.inc(ended.nano)
        self._ledger.close_entry(self, ended)
        return ended.nano


class Ledger:
    """The ledger of this process. Without a database (a gateway on its own) it computes costs, and keeps nothing."""

    def __init__(self, journal: Journal | None, posting: Posting | None, settings: Settings) -> None:
        self._journal = journal
        self.posting = posting
        self._refuses_unpriced = settings.ledger.unpriced == "refuse"
        self._refuses_unwritten = settings.ledger.unwritten == "refuse"
        self._open: dict[bytes, Entry] = {}
        self._loose: deque[Record] = deque()
        self._complained = 0.0

    @classmethod
    def open(cls, db: Database | None, settings: Settings) -> Self:
        """Begin a journal, take over those of processes that have died, post from now on. Raises `OSError`."""
        if db is None:
            return cls(None, None, settings)
        root = settings.data / _FOLDER
        journal = Journal.open(root, settings.ledger.journal_mb * _MB)
        posting = Posting(db, journal, root)
        ledger = cls(journal, posting, settings)
        posting.start(ledger._open, ledger._loose)
        return ledger

    async def close(self) -> None:
        """Settle what is still open, and post what can be posted; what can't is left for the next process."""
        for entry in list(self._open.values()):
            entry.settle("drained")
        if self.posting is not None:
            await self.posting.close()

    def begin(
        self, account: Account, target: Model, price: Price | None, expected: Usage, bound: int | None = None
    ) -> Entry:
        """Enter an attempt that is about to be sent.

        `expected` and `bound` (nano-dollars; else what `expected` costs at most) are entered should nothing more be
        heard of it: a budget's reservation is such a bound. Raises `Unpriced` or `LedgerUnavailable` where the settings
        refuse such calls; then nothing was entered.
        """
        if price is None and self._refuses_unpriced:
            raise Unpriced(
                f"Nobody knows what {target.id} costs, and such calls are refused here.",
                field="model",
                hint="Give the model a `price` in its provider, or set ledger.unpriced to allow.",
            )
        if bound is None and price is not None:
            bound = price.bound(expected.input_tokens, expected.output_tokens)
        intent = Intent(
            ids.raw(),
            time.time(),
            account,
            target.provider,
            facts.plain(target.name),
            target.kind,
            None if price is None else price.version,
            facts.tokens(expected),
            bound,
        )
        entry = Entry(self, intent, price, metrics.of(target))
        if not self._written(intent) and self._refuses_unwritten:
            raise LedgerUnavailable(
                hint="The disk of the data directory is full, or the database has been away too long."
            )
        self._open[intent.id] = entry
        return entry

    def close_entry(self, entry: Entry, ended: facts.Outcome) -> None:
        """Enter the end of an attempt: `Entry.settle` does."""
        if self._open.pop(entry.id, None) is not None:
            self._written(ended, loose=True)

    def _written(self, record: Record, *, loose: bool = False) -> bool:
        if self._journal is None:
            return True
        try:
            self._journal.append(facts.encode(record))
        except OSError as wrong:
            self._complain(wrong)
            metrics.LEDGER_UNWRITTEN.inc()
            if loose or not self._refuses_unwritten:
                self._keep(record)
            return False
        return True

    def _keep(self, record: Record) -> None:
        """The database may still take it, as long as this process lives."""
        if len(self._loose) < _MOST_LOOSE:
            self._loose.append(record)
        else:
            metrics.LEDGER_LOST.inc()

    def _complain(self, wrong: OSError) -> None:
        now = time.monotonic()
        if now >= self._complained:
            self._complained = now + _COMPLAIN_SECONDS
            policy = "are refused" if self._refuses_unwritten else "go on, and are lost if this process dies now"
            # The log may go to the same disk.
            with suppress(OSError):
                log.error("ledger_not_written", detail=str(wrong), calls=policy)
