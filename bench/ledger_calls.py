"""The ledger against the provider's own count: a whole server, a mix of calls, and three kill -9s.

    python -m bench.ledger_calls                  100 000 calls
    python -m bench.ledger_calls --count 5000

Two kills take a worker, the third takes the whole server, which is started again on the same data directory. The mix:
plain calls, streams, streams that the caller leaves, that are cut, hedged, refused and retried calls, and embeddings.
`lost`, `doubled`, `wrong` and `above_bound` must be 0: `lost` counts requests that the provider has received and that
have no row, `doubled` rows beyond what it received and what nobody knows of, `wrong` exact rows with other tokens than
it told, and answers that came whole and have no exact row.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from bench.ledger import settle

from gimle.foundation.errors import UpstreamError
from gimle.foundation.migrate import migrate
from gimle.foundation.outbound import Outbound, Request
from gimle.foundation.postgres import Embedded
from gimle.testing import WORDS, Upstream

AT_ONCE = 64
KILLS = 3
# The model says how the provider behaves; the last figure is the share in per cent.
MIX = (
    ("mock", False, 45),
    ("mock", True, 25),
    ("long", True, 10),
    ("cut", True, 5),
    ("late", False, 4),
    ("status-400", False, 5),
    ("status-500", False, 3),
    ("vectors", False, 3),
)
SETTINGS = """
[limits]
requests_minute = 0
embeddings_day = 0

[server]
workers = 2

[gateway]
hedge_after = 0.1
retry_share = 1.0
breaker_failures = 1000000

[providers.stand]
base_url = "{url}"
dialect = "openai"

[[providers.stand.models]]
name = "vectors"
kind = "embedding"
dimensions = 8
context_window = 8192
price = [{{ input = 0.02 }}]
"""
MODEL = """
[[providers.stand.models]]
name = "{name}"
context_window = 8192
max_output = 1000
price = [{{ input = 0.15, cache_read = 0.075, output = 0.6 }}]
"""


class Figures(msgspec.Struct):
    """What was called, what came of it, and where the ledger is not true."""

    calls: int = 0
    whole: int = 0
    broken: int = 0
    received: int = 0
    rows: int = 0
    unknown: int = 0
    estimated: int = 0
    seconds: float = 0.0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    above_bound: int = 0
    sums_off: int = 0
    outcomes: dict[str, int] = {}


class Caller:
    """Makes the calls; `done` counts those that ended, `whole` those of a whole answer with its usage."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._headers = (("authorization", f"Bearer {key}"), ("content-type", "application/json"))
        self.done = self.whole = self.broken = 0

    async def call(self, outbound: Outbound, chance: random.Random) -> None:
        """One call of the mix, to its end or until this caller leaves it."""
        model, stream, _ = chance.choices(MIX, [share for *_, share in MIX])[0]
        try:
            if model == "vectors":
                await self._ask(outbound, "embeddings", {"model": "stand/vectors", "input": "bees"})
            elif stream:
                await self._stream(outbound, model, chance)
            else:
                await self._ask(outbound, "chat/completions", _chat(model, stream=False))
        except UpstreamError:
            self.broken += 1
            await asyncio.sleep(0.1)
        self.done += 1

    async def _ask(self, outbound: Outbound, path: str, body: dict[str, Any]) -> None:
        reply = await outbound.send(self._request(path, body), seconds=60, limit=1 << 20)
        self.whole += reply.status == 200

    async def _stream(self, outbound: Outbound, model: str, chance: random.Random) -> None:
        until = asyncio.get_running_loop().time() + 60
        async with outbound.stream(self._request("chat/completions", _chat(model, stream=True)), until=until) as coming:
            if model == "long":
                for _ in range(chance.randint(1, 10)):
                    await coming.read(until)
                return
            text = await coming.whole(1 << 20)
            self.whole += coming.status == 200 and text.rstrip().endswith(b"[DONE]")

    def _request(self, path: str, body: dict[str, Any]) -> Request:
        return Request(
            method="POST", url=f"{self._url}/v1/{path}", headers=self._headers, body=msgspec.json.encode(body)
        )


def _chat(model: str, *, stream: bool) -> dict[str, Any]:
    said = [{"role": "user", "content": "When do the bees leave?"}]
    return {"model": f"stand/{model}", "messages": said, "stream": stream, "max_tokens": 1000}


