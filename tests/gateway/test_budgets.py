"""Budgets over one and several processes' worth of holders, against a real PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from gimle.foundation.db import Database
from gimle.foundation.errors import BudgetExceeded
from gimle.gateway.alerts import Alerts
from gimle.gateway.budgeting import BudgetBook, NewBudget
from gimle.gateway.budgets import Budgets, Payer
from gimle.gateway.slices import Hold
from gimle.gateway.spending import Claim

CENT = 10_000_000


def exactly(cost: int) -> Claim:
    return Claim(cost, cost, cost)


@pytest.fixture
async def book(db: Database) -> BudgetBook:
    return BudgetBook(db)


@pytest.fixture
async def one(db: Database, tmp_path: Path) -> AsyncIterator[Budgets]:
    budgets = Budgets(db, tmp_path / "budgets", Alerts(None, None))
    await budgets.open()
    yield budgets
    await budgets.close()


@pytest.fixture
async def other(db: Database, tmp_path: Path) -> AsyncIterator[Budgets]:
    budgets = Budgets(db, tmp_path / "budgets", Alerts(None, None))
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
    began = time.perf_counter()
    for _ in range(3):
        held = one.reserve(one.of(payer), claim, 60)
        assert held is not None
        held.settle(CENT)
    assert time.perf_counter() - began < 0.01
