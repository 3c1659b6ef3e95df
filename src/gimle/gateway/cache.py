"""Answers that are kept for calls that are the same: found in memory, or in Redis where nodes share one.

Of many such calls at once one goes to the provider, and the others wait for its answer. Whole answers only: a stream is
kept when it has come to its end, and played again event by event. Memory is bounded by bytes, the least used go first.
"""

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Literal

import msgspec

from gimle.foundation import logs
from gimle.foundation.config import CacheSettings
from gimle.foundation.db import Database, queries, scalar
from gimle.foundation.errors import Unavailable
from gimle.foundation.lifecycle import Tasks
from gimle.foundation.redis import Redis
from gimle.gateway import limit_metrics
from gimle.gateway.cache_keys import Control, digest
from gimle.gateway.neutral import Usage

SQL = queries("gimle.gateway", "limits.sql")
log = logs.get("cache")

# What an answer and each of its pieces take beside their bytes.
_OVERHEAD = 600
_PIECE_OVERHEAD = 50
# One answer takes this part of the memory at most.
_PART = 8
_MEGABYTE = 1024 * 1024
# So many writes may wait for Redis, since its one connection serves the limits too.
_WRITES_AT_ONCE = 100
_LARGEST_SHARED = 1024 * 1024


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """A whole answer in the caller's dialect: one piece, or the pieces of a stream as they came.

    `cost` is what it cost in nano-dollars, and is saved each time that it is played again. Times in Unix seconds.
    """

    pieces: tuple[bytes, ...]
    provider: str
    model: str
    usage: Usage | None = None
    cost: int | None = None
    # The hints for which the provider had no word.
    dropped: tuple[str, ...] = ()
    at: float = 0.0
    until: float = 0.0

    @property
    def size(self) -> int:
        """The bytes that it takes."""
        return sum(map(len, self.pieces)) + _PIECE_OVERHEAD * len(self.pieces) + _OVERHEAD


_decoder = msgspec.msgpack.Decoder(Kept)
_Turn = Literal["lead", "alone"]


class _Flight:
    """A call that is on its way for several: who waits for its answer."""

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        self.waiters: deque[asyncio.Future[Kept | _Turn]] = deque()


class Lead:
    """This call goes to the provider. Whatever comes of it must be said: `keep`, `release` or `close`.

    Only the first of them counts. `collect` the pieces of a stream as they pass.
    """

    __slots__ = ("_cache", "_control", "_flight", "_key", "_pieces", "_room")

    def __init__(self, cache: "Cache", key: bytes, control: Control, flight: _Flight | None) -> None:
        self._cache = cache
        self._key = key
        self._control = control
        self._flight = flight
        self._pieces: list[bytes] = []
        self._room = cache.largest

    def collect(self, piece: bytes) -> None:
        """A piece of a stream. When it becomes too large to be kept, nobody waits for it any more."""
        self._room -= len(piece)
        if self._room >= 0:
            self._pieces.append(piece)
        elif self._pieces:
            self._pieces = []
            self.release()

    @property
    def collected(self) -> tuple[bytes, ...]:
        """The pieces until now."""
        return tuple(self._pieces)

    def keep(self, kept: Kept, seconds: float) -> None:
        """The answer, whole, for so many seconds."""
        now = time.time()
        kept = msgspec.structs.replace(kept, at=now, until=now + seconds)
        if self._control.write and seconds > 0 and self._room >= 0 and kept.size <= self._cache.largest:
            self._cache.put(self._key, kept)
        self._ended(lambda: kept)

    def release(self) -> None:
        """There will be nothing to keep: whoever waits goes by himself."""
        self._ended(lambda: "alone")

    def close(self) -> None:
        """It has failed, unless it was kept: the next who waits goes to the provider."""
        flight, self._flight = self._flight, None
        if flight is not None:
            self._cache.next_lead(self._key, flight)

    def _ended(self, answer: Callable[[], Kept | _Turn]) -> None:
        flight, self._flight = self._flight, None
        if flight is not None:
            self._cache.ended(self._key, flight)
            for waiter in flight.waiters:
                if not waiter.done():
                    waiter.set_result(answer())


