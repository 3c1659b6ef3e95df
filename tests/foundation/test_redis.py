"""The door to Redis, against a stand-in that speaks its protocol; and answers that nodes share through it."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from gimle.foundation.config import CacheSettings
from gimle.foundation.errors import Unavailable
from gimle.foundation.redis import Redis
from gimle.gateway.cache import Cache, Kept, Lead
from gimle.gateway.cache_keys import ALL
from gimle.gateway.neutral import Usage


class StandIn:
    """As much of Redis as is needed: AUTH, SELECT, PING, GET and SET with PX. `delay` makes it slow."""

    def __init__(self) -> None:
        self.values: dict[bytes, tuple[bytes, float]] = {}
        self.commands: list[list[bytes]] = []
        self.delay = 0.0
        self.guests = 0
        self.port = 0
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.guests += 1
        try:
            while line := await reader.readline():
                command = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    command.append((await reader.readexactly(size + 2))[:-2])
                self.commands.append(command)
                await asyncio.sleep(self.delay)
                if self._server is None or not self._server.is_serving():
                    break
                writer.write(self._answer(command))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.guests -= 1
            writer.close()

    def _answer(self, command: list[bytes]) -> bytes:
        match command:
            case [b"AUTH", b"ann", b"secret word"] | [b"SELECT", b"3"]:
                return b"+OK\r\n"
            case [b"PING"]:
                return b"+PONG\r\n"
            case [b"SET", key, value, b"PX", milliseconds]:
                self.values[key] = value, time.monotonic() + int(milliseconds) / 1000
                return b"+OK\r\n"
            case [b"GET", key]:
                value, until = self.values.get(key, (b"", 0.0))
                return b"$%d\r\n%b\r\n" % (len(value), value) if until > time.monotonic() else b"$-1\r\n"
        return b"-ERR unknown command\r\n"


@pytest.fixture
async def stand_in() -> AsyncIterator[StandIn]:
    standing = StandIn()
    await standing.open()
    yield standing
    await standing.close()


@pytest.fixture
async def redis(stand_in: StandIn) -> AsyncIterator[Redis]:
    opened = Redis(f"redis://ann:secret%20word@127.0.0.1:{stand_in.port}/3")
    yield opened
    await opened.close()


def is_down(redis: Redis) -> bool:
    return redis.is_down


async def test_it_says_who_it_is_and_keeps_calls_in_their_order(redis: Redis, stand_in: StandIn) -> None:
    assert await redis.call("PING", seconds=5.0) == b"PONG"
    assert stand_in.commands[:2] == [[b"AUTH", b"ann", b"secret word"], [b"SELECT", b"3"]]
    await asyncio.gather(*(redis.call("SET", f"k{n}", b"\r\n%d" % n, "PX", 60_000, seconds=5.0) for n in range(100)))
    found = await asyncio.gather(*(redis.call("GET", f"k{n}", seconds=5.0) for n in range(100)))
    assert found == [b"\r\n%d" % n for n in range(100)]


async def test_a_connection_over_which_it_was_refused_is_closed(stand_in: StandIn) -> None:
    refused = Redis(f"redis://ann:wrong@127.0.0.1:{stand_in.port}/3")
    with pytest.raises(Unavailable, match="can't be reached"):
        await refused.call("PING", seconds=5.0)
    assert stand_in.commands == [[b"AUTH", b"ann", b"wrong"]]
    async with asyncio.timeout(5):
        while stand_in.guests:
            await asyncio.sleep(0.01)
    await refused.close()


async def test_after_a_failure_it_is_left_alone_for_a_while_and_then_serves_again(
    redis: Redis, stand_in: StandIn
) -> None:
    await redis.call("PING", seconds=5.0)
    stand_in.delay = 0.1
    with pytest.raises(Unavailable, match="within 5 ms"):
        await redis.call("GET", "k")
    assert is_down(redis)
    for _ in range(100):
        with pytest.raises(Unavailable, match="a moment ago"):
            await redis.call("GET", "k")
    stand_in.delay = 0.0
    async with asyncio.timeout(10):
        while is_down(redis):
            await asyncio.sleep(0.05)
    # The late answer to the call that was given up is not taken for this one's.
    assert await redis.call("PING", seconds=5.0) == b"PONG"


async def test_nodes_share_answers_and_a_slow_redis_costs_no_call(redis: Redis, stand_in: StandIn) -> None:
    await redis.call("PING", seconds=5.0)
    one, other = (Cache(CacheSettings(), None, redis) for _ in range(2))
    leading = await one.enter(b"k", ALL, 1.0)
    assert isinstance(leading, Lead)
    leading.keep(Kept((b"data: 1\n\n", b"data: 2\n\n"), "p", "m", Usage(output=2), cost=5), 60.0)
    async with asyncio.timeout(10):
        while not stand_in.values:
            await asyncio.sleep(0.01)
    found = await other.enter(b"k", ALL, 1.0)
    assert isinstance(found, Kept)
    assert (found.pieces, found.usage, found.cost) == ((b"data: 1\n\n", b"data: 2\n\n"), Usage(output=2), 5)
    stand_in.delay = 30.0
    async with asyncio.timeout(10):
        assert isinstance(await other.enter(b"another", ALL, 1.0), Lead)
    for cache in (one, other):
        await cache.close()
