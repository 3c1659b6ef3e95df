"""The line that each request leaves in the log.

A structured logger takes longer over a line than the rest of the edge over the request, so the line is put together
here in one step, a tenth of a second's worth of them at a time; one that tells of a fault of ours is written at once.
"""

import asyncio
import sys
import time
from typing import NamedTuple

import msgspec

from gimle.foundation.config import LogSettings
from gimle.interfaces.http.exchange import Exchange
from gimle.trust.types import Principal

_FLUSH_SECONDS = 0.1
_FLUSH_LINES = 500
_NOBODY = Principal(tenant="-", key="-")


class _Line(msgspec.Struct):
    timestamp: str
    method: str
    path: str
    status: int
    ms: float
    bytes: int
    request_id: str
    tenant: str | None
    key: str | None
    level: str = "info"
    part: str = "http"
    event: str = "request"


class Ended(NamedTuple):
    """A request that has ended at a moment (Unix seconds), and how many seconds it took."""

    exchange: Exchange
    status: int
    seconds: float
    at: float


class AccessLog:
    """Writes to standard error, as JSON or for people, unless the level is above `info`."""

    def __init__(self, settings: LogSettings) -> None:
        self._on = settings.level in ("debug", "info")
        self._render = _as_json if settings.json else _for_people
        self._ended: list[Ended] = []
        self._due: asyncio.TimerHandle | None = None
        self._second = 0
        self._stamp = ""

    def write(self, exchange: Exchange, status: int, seconds: float) -> None:
        """Note a request that has ended. `seconds` is how long it took."""
        if not self._on:
            return
        self._ended.append(Ended(exchange, status, seconds, time.time()))
        if status >= 500 or len(self._ended) >= _FLUSH_LINES:
            self.flush()
        elif self._due is None:
            self._due = exchange.line.loop.call_later(_FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what is held back."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        ended, self._ended = self._ended, []
        if ended:
            sys.stderr.write("".join([self._render(each, self._stamped(each.at)) for each in ended]))
            sys.stderr.flush()

    def _stamped(self, moment: float) -> str:
        second = int(moment)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._stamp}.{int((moment - second) * 1e6):06d}Z"


def _as_json(ended: Ended, now: str) -> str:
    exchange = ended.exchange
    caller = exchange.principal
    line = _Line(
        timestamp=now,
        method=exchange.method,
        path=exchange.path,
        status=ended.status,
        ms=round(ended.seconds * 1000, 2),
        bytes=exchange.sent,
        request_id=exchange.request_id,
        tenant=caller.tenant if caller else None,
        key=caller.key if caller else None,
    )
    return msgspec.json.encode(line).decode() + "\n"


def _for_people(ended: Ended, now: str) -> str:
    exchange = ended.exchange
    caller = exchange.principal or _NOBODY
    # What a caller chose may hold spaces or worse: a line of the log must not be forged.
    path = exchange.path if exchange.path.isprintable() and " " not in exchange.path else repr(exchange.path)
    return (
        f"{now} [info     ] request  {exchange.method} {path} status={ended.status} ms={ended.seconds * 1000:.2f} "
        f"bytes={exchange.sent} request_id={exchange.request_id} tenant={caller.tenant} key={caller.key}\n"
    )
