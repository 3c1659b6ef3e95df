"""How long does the server take over a kept answer, and what does it cost beside a call that goes to its provider?

    python bench/cache.py [--calls 2000] [--json]

The server's time is what `x-gimle-overhead-ms` says, from the head of the request to the first byte of the answer, for
one caller at a time who sends the same call again and again. CPU is user and system time of the server, as the kernel
tells it, with 16 callers. The gateway has one core for itself, provider and load share the other.
"""

import argparse
import json
import statistics
import subprocess
import sys
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent / "harness"))

from load import Order, Report
from targets import LOAD_CORE, Target, gimle, provider

_PATH = "/v1/chat/completions"
_SECONDS = 1.2
_ROUNDS = 3


class Case(msgspec.Struct, frozen=True):
    """One kind of call."""

    name: str
    kept: bool = True
    stream: bool = False
    characters: int = 60

    def body(self, target: Target) -> str:
        """The request."""
        said = [{"role": "user", "content": "When do bees swarm? ".ljust(self.characters, "x")}]
        asked: dict[str, Any] = {"model": target.model, "messages": said, "stream": self.stream}
        return json.dumps({**asked, "gimle": {"cache": True}} if self.kept else asked)


class Row(msgspec.Struct, frozen=True):
    """What one case took: the server's milliseconds, and microseconds of its CPU a call."""

    name: str
    p50: float
    p99: float
    cpu: float
    rps: float


CASES = (
    Case("a call that goes to its provider", kept=False),
    Case("a kept answer"),
    Case("a kept answer to 20 000 characters", characters=20_000),
    Case("a kept stream of 50 chunks", stream=True),
)


def own_times(target: Target, case: Case, calls: int) -> list[float]:
    """The server's milliseconds for each call. Raises `RuntimeError` for one that was answered in another way."""
    connection = HTTPConnection("127.0.0.1", target.port, timeout=30)
    headers = {"authorization": f"Bearer {target.key}", "content-type": "application/json"}
    times = []
    for number in range(calls + 10):
        connection.request("POST", _PATH, case.body(target), headers)
        answer = connection.getresponse()
        answer.read()
        if number >= 10:
            if answer.headers.get("x-gimle-cache") != ("hit" if case.kept else None):
                raise RuntimeError(f"{case.name}: {answer.status} {answer.headers.get('x-gimle-cache')}")
            times.append(float(answer.headers["x-gimle-overhead-ms"]))
    connection.close()
    return times


def loaded(target: Target, case: Case) -> tuple[float, float]:
    """Microseconds of CPU a call, and calls a second."""
    headers = {"authorization": f"Bearer {target.key}"}
    order = Order(port=target.port, body=case.body(target), headers=headers, connections=16, seconds=_SECONDS)
    load = [*LOAD_CORE, sys.executable, str(Path(__file__).parent / "harness" / "load.py")]
    before = target.cpu()
    made = subprocess.run([*load, msgspec.json.encode(order).decode()], capture_output=True, text=True, check=True)
    spent = target.cpu() - before
    report = msgspec.json.decode(made.stdout, type=Report)
    if report.failed:
        raise RuntimeError(f"{case.name}: {report.failed} answers failed: {report.fault}")
    return spent / report.sent * 1e6, report.answered / report.seconds


def measured(target: Target, case: Case, calls: int) -> Row:
    """One case: the times of all calls, and the best of the rounds for CPU."""
    times = sorted(own_times(target, case, calls))
    loads = [loaded(target, case) for _ in range(_ROUNDS)]
    return Row(
        case.name,
        statistics.median(times),
        times[int(len(times) * 0.99)],
        min(cpu for cpu, _ in loads),
        max(rps for _, rps in loads),
    )


def main() -> int:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    with ExitStack() as started:
        target = started.enter_context(gimle(started.enter_context(provider())))
        rows = [measured(target, case, given.calls) for case in CASES]
    if given.json:
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
        return 0
    table = Table("", "server p50 ms", "p99 ms", "CPU µs", "calls/s")
    for row in rows:
        table.add_row(row.name, f"{row.p50:.2f}", f"{row.p99:.2f}", f"{row.cpu:.0f}", f"{row.rps:,.0f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