class Cache:
    """The kept answers of one process, and of all nodes where there is a Redis."""

    def __init__(self, settings: CacheSettings, db: Database | None = None, redis: Redis | None = None) -> None:
        self.largest = settings.memory_mb * _MEGABYTE // _PART
        self._limit = settings.memory_mb * _MEGABYTE
        self._db = db
        self._redis = redis
        self._tasks = Tasks()
        self._secret = secrets.token_bytes(32)
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._bytes = 0
        self._flights: dict[bytes, _Flight] = {}
        self._writing = 0

    async def open(self) -> None:
        """Take the installation's secret where answers are shared."""
        if self._db is not None and self._redis is not None:
            async with self._db.shared() as conn:
                await conn.execute(SQL["ensure_cache_secret"], {"secret": self._secret})
                self._secret = bytes(await scalar(conn, SQL["cache_secret"], {}))

    async def close(self) -> None:
        """What is in memory is gone."""
        await self._tasks.close()
        while self._kept:
            self._forget(next(iter(self._kept)))

    def key(self, *parts: bytes | str) -> bytes:
        """The key of a call: the tenant, the dialect, the model and its revision, and the canonical request."""
        return digest(self._secret, parts)

    # -- finding

    def look(self, key: bytes, control: Control) -> Kept | None:
        """The answer to a call, if it is here."""
        kept = self._kept.get(key)
        if kept is None or not _is_fresh(kept, control):
            return None
        self._kept.move_to_end(key)
        limit_metrics.CACHE_HITS.inc()
        limit_metrics.CACHE_SAVED.inc(kept.cost or 0)
        return kept

    async def enter(self, key: bytes, control: Control, seconds: float) -> Kept | Lead:
        """The answer to a call, or leave to fetch it. Waits for another that is on its way, for so many seconds."""
        deadline = asyncio.get_running_loop().time() + seconds
        if control.read and self._redis is not None:
            await self._fetch(key, control)
        while True:
            if (kept := self.look(key, control)) is not None:
                return kept
            flight = self._flights.get(key)
            if flight is None and control.read and control.write:
                flight = self._flights[key] = _Flight()
                return self._leads(key, control, flight)
            if flight is None or not control.read:
                return self._leads(key, control, None)
            told = await self._told(key, flight, deadline)
            if told == "lead":
                return self._leads(key, control, flight)
            if told == "alone":
                return self._leads(key, control, None)
            if _is_fresh(told, control):
                limit_metrics.CACHE_JOINED.inc()
                limit_metrics.CACHE_SAVED.inc(told.cost or 0)
                return told

    async def _told(self, key: bytes, flight: _Flight, deadline: float) -> Kept | _Turn:
        waiter: asyncio.Future[Kept | _Turn] = asyncio.get_running_loop().create_future()
        flight.waiters.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                return await waiter
        except TimeoutError:
            # The turn may have come in the same moment, and nobody else would take it.
            return waiter.result() if waiter.done() and not waiter.cancelled() else "alone"
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.result() == "lead":
                self.next_lead(key, flight)
            raise

    def _leads(self, key: bytes, control: Control, flight: _Flight | None) -> Lead:
        if control.read:
            limit_metrics.CACHE_MISSES.inc()
        return Lead(self, key, control, flight)

    def next_lead(self, key: bytes, flight: _Flight) -> None:
        """The call for several has failed: the next goes."""
        while flight.waiters:
            if not (waiter := flight.waiters.popleft()).done():
                waiter.set_result("lead")
                return
        self.ended(key, flight)

    def ended(self, key: bytes, flight: _Flight) -> None:
        """Nobody waits for this call any more."""
        if self._flights.get(key) is flight:
            del self._flights[key]

    # -- keeping

    def put(self, key: bytes, kept: Kept) -> None:
        """Keep an answer here, and in the background in Redis."""
        self._remember(key, kept)
        if self._redis is None or self._redis.is_down or kept.size > _LARGEST_SHARED:
            return
        if self._writing < _WRITES_AT_ONCE:
            self._tasks.start(self._write(key, kept), "cache write")

    def _remember(self, key: bytes, kept: Kept) -> None:
        self._forget(key)
        self._kept[key] = kept
        self._bytes += kept.size
        while self._bytes > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.size
        limit_metrics.CACHE_BYTES.set(self._bytes)

    def _forget(self, key: bytes) -> None:
        if (gone := self._kept.pop(key, None)) is not None:
            self._bytes -= gone.size
            limit_metrics.CACHE_BYTES.set(self._bytes)

    async def _fetch(self, key: bytes, control: Control) -> None:
        assert self._redis is not None
        if self._redis.is_down or ((known := self._kept.get(key)) is not None and _is_fresh(known, control)):
            return
        try:
            found = await self._redis.call("GET", b"gimle:answer:" + key)
            if isinstance(found, bytes):
                self._remember(key, _decoder.decode(found))
        except Unavailable:
            limit_metrics.REDIS_FAILURES.inc()
        except msgspec.DecodeError:
            log.warning("kept_answer_not_read")

    async def _write(self, key: bytes, kept: Kept) -> None:
        assert self._redis is not None
        self._writing += 1
        milliseconds = max(1, int((kept.until - kept.at) * 1000))
        try:
            data = msgspec.msgpack.encode(kept)
            await self._redis.call("SET", b"gimle:answer:" + key, data, "PX", milliseconds, seconds=1.0)
        except Unavailable:
            limit_metrics.REDIS_FAILURES.inc()
        finally:
            self._writing -= 1


def _is_fresh(kept: Kept, control: Control) -> bool:
    now = time.time()
    return control.read and now < kept.until and (control.max_age is None or now - kept.at <= control.max_age)
