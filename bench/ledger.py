"""What the ledger costs, and whether it is true: µs an attempt, and rows against what was really sent.

    python -m bench.ledger                      µs an attempt, posting rate, and three kill -9s of writers at full load
    python -m bench.ledger cost post crash      only these

In `crash` a process begins and settles attempts as fast as it can and says each on a pipe, between the two and after
them: what came out of the pipe is the truth, as it would be at a provider. All counts but `attempts`, `settled` and
`unheard` must be 0. `bench/ledger_calls.py` does the same through a whole server.
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
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from gimle.foundation import logs
from gimle.foundation.config import Settings
from gimle.foundation.db import Database
from gimle.foundation.migrate import migrate
from gimle.foundation.postgres import Embedded
from gimle.gateway.facts import End, account
from gimle.gateway.journal import Journal
from gimle.gateway.ledger import Ledger
from gimle.gateway.neutral import Usage
from gimle.gateway.rates import Price, Rates
from gimle.selection.types import Model

TENANT = "ten_ledger"
MODEL = Model(provider="mock", name="mock-1")
PRICE = Price("bench/1", (Rates(0, 150_000_000, 75_000_000, 150_000_000, 600_000_000, 600_000_000),))
EXPECTED = Usage(uncached=100, output=500)
ACCOUNT = account(TENANT, "key_bench", case="case", workflow="flow", request="req_0192f0c1d3b47c0f8a5e6b7c8d9e0f1a")
ENDS: tuple[End, ...] = ("done", "done", "done", "done", "refused", "broken", "cancelled", "overtaken")


class Truth(msgspec.Struct):
    """What the ledger should hold, and where it does not."""

    attempts: int = 0
    settled: int = 0
    unheard: int = 0
    lost: int = 0
    doubled: int = 0
    wrong_cost: int = 0
    above_bound: int = 0
    sums_off: int = 0


# The writer process


async def write(url: str, data: Path, seed: int) -> None:
    """Begin and settle attempts until killed, each said on standard output."""
    logs.configure("error", as_json=True)
    chance = random.Random(seed)
    db = await Database.open(url, size=2)
    ledger = Ledger.open(db, Settings(data=data))
    print("ready", flush=True)
    open_entries = []
    while True:
        for _ in range(50):
            entry = ledger.begin(ACCOUNT, MODEL, PRICE, EXPECTED)
            os.write(1, b"b %s\n" % entry.id.hex().encode())
            open_entries.append(entry)
        chance.shuffle(open_entries)
        for entry in [open_entries.pop() for _ in range(max(0, len(open_entries) - 20))]:
            end = chance.choice(ENDS)
            usage = Usage(uncached=chance.randint(1, 100), output=chance.randint(0, 500)) if end == "done" else None
            nano = entry.settle(end, usage, first=0.1)
            os.write(1, b"s %s %d %s\n" % (entry.id.hex().encode(), nano or 0, end.encode()))
        await asyncio.sleep(0)


class Writer:
    """A writer process and all that it has said."""

    def __init__(self, url: str, data: Path, seed: int) -> None:
        command = [sys.executable, "-m", "bench.ledger", "writer", url, str(data), str(seed)]
        self._said = tempfile.TemporaryFile("w+b")  # noqa: SIM115 (closed with the writer)
        self._process = subprocess.Popen(command, stdout=self._said, stderr=subprocess.DEVNULL)

    def wait(self, size: int = 1, seconds: float = 30.0) -> None:
        """Until it has said so many bytes."""
        until = time.monotonic() + seconds
        while os.fstat(self._said.fileno()).st_size < size:
            if time.monotonic() > until or self._process.poll() is not None:
                raise RuntimeError("The writer does not write.")
            time.sleep(0.01)

    def kill(self) -> bytes:
        """SIGKILL, in the middle of whatever it does; what it had said."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._said.seek(0)
        said = self._said.read()
        self._said.close()
        return said


def crashes(url: str, data: Path, times: int = 3, size: int = 400_000) -> Truth:
    """Two writers on one data directory, killed so many times in turn; then one process takes over what is left."""
    said = b""
    writers = [Writer(url, data, seed) for seed in range(2)]
    for seed in range(times):
        for writer in writers:
            writer.wait(size)
        victim = writers.pop(0)
        said += victim.kill()
        if seed < times - 1:
            writers.append(Writer(url, data, seed + 2))
    for writer in writers:
        said += writer.kill()
    asyncio.run(settle(url, data))
    return compare(url, said)


