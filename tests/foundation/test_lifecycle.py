import asyncio

import pytest

from gimle.foundation.errors import DatabaseUnavailable
from gimle.foundation.lifecycle import Tasks, every


async def test_work_that_fails_is_done_again_at_its_next_time() -> None:
    done = asyncio.Event()
    times = 0

    async def work() -> None:
        nonlocal times
        times += 1
        if times < 3:
            raise DatabaseUnavailable
        done.set()

    tasks = Tasks()
    tasks.start(every(0.001, work, "work_failed"), "work")
    async with asyncio.timeout(10):
        await done.wait()
    await tasks.close()


async def test_a_fault_that_nobody_has_foreseen_ends_the_work() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await every(0.001, work, "work_failed")
