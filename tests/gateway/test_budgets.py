"""Budgets over one and several processes' worth of holders, against a real PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from gimle.foundation.db import Database
from gimle.foundation.errors import BudgetExceeded, DatabaseUnavailable
from gimle.gateway.alerts import Alerts
from gimle.gateway.budgeting import BudgetBook, NewBudget
from gimle.gateway.budgets import Budgets, Payer
from gimle.gateway.slices import Hold, Scope
from gimle.gateway.spending import Claim

CENT = 10_000_000


def exactly(cost: int) -> Claim:
    return Claim(cost, cost, cost)


@pytest.fixture
async def book(db: Database) -> BudgetBook:
    return BudgetBook(db)


@pytest.fixture
async def one(db: Database, tmp_path: Path) -> AsyncIterator[Budgets]:
    budgets = Budgets(db, tmp_path / "budgets", Alerts(None))
    await budgets.open()
    yield budgets
    await budgets.close()


@pytest.fixture
async def other(db: Database, tmp_path: Path) -> AsyncIterator[Budgets]:
    budgets = Budgets(db, tmp_path / "budgets", Alerts(None))
    await budgets.open()
    yield budgets
    await budgets.close()


async def pay(budgets: Budgets, payer: Payer, claim: Claim, cost: int | None, seconds: float = 0.0) -> bool:
    """A call; whether it was admitted."""
    try:
        held = await reserved(budgets, payer, claim)
    except BudgetExceeded:
        return False
    await asyncio.sleep(seconds)
    held.settle(cost)
    return True


async def reserved(budgets: Budgets, payer: Payer, claim: Claim) -> Hold:
    accounts = budgets.of(payer)
    return budgets.reserve(accounts, claim, 60) or await budgets.acquire(accounts, claim, 60)


async def test_parallel_calls_spend_a_strict_budget_and_not_a_call_more(
    book: BudgetBook, tenants: tuple[str, str], one: Budgets, other: Budgets
) -> None:
    budget = await book.create(tenants[0], NewBudget(limit=Decimal("0.50")))
    await one.refresh()
    await other.refresh()
    payer = Payer(tenants[0])
    calls = [pay(by, payer, exactly(CENT), CENT, 0.01) for _ in range(100) for by in (one, other)]
    admitted = await asyncio.gather(*calls)
    assert sum(admitted) == 50
    await one.close()
    await other.close()
    now = await book.get(tenants[0], budget.id)
    assert (now.spent, now.held, now.remaining) == ("0.50", "0.00", "0.00")
    await one.open()
    await other.open()


async def test_a_call_is_admitted_without_a_round_trip(
    book: BudgetBook, tenants: tuple[str, str], one: Budgets
) -> None:
    await book.create(tenants[0], NewBudget(limit=Decimal(100)))
    await one.refresh()
    payer, claim = Payer(tenants[0]), exactly(CENT)
    (await reserved(one, payer, claim)).settle(CENT)
    for _ in range(3):
        held = one.reserve(one.of(payer), claim, 60)
        assert held is not None
        held.settle(CENT)


async def test_a_strict_budget_clamps_a_call_to_what_is_left(
    book: BudgetBook, tenants: tuple[str, str], one: Budgets
) -> None:
    await book.create(tenants[0], NewBudget(limit=Decimal("0.05")))
    await one.refresh()
    payer = Payer(tenants[0])
    first = await reserved(one, payer, Claim(CENT, CENT, 3 * CENT))
    assert first.amount == 3 * CENT
    rest = await reserved(one, payer, Claim(CENT, CENT, 3 * CENT))
    assert rest.amount == 2 * CENT
    with pytest.raises(BudgetExceeded, match="reserved by other calls") as refused:
        await reserved(one, payer, exactly(CENT))
    assert refused.value.after == 2.0
    first.settle(CENT)
    assert (await reserved(one, payer, Claim(CENT, CENT, 9 * CENT))).amount == 2 * CENT
    # A second settling is none.
    assert (first.settle(5 * CENT), rest.settle(None)) == (0, 0)


async def test_overdraft_reserves_what_is_likely_and_ends_when_nothing_is_left(
    book: BudgetBook, tenants: tuple[str, str], one: Budgets
) -> None:
    budget = await book.create(tenants[0], NewBudget(limit=Decimal("0.05"), mode="overdraft"))
    await one.refresh()
    payer, claim = Payer(tenants[0]), Claim(CENT, 2 * CENT, 100 * CENT)
    held = [await reserved(one, payer, claim) for _ in range(3)]
    assert [each.amount for each in held] == [None] * 3
    with pytest.raises(BudgetExceeded):
        await reserved(one, payer, claim)
    for each in held:
        assert each.settle(3 * CENT) == 0
    # What costs nothing goes all the same.
    assert (await reserved(one, payer, exactly(0))).settle(0) == 0
    with pytest.raises(BudgetExceeded, match=r"is spent until \d{4}-"):
        await reserved(one, payer, claim)
    await one.close()
    now = await book.get(tenants[0], budget.id)
    assert (now.spent, now.remaining, now.held) == ("0.09", "0.00", "0.00")
    await one.open()


async def test_a_call_is_paid_from_all_its_budgets_or_from_none(
    book: BudgetBook, tenants: tuple[str, str], one: Budgets
) -> None:
    limits: tuple[tuple[Scope, str, str], ...] = (
        ("tenant", "", "1.00"), ("key", "key_1", "0.30"), ("user", "ann", "0.20"), ("case", "c7", "0.40"),
        ("model", "m", "0.50"), ("model", "p/m", "0.60"),
    )  # fmt: skip
    for scope, subject, limit in limits:
        await book.create(tenants[0], NewBudget(limit=Decimal(limit), scope=scope, subject=subject))
    await one.refresh()
    payer = Payer(tenants[0], "key_1", "ann", "c7")
    accounts = one.of(payer, "p", "m")
    assert len(accounts) == 6
    assert not one.of(Payer(tenants[1], "key_1", "ann", "c7"), "p", "m")
    assert len(one.of(Payer(tenants[0]), "p", "another")) == 1
    assert len(one.of(payer, "p", "m", "embeddings")) == 0
    held = await one.acquire(accounts, Claim(CENT, CENT, 100 * CENT), 60)
    assert held.amount == 20 * CENT
    with pytest.raises(BudgetExceeded, match="user ann"):
        await one.acquire(accounts, exactly(CENT), 60)
    assert {account.slice.used for account in accounts if account.slice} == {20 * CENT}
    held.settle(5 * CENT)
    assert {account.slice.used for account in accounts if account.slice} == {5 * CENT}


async def test_bulk_goes_to_the_cheaper_model_when_the_share_is_spent(
    book: BudgetBook, tenants: tuple[str, str], one: Budgets
) -> None:
    rule = NewBudget(limit=Decimal("0.10"), downgrade_percent=80, downgrade_model="local/small")
    await book.create(tenants[0], rule)
    await one.refresh()
    payer = Payer(tenants[0])
    for spent in range(10):
        assert one.downgrade(one.of(payer)) == ("local/small" if spent >= 8 else None)
        (await reserved(one, payer, exactly(CENT))).settle(CENT)


async def test_bulk_comes_back_with_the_next_period(book: BudgetBook, tenants: tuple[str, str], one: Budgets) -> None:
    """Though the cheaper model costs nothing, so that nobody asks what is left."""
    border = datetime.now(UTC) + timedelta(seconds=2)
    rule = NewBudget(
        limit=Decimal("0.10"), period="hour", anchor=border, downgrade_percent=80, downgrade_model="local/small"
    )
    await book.create(tenants[0], rule)
    await one.refresh()
    payer = Payer(tenants[0])
    (await reserved(one, payer, exactly(9 * CENT))).settle(9 * CENT)
    assert one.downgrade(one.of(payer)) == "local/small"
    await asyncio.sleep((border - datetime.now(UTC)).total_seconds() + 0.01)
    assert one.downgrade(one.of(payer)) is None


async def test_a_hold_that_nobody_settles_counts_as_spent_when_its_time_is_over(
    book: BudgetBook, tenants: tuple[str, str], one: Budgets
) -> None:
    budget = await book.create(tenants[0], NewBudget(limit=Decimal("0.10")))
    await one.refresh()
    await one.acquire(one.of(Payer(tenants[0])), exactly(CENT), 0.05)
    deadline = time.monotonic() + 10
    while (await book.get(tenants[0], budget.id)).spent != "0.01":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def test_a_change_and_an_end_of_a_budget_reach_who_spends_it(
    book: BudgetBook, tenants: tuple[str, str], one: Budgets
) -> None:
    payer = Payer(tenants[0])
    budget = await book.create(tenants[0], NewBudget(limit=Decimal("0.01")))
    async with asyncio.timeout(10):
        while not one.of(payer):
            await asyncio.sleep(0.02)
        held = await reserved(one, payer, exactly(CENT))
        with pytest.raises(BudgetExceeded):
            await reserved(one, payer, exactly(CENT))
        await book.change(tenants[0], budget.id, NewBudget(limit=Decimal("0.03")))
        while not await pay(one, payer, exactly(CENT), CENT):
            await asyncio.sleep(0.02)
        await book.delete(tenants[0], budget.id)
        while one.of(payer):
            await asyncio.sleep(0.02)
    held.settle(CENT)


async def test_an_expired_lease_of_an_unknown_holder_counts_as_spent(
    db: Database, book: BudgetBook, tenants: tuple[str, str], one: Budgets, tmp_path: Path
) -> None:
    """The node is gone with its disk: nobody knows what its process has spent, so all that it held may be spent."""
    budget = await book.create(tenants[0], NewBudget(limit=Decimal("1.60")))
    gone = Budgets(db, tmp_path / "another node", Alerts(None))
    await gone.open()
    await gone.acquire(gone.of(Payer(tenants[0])), exactly(CENT), 60)
    held = (await book.get(tenants[0], budget.id)).held
    assert held == "0.05"
    async with db.tenant(tenants[0]) as conn:
        await conn.execute("update budget_lease set expires_at = now() - interval '1 s'")
    one._steady_since = time.monotonic() - 100
    await one._sweep_expired()
    now = await book.get(tenants[0], budget.id)
    assert (now.spent, now.unknown, now.held) == ("0.05", "0.05", "0.00")
    # It was only slow: it finds its lease gone, and begins another.
    account = gone.of(Payer(tenants[0]))[0]
    await gone._turn(account)
    assert account.slice is None
    assert await pay(gone, Payer(tenants[0]), exactly(CENT), CENT)
    await gone.close()


async def test_without_a_database_strict_lives_on_what_it_holds_and_overdraft_goes_on(
    database_url: str, book: BudgetBook, tenants: tuple[str, str], tmp_path: Path
) -> None:
    lost = await Database.open(database_url, size=2)
    budgets = Budgets(lost, tmp_path / "budgets", Alerts(None))
    await budgets.open()
    await book.create(tenants[0], NewBudget(limit=Decimal(10)))
    await book.create(tenants[1], NewBudget(limit=Decimal(10), mode="overdraft"))
    await budgets.refresh()
    strict, overdraft = Payer(tenants[0]), Payer(tenants[1])
    for payer in (strict, overdraft):
        (await reserved(budgets, payer, exactly(CENT))).settle(CENT)
    await lost.close()
    admitted = 0
    with pytest.raises(DatabaseUnavailable):
        for _ in range(100):
            await reserved(budgets, strict, exactly(CENT))
            admitted += 1
    assert 1 <= admitted <= 10
    for _ in range(100):
        (await reserved(budgets, overdraft, exactly(CENT))).settle(CENT)
    await budgets.close()
    # What it could not tell is found in its file by whoever comes next.
    heir = Budgets(book._db, tmp_path / "budgets", Alerts(None))
    await heir.open()
    spent = [(await book.list(tenant))[0] for tenant in tenants]
    assert spent[0].spent == f"{(admitted + 1) / 100:.2f}"
    assert spent[1].spent == "1.01"
    assert {each.held for each in spent} == {"0.00"}
    await heir.close()
