"""What a process has of its budgets, and the calls that are paid out of it. In memory, and never waits.

    free = granted - used        used = spent + what is reserved by calls in flight

A call takes from all its budgets or from none. What it took is a `Hold`, which settles once, however the call ends: a
second settling changes nothing, and a hold that nobody settles counts as spent when its time is over.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from gimle.foundation.errors import DatabaseUnavailable
from gimle.gateway import spending
from gimle.gateway.spending import Claim, Pace, Period

Unit = Literal["usd", "embeddings"]
Scope = Literal["tenant", "key", "user", "model", "case"]
Mode = Literal["strict", "overdraft"]


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """A budget as it was set; a row of `budget`. `amount` in nano-dollars, or in pieces."""

    id: str
    tenant: str
    name: str
    unit: Unit
    scope: Scope
    subject: str
    period: Period
    anchor: datetime | None
    amount: int
    mode: Mode
    webhook: str | None
    downgrade_percent: int | None
    downgrade_model: str | None
    created_at: datetime
    updated_at: datetime


class Slice:
    """One lease: what this process may spend of a budget in one period, until `valid_until` (monotonic seconds)."""

    __slots__ = (
        "busy_at", "cells", "ends_at", "fresh", "granted", "lease", "lost", "open", "place", "since", "spent", "told",
        "told_at", "until", "used", "valid_until",
    )  # fmt: skip

    def __init__(self, lease: str, window: spending.Window, place: int, cells: "memoryview[int]") -> None:
        self.lease = lease
        self.since, self.until = window
        self.ends_at = self.until.timestamp()
        self.place = place
        self.cells = cells
        self.granted = 0
        self.used = 0
        self.spent = 0
        # What the database was told to be spent, and when.
        self.told = 0
        self.told_at = 0.0
        self.valid_until = 0.0
        self.busy_at = 0.0
        self.fresh = True
        # The lease was taken for dead: all of it counts as spent already.
        self.lost = False
        self.open: set[Hold] = set()

    @property
    def free(self) -> int:
        """What new calls may reserve."""
        return self.granted - self.used

    def move(self, used: int, spent: int) -> None:
        """More is used, or less, and so much of it is spent."""
        self.used += used
        self.spent += spent
        if not self.lost:
            self.cells[self.place] = self.used


class Account:
    """A budget in this process: its terms, its slice of the present period, those of earlier ones, and who waits."""

    __slots__ = (
        "contested_until", "dry_until", "error", "fetching", "known_until", "largest", "lean_until", "old", "others",
        "pace", "queue", "returned", "slice", "spent", "strict", "terms", "turning",
    )  # fmt: skip

    def __init__(self, terms: Terms, now: float) -> None:
        self.slice: Slice | None = None
        self.old: list[Slice] = []
        self.queue: deque[tuple[asyncio.Future[bool], int]] = deque()
        # What the database told last: spent by all, and held by others, in a period that ends then (Unix seconds).
        self.spent = 0
        self.others = 0
        self.known_until = 0.0
        self.largest = 0
        self.pace = Pace(now)
        # The database has nothing left until then.
        self.dry_until = 0.0
        # Others need what we have: slices are small until then.
        self.lean_until = 0.0
        # Somebody was short, and may be again, until then.
        self.contested_until = 0.0
        self.turning = asyncio.Lock()
        self.fetching: asyncio.Task[None] | None = None
        self.returned = asyncio.Event()
        # Why the last turn failed, if it did.
        self.error: DatabaseUnavailable | None = None
        self.revise(terms)

    def revise(self, terms: Terms) -> None:
        """The budget was changed."""
        self.terms = terms
        self.strict = terms.mode == "strict"
        self.dry_until = 0.0

    def settled(self) -> int:
        """What is spent, as far as it is known here."""
        return self.spent + (self.slice.spent - self.slice.told if self.slice is not None else 0)

    def share(self, now: float) -> float:
        """Which part of the budget is spent by a moment (Unix seconds), as far as it is known here."""
        if not self.terms.amount:
            return 1.0
        return self.settled() / self.terms.amount if now < self.known_until else 0.0

    def serve(self) -> None:
        """Tell those who have waited longest that there is enough for them now."""
        free = self.slice.free if self.slice is not None else 0
        while self.queue and self.queue[0][1] <= free:
            waiter, need = self.queue.popleft()
            if not waiter.done():
                free -= need
                waiter.set_result(True)

    def refuse(self, those: Collection[asyncio.Future[bool]] | None = None) -> None:
        """Tell all who wait, or those of them, that nothing more can be had now."""
        kept = [(waiter, need) for waiter, need in self.queue if those is not None and waiter not in those]
        gone, self.queue = self.queue, deque(kept)
        for waiter, _ in gone:
            if not waiter.done() and (those is None or waiter in those):
                waiter.set_result(False)

    def wanting(self) -> int:
        """What those who wait need together."""
        return sum(need for waiter, need in self.queue if not waiter.done())


class Hold:
    """What one attempt has reserved. `amount` is the most that it may cost; None where no budget sets a bound."""

    __slots__ = ("_parts", "amount", "expires_at")

    def __init__(self, parts: Sequence[tuple[Account, Slice, int]], amount: int | None, expires_at: float) -> None:
        self._parts = parts
        self.amount = amount
        self.expires_at = expires_at
        for account, own, reserved in parts:
            own.move(reserved, 0)
            own.open.add(self)
            if reserved > account.largest:
                account.largest = reserved

    def settle(self, cost: int | None) -> int:
        """The attempt has ended and cost so much; None where nobody knows, and the whole reservation counts.

        Returns by how much the cost was above the reservation in a strict budget, 0 as a rule.
        """
        parts, self._parts = self._parts, ()
        above = 0
        for account, own, reserved in parts:
            paid = reserved if cost is None else cost
            own.open.discard(self)
            if not own.lost:
                own.move(paid - reserved, paid)
            if account.strict and paid > reserved:
                above = max(above, paid - reserved)
            if account.queue and paid < reserved:
                account.serve()
        return above


NOTHING = Hold((), None, 0.0)


def short(accounts: Sequence[Account], claim: Claim, now: float) -> Account | None:
    """The first of the budgets in which not all of a claim is free; None when all can give it."""
    for account in accounts:
        own = account.slice
        if (
            own is None
            or now >= own.valid_until
            or own.granted - own.used < spending.wanted(claim, strict=account.strict)
        ):
            return account
    return None


def take(accounts: Sequence[Account], claim: Claim, now: float, seconds: float) -> Hold | Account:
    """Reserve as much of a claim as is free in all of its budgets; the one that has too little, where one has.

    Strict budgets reserve the same, which is the bound for the call.
    """
    bound: int | None = None
    for account in accounts:
        own = account.slice
        free = own.granted - own.used if own is not None and now < own.valid_until else -1
        given = spending.reserved(claim, free, strict=account.strict) if free >= 0 else None
        if given is None:
            return account
        if account.strict and (bound is None or given < bound):
            bound = given
    parts = [
        (account, own, (bound or 0) if account.strict else min(claim.likely, max(own.granted - own.used, 0)))
        for account in accounts
        if (own := account.slice) is not None
    ]
    return Hold(parts, bound, now + seconds)
