"""Budgets that concurrent calls can't overspend, over all processes and nodes, without a round trip a call.

    reserve (strict: the most that a call can cost, overdraft: what is likely) → settle, on every path → sweep

Each process holds slices of the budgets that its calls are paid from (`slices`): leases in PostgreSQL, taken ahead of
need, told of and renewed in the background, given back when others are short. The sum of what is spent and what is held
never exceeds a budget. Who is short asks for more, then asks the other holders to give back, and only then refuses.
What a dead process had used lies in a file that another process of its node sweeps; where that is lost, its lease ends
with its time and the whole of it counts as spent.
"""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

import msgspec

from gimle.foundation import ids, logs
from gimle.foundation.db import Connection, Database, queries, row, rows, scalar
from gimle.foundation.errors import BudgetExceeded, DatabaseUnavailable
from gimle.foundation.lifecycle import Tasks
from gimle.gateway import holdings, limit_metrics, spending
from gimle.gateway.alerts import Alert, Alerts
from gimle.gateway.holdings import Holdings
from gimle.gateway.slices import NOTHING, Account, Hold, Slice, Terms, Unit, short, take
from gimle.gateway.spending import Claim, Pace

SQL = queries("gimle.gateway", "budgets.sql")
log = logs.get("budgets")

CHANNEL = "gimle_budgets"
LEASE_SECONDS = 30
# A lease is not used up to its very end: clocks run differently.
_MARGIN_SECONDS = 5.0
_TURN_SECONDS = 1.0
_RENEW_SECONDS = 10.0
_SWEEP_TURNS = 5
# How long one waits for what other holders give back, each time that they are asked.
_RECALLS = (0.05, 0.1, 0.2)
_DRY_SECONDS = 1.0
_LEAN_SECONDS = 3.0
_CONTESTED_SECONDS = 10.0
# An idle process keeps nothing.
_IDLE_SECONDS = 30.0
_TRIES = 4
_SOON_SECONDS = 2.0
# While the database is away, a budget with overdraft goes on by itself for so long at a time.
_ALONE_SECONDS = 5.0


class Payer(msgspec.Struct, frozen=True):
    """Who calls, as far as budgets know people: what is empty has no budget."""

    tenant: str
    key: str = ""
    user: str = ""
    case: str = ""


class _Told(msgspec.Struct, frozen=True):
    granted: int | None
    spent: int
    leased: int
    amount: int
    alert: int


class _Turn(TypedDict):
    lease: str
    budget: str
    since: datetime
    until: datetime
    total: int
    wish: int
    seconds: int
    fresh: bool
    closing: bool
    short: bool


class _Lease(msgspec.Struct, frozen=True):
    id: str
    tenant: str


