"""Rate limits of tenants, keys and models; lanes that learn; processes and nodes that share."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.conftest import RedisServer

from gimle.foundation.config import LimitSettings
from gimle.foundation.db import Database
from gimle.foundation.errors import AllowanceNotFound, ConfigError, InvalidRequest, RateLimitedError, Unavailable
from gimle.foundation.redis import Redis
from gimle.foundation.tally import Tally, key
from gimle.gateway.allowances import Allowances, NewAllowance
from gimle.gateway.lane_limits import LaneLimits
from gimle.gateway.learned import learned, seconds
from gimle.gateway.limits import Limits, Taken, Wait

HUNDRED = LimitSettings(requests_minute=100)


def limits_of(settings: LimitSettings = HUNDRED, path: Path | None = None, redis: Redis | None = None) -> Limits:
    return Limits(Allowances(None, settings), Tally(path), redis)


def taken(limits: Limits, tenant: str = "t", tokens: int = 0) -> Taken | Wait:
    found = limits.take(limits.of(tenant, "k"), tokens)
    assert found is not None
    return found


def test_a_tenant_has_a_hundred_requests_a_minute_and_the_next_is_told_when() -> None:
    limits = limits_of()
    admitted = [taken(limits)]
    room = limits.room(limits.of("t", "k"))
    assert room is not None
    assert (room.limit, room.remaining) == (100, 99)
    admitted += [taken(limits) for _ in range(99)]
    assert all(isinstance(each, Taken) for each in admitted)
    first = admitted[0]
    assert isinstance(first, Taken)
    late = taken(limits)
    assert isinstance(late, Wait)
    assert 0 < late.seconds <= 0.6
    error = late.error()
    assert isinstance(error, RateLimitedError)
    assert error.message == "The limit of your tenant is reached: 100 requests a minute."
    assert isinstance(taken(limits, "another"), Taken)
    first.undo()
    assert isinstance(taken(limits), Taken)


def test_tokens_are_reserved_settled_and_given_back() -> None:
    limits = limits_of(LimitSettings(requests_minute=0, tokens_minute=1000))
    first, second = taken(limits, tokens=400), taken(limits, tokens=600)
    assert isinstance(first, Taken)
    assert isinstance(second, Taken)
    assert isinstance(taken(limits, tokens=100), Wait)
    first.settle(100)
    assert isinstance(taken(limits, tokens=300), Taken)
    # A second settling is none; what was used above the reservation is owed.
    first.settle(0)
    second.settle(700)
    waiting = taken(limits, tokens=100)
    assert isinstance(waiting, Wait)
    assert 11 < waiting.seconds <= 12


def test_what_is_owed_has_an_end() -> None:
    """A provider that tells of too many tokens shuts nobody out for days."""
    limits = limits_of(LimitSettings(requests_minute=0, tokens_minute=1000))
    # More than an hour's worth may be reserved, and comes back.
    first = taken(limits, tokens=100_000)
    assert isinstance(first, Taken)
    first.settle(900)
    second = taken(limits, tokens=80)
    assert isinstance(second, Taken)
    second.settle(80 + 2**64)
    # What is owed is taken with the next call.
    taken(limits, tokens=1)
    room = limits.room(limits.of("t", "k"))
    assert room is not None
    assert 3500 < room.reset <= 3661


def test_a_call_takes_from_all_its_limits_or_from_none() -> None:
    limits = limits_of(LimitSettings(requests_minute=10, tokens_minute=100))
    assert isinstance(taken(limits, tokens=100), Taken)
    for _ in range(20):
        refused = taken(limits, tokens=50)
        assert isinstance(refused, Wait)
        assert refused.limit.unit == "tokens"
    assert [isinstance(taken(limits), Taken) for _ in range(10)] == [True] * 9 + [False]


async def test_allowances_change_the_limits_everywhere(db: Database, tenants: tuple[str, str]) -> None:
    allowances = Allowances(db, LimitSettings(requests_minute=2))
    await allowances.open()
    limits = Limits(allowances, Tally(None))
    who = tenants[0], "key_1", "p", "m"
    assert [limit.rate.burst for limit in limits.of(*who)] == [2]
    kept = await allowances.put(tenants[0], NewAllowance(requests_minute=5, cache_seconds=0))
    await allowances.put(tenants[0], NewAllowance(scope="key", subject="key_1", tokens_minute=7, cache_seconds=60))
    await allowances.put(tenants[0], NewAllowance(scope="model", subject="p/m", requests_minute=3))
    async with asyncio.timeout(10):
        while [limit.rate.burst for limit in limits.of(*who)] != [5, 7, 3]:
            await asyncio.sleep(0.02)
    assert [limit.of for limit in limits.of(*who)] == ["tenant", "key", "model"]
    assert allowances.cache_seconds(tenants[0], "key_1") == 60
    assert allowances.cache_seconds(tenants[0], "key_2") == 0
    assert allowances.cache_seconds(tenants[1], "key_2") is None
    assert [each.id for each in await allowances.list(tenants[0], limit=1)] == [kept.id]
    assert await allowances.list(tenants[1]) == []
    with pytest.raises(AllowanceNotFound):
        await allowances.delete(tenants[1], kept.id)
    await allowances.delete(tenants[0], kept.id)
    async with asyncio.timeout(10):
        while allowances.requests_minute(tenants[0]) != 2:
            await asyncio.sleep(0.02)
    for wrong in (
        NewAllowance(scope="key"),
        NewAllowance(subject="x"),
        NewAllowance(scope="key", subject="k", storage_bytes=1),
    ):
        with pytest.raises(InvalidRequest):
            await allowances.put(tenants[0], wrong)
    await allowances.close()


# -- several processes of a node


_TAKER = """
import sys
from pathlib import Path
from tests.gateway.test_limits import limits_of, taken, Taken
limits = limits_of(path=Path(sys.argv[1]))
print(sum(isinstance(taken(limits), Taken) for _ in range(200)))
"""


def test_the_processes_of_a_node_share_a_limit(tmp_path: Path) -> None:
    takers = [
        subprocess.Popen([sys.executable, "-c", _TAKER, str(tmp_path / "tally")], stdout=subprocess.PIPE, text=True,
                         env={"PYTHONPATH": ":".join(sys.path)})
        for _ in range(2)
    ]  # fmt: skip
    began = time.monotonic()
    admitted = sum(int(taker.communicate()[0]) for taker in takers)
    assert 100 <= admitted <= 100 + (time.monotonic() - began) / 0.6 + 1


def test_a_tally_keeps_numbers_under_names_and_makes_room_by_age(tmp_path: Path) -> None:
    tally = Tally(tmp_path / "tally")
    assert tally.get(key("a")) == 0
    assert tally.lock()
    tally.set(key("a"), 7)
    tally.unlock()
    again = Tally(tmp_path / "tally")
    assert again.get(key("a")) == 7
    # Seventeen names that want the same sixteen places: the oldest number goes.
    names = [key("a") + n * 65536 * 2 for n in range(1, 18)]
    for number, name in enumerate(names):
        again.set(name, 100 + number)
    assert [name for name in names if again.get(name) == 0] == names[:1]
    assert again.get(key("a")) == 0
    tally.close()
    again.close()


# -- lanes


def test_a_lane_learns_its_limits_from_openai_s_headers() -> None:
    headers = {
        "x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "58", "x-ratelimit-reset-requests": "2s",
        "x-ratelimit-limit-tokens": "150000", "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6ms",
    }  # fmt: skip
    requests, tokens = learned(headers)
    assert (requests.unit, requests.rate.burst, requests.rate.interval, requests.full_in) == (
        "requests", 60, 1_000_000_000, 2.0,
    )  # fmt: skip
    assert (tokens.unit, tokens.rate.burst, tokens.full_in) == ("tokens", 150000, 0.006)
    lanes = LaneLimits(limits_of())
    assert lanes.of("lane") == ()
    lanes.heard("lane", headers)
    assert [limit.rate.burst for limit in lanes.of("lane")] == [60, 150000]


def test_a_lane_learns_a_limit_by_the_day() -> None:
    """Groq counts requests by the day: 14 400 a day are one in six seconds."""
    headers = {
        "x-ratelimit-limit-requests": "14400", "x-ratelimit-remaining-requests": "14370",
        "x-ratelimit-reset-requests": "2m59.56s",
    }  # fmt: skip
    (told,) = learned(headers)
    assert round(told.rate.interval / 1e9) == 6


def test_a_lane_learns_its_limits_from_anthropic_s_headers() -> None:
    now = datetime(2026, 11, 21, 8, 0, 0, tzinfo=UTC)
    headers = {
        "anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "40",
        "anthropic-ratelimit-requests-reset": "2026-11-21T08:00:12Z",
    }  # fmt: skip
    (told,) = learned(headers, now)
    assert (told.rate.burst, told.rate.interval, told.full_in) == (50, 1_200_000_000, 12.0)


@pytest.mark.parametrize("limit,left,reset", [("x", "1", "1s"), ("5", "", "1s"), ("5", "1", "soon"), ("0", "0", "1s")])
def test_headers_that_make_no_sense_tell_nothing(limit: str, left: str, reset: str) -> None:
    names = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
    assert learned(dict(zip(names, (limit, left, reset), strict=True))) == []


def test_spans_of_time_are_read_as_vendors_write_them() -> None:
    told = [seconds(text) for text in ("6m0s", "20ms", "1h2m3s", "12", "12.5", "1d", "", "x", "2026-11-21T08:00:00")]
    assert told == [360.0, 0.02, 3723.0, 12.0, 12.5, 86400.0, None, None, None]


def test_a_lane_whose_provider_tells_of_little_left_lets_no_more_pass() -> None:
    limits = limits_of()
    lanes = LaneLimits(limits)
    lanes.heard("lane", {
        "x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "59s",
    })  # fmt: skip
    first, second = (limits.take(lanes.of("lane"), 0) for _ in range(2))
    assert isinstance(first, Taken)
    assert isinstance(second, Wait)
    assert second.limit.of == "provider"


def test_a_lane_that_was_refused_is_closed_for_as_long_as_the_provider_says() -> None:
    limits = limits_of()
    lanes = LaneLimits(limits)
    lanes.refused("lane", 20.0)
    waiting = limits.take(lanes.of("lane"), 0)
    assert isinstance(waiting, Wait)
    assert 19 < waiting.seconds <= 20


# -- Redis


@asynccontextmanager
async def standing(answer: bytes | None) -> AsyncIterator[str]:
    """Something that listens where a Redis should be: it gives this answer to everything, or none at all."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65536):
                if answer is not None:
                    writer.write(answer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def connected(redis: Redis) -> None:
    """The first call may be cut off by its time while the connection is made."""
    async with asyncio.timeout(10):
        while True:
            try:
                await redis.call("PING", seconds=1.0)
                return
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_a_silent_redis_costs_five_milliseconds_once_a_second_and_no_call() -> None:
    async with standing(None) as url:
        redis = Redis(url)
        limits = limits_of(redis=redis)
        waits = []
        for _ in range(60):
            began = time.perf_counter()
            found = limits.take(limits.of("t", "k"), 0)
            if found is None:
                found = await limits.fetch(limits.of("t", "k"), 0)
            waits.append(time.perf_counter() - began)
            assert isinstance(found, Taken)
        assert sum(waits) < 0.1
        assert sorted(waits)[-2] < 0.005
        await redis.close()


async def test_a_dead_redis_costs_no_call_and_the_node_s_limit_holds() -> None:
    redis = Redis("redis://127.0.0.1:1")
    limits = limits_of(redis=redis)
    admitted = 0
    for _ in range(130):
        found = limits.take(limits.of("t", "k"), 0)
        if found is None:
            found = await limits.fetch(limits.of("t", "k"), 0)
        admitted += isinstance(found, Taken)
    assert 100 <= admitted <= 102
    await redis.close()


@pytest.mark.parametrize(
    "answer,value",
    [(b"+OK\r\n", b"OK"), (b":-7\r\n", -7), (b"$3\r\na\r\n\r\n", b"a\r\n"), (b"$-1\r\n", None), (b"*-1\r\n", None),
     (b"*3\r\n:1\r\n$1\r\nx\r\n*1\r\n+y\r\n", [1, b"x", [b"y"]])],
)  # fmt: skip
async def test_the_answers_of_redis_are_read(answer: bytes, value: object) -> None:
    async with standing(answer) as url:
        redis = Redis(url)
        await connected(redis)
        assert await redis.call("GET", "x", seconds=1.0) == value
        await redis.close()


async def test_what_redis_refuses_and_what_is_no_redis_is_told() -> None:
    async with standing(b"-ERR no\r\n") as url:
        redis = Redis(url)
        with pytest.raises(Unavailable, match="refused: ERR no"):
            await redis.call("EVAL", seconds=1.0)
        await redis.close()
    async with standing(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        redis = Redis(url)
        with pytest.raises(Unavailable):
            await redis.call("PING", seconds=1.0)
        await redis.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1", "redis://", "127.0.0.1:6379"])
def test_an_address_that_is_no_redis_s_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Redis(url)
    assert refused.value.field == "shared.redis_url"


async def taken_or_fetched(limits: Limits) -> Taken | Wait:
    found = limits.take(limits.of("t", "k"), 0)
    return await limits.fetch(limits.of("t", "k"), 0) if found is None else found


async def test_two_nodes_share_a_limit_through_a_real_redis(redis_server: RedisServer) -> None:
    # It is the sharing that is tried, and not how fast this machine is.
    nodes = [(redis := Redis(redis_server.url, patience=10.0), limits_of(redis=redis)) for _ in range(2)]
    for redis, _ in nodes:
        await connected(redis)
    admitted = [isinstance(await taken_or_fetched(limits), Taken) for _ in range(100) for _, limits in nodes]
    # A hundred, and what the pace has brought meanwhile; each node may have two in hand.
    assert 96 <= sum(admitted) <= 104
    for redis, _ in nodes:
        await redis.close()


async def test_a_node_knows_how_much_redis_has_left(redis_server: RedisServer) -> None:
    """For the headers, and for when Redis goes away: then nobody has a whole limit once more."""
    redis = Redis(redis_server.url, patience=10.0)
    await connected(redis)
    limits = limits_of(LimitSettings(requests_minute=0, tokens_minute=1000), redis=redis)
    mine = limits.of("t", "k")
    calls = [await limits.fetch(mine, 300) for _ in range(3)]
    room = limits.room(mine)
    assert room is not None
    assert 100 <= room.remaining <= 150
    for each in calls:
        assert isinstance(each, Taken)
        each.settle(100)
    # What is not needed goes back with the next call.
    assert isinstance(await limits.fetch(mine, 100), Taken)
    room = limits.room(mine)
    assert room is not None
    assert 600 <= room.remaining <= 650
    redis_server.kill()
    await redis.close()
    assert isinstance(await limits.fetch(mine, 700), Wait)


async def test_a_redis_that_is_killed_and_comes_back_costs_no_call(redis_server: RedisServer) -> None:
    redis = Redis(redis_server.url)
    await connected(redis)
    limits = limits_of(LimitSettings(requests_minute=10_000), redis=redis)
    assert isinstance(await taken_or_fetched(limits), Taken)
    redis_server.kill()
    assert all([isinstance(await taken_or_fetched(limits), Taken) for _ in range(1000)])
    redis_server.begin()
    await connected(redis)
    assert not redis.is_down
    assert isinstance(await taken_or_fetched(limits), Taken)
    await redis.close()
