"""Rate limits of tenants, keys and models, and of the lanes to providers: requests and tokens each minute.

A call takes from all its limits or from none, and gives back what it did not use. The processes of a node share the
numbers (`foundation.tally`), and with a Redis the nodes too: each process takes a few units ahead from there, so that
most calls ask nobody. When Redis is slow or away, the node's own numbers hold, and no call fails for it.
"""

import math
import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from gimle.foundation import logs
from gimle.foundation.errors import RateLimitedError, Unavailable
from gimle.foundation.redis import Redis
from gimle.foundation.tally import Tally, key
from gimle.gateway import gcra, limit_metrics
from gimle.gateway.allowances import Allowances, Scope
from gimle.gateway.gcra import Rate

log = logs.get("limits")

Of = Literal["tenant", "key", "model", "provider"]
Unit = Literal["requests", "tokens"]

# Units that a process has taken ahead are its own for so long, and so large a part of a limit at most.
_OWN_SECONDS = 1.0
_OWN_PART = 50
_MOST_KNOWN = 20_000
# A call owes no more than flows off in this time: its provider may have told nonsense.
_MOST_OWED = 3600 * gcra.SECOND


class Limit(msgspec.Struct, frozen=True):
    """One limit of somebody: its number in the tally is `name`, in Redis `shared`."""

    of: Of
    unit: Unit
    name: int
    shared: str
    rate: Rate

    @property
    def ahead(self) -> int:
        """How many units a process takes ahead."""
        return self.rate.burst // _OWN_PART

    def units(self, requests: int, tokens: int) -> int:
        """Which of the two it counts."""
        return requests if self.unit == "requests" else tokens


class Wait(msgspec.Struct, frozen=True):
    """Not now: in so many seconds, because of this limit."""

    seconds: float
    limit: Limit

    def error(self) -> RateLimitedError:
        """What a caller is told."""
        whose = {"tenant": "your tenant", "key": "this key", "model": "this model", "provider": "this provider"}
        said = f"The limit of {whose[self.limit.of]} is reached: {self.limit.rate.burst} {self.limit.unit} a minute."
        return RateLimitedError(said, after=self.seconds, limit=self.limit.rate.burst)


class Room(msgspec.Struct, frozen=True):
    """How much of the tightest limit is left: for the headers `RateLimit-*`. `reset` in seconds."""

    limit: int
    remaining: int
    reset: float

    def headers(self) -> tuple[tuple[str, str], ...]:
        """What the caller is told of it."""
        return (
            ("ratelimit-limit", str(self.limit)),
            ("ratelimit-remaining", str(self.remaining)),
            ("ratelimit-reset", str(math.ceil(self.reset))),
        )


class Taken:
    """What a call has taken of its limits: `settle` it when its tokens are known, `undo` it when it was never sent."""

    __slots__ = ("_from", "_limits", "_own", "_tokens")

    def __init__(self, source: "Limits", limits: Sequence[Limit], tokens: int, *, own: bool) -> None:
        self._from = source
        self._limits = limits
        self._tokens = tokens
        # Of what this process had taken ahead.
        self._own = own

    def settle(self, tokens: int | None) -> None:
        """The call has ended, and has used so many tokens; None: nobody knows, what was reserved is used."""
        limits, self._limits = self._limits, ()
        if tokens is not None and tokens != self._tokens and limits:
            self._from.back(limits, 0, self._tokens - tokens, own=self._own)

    def undo(self) -> None:
        """The call was not made."""
        limits, self._limits = self._limits, ()
        self._from.back(limits, 1, self._tokens, own=self._own)


class _Own:
    """Units taken ahead; negative ones are owed."""

    __slots__ = ("units", "until")

    def __init__(self) -> None:
        self.units = 0
        self.until = 0.0


