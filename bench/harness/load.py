"""A load generator: so many connections, each with the next request as soon as the last one is answered.

    python bench/harness/load.py '{"port": 8080, "connections": 16, "seconds": 2, …}'      prints one JSON object

It warms up for a fifth of the time, and counts only what was sent and answered in the rest.
"""

import asyncio
import sys
import time
from typing import cast

import msgspec
import uvloop

# The body comes in chunks: its length is not known.
_CHUNKS = -2


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to send where. With `requests` it stops after so many instead of at a time."""

    port: int
    body: str
    headers: dict[str, str] = {}
    path: str = "/v1/chat/completions"
    connections: int = 1
    seconds: float = 2.0
    requests: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came back in the time that counts; `sent` is the number of all requests, the warm-up's included.

    Latencies in ms: of whole answers, and of the first `data:` line of streams.
    """

    answered: int
    sent: int
    failed: int
    events: int
    seconds: float
    p50: float
    p99: float
    first_p50: float
    first_p99: float
    fault: str = ""


class Tally:
    """What all connections have seen, from `begin` on."""

    def __init__(self, order: Order) -> None:
        now = time.perf_counter()
        self.begin = now + (0 if order.requests else order.seconds / 5)
        self.end = now + (10**6 if order.requests else order.seconds * 1.2)
        self.left = order.requests or 10**12
        self.sent = self.answered = self.failed = self.events = 0
        self.whole: list[float] = []
        self.first: list[float] = []
        self.fault = ""
        self.over = asyncio.get_running_loop().create_future()

    def count(self, sent: float, first: float, now: float, events: int) -> None:
        """A whole answer."""
        if sent >= self.begin and now <= self.end:
            self.answered += 1
            self.events += events
            self.whole.append(now - sent)
            if events:
                self.first.append(first - sent)

    def fail(self, said: bytes) -> None:
        """An answer that is none."""
        self.failed += 1
        self.fault = self.fault or said[:300].decode("latin-1")


class Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, request: bytes, tally: Tally) -> None:
        self._request, self._tally = request, tally

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """A connection that was closed on us counts as a failure, and has no successor."""
        if time.perf_counter() < self._tally.end and not self._tally.over.done():
            self._tally.fail(self._head or b"closed")

    def _send(self) -> None:
        tally = self._tally
        self._sent = time.perf_counter()
        tally.left -= 1
        if self._sent > tally.end or tally.left < 0:
            if not tally.over.done():
                tally.over.set_result(None)
            return
        tally.sent += 1
        self._head, self._left, self._tail, self._first, self._events = b"", -1, b"", 0.0, 0
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count the answer when it is whole, and send the next request."""
        if self._left == -1:
            data = self._body(data)
        if self._left == _CHUNKS:
            self._read_events(data)
        elif self._left >= 0:
            self._left -= len(data)
        if self._left == 0:
            self._tally.count(self._sent, self._first, time.perf_counter(), self._events)
            self._send()

    def _read_events(self, data: bytes) -> None:
        count = data.count(b"data: ")
        if count and not self._events:
            self._first = time.perf_counter()
        self._events += count
        self._tail = (self._tail + data)[-7:]
        if self._tail == b"\r\n0\r\n\r\n":
            self._left = 0

    def _body(self, data: bytes) -> bytes:
        """What has come of the body, once the head is there; `_left` tells what is missing of it."""
        self._head += data
        head, found, body = self._head.partition(b"\r\n\r\n")
        if not found:
            return b""
        if not head.startswith(b"HTTP/1.1 200"):
            self._tally.fail(self._head)
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        self._left = int(length) if length else _CHUNKS
        return body


async def run(order: Order) -> Report:
    """Carry out an order."""
    body = order.body.encode()
    headers = {"host": "127.0.0.1", "content-type": "application/json", **order.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST {order.path} HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body
    loop, tally = asyncio.get_running_loop(), Tally(order)
    callers = []
    for _ in range(order.connections):
        callers.append(await loop.create_connection(lambda: Caller(request, tally), "127.0.0.1", order.port))
        # Callers come one by one: whoever lets all come at once measures the queue before a burst.
        await asyncio.sleep(0.2 * order.seconds / order.connections)
    began = max(tally.begin, time.perf_counter())
    if order.requests:
        await tally.over
    else:
        await asyncio.sleep(tally.end - time.perf_counter())
    seconds = time.perf_counter() - began
    for transport, _ in callers:
        transport.abort()
    return Report(
        answered=tally.answered,
        sent=tally.sent,
        failed=tally.failed,
        events=tally.events,
        seconds=seconds,
        p50=_share(tally.whole, 0.5),
        p99=_share(tally.whole, 0.99),
        first_p50=_share(tally.first, 0.5),
        first_p99=_share(tally.first, 0.99),
        fault=tally.fault,
    )


def _share(values: list[float], share: float) -> float:
    values.sort()
    return values[min(len(values) - 1, int(len(values) * share))] * 1000 if values else 0.0


if __name__ == "__main__":
    found = uvloop.run(run(msgspec.json.decode(sys.argv[1], type=Order)))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
