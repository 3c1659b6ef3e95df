"""Quotas of a tenant: vectors a day, bytes of documents; who has used one up is told which, how much, until when."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gimle.foundation.config import LimitSettings
from gimle.foundation.db import Database
from gimle.foundation.errors import QuotaExceeded
from gimle.gateway.alerts import Alerts
from gimle.gateway.allowances import Allowances, NewAllowance
from gimle.gateway.budgeting import BudgetBook
from gimle.gateway.budgets import Budgets
from gimle.gateway.quotas import Quotas


@pytest.fixture
async def allowances(db: Database) -> AsyncIterator[Allowances]:
    opened = Allowances(db, LimitSettings(embeddings_day=1000, storage_gb=0.001))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def quotas(db: Database, allowances: Allowances, tmp_path: Path) -> AsyncIterator[Quotas]:
    budgets = Budgets(db, tmp_path / "budgets", Alerts(None))
    await budgets.open()
    yield Quotas(db, allowances, budgets)
    await budgets.close()


async def test_a_tenant_may_have_so_many_vectors_made_a_day(
    quotas: Quotas, allowances: Allowances, tenants: tuple[str, str], db: Database
) -> None:
    first = await quotas.embeddings(tenants[0], 600, 60)
    with pytest.raises(
        QuotaExceeded, match=r"of 1000 vectors a day does not suffice for 500 more until \d{4}-"
    ) as full:
        await quotas.embeddings(tenants[0], 500, 60)
    assert (full.value.status, full.value.code) == (429, "quota_exceeded")
    # Half of them were not made after all.
    first.settle(300)
    (await quotas.embeddings(tenants[0], 500, 60)).settle(500)
    (await quotas.embeddings(tenants[1], 1000, 60)).settle(1000)
    await allowances.put(tenants[0], NewAllowance(embeddings_day=0))
    async with asyncio.timeout(10):
        while allowances.embeddings_day(tenants[0]):
            await asyncio.sleep(0.02)
    (await quotas.embeddings(tenants[0], 10**6, 60)).settle(10**6)
    # It is no budget that people set.
    assert await BudgetBook(db).list(tenants[0]) == []


async def test_a_tenant_may_keep_so_many_bytes(quotas: Quotas, tenants: tuple[str, str]) -> None:
    measured = []

    async def stored() -> int:
        measured.append(100_000)
        return 100_000

    for _ in range(7):
        await quotas.storage(tenants[0], 100_000, stored)
    # Measured once, and from then on counted; near the end it is measured each time.
    assert len(measured) == 1
    await quotas.storage(tenants[0], 900_000, stored)
    assert len(measured) == 2
    with pytest.raises(
        QuotaExceeded, match=r"of 1 MB of documents is used up: there are 0.1 MB, and this is 1.0 MB more"
    ):
        await quotas.storage(tenants[0], 990_000, stored)