class Limits:
    """The limits of all callers, in this process."""

    def __init__(self, allowances: Allowances, tally: Tally, redis: Redis | None = None) -> None:
        self._allowances = allowances
        self._tally = tally
        self._redis = redis
        # By the limit's name.
        self._own: dict[int, _Own] = {}
        self._found: dict[tuple[str, str, str, str], tuple[Limit, ...]] = {}
        self._readings = allowances.readings
        self._nothing = Taken(self, (), 0, own=False)

    def of(self, tenant: str, key_: str, provider: str = "", model: str = "") -> tuple[Limit, ...]:
        """The limits of a call."""
        who = tenant, key_, provider, model
        if self._readings != self._allowances.readings or len(self._found) >= _MOST_KNOWN:
            self._readings = self._allowances.readings
            self._found.clear()
            if len(self._own) >= _MOST_KNOWN:
                # What was held there flows off by itself.
                self._own.clear()
        found = self._found.get(who)
        if found is None:
            found = self._found[who] = self._look_up(*who)
        return found

    def take(self, limits: Sequence[Limit], tokens: int) -> Taken | Wait | None:
        """Take one request and so many tokens, or say how long to wait; None: `fetch` them.

        The tokens are those expected; what is used in the end is settled.
        """
        if (taken := self._take_own(limits, tokens)) is not None:
            return taken
        return None if self._redis is not None and not self._redis.is_down else self._draw(limits, tokens)

    async def fetch(self, limits: Sequence[Limit], tokens: int) -> Taken | Wait:
        """As `take`, from Redis, in 5 ms at most; when it does not answer, as this node sees it."""
        if self._redis is None:
            return self._draw(limits, tokens)
        needs = [self._lacking(limit, tokens) for limit in limits]
        arguments = [
            number
            for limit, need in zip(limits, needs, strict=True)
            for number in (limit.rate.interval, limit.rate.tolerance, need, limit.ahead)
        ]
        try:
            told = await self._redis.call("EVAL", _SCRIPT, len(limits), *(each.shared for each in limits), *arguments)
        except Unavailable as error:
            limit_metrics.REDIS_FAILURES.inc()
            log.warning("limits_alone", detail=error.message)
            return self._draw(limits, tokens)
        assert isinstance(told, list)
        waited, at, *counted = (int(each) for each in told if isinstance(each, int))
        if waited > 0:
            return Wait(waited / gcra.SECOND, limits[at])
        self._heard(limits, needs, counted[len(limits) :])
        return self._granted(limits, tokens, counted[: len(limits)])

    def take_exactly(self, limits: Sequence[Limit], tokens: int) -> Taken | Wait:
        """As `take`, from the numbers of this node and nothing ahead: right for lanes, which providers correct."""
        if not limits:
            return self._nothing
        charged = self._charge(limits, [(limit.units(1, tokens), 0) for limit in limits])
        return charged if isinstance(charged, Wait) else Taken(self, limits, tokens, own=False)

    def room(self, limits: Sequence[Limit]) -> Room | None:
        """What is left of the tightest of these limits, as this node sees it."""
        now = time.time_ns()
        room: Room | None = None
        for limit in limits:
            tat, own = self._tally.get(limit.name), self._own.get(limit.name)
            if own is not None:
                tat = gcra.refunded(tat, limit.rate, own.units)
            left = gcra.remaining(tat, now, limit.rate)
            if room is None or left * room.limit < room.remaining * limit.rate.burst:
                room = Room(limit.rate.burst, left, gcra.full_in(tat, now))
        return room

    def back(self, limits: Sequence[Limit], requests: int, tokens: int, *, own: bool) -> None:
        """Give back units; negative ones are owed. What is more than a process takes ahead goes back to the node."""
        surplus: list[tuple[Limit, int]] = []
        for limit in limits:
            units = max(limit.units(requests, tokens), -_MOST_OWED // limit.rate.interval)
            if own:
                held = self._held(limit)
                held.units += units
                units = held.units - limit.ahead if self._redis is None and held.units > limit.ahead else 0
                held.units -= units
            if units:
                surplus.append((limit, units))
        if surplus:
            tally = self._tally
            locked = tally.lock()
            for limit, units in surplus:
                tally.set(limit.name, gcra.refunded(tally.get(limit.name), limit.rate, units))
            if locked:
                tally.unlock()

    def close_lane(self, limit: Limit, seconds: float) -> None:
        """Nothing more passes this limit for so many seconds: a provider said so."""
        self._not_before(limit, gcra.closed(time.time_ns(), limit.rate, seconds))

    def told(self, limit: Limit, full_in: float) -> None:
        """A provider says that a limit will be whole again in so many seconds: less may be left than we know of."""
        self._not_before(limit, time.time_ns() + int(full_in * gcra.SECOND))

    # -- inside

    def _not_before(self, limit: Limit, tat: int) -> None:
        tally = self._tally
        locked = tally.lock()
        if tally.get(limit.name) < tat:
            tally.set(limit.name, tat)
        if locked:
            tally.unlock()

    def _heard(self, limits: Sequence[Limit], needs: Sequence[int], ahead: Sequence[int]) -> None:
        """What Redis has counted this node knows too: for `room`, and for when Redis is away."""
        now = time.time_ns()
        tally = self._tally
        locked = tally.lock()
        for limit, need, until in zip(limits, needs, ahead, strict=True):
            known = gcra.refunded(tally.get(limit.name), limit.rate, max(0, -need))
            tally.set(limit.name, max(known, now + until))
        if locked:
            tally.unlock()

    def _take_own(self, limits: Sequence[Limit], tokens: int) -> Taken | None:
        now = time.monotonic()
        for limit in limits:
            own = self._own.get(limit.name)
            if own is None or own.units < limit.units(1, tokens) or now >= own.until:
                return None
        for limit in limits:
            self._own[limit.name].units -= limit.units(1, tokens)
        return Taken(self, limits, tokens, own=True)

    def _draw(self, limits: Sequence[Limit], tokens: int) -> Taken | Wait:
        """Take what is lacking from this node's numbers, and some ahead."""
        charged = self._charge(limits, [(self._lacking(limit, tokens), limit.ahead) for limit in limits])
        return charged if isinstance(charged, Wait) else self._granted(limits, tokens, charged)

    def _charge(self, limits: Sequence[Limit], wanted: Sequence[tuple[int, int]]) -> list[int] | Wait:
        """Charge this node's numbers with what is needed of each limit, and what is good to have and is there."""
        now = time.time_ns()
        tally = self._tally
        locked = tally.lock()
        try:
            granted: list[int] = []
            after: list[int] = []
            for limit, (need, ahead) in zip(limits, wanted, strict=True):
                tat = tally.get(limit.name)
                if need > 0 and (wait := gcra.wait(tat, now, limit.rate, need)):
                    limit_metrics.LIMITED.labels(limit.of, limit.unit).inc()
                    return Wait(wait / gcra.SECOND, limit)
                more = min(ahead, gcra.remaining(gcra.taken(tat, now, limit.rate, need), now, limit.rate))
                granted.append(need + more)
                after.append(gcra.taken(tat, now, limit.rate, need + more))
            for limit, tat in zip(limits, after, strict=True):
                tally.set(limit.name, tat)
        finally:
            if locked:
                tally.unlock()
        return granted

    def _granted(self, limits: Sequence[Limit], tokens: int, granted: Sequence[int]) -> Taken:
        until = time.monotonic() + _OWN_SECONDS
        for limit, units in zip(limits, granted, strict=True):
            own = self._held(limit)
            own.units, own.until = own.units + units - limit.units(1, tokens), until
        return Taken(self, limits, tokens, own=True)

    def _lacking(self, limit: Limit, tokens: int) -> int:
        """What a call needs beyond what is here; negative: so much is given back."""
        own = self._own.get(limit.name)
        return limit.units(1, tokens) - (own.units if own is not None else 0)

    def _held(self, limit: Limit) -> _Own:
        own = self._own.get(limit.name)
        if own is None:
            own = self._own[limit.name] = _Own()
        return own

    def _look_up(self, tenant: str, key_: str, provider: str, model: str) -> tuple[Limit, ...]:
        allowed = self._allowances
        found = _limit("tenant", tenant, "", "requests", allowed.requests_minute(tenant))
        found += _limit("tenant", tenant, "", "tokens", allowed.tokens_minute(tenant))
        scopes: tuple[tuple[Scope, str], ...] = (("key", key_), ("model", model), ("model", f"{provider}/{model}"))
        for scope, subject in scopes:
            own = allowed.find(tenant, scope, subject)
            if own is not None:
                found += _limit(scope, tenant, subject, "requests", own.requests_minute)
                found += _limit(scope, tenant, subject, "tokens", own.tokens_minute)
        return tuple(found)


def _limit(of: Of, tenant: str, subject: str, unit: Unit, amount: int | None) -> list[Limit]:
    if not amount:
        return []
    name = f"gimle:limit:{of}:{tenant}:{subject}:{unit}"
    return [Limit(of, unit, key(name), name, gcra.a_minute(amount))]


# Takes what is needed from all limits or from none, and then as much ahead as is there. Answers how long to wait and
# for which limit; or what was taken of each, and how far ahead its number is then. Times are Redis's own: microseconds
# since 2020, which Lua counts exactly.
_SCRIPT = """
local t = redis.call('TIME')
local now = (tonumber(t[1]) - 1577836800) * 1000000 + tonumber(t[2])
local granted, tats = {}, {}
for i = 1, #KEYS do
  local interval, tolerance, need = ARGV[i * 4 - 3] / 1000, ARGV[i * 4 - 2] / 1000, tonumber(ARGV[i * 4 - 1])
  local tat = math.max(tonumber(redis.call('GET', KEYS[i]) or '0'), now)
  local wanted = math.min(need * interval, tolerance)
  local over = tat + wanted - now - tolerance
  if need > 0 and over > 0 then return {math.ceil(over) * 1000, i - 1} end
  tats[i] = tat
end
for i = 1, #KEYS do
  local interval, tolerance, need = ARGV[i * 4 - 3] / 1000, ARGV[i * 4 - 2] / 1000, tonumber(ARGV[i * 4 - 1])
  local tat = tats[i] + need * interval
  local ahead = math.max(0, math.min(tonumber(ARGV[i * 4]), math.floor((now + tolerance - tat) / interval)))
  tat = tat + ahead * interval
  redis.call('SET', KEYS[i], string.format('%.3f', tat), 'PX', math.max(1, math.ceil((tat - now) / 1000) + 1000))
  granted[i], granted[#KEYS + i] = need + ahead, math.ceil(math.max(0, tat - now)) * 1000
end
return {0, 0, unpack(granted)}
"""
