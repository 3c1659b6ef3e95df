"""What does the gateway's walk cost beside the bare HTTP call? Interleaved, against a stand-in in its own process.

    python bench/gateway.py [--calls 2000] [--rounds 5]

`direct` is our HTTP client alone; `through` is `Gateway.chat` over the same client: the request is checked and patched,
the target chosen, the answer read for its usage, and counted. The difference is the gateway's own cost; the HTTP edge
in front of it is not part of it. CPU is this process's, user and system, for each call or event.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import uvloop

from gimle.foundation.config import Settings
from gimle.foundation.outbound import Outbound, Request
from gimle.gateway.gateway import Gateway
from gimle.gateway.inside import Engines
from gimle.gateway.tokens import Tokens
from gimle.gateway.types import ChatCall, ChatStream
from gimle.trust.types import Principal

Once = Callable[[], Awaitable[int]]

ANNA = Principal("ten_bench", "key_bench")
BODY = {"model": "mock", "messages": [{"role": "user", "content": "When do the bees leave the hive?" * 3}]}


class Measured(msgspec.Struct, frozen=True):
    """One run: microseconds of CPU an item, and the median latency of a call in ms."""

    cpu: float
    p50: float


async def measure(once: Once, calls: int, concurrency: int) -> Measured:
    """Make the calls, so many at a time. An item is what `once` returns the count of."""
    latencies: list[float] = []
    items = 0

    async def lane() -> None:
        nonlocal items
        for _ in range(calls // concurrency):
            started = time.perf_counter()
            made = await once()
            items += made
            latencies.append(time.perf_counter() - started)

    cpu = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(lane())
    return Measured((time.process_time() - cpu) / items * 1e6, statistics.median(latencies) * 1e3)


@contextlib.asynccontextmanager
async def gateway(url: str) -> AsyncIterator[Gateway]:
    """A gateway over the stand-in, without a database and without engines."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=Path(folder), providers={"mock": {"base_url": url, "models": [{"name": "mock"}]}})
        opened = await Gateway.assemble(None, settings, Engines({}, (), Tokens(None)), Tokens(None))
        try:
            yield opened
        finally:
            await opened.close()


def lanes(outbound: Outbound, through: Gateway, url: str, *, stream: bool) -> dict[str, Once]:
    """The two ways to make the same call."""
    body = json.dumps({**BODY, "stream": True, "stream_options": {"include_usage": True}} if stream else BODY).encode()
    request = Request(url=f"{url}/chat/completions", headers=(("content-type", "application/json"),), body=body)
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])

    async def direct() -> int:
        async with outbound.stream(request) as incoming:
            whole = await incoming.whole(10**7)
        return whole.count(b"data: ") if stream else 1

    async def walked() -> int:
        answer = await through.chat(ANNA, ChatCall(body=fields, model="mock/mock", stream=stream))
        if not isinstance(answer, ChatStream):
            return 1
        count = 0
        async for piece in answer:
            count += piece.count(b"data: ")
        await answer.close()
        return count

    return {"direct": direct, "through": walked}


async def run(url: str, calls: int, rounds: int) -> None:
    """Print a table."""
    async with Outbound() as outbound, gateway(url) as through:
        for stream in (False, True):
            ways = lanes(outbound, through, url, stream=stream)
            for concurrency in (1, 16):
                found: dict[str, list[Measured]] = {name: [] for name in ways}
                for _ in range(rounds):
                    for name, once in ways.items():
                        found[name].append(await measure(once, calls, concurrency))
                for name, measured in found.items():
                    cpu = statistics.median(one.cpu for one in measured)
                    p50 = statistics.median(one.p50 for one in measured)
                    what = "CPU µs/event" if stream else "CPU µs/call"
                    kind = "SSE" if stream else "JSON"
                    print(f"{kind:4} c{concurrency:<3} {name:8} {cpu:8.1f} {what:13} p50 {p50:7.3f} ms")


def main() -> None:
    """Start the stand-in, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with subprocess.Popen([sys.executable, "-m", "gimle.testing", "mock"], stdout=subprocess.PIPE, text=True) as mock:
        assert mock.stdout is not None
        try:
            uvloop.run(run(mock.stdout.readline().strip(), asked.calls, asked.rounds))
        finally:
            mock.terminate()


if __name__ == "__main__":
    main()
