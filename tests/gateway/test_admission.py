"""A lane to a provider: so many at once, the others in turn, and none without an end in sight."""

import asyncio

import pytest

from gimle.foundation.config import AdmissionSettings, LimitSettings
from gimle.foundation.errors import Overloaded
from gimle.foundation.tally import Tally
from gimle.gateway.admission import Admission, Lane, Pass
from gimle.gateway.allowances import Allowances
from gimle.gateway.lane_limits import LaneLimits
from gimle.gateway.limits import Limits, Taken, Wait


@pytest.fixture
def limits() -> Limits:
    return Limits(Allowances(None, LimitSettings(requests_minute=0)), Tally(None))


def lane_of(limits: Limits, at_once: int = 1, waiting: int = 1000) -> Lane:
    settings = AdmissionSettings(at_once=at_once, waiting=waiting, ageing_seconds=10.0)

    def open_gate(tokens: int) -> Taken | Wait:
        return limits.take_exactly((), tokens)

    return Admission(settings).lane("lane", open_gate)


def soon(seconds: float = 10.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_one_who_leaves_wakes_one(limits: Limits) -> None:
    lane = lane_of(limits)
    first = lane.enter(0)
    assert first is not None
    assert lane.enter(0) is None
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(lane.wait("t", 1, 0, soon())) for _ in range(3)]
        await asyncio.sleep(0)
        assert lane.waiting == 3
        passed: Pass = first
        for number in range(3):
            passed.leave()
            # A second time changes nothing.
            passed.leave()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert [task.done() for task in waiting] == [n <= number for n in range(3)]
            passed = waiting[number].result()
        passed.leave()
    assert (lane.active, lane.waiting) == (0, 0)


async def test_a_thousand_wait_and_every_tenant_is_served_in_the_first_round(limits: Limits) -> None:
    lane = lane_of(limits)
    holder = lane.enter(0)
    assert holder is not None
    order: list[str] = []

    async def call(tenant: str) -> None:
        passed = await lane.wait(tenant, 1, 0, soon(60))
        order.append(tenant)
        passed.leave()

    async with asyncio.TaskGroup() as group:
        for _ in range(900):
            group.create_task(call("greedy"))
        for number in range(100):
            group.create_task(call(f"tenant {number % 9}"))
        await asyncio.sleep(0.05)
        assert lane.waiting == 1000
        holder.leave()
    assert len(order) == 1000
    assert len(set(order[:10])) == 10


async def test_a_full_queue_and_a_hopeless_wait_are_refused_at_once(limits: Limits) -> None:
    lane = lane_of(limits, waiting=1)
    first = lane.enter(0)
    assert first is not None
    async with asyncio.TaskGroup() as group:
        one = group.create_task(lane.wait("t", 1, 0, soon()))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="Too many") as full:
            await lane.wait("t", 1, 0, soon())
        assert full.value.status == 429
        assert full.value.after >= 1.0
        await asyncio.sleep(0.1)
        first.leave()
        passed = await one
    # A call took a tenth of a second: what must wait for one can't be done in a hundredth.
    with pytest.raises(Overloaded, match="longer than its deadline"):
        await lane.wait("t", 1, 0, soon(0.01))
    passed.leave()
    assert (lane.active, lane.waiting) == (0, 0)


async def test_a_deadline_that_comes_first_ends_the_wait(limits: Limits) -> None:
    lane = lane_of(limits)
    first = lane.enter(0)
    with pytest.raises(Overloaded, match="before its turn"):
        await lane.wait("t", 1, 0, soon(0.05))
    assert lane.waiting == 0
    assert first is not None
    first.leave()
    assert lane.enter(0) is not None


async def test_who_is_cancelled_waits_no_more_and_leaves_his_turn_to_the_next(limits: Limits) -> None:
    lane = lane_of(limits)
    first = lane.enter(0)
    assert first is not None
    async with asyncio.TaskGroup() as group:
        gone = group.create_task(lane.wait("t", 1, 0, soon()))
        leaving = group.create_task(lane.wait("t", 1, 0, soon()))
        last = group.create_task(lane.wait("t", 1, 0, soon()))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        assert lane.waiting == 2
        # His turn and his end come in the same moment.
        first.leave()
        leaving.cancel()
        passed = await last
    passed.leave()
    assert (lane.active, lane.waiting) == (0, 0)


async def test_those_who_leave_together_block_nobody(limits: Limits) -> None:
    lane = lane_of(limits)

    async def call() -> None:
        passed = lane.enter(0) or await lane.wait("t", 1, 0, soon())
        try:
            await asyncio.sleep(10)
        finally:
            passed.leave()

    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(call()) for _ in range(3)]
        await asyncio.sleep(0)
        assert (lane.active, lane.waiting) == (1, 2)
        for each in calls:
            each.cancel()
    assert (lane.active, lane.waiting) == (0, 0)


async def test_a_provider_s_limit_lets_calls_through_at_its_pace(limits: Limits) -> None:
    lanes = LaneLimits(limits)
    lanes.heard("lane", {
        "x-ratelimit-limit-requests": "2", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "0.2s",
    })  # fmt: skip
    settings = AdmissionSettings(at_once=10, waiting=10, ageing_seconds=10.0)
    lane = Admission(settings).lane("lane", lambda tokens: limits.take_exactly(lanes.of("lane"), tokens))
    assert lane.enter(0) is None
    began = asyncio.get_running_loop().time()
    passed = await lane.wait("t", 1, 0, soon(30))
    assert asyncio.get_running_loop().time() - began >= 0.05
    passed.leave()


async def test_headers_tell_what_is_left() -> None:
    limits = Limits(Allowances(None, LimitSettings(requests_minute=10, tokens_minute=1000)), Tally(None))
    assert isinstance(limits.take(limits.of("t", "k"), 500), Taken)
    room = limits.room(limits.of("t", "k"))
    assert room is not None
    told = dict(room.headers())
    assert told == {"ratelimit-limit": "1000", "ratelimit-remaining": "500", "ratelimit-reset": "30"}