class Budgets:
    """The budgets as a process spends them. `folder` is where processes of this node leave what they hold."""

    def __init__(self, db: Database, folder: Path, alerts: Alerts) -> None:
        self._db = db
        self._alerts = alerts
        self._folder = folder
        self._tasks = Tasks()
        self._accounts: dict[str, Account] = {}
        self._found: dict[tuple[str, Unit, str, str], list[Account]] = {}
        self._tenants: frozenset[str] = frozenset()
        self._steady_since = 0.0
        self._name = ids.new("holder")

    async def open(self) -> None:
        """Read the budgets, and follow them until `close`. Raises `DatabaseUnavailable` or `OSError`."""
        self._holdings = Holdings.open(self._folder)
        await self._sweep_dead()
        await self.refresh()
        self._tasks.start(self._db.listener.follow(CHANNEL, self._read), "budgets")
        self._tasks.start(self._turns(), "budgets turns")

    async def close(self) -> None:
        """Tell what was spent, and give all back. What can't be told is left for others to sweep."""
        await self._tasks.close()
        clean = True
        for account in self._accounts.values():
            for hold in [hold for own in _all(account) for hold in own.open]:
                hold.settle(None)
            self._retire(account)
            await self._close_old(account)
            clean = clean and not account.old
        self._holdings.close(delete=clean)

    # -- the way of a call

    def of(self, payer: Payer, provider: str = "", model: str = "", unit: Unit = "usd") -> Sequence[Account]:
        """The budgets that a call is paid from; none, as a rule."""
        tenant = payer.tenant
        if tenant not in self._tenants:
            return ()
        found: list[Account] = []
        for scope, subject in (
            ("tenant", ""), ("key", payer.key), ("user", payer.user), ("case", payer.case),
            ("model", model), ("model", f"{provider}/{model}"),
        ):  # fmt: skip
            found += self._found.get((tenant, unit, scope, subject), ())
        return found

    def reserve(self, accounts: Sequence[Account], claim: Claim, seconds: float) -> Hold | None:
        """Reserve a claim for at most so many seconds, if all of it is here; None: `acquire` it.

        What costs nothing needs no budget.
        """
        if not accounts or not claim.most:
            return NOTHING
        now = time.monotonic()
        if short(accounts, claim, now) is not None:
            return None
        held = take(accounts, claim, now, seconds)
        return held if isinstance(held, Hold) else None

    async def acquire(self, accounts: Sequence[Account], claim: Claim, seconds: float) -> Hold:
        """Reserve a claim, or what there is of it, after all has been asked for that can be had.

        Raises `BudgetExceeded`, or `DatabaseUnavailable` when a strict budget has nothing here and nobody to ask.
        """
        empty: list[Account] = []
        for _ in range(_TRIES + len(accounts)):
            if (held := self.reserve(accounts, claim, seconds)) is not None:
                return held
            account = short([each for each in accounts if each not in empty], claim, time.monotonic())
            if account is None:
                break
            is_dry = account.dry_until > time.monotonic()
            if is_dry or not await self._wait(account, spending.wanted(claim, strict=account.strict)):
                empty.append(account)
        held_or = take(accounts, claim, time.monotonic(), seconds)
        if isinstance(held_or, Hold):
            return held_or
        if held_or.error is not None and held_or.strict:
            raise held_or.error
        limit_metrics.BUDGET_REFUSALS.labels(held_or.terms.scope).inc()
        raise _exceeded(held_or, claim)

    def downgrade(self, accounts: Sequence[Account]) -> str | None:
        """The cheaper model that bulk traffic goes to when so much is spent, if a budget says so."""
        now = time.time()
        for account in accounts:
            terms = account.terms
            if terms.downgrade_model is not None and account.share(now) * 100 >= (terms.downgrade_percent or 100):
                return terms.downgrade_model
        return None

    def left(self, accounts: Sequence[Account]) -> int | None:
        """What is left of the tightest strict budget, as far as it is known here; None where none is strict.

        Of one that nobody has spent from here, nothing is known yet.
        """
        known = [each for each in accounts if each.strict and each.slice is not None]
        return min((each.terms.amount - each.settled() for each in known), default=None)

    # -- fetching more

    async def _wait(self, account: Account, need: int) -> bool:
        """Wait until so much may be free here; False when it can't be had."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        account.queue.append((waiter, need))
        account.largest = max(account.largest, need)
        if account.fetching is None or account.fetching.done():
            account.fetching = self._tasks.start(self._fetch(account), "budgets fetch")
        return await waiter

    async def _fetch(self, account: Account) -> None:
        """Bring what those need who wait: from the budget, and then from its other holders."""
        try:
            recalls = iter(_RECALLS)
            while account.queue:
                asked_for = await self._bring(account)
                if not account.queue or account.queue[0][0] not in asked_for:
                    recalls = iter(_RECALLS)
                    continue
                pause = next(recalls, None)
                if pause is None or not account.others or account.error is not None:
                    # Nothing more can be had for a while. One more turn tells so, and brings what came last.
                    account.dry_until = time.monotonic() + _DRY_SECONDS
                    account.refuse(await self._bring(account, refused=True))
                else:
                    await self._recall(account, pause)
        finally:
            account.refuse()

    async def _bring(self, account: Account, *, refused: bool = False) -> Collection[asyncio.Future[bool]]:
        """Fetch for all who wait now, and wake those for whom it is enough; returns who waited."""
        waiting = {waiter for waiter, _ in account.queue}
        await self._turn(account, refused=refused)
        account.serve()
        # They reserve before anybody looks again.
        await asyncio.sleep(0)
        return waiting

    async def _recall(self, account: Account, seconds: float) -> None:
        """Ask the other holders to give back what they do not need."""
        account.returned.clear()
        account.lean_until = account.contested_until = time.monotonic() + _LEAN_SECONDS
        with suppress(DatabaseUnavailable, TimeoutError):
            async with self._db.shared() as conn:
                await self._tell(conn, "recall", account)
            async with asyncio.timeout(seconds):
                await account.returned.wait()

    async def _tell(self, conn: Connection, what: str, account: Account) -> None:
        await conn.execute(SQL["tell_budgets"], {"note": f"{what} {self._name} {account.terms.id}"})

    # -- turns: telling the database what was spent, asking for more, giving back

    async def _turn(self, account: Account, *, refused: bool = False, generous: bool = False) -> None:
        """One turn for the present period. `generous` gives back all that is free."""
        async with account.turning:
            now = time.monotonic()
            own = self._present(account, now)
            wish = own.used + (0 if generous else self._spare(account, own, now))
            before = own.granted
            # What is given back must not be reserved while the database is told.
            own.granted = min(own.granted, wish) if not own.fresh else own.granted
            values = self._values(account, own, wish, short=refused)
            try:
                told = await self._told(account, values, returns=generous or wish < before)
            except DatabaseUnavailable as error:
                self._alone(account, own, error)
                return
            self._hear(account, own, told, values["total"], now)

    async def _told(self, account: Account, values: _Turn, *, returns: bool) -> _Told | None:
        terms = account.terms
        async with self._db.tenant(terms.tenant) as conn:
            told = await row(conn, SQL["budget_turn"], values, _Told)
            if returns and account.contested_until > time.monotonic():
                await self._tell(conn, "returned", account)
            if told is not None and told.alert:
                await self._alerts.raise_in(
                    conn, Alert(terms, told.alert, told.spent, values["since"], values["until"])
                )
        return told

    def _present(self, account: Account, now: float) -> Slice:
        """The slice of the present period; a new one where there is none, or it is over or lost."""
        wall = time.time()
        own = account.slice
        if own is not None and (own.lost or wall >= own.ends_at):
            self._retire(account)
            own = None
        if own is None:
            window = spending.window(account.terms.period, account.terms.anchor, datetime.fromtimestamp(wall, UTC))
            lease = ids.new("lease")
            own = account.slice = Slice(lease, window, self._holdings.add(lease), self._holdings.cells)
            own.busy_at, account.pace = now, Pace(now)
        return own

    def _retire(self, account: Account) -> None:
        if account.slice is not None:
            account.old.append(account.slice)
            account.slice = None

    def _spare(self, account: Account, own: Slice, now: float) -> int:
        """What should be free here: for those who wait, and ahead of need. A little more is kept where it is."""
        spare = account.wanting() + self._ahead(account, now)
        return max(spare, own.free) if own.free <= 2 * spare + account.largest else spare

    def _ahead(self, account: Account, now: float) -> int:
        if now < account.lean_until:
            return 0
        left = account.terms.amount - account.spent
        return spending.ahead(account.pace.a_second, account.largest, left)

    def _values(self, account: Account, own: Slice, wish: int, *, closing: bool = False, short: bool = False) -> _Turn:
        return {
            "lease": own.lease,
            "budget": account.terms.id,
            "since": own.since,
            "until": own.until,
            "total": own.spent,
            "wish": wish,
            "seconds": LEASE_SECONDS,
            "fresh": own.fresh,
            "closing": closing,
            "short": short,
        }

    def _hear(self, account: Account, own: Slice, told: _Told | None, total: int, asked_at: float) -> None:
        account.error = None
        if told is None or told.granted is None:
            # The budget is gone, or we were taken for dead: all that we held counts as spent.
            own.lost = True
            self._retire(account)
            return
        own.told, own.told_at, own.fresh = total, asked_at, False
        own.granted = told.granted
        # A moment of the period's end on the wall clock, as one of the monotonic clock.
        own.valid_until = min(asked_at + LEASE_SECONDS - _MARGIN_SECONDS, asked_at + own.ends_at - time.time())
        account.spent, account.others, account.known_until = told.spent, told.leased, own.ends_at
        account.pace.tell(total, asked_at)

    def _alone(self, account: Account, own: Slice, error: DatabaseUnavailable) -> None:
        """The database is away: what is held is good until its time is over, and overdraft goes on for a while."""
        account.error = error
        log.warning("budget_alone", budget=account.terms.id, error=error.code)
        if not account.strict:
            own.granted = max(own.granted, own.used + account.wanting() + account.largest)
            own.valid_until = max(own.valid_until, time.monotonic() + _ALONE_SECONDS)

    async def _close_old(self, account: Account) -> None:
        """End the leases of earlier periods whose calls have all ended."""
        for own in [own for own in account.old if not own.open]:
            if not (own.lost or own.fresh):
                values = self._values(account, own, own.spent, closing=True)
                try:
                    await self._told(account, values, returns=True)
                except DatabaseUnavailable:
                    continue
            own.lost = True
            self._holdings.remove(own.place)
            account.old.remove(own)

    # -- in the background

    async def _turns(self) -> None:
        number = 0
        while True:
            await asyncio.sleep(_TURN_SECONDS)
            number += 1
            for account in list(self._accounts.values()):
                self._expire(account)
                if account.old:
                    await self._close_old(account)
                if self._is_due(account):
                    await self._turn(account)
            if number % _SWEEP_TURNS == 0:
                await self._sweep()

    def _expire(self, account: Account) -> None:
        """Holds whose time is over, which nobody settled, count as spent."""
        now = time.monotonic()
        for own in _all(account):
            for hold in [hold for hold in own.open if hold.expires_at < now]:
                log.error("hold_not_settled", budget=account.terms.id)
                hold.settle(None)

    def _is_due(self, account: Account) -> bool:
        own = account.slice
        if own is None or account.fetching is not None and not account.fetching.done():
            return False
        now = time.monotonic()
        if own.used != own.told or own.spent != own.told:
            own.busy_at = now
        elif now - own.busy_at > _IDLE_SECONDS:
            self._retire(account)
            return False
        wish = self._ahead(account, now)
        uneven = own.free * 2 < wish or own.free > 2 * wish + account.largest
        return own.spent != own.told or uneven or now - own.told_at > _RENEW_SECONDS

    async def _sweep(self) -> None:
        try:
            await self._sweep_dead()
            await self._sweep_expired()
        except DatabaseUnavailable:
            self._steady_since = 0.0

    async def _sweep_dead(self) -> None:
        """End the leases of this node's processes that have died, for what they had used."""
        for left in holdings.left(self._folder):
            swept = False
            try:
                async with self._db.shared() as conn:
                    leases = await rows(conn, SQL["owners_of_leases"], {"leases": list(left.used)}, _Lease)
                for lease in leases:
                    await self._sweep_one(lease, left.used[lease.id])
                swept = True
            finally:
                left.close(delete=swept)

    async def _sweep_expired(self) -> None:
        """End leases whose holders are silent, unless it was we who heard nobody: the database may have been away."""
        now = time.monotonic()
        self._steady_since = self._steady_since or now
        if now - self._steady_since < LEASE_SECONDS:
            return
        async with self._db.shared() as conn:
            expired = await rows(conn, SQL["expired_leases"], {}, _Lease)
        for lease in expired:
            await self._sweep_one(lease, None)

    async def _sweep_one(self, lease: _Lease, used: int | None) -> None:
        async with self._db.tenant(lease.tenant) as conn:
            usable = await scalar(conn, SQL["sweep_lease"], {"lease": lease.id, "used": used})
        limit_metrics.BUDGET_SWEPT.labels("known" if used is not None else "unknown").inc()
        log.warning("lease_swept", lease=lease.id, tenant=lease.tenant, used=used, usable=usable)

    # -- the terms

    async def refresh(self) -> None:
        """Read all budgets anew."""
        async with self._db.shared() as conn:
            found = await rows(conn, SQL["all_budgets"], {}, Terms)
        now = time.monotonic()
        index: defaultdict[tuple[str, Unit, str, str], list[Account]] = defaultdict(list)
        known: dict[str, Account] = {}
        for terms in found:
            account = self._accounts.get(terms.id) or Account(terms, now)
            account.revise(terms)
            known[terms.id] = account
            index[terms.tenant, terms.unit, terms.scope, terms.subject].append(account)
        for gone in self._accounts.keys() - known.keys():
            for own in _all(self._accounts[gone]):
                if not own.lost:
                    own.lost = True
                    self._holdings.remove(own.place)
        self._accounts, self._found = known, dict(index)
        self._tenants = frozenset(terms.tenant for terms in found)

    async def _read(self, note: str) -> None:
        what, _, rest = note.partition(" ")
        sender, _, budget = rest.partition(" ")
        account = self._accounts.get(budget)
        if what in ("", "changed"):
            await self.refresh()
        elif account is not None and sender != self._name:
            await self._heard(what, account)

    async def _heard(self, what: str, account: Account) -> None:
        account.dry_until = 0.0
        account.returned.set()
        if what == "recall":
            now = time.monotonic()
            account.lean_until, account.contested_until = now + _LEAN_SECONDS, now + _CONTESTED_SECONDS
            if account.slice is not None and account.slice.free > 0:
                self._tasks.start(self._turn(account, generous=True), "budgets give back")


def _all(account: Account) -> Iterator[Slice]:
    yield from account.old
    if account.slice is not None:
        yield account.slice


def _exceeded(account: Account, claim: Claim) -> BudgetExceeded:
    terms = account.terms
    now = datetime.now(UTC)
    _, until = spending.window(terms.period, terms.anchor, now)
    whose = f"{terms.scope} {terms.subject}".rstrip()
    least = claim.least if account.strict else 1
    if account.settled() + least <= terms.amount:
        # The rest is reserved by calls in flight, which give back what they do not need.
        return BudgetExceeded(f"The budget of this {whose} is reserved by other calls.", after=_SOON_SECONDS)
    if terms.period == "total":
        hint = "Have its limit raised."
        return BudgetExceeded(f"The budget of this {whose} is spent and is not renewed.", after=math.inf, hint=hint)
    left = (until - now).total_seconds()
    return BudgetExceeded(f"The budget of this {whose} is spent until {until:%Y-%m-%dT%H:%M:%SZ}.", after=left)
