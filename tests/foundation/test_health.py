"""What a failed component means for the whole, and what is told of it."""

import asyncio

import pytest

from gimle.foundation.errors import Unavailable
from gimle.foundation.health import Health


async def good() -> str:
    return "all is well"


async def broken() -> str:
    raise Unavailable("The disk is full.", hint="Make room.")


async def crashing() -> str:
    raise KeyError("postgres://user:secret@host")


async def hanging() -> str:
    await asyncio.Event().wait()
    return "never"


async def test_all_well_is_healthy() -> None:
    health = Health()
    health.register("a", good, required=True)
    report = await health.report()
    assert (report.status, report.ready) == ("healthy", True)
    assert report.components[0].detail == "all is well"
    assert report.components[0].latency_ms >= 0


@pytest.mark.parametrize("required, status, ready", [(True, "unhealthy", False), (False, "degraded", True)])
async def test_what_is_required_decides(required: bool, status: str, ready: bool) -> None:
    health = Health()
    health.register("a", good, required=True)
    health.register("b", broken, required=required)
    report = await health.report()
    assert (report.status, report.ready) == (status, ready)
    assert report.components[1].last_error == "The disk is full. Make room."


async def test_the_words_of_a_foreign_error_stay_inside() -> None:
    health = Health()
    health.register("a", crashing, required=True)
    assert (await health.report()).components[0].last_error == "KeyError"


async def test_a_check_that_hangs_counts_as_failed() -> None:
    health = Health()
    health.register("a", hanging, required=True, timeout_seconds=0.05)
    assert (await health.report()).components[0].last_error == "No answer within 0.05 s."


async def test_callers_at_once_share_a_round_and_a_later_one_asks_again() -> None:
    now, asked = 0.0, 0

    async def counted() -> str:
        nonlocal asked
        asked += 1
        return str(asked)

    health = Health(clock=lambda: now)
    health.register("a", counted, required=True)
    await asyncio.gather(*(health.report() for _ in range(50)))
    assert asked == 1
    now = 5.0
    assert (await health.report()).uptime_seconds == 5.0
    assert asked == 2


async def test_the_last_error_stays_after_the_component_came_back() -> None:
    now, well = 0.0, False

    async def moody() -> str:
        return await (good() if well else broken())

    health = Health(clock=lambda: now)
    health.register("a", moody, required=True)
    assert not (await health.report()).ready
    now, well = 10.0, True
    report = await health.report()
    assert report.ready
    assert report.components[0].last_error == "The disk is full. Make room."