class Server:
    """`gimle serve` with two workers, in a process of its own."""

    def __init__(self, folder: Path, database: str, provider: str, port: int = 0) -> None:
        names = sorted({name for name, *_ in MIX} - {"vectors"})
        config = folder / "gimle.toml"
        config.write_text(SETTINGS.format(url=provider) + "".join(MODEL.format(name=name) for name in names))
        flags = [
            "--port",
            str(port),
            "--data",
            str(folder / "data"),
            "--config",
            str(config),
            "--database-url",
            database,
        ]
        self._log = (folder / "serve.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gimle", "serve", "--json", *flags], stdout=subprocess.PIPE, stderr=self._log
        )
        assert self.process.stdout is not None
        text = b""
        while not text.endswith(b"}\n"):
            if not (line := self.process.stdout.readline()):
                raise RuntimeError((folder / "serve.log").read_text()[-2000:])
            text += line
        told = json.loads(text)
        self.url: str = told["url"]
        self.port = int(self.url.rpartition(":")[2])
        self.key = (folder / "data" / "admin.key").read_text().strip()

    def kill_one(self, chance: random.Random) -> None:
        """SIGKILL for one of its workers."""
        os.kill(chance.choice(self._workers()), signal.SIGKILL)

    def kill_all(self) -> None:
        """SIGKILL for all of it."""
        for pid in (self.process.pid, *self._workers()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()

    def _workers(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self) -> None:
        """Stop as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        self._log.close()


async def run(count: int, folder: Path, database: str) -> Figures:
    """All the calls, the kills, and the comparison."""
    chance = random.Random(7)
    async with Upstream() as provider, Outbound() as outbound:
        server = await asyncio.to_thread(Server, folder, database, provider.url)
        caller = Caller(server.url, server.key)
        started = time.perf_counter()
        left = iter(range(count))

        async def calls() -> None:
            for _ in left:
                await caller.call(outbound, chance)

        async def kills() -> None:
            nonlocal server
            for number in range(1, KILLS + 1):
                while caller.done < count * number // (KILLS + 1):  # noqa: ASYNC110 (it looks at a counter)
                    await asyncio.sleep(0.05)
                if number < KILLS:
                    server.kill_one(chance)
                else:
                    server.kill_all()
                    server = await asyncio.to_thread(Server, folder, database, provider.url, server.port)

        async with asyncio.TaskGroup() as group:
            group.create_task(kills())
            for _ in range(AT_ONCE):
                group.create_task(calls())
        seconds = time.perf_counter() - started
        # What was left is drained or cut by now, and posted when the server has stopped.
        await asyncio.sleep(3)
        await asyncio.to_thread(server.stop)
        # Whoever died last left a journal for the next start.
        await settle(database, folder / "data")
        received = Counter(str(each.json["model"]) for each in provider.received if each.method == "POST")
    figures = compare(database, received, caller.whole)
    figures.calls, figures.whole, figures.broken, figures.seconds = (
        count,
        caller.whole,
        caller.broken,
        round(seconds, 1),
    )
    return figures


def compare(database: str, received: Counter[str], whole: int) -> Figures:
    """The rows against what the provider has seen and told."""
    query = (
        "select model, outcome, estimated, uncached, cache_read, output, cost_nano from gimle.call_attempt"
        " where provider = 'stand'"
    )
    with psycopg.connect(database) as conn:
        rows = conn.execute(query).fetchall()
        sums = conn.execute(
            "select (select sum(cost_nano) from gimle.call_attempt) = sum(cost_nano)"
            " and (select count(*) from gimle.call_attempt) = sum(attempts) from gimle.cost_day"
        ).fetchone()
    by_model = Counter(model for model, *_ in rows)
    unknown = Counter(model for model, outcome, *_ in rows if outcome == "unknown")
    told = {"vectors": (3, 0, 0), "long": (7, 4, 100 * len(WORDS))}
    exact = [row for row in rows if row[1] == "done" and not row[2]]
    wrong = sum((row[3], row[4], row[5]) != told.get(row[0], (7, 4, len(WORDS))) for row in exact)
    # The dearest that 1000 tokens of an answer and any prompt of ours can cost.
    bound = 1_000_000
    return Figures(
        received=received.total(),
        rows=len(rows),
        unknown=unknown.total(),
        estimated=sum(row[2] for row in rows),
        lost=sum(max(0, received[model] - by_model[model]) for model in received),
        doubled=sum(max(0, by_model[model] - received[model] - unknown[model]) for model in by_model),
        wrong=wrong + max(0, whole - len(exact)),
        above_bound=sum(row[2] and (row[6] or 0) > bound for row in rows),
        sums_off=0 if sums is not None and sums[0] else 1,
        outcomes=dict(Counter(outcome for _, outcome, *_ in rows)),
    )


def main() -> None:
    """Run it; one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    count = parser.parse_args().count
    folder = Path(tempfile.mkdtemp(prefix="gimle-ledger-calls-"))
    server = Embedded.start(folder)
    try:
        asyncio.run(migrate(server.url))
        figures = asyncio.run(run(count, folder, server.url))
        print(json.dumps(msgspec.to_builtins(figures)), flush=True)
    finally:
        server.stop()
        with suppress(OSError):
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