async def settle(url: str, data: Path, seconds: float = 60.0) -> None:
    """Take over and post whatever dead writers have left."""
    db = await Database.open(url, size=2)
    ledger = Ledger.open(db, Settings(data=data))
    for _ in range(int(seconds * 10)):
        if len(list((data / "ledger").glob("[0-9a-f]*"))) == 1:
            break
        await asyncio.sleep(0.1)
    await ledger.close()
    await db.close()


def compare(url: str, said: bytes) -> Truth:
    """The rows against what was said."""
    begun: set[str] = set()
    settled: dict[str, tuple[int, str]] = {}
    for line in said.splitlines():
        match line.decode().split():
            case ["b", id]:
                begun.add(id)
            case ["s", id, nano, end]:
                settled[id] = int(nano), end
    with psycopg.connect(url) as conn:
        rows = conn.execute("select id, outcome, cost_nano, estimated from gimle.call_attempt").fetchall()
        total, days, day_nano = conn.execute(
            "select (select coalesce(sum(cost_nano), 0) from gimle.call_attempt),"
            " sum(attempts), sum(cost_nano) from gimle.cost_day"
        ).fetchone() or (0, 0, 0)
    found = {id.hex: (nano, outcome) for id, outcome, nano, _ in rows}
    bound = PRICE.bound(EXPECTED.input_tokens, EXPECTED.output_tokens)
    return Truth(
        attempts=len(begun),
        settled=len(settled),
        unheard=sum(outcome == "unknown" for _, outcome, _, _ in rows),
        lost=len(begun - found.keys()),
        doubled=len(rows) - len(found),
        wrong_cost=sum(found.get(id) != told for id, told in settled.items()),
        above_bound=sum(estimated and nano > bound for _, _, nano, estimated in rows),
        sums_off=int(days != len(rows)) + int(day_nano != total),
    )


# Figures


def cost(count: int = 50_000) -> dict[str, float]:
    """CPU µs an attempt, begin and settle together, into a real journal."""
    folder = Path(tempfile.mkdtemp(prefix="gimle-ledger-"))
    ledger = Ledger(Journal.open(folder / "ledger", 1 << 30), None, Settings(data=folder))
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        for _ in range(count // 5):
            ledger.begin(ACCOUNT, MODEL, PRICE, EXPECTED).settle("done", Usage(uncached=90, output=20), first=0.1)
        best = min(best, (time.process_time() - started) / (count // 5))
    shutil.rmtree(folder)
    return {"cpu_us_an_attempt": round(best * 1e6, 1)}


async def post(url: str, count: int = 50_000) -> dict[str, float]:
    """How fast a journal gets into the database, and what that takes of this process."""
    folder = Path(tempfile.mkdtemp(prefix="gimle-ledger-"))
    db = await Database.open(url, size=2)
    ledger = Ledger.open(db, Settings(data=folder))
    for _ in range(count):
        ledger.begin(ACCOUNT, MODEL, PRICE, EXPECTED).settle("done", Usage(uncached=90, output=20), first=0.1)
    started, cpu = time.perf_counter(), time.process_time()
    posting = ledger.posting
    assert posting is not None
    await posting.post()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    await ledger.close()
    await db.close()
    shutil.rmtree(folder)
    return {"posted_a_second": round(count / seconds), "cpu_us_a_fact": round(cpu / count * 1e6, 1)}


def main() -> None:
    """Run what was asked for; one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["cost", "post", "crash"])
    given = parser.parse_args()
    if given.what[0] == "writer":
        _, url, data, seed = given.what
        asyncio.run(write(url, Path(data), int(seed)))
        return
    folder = Path(tempfile.mkdtemp(prefix="gimle-ledger-pg-"))
    # The server makes its own folder reachable for the user that it runs as, and no folder above it.
    server = Embedded.start(folder)
    try:
        asyncio.run(migrate(server.url))
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute("insert into gimle.tenant (id, name) values (%s, 'ledger')", (TENANT,))
        for what in given.what:
            print(json.dumps({"what": what, **_figures(what, server.url, folder)}), flush=True)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _figures(what: str, url: str, folder: Path) -> dict[str, Any]:
    match what:
        case "cost":
            return cost()
        case "post":
            return asyncio.run(post(url))
        case "crash":
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute("truncate gimle.call_attempt, gimle.cost_day")
            return msgspec.structs.asdict(crashes(url, folder / "data", size=4_000_000))
        case _:
            raise SystemExit(f"There is no figure {what!r}.")


if __name__ == "__main__":
    main()
