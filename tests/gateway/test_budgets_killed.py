"""A budget that admits 50 calls, spent by two processes of which one is killed: not overspent, and the rest usable."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from gimle.foundation.db import Database
from gimle.gateway.budgeting import BudgetBook, NewBudget

CENT = 10_000_000


class Spender:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.sent = 0

    async def spend(self, count: int, seconds: float, pay: str = "cost") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"spend {count} {CENT} {seconds} {pay}\n".encode())
        await self.process.stdin.drain()

    async def done(self) -> int:
        """How many were admitted; what was sent is counted until the process ends."""
        while line := await self.line():
            if line[0] == "done":
                return int(line[1])
        return -1

    async def line(self) -> list[str]:
        assert self.process.stdout is not None
        told = (await self.process.stdout.readline()).decode().split()
        self.sent += told == ["sent"]
        return told

    async def sent_at_least(self, count: int) -> None:
        while self.sent < count:
            assert await self.line()

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        while await self.line():
            pass
        await self.process.wait()


@asynccontextmanager
async def spender(url: str, folder: Path, tenant: str) -> AsyncIterator[Spender]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.gateway.spender", url, str(folder), tenant,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    running = Spender(process)
    while (told := await running.line()) != ["ready"]:
        assert told, "it did not start"
    try:
        yield running
    finally:
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.write(b"quit\n")
            await asyncio.wait_for(process.wait(), 20)


@pytest.fixture
async def budget(db: Database, tenants: tuple[str, str]) -> str:
    return (await BudgetBook(db).create(tenants[0], NewBudget(limit=Decimal("0.50")))).id


@pytest.mark.parametrize("pay", ["cost", "lost"])
async def test_two_processes_admit_exactly_what_the_budget_does(
    db: Database, database_url: str, tenants: tuple[str, str], budget: str, tmp_path: Path, pay: str
) -> None:
    async with (
        spender(database_url, tmp_path, tenants[0]) as one,
        spender(database_url, tmp_path, tenants[0]) as other,
    ):
        await one.spend(100, 0.05, pay)
        await other.spend(100, 0.05, pay)
        assert await one.done() + await other.done() == 50
    now = await BudgetBook(db).get(tenants[0], budget)
    assert (now.spent, now.held) == ("0.50", "0.00")


async def test_what_cancelled_calls_reserved_is_usable_again(
    db: Database, database_url: str, tenants: tuple[str, str], budget: str, tmp_path: Path
) -> None:
    async with (
        spender(database_url, tmp_path, tenants[0]) as one,
        spender(database_url, tmp_path, tenants[0]) as other,
    ):
        await one.spend(40, 0.05, "nothing")
        assert await one.done() == 40
        await other.spend(100, 0.05)
        assert await other.done() == 50
    now = await BudgetBook(db).get(tenants[0], budget)
    assert (now.spent, now.held) == ("0.50", "0.00")


async def test_a_killed_process_takes_no_more_of_the_budget_than_its_calls_in_flight(
    db: Database, database_url: str, tenants: tuple[str, str], budget: str, tmp_path: Path
) -> None:
    async with spender(database_url, tmp_path, tenants[0]) as other:
        async with spender(database_url, tmp_path, tenants[0]) as one:
            await one.spend(10, 0.0)
            assert await one.done() == 10
            # In flight when the process dies: nobody will ever know what they cost.
            await one.spend(7, 60.0)
            await one.sent_at_least(17)
            await other.spend(5, 0.01)
            assert await other.done() == 5
            await one.kill()
        deadline = asyncio.get_running_loop().time() + 15
        while (await BudgetBook(db).get(tenants[0], budget)).spent != "0.22":
            assert asyncio.get_running_loop().time() < deadline, "the dead process's lease was not swept"
            await asyncio.sleep(0.2)
        await other.spend(100, 0.0)
        assert await other.done() == 50 - 22
    now = await BudgetBook(db).get(tenants[0], budget)
    assert (now.spent, now.held, now.unknown) == ("0.50", "0.00", "0.00")


async def test_a_kill_in_the_middle_of_200_parallel_calls_overspends_nothing(
    db: Database, database_url: str, tenants: tuple[str, str], budget: str, tmp_path: Path
) -> None:
    async with spender(database_url, tmp_path, tenants[0]) as other:
        async with spender(database_url, tmp_path, tenants[0]) as one:
            await one.spend(20, 0.3)
            await one.sent_at_least(3)
            await other.spend(180, 0.1)
            await other.sent_at_least(3)
            await one.kill()
        await other.done()
        assert one.sent + other.sent <= 50
    # Whoever comes next sweeps what the dead has left, and finds the rest usable.
    async with spender(database_url, tmp_path, tenants[0]) as next_:
        await next_.spend(100, 0.0)
        await next_.done()
        assert one.sent + other.sent + next_.sent == 50
    now = await BudgetBook(db).get(tenants[0], budget)
    assert (now.spent, now.held) == ("0.50", "0.00")
