"""What does a call through Gimle cost beside the call itself, a plain proxy, and LiteLLM's proxy?

    python bench/gateway.py [--quick] [--rounds 5] [--json] [--litellm VENV]     the tables of docs/benchmarks.md
    python bench/gateway.py --gate                 fail if Gimle costs too many times the floor (continuous integration)
    python bench/gateway.py --soak 500000          one long run: memory and CPU as they go on
    python bench/gateway.py --workers 2            requests a second of one process and of several

Gimle serves with keys, routing, breaker, usage, metrics and its access log on. Beside it in the same rounds, one after
the other: the provider itself (`direct`), the least a Python gateway can do (`floor`), nginx where it is installed,
and LiteLLM's proxy (`--litellm` names a virtual environment that has it or shall get it). The gateway under measurement
has one core for itself, provider and load share the other. CPU is user and system time of all its processes, as the
kernel tells it. Figures are the best of the rounds for CPU (what else runs can only add) and the median for times.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent / "harness"))

from load import Order, Report
from targets import LOAD_CORE, Target, direct, floor, gimle, litellm, nginx, provider, resident

# Gimle's cost in the floor's: what continuous integration allows.
GATE = 22.0
_TEXT = "What is the capital of France? Answer in one sentence."
_SHOWN = Console(stderr=True)


class Case(msgspec.Struct, frozen=True):
    """One kind of load."""

    name: str
    connections: int
    seconds: float = 1.2
    stream: bool = False
    text: str = _TEXT
    without: tuple[str, ...] = ()


# LiteLLM can't hold so many streams, and the floor knows none.
_FEW = ("floor", "litellm")
CASES = (
    Case("1 at a time", 1),
    Case("16 at a time", 16),
    Case("100 at a time", 100),
    Case("100, provider takes 60 ms", 100, text=_TEXT + " [[wait=60]]"),
    Case("16 streams", 16, stream=True, without=("floor",)),
    Case("200 streams, 10 ms a chunk", 200, 2.0, stream=True, text=_TEXT + " [[gap=10]]", without=_FEW),
    Case("512 streams, 60 ms a chunk", 512, 6.0, stream=True, text=_TEXT + " [[wait=60]][[gap=60]]", without=_FEW),
)


class Measured(msgspec.Struct, frozen=True):
    """One target under one case in one round: microseconds of CPU a request and an event, and what the load saw."""

    target: str
    case: str
    cpu: float
    cpu_event: float
    report: Report


def measure(target: Target, case: Case, *, requests: int = 0, seconds: float = 0.0) -> Measured:
    """One window of load. Raises `RuntimeError` when an answer is wrong."""
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": case.text}]
    body = {"model": target.model, "messages": messages, "temperature": 0.2, "max_tokens": 64}
    order = Order(
        port=target.port,
        body=json.dumps({**body, "stream": True} if case.stream else body),
        headers={"authorization": f"Bearer {target.key}"},
        connections=case.connections,
        seconds=max(seconds or case.seconds, target.least_seconds),
        requests=requests,
    )
    load = [*LOAD_CORE, sys.executable, str(Path(__file__).parent / "harness" / "load.py")]
    before = target.cpu()
    made = subprocess.run([*load, msgspec.json.encode(order).decode()], capture_output=True, text=True, check=True)
    spent = target.cpu() - before
    report = msgspec.json.decode(made.stdout, type=Report)
    if report.failed or not report.answered:
        raise RuntimeError(f"{target.name}, {case.name}: {report.failed} answers failed: {report.fault}")
    # The CPU of the warm-up is in it too, and so are its requests.
    counted = report.sent
    return Measured(
        target=target.name,
        case=case.name,
        cpu=spent / counted * 1e6,
        cpu_event=spent / (report.events / report.answered * counted) * 1e6 if report.events else 0.0,
        report=report,
    )


def compare(targets: Sequence[Target], cases: Sequence[Case], rounds: int, seconds: float = 0.0) -> list[Measured]:
    """All targets under all cases, one after the other, so many times."""
    found: list[Measured] = []
    with Progress(console=_SHOWN, transient=True) as progress:
        task = progress.add_task("measuring", total=rounds * len(cases) * len(targets))
        for number in range(rounds):
            for case in cases:
                for target in targets:
                    progress.update(task, description=f"{case.name}: {target.name}")
                    if target.name not in case.without:
                        found += _measured(target, case, seconds)
                    progress.advance(task)
            _SHOWN.log(f"round {number + 1} of {rounds}")
    return found


def _measured(target: Target, case: Case, seconds: float) -> list[Measured]:
    """One window, or none when the target failed under this load, which is told."""
    try:
        return [measure(target, case, seconds=seconds)]
    except RuntimeError as failed:
        _SHOWN.log(str(failed))
        return []


class Row(msgspec.Struct, frozen=True):
    """One line of the table. Times in ms; `added` is beside the direct call, CPU in microseconds."""

    case: str
    target: str
    cpu: float
    per_core: float
    cpu_event: float
    rps: float
    p50: float
    p99: float
    added_p50: float
    added_p99: float
    first_p50: float
    first_p99: float
    added_first_p50: float
    added_first_p99: float


def rows(found: Sequence[Measured]) -> list[Row]:
    """The figures of all rounds in one."""

    def median(case: str, target: str, name: str) -> float:
        return statistics.median(getattr(one.report, name) for one in found if (one.case, one.target) == (case, target))

    def row(case: str, target: str) -> Row:
        its = [one for one in found if (one.case, one.target) == (case, target)]
        names = ("p50", "p99", "first_p50", "first_p99")
        times = {name: median(case, target, name) for name in names}
        added = {f"added_{name}": times[name] - median(case, "direct", name) for name in names}
        cpu = min(one.cpu for one in its)
        return Row(
            case=case,
            target=target,
            cpu=cpu,
            per_core=1e6 / cpu if cpu else 0.0,
            cpu_event=min(one.cpu_event for one in its),
            rps=statistics.median(one.report.answered / one.report.seconds for one in its),
            **times,
            **added,
        )

    return [row(case, target) for case, target in dict.fromkeys((one.case, one.target) for one in found)]


def show(table: Sequence[Row], memory: dict[str, float]) -> None:
    """Print the figures for a person."""
    shown = Table()
    for column in ("load", "way", "CPU µs/request", "requests/s a core", "CPU µs/chunk", "requests/s"):
        shown.add_column(column, justify="left" if column in ("load", "way") else "right")
    for column in ("p50 ms (added)", "p99 ms (added)", "first p50 (added)", "first p99 (added)"):
        shown.add_column(column, justify="right")
    for row in table:
        streams = row.first_p50 > 0
        shown.add_row(
            row.case,
            row.target,
            *(f"{row.cpu:.1f}", f"{row.per_core:,.0f}") if row.target != "direct" else ("", ""),
            f"{row.cpu_event:.1f}" if streams and row.target != "direct" else "",
            f"{row.rps:,.0f}",
            f"{row.p50:.2f} ({row.added_p50:+.2f})",
            f"{row.p99:.2f} ({row.added_p99:+.2f})",
            f"{row.first_p50:.2f} ({row.added_first_p50:+.2f})" if streams else "",
            f"{row.first_p99:.2f} ({row.added_first_p99:+.2f})" if streams else "",
        )
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(shown)
    console.print("Peak memory: " + ", ".join(f"{name} {size:.0f} MB" for name, size in memory.items()))


def gate(started: ExitStack) -> int:
    """Gimle's cost beside the floor's, in interleaved windows. The exit code."""
    upstream = started.enter_context(provider())
    targets = [direct(upstream), started.enter_context(floor(upstream)), started.enter_context(gimle(upstream))]
    case = Case("16 at a time", 16)
    table = {row.target: row for row in rows(compare(targets, [case], rounds=6, seconds=0.8))}
    ours, least = table["gimle"].cpu, table["floor"].cpu
    sys.stdout.write(f"{ours:.1f} µs of CPU a request, {ours / least:.2f} times the floor's {least:.1f} µs")
    sys.stdout.write(f" (allowed: {GATE} times)\n")
    return 0 if ours / least <= GATE else 1


def soak(started: ExitStack, requests: int) -> None:
    """One long run in ten parts."""
    upstream = started.enter_context(provider())
    target = started.enter_context(gimle(upstream))
    done = 0
    for _ in range(10):
        one = measure(target, Case("soak", 16), requests=requests // 10)
        done += one.report.answered
        sys.stdout.write(f"{done:>9,} requests  {resident(target):6.1f} MB  {one.cpu:6.1f} µs CPU a request\n")
        sys.stdout.flush()


def scale(started: ExitStack, workers: int) -> None:
    """One process and several, on all cores, which provider and load share: it tells something from four cores on."""
    upstream = started.enter_context(provider())
    case = Case("400, provider takes 20 ms", 400, 3.0, text=_TEXT + " [[wait=20]]")
    for count in (1, workers):
        with gimle(upstream, workers=count) as target:
            one = max((measure(target, case) for _ in range(3)), key=lambda one: one.report.answered)
            rps = one.report.answered / one.report.seconds
            sys.stdout.write(f"{count} workers: {rps:,.0f} requests/s, {one.cpu:.1f} µs CPU a request\n")


def tables(started: ExitStack, asked: argparse.Namespace) -> None:
    """All that is there, under all cases."""
    upstream = started.enter_context(provider())
    targets = [direct(upstream)]
    for name, begin in (("floor", floor), ("nginx", nginx), ("gimle", gimle)):
        try:
            targets.append(started.enter_context(begin(upstream)))
        except FileNotFoundError as lacking:
            _SHOWN.print(f"Without {name}: {lacking}")
    try:
        if asked.litellm:
            targets.append(started.enter_context(litellm(upstream, Path(asked.litellm))))
    except (subprocess.CalledProcessError, RuntimeError) as lacking:
        _SHOWN.print(f"Without litellm: {lacking}")
    seconds = 0.5 if asked.quick else 0.0
    found = rows(compare(targets, CASES[:5] if asked.quick else CASES, 1 if asked.quick else asked.rounds, seconds))
    memory = {target.name: target.peak() for target in targets if target.pid}
    if asked.json:
        sys.stdout.write(msgspec.json.encode({"rows": found, "peak_mb": memory}).decode() + "\n")
    else:
        show(found, memory)


def main() -> int:
    """Start what is measured, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--litellm", metavar="VENV", help="measure LiteLLM's proxy too; installed there if it is not")
    parser.add_argument("--gate", action="store_true")
    parser.add_argument("--soak", type=int, metavar="REQUESTS")
    parser.add_argument("--workers", type=int)
    asked = parser.parse_args()
    with ExitStack() as started:
        if asked.gate:
            return gate(started)
        if asked.soak:
            soak(started, asked.soak)
        elif asked.workers:
            scale(started, asked.workers)
        else:
            tables(started, asked)
    return 0


if __name__ == "__main__":
    sys.exit(main())
