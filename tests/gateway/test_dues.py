"""What a call must have before it may go, and that all of it comes back, however the call ends."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from gimle.foundation.config import AdmissionSettings, LimitSettings
from gimle.foundation.db import Database
from gimle.foundation.errors import BudgetExceeded, Overloaded, RateLimitedError
from gimle.foundation.tally import Tally
from gimle.gateway import spending
from gimle.gateway.admission import Admission
from gimle.gateway.alerts import Alerts
from gimle.gateway.allowances import Allowances
from gimle.gateway.budgeting import BudgetBook, NewBudget
from gimle.gateway.budgets import Budgets, Payer
from gimle.gateway.dues import AttemptDues, Dues
from gimle.gateway.lane_limits import LaneLimits
from gimle.gateway.limits import Limits
from gimle.gateway.spending import Claim

CENT = 10_000_000
ONE = Claim(CENT, CENT, CENT)
TARGET = ("p", "m")


@pytest.fixture
async def budgets(db: Database, tmp_path: Path, tenants: tuple[str, str]) -> AsyncIterator[Budgets]:
    await BudgetBook(db).create(tenants[0], NewBudget(limit=Decimal("0.02")))
    opened = Budgets(db, tmp_path / "budgets", Alerts(None))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def dues(budgets: Budgets) -> Dues:
    limits = Limits(Allowances(None, LimitSettings(requests_minute=3, tokens_minute=1000)), Tally(None))
    settings = AdmissionSettings(at_once=1, waiting=2, ageing_seconds=10.0)
    return Dues(budgets, limits, LaneLimits(limits), Admission(settings))


def turn(seconds: float = 10.0) -> tuple[int, int, float]:
    return 1, 100, asyncio.get_running_loop().time() + seconds


async def asked(
    dues: Dues, payer: Payer, claim: Claim | None, when: tuple[int, int, float], lane: str = "lane"
) -> AttemptDues:
    return await dues.attempt(payer.tenant, dues.budgets.of(payer, *TARGET), claim, lane, when)


async def test_a_call_takes_its_dues_and_gives_them_back(
    dues: Dues, budgets: Budgets, tenants: tuple[str, str]
) -> None:
    payer = Payer(tenants[0], "key_1")
    call = await dues.begin(payer, *TARGET, 400)
    assert call.room is not None
    assert (call.room.limit, call.room.remaining) == (1000, 600)
    attempt = await asked(dues, payer, Claim(CENT, CENT, 5 * CENT), turn())
    assert attempt.bound == 2 * CENT
    attempt.end(CENT, 120)
    attempt.end(CENT, 120)
    call.end(120)
    assert call.room.remaining >= 879 or call.room.limit == 3
    (account,) = budgets.of(payer)
    assert account.settled() == CENT
    await dues.begin(payer, *TARGET, 1)
    await dues.begin(payer, *TARGET, 1)
    with pytest.raises(RateLimitedError, match="3 requests a minute"):
        await dues.begin(payer, *TARGET, 1)
    call.end(None, sent=False)


@pytest.mark.parametrize("ending", ["refused", "cancelled"])
async def test_who_does_not_get_his_turn_pays_nothing(
    dues: Dues, budgets: Budgets, tenants: tuple[str, str], ending: str
) -> None:
    payer = Payer(tenants[0])
    first = await asked(dues, payer, ONE, turn())
    (account,) = budgets.of(payer)
    if ending == "cancelled":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await asked(dues, payer, ONE, turn())
    else:
        with pytest.raises(Overloaded):
            await asked(dues, payer, ONE, turn(0.02))
    assert account.slice is not None
    assert account.slice.used == CENT
    first.end(0, 0)
    assert account.slice.used == 0
    (await asked(dues, payer, ONE, turn())).end(None, None)
    assert account.settled() == CENT


async def test_a_call_whose_price_nobody_knows_pays_from_no_budget(dues: Dues, tenants: tuple[str, str]) -> None:
    payer = Payer(tenants[0])
    for _ in range(5):
        attempt = await asked(dues, payer, None, turn())
        assert attempt.bound is None
        attempt.end(None, None)
    for _ in range(2):
        (await asked(dues, payer, ONE, turn())).end(CENT, 1)
    with pytest.raises(BudgetExceeded):
        await asked(dues, payer, ONE, turn())
    (await asked(dues, Payer(tenants[1]), ONE, turn())).end(CENT, 1)


async def test_a_lane_that_was_refused_makes_its_calls_wait(dues: Dues, tenants: tuple[str, str]) -> None:
    dues.lanes.refused("lane", 30.0)
    with pytest.raises(Overloaded):
        await asked(dues, Payer(tenants[1]), None, turn(0.05))
    dues.lanes.heard("other", {"x-ratelimit-limit-requests": "9"})
    (await asked(dues, Payer(tenants[1]), None, turn(0.05), lane="other")).end(0, 0)
    assert dues.downgrade(Payer(tenants[0]), TARGET) is None


def test_a_claim_follows_from_the_price_and_an_amount_limits_the_answer() -> None:
    def bound(read: int, written: int) -> int:
        return read * 3 + written * 10

    assert spending.claim(bound, 100, 300, 50, 200) == Claim(900 + 160, 300 + 500, 900 + 2000)
    assert spending.claim(bound, 100, 100, 500, 8) == Claim(380, 380, 380)
    assert spending.affordable(bound, 100, 300 + 2000, 200) == 200
    assert spending.affordable(bound, 100, 300 + 777, 200) == 77
    assert spending.affordable(bound, 100, 300, 200) == 0
    assert spending.affordable(bound, 100, 299, 200) == -1
