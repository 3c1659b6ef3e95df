"""The numbers that the house shows at `/metrics`: what is the same for all rooms is declared here, once.

A room counts by making a metric, or by importing one. Labels take few values: never the id of a call, a path with an id
in it, or a caller's words.

All numbers of a process lie in one stretch of memory (`Cells`), which the other processes of the same server can read
while it counts. So whichever worker is asked shows the sum over all, and what a worker has counted outlives it.
"""

import json
import math
import mmap
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

CONTENT_TYPE = "text/plain; version=0.0.4"

# Eight bytes each; memory is used only as far as metrics are made.
_CELLS = 128 * 1024
_VALUES, _KEYS = ".cells", ".keys"

Labels = tuple[str, ...]
# The cells of each metric, by its name and its labels' values.
Totals = dict[tuple[str, Labels], list[float]]


class Cells:
    """The numbers of one process: a row of cells, and for each metric and its labels where its own begin."""

    def __init__(self) -> None:
        self.values: memoryview[float] = memoryview(bytearray(8 * _CELLS)).cast("d")
        self.metrics: dict[str, Metric] = {}
        self._keys: list[tuple[str, Labels, int, int]] = []
        self._used = 0
        self._folder: Path | None = None
        self._index: int | None = None

    def take(self, name: str, labels: Labels, count: int) -> int:
        """Where the cells of a metric with these labels begin. Raises `MemoryError` when there are far too many."""
        begin, self._used = self._used, self._used + count
        if self._used > _CELLS:
            raise MemoryError("There are too many metrics: some label takes too many values.")
        self._keys.append((name, labels, begin, count))
        self._tell(self._keys[-1:])
        return begin

    def share(self, folder: Path) -> None:
        """From now on count where the other processes of this server, which have the same folder, can read it."""
        values = folder / f"{os.getpid()}{_VALUES}"
        with values.open("wb+") as file:
            file.truncate(8 * _CELLS)
            shared = memoryview(mmap.mmap(file.fileno(), 8 * _CELLS)).cast("d")
        shared[: self._used] = self.values[: self._used]
        self.values, self._folder = shared, folder
        self._index = os.open(values.with_suffix(_KEYS), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._tell(self._keys)

    def totals(self) -> Totals:
        """The cells of every metric and its labels, summed over the processes that share them."""
        if self._folder is None:
            return {(name, labels): list(self.values[at : at + n]) for name, labels, at, n in self._keys}
        sums: Totals = {}
        for file in sorted(self._folder.glob(f"*{_VALUES}")):
            for (name, labels), found in _read(file):
                metric = self.metrics.get(name)
                if metric is None or (metric.of_the_living and not alive(int(file.stem))):
                    continue
                known = sums.setdefault((name, labels), [0.0] * len(found))
                known[:] = [one + other for one, other in zip(known, found, strict=True)]
        return sums

    def processes(self) -> list[int]:
        """The processes whose numbers these are, and which live."""
        if self._folder is None:
            return [os.getpid()]
        return sorted(pid for file in self._folder.glob(f"*{_VALUES}") if alive(pid := int(file.stem)))

    def _tell(self, keys: Sequence[tuple[str, Labels, int, int]]) -> None:
        if self._index is not None:
            os.write(self._index, b"".join(json.dumps(key).encode() + b"\n" for key in keys))


def _read(file: Path) -> Iterator[tuple[tuple[str, Labels], list[float]]]:
    lines = file.with_suffix(_KEYS).read_bytes().splitlines()
    with file.open("rb") as opened:
        values = array("d", opened.read(8 * _CELLS))
    for line in lines:
        name, labels, at, count = json.loads(line)
        yield (name, tuple(labels)), values[at : at + count].tolist()


def alive(pid: int) -> bool:
    """Whether a process of this number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


REGISTRY = Cells()


class Metric:
    """A metric without labels, or one row of a metric with labels: `labels` gives the row to count in."""

    kind: ClassVar[str]
    of_the_living: ClassVar[bool] = False

    def __init__(self, name: str, help: str, labels: Sequence[str] = (), *, registry: Cells = REGISTRY) -> None:
        self.name = name
        self.help = help
        self.label_names = tuple(labels)
        self._registry = registry
        self._rows: dict[Labels, Self] = {}
        self._at = -1
        registry.metrics[name] = self
        if not labels:
            self._at = registry.take(name, (), self._size())

    def labels(self, *values: str) -> Self:
        """The row of these labels' values."""
        row = self._rows.get(values)
        if row is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}.")
            row = self._rows[values] = self._row(self._registry.take(self.name, values, self._size()))
        return row

    def _row(self, at: int) -> Self:
        row = object.__new__(type(self))
        row.__dict__ |= {**self.__dict__, "_at": at}
        return row

    def _size(self) -> int:
        return 1

    def lines(self, labels: str, cells: Sequence[float]) -> Iterator[str]:
        """The lines of one row in the Prometheus text format."""
        yield f"{self.name}{_braced(labels)} {_number(cells[0])}"


class Counter(Metric):
    """What only grows."""

    kind = "counter"

    def inc(self, amount: float = 1) -> None:
        """Count."""
        self._registry.values[self._at] += amount

    def lines(self, labels: str, cells: Sequence[float]) -> Iterator[str]:
        """The lines of one row in the Prometheus text format."""
        yield f"{self.name}_total{_braced(labels)} {_number(cells[0])}"


class Gauge(Metric):
    """What goes up and down; a process that has ended counts no more."""

    kind = "gauge"
    of_the_living = True

    def inc(self, amount: float = 1) -> None:
        """Add, or take off."""
        self._registry.values[self._at] += amount

    def set(self, value: float) -> None:
        """Say how it stands in this process."""
        self._registry.values[self._at] = value


class Histogram(Metric):
    """How values are spread over ranges; `buckets` are their upper bounds."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        help: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: Cells = REGISTRY,
    ) -> None:
        self._bounds = tuple(buckets)
        super().__init__(name, help, labels, registry=registry)

    def observe(self, value: float) -> None:
        """Count a value."""
        values = self._registry.values
        values[self._at] += value
        values[self._at + 1 + bisect_left(self._bounds, value)] += 1

    def _size(self) -> int:
        return len(self._bounds) + 2

    def lines(self, labels: str, cells: Sequence[float]) -> Iterator[str]:
        """The lines of one row in the Prometheus text format."""
        count = 0.0
        for bound, more in zip((*self._bounds, math.inf), cells[1:], strict=True):
            count += more
            within = f'le="{_number(bound)}"'
            yield f"{self.name}_bucket{_braced(','.join(filter(None, (labels, within))))} {_number(count)}"
        yield f"{self.name}_count{_braced(labels)} {_number(count)}"
        yield f"{self.name}_sum{_braced(labels)} {cells[0]}"


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

HTTP_REQUESTS = Counter("gimle_http_requests", "HTTP requests answered.", ("route", "method", "status"))
HTTP_SECONDS = Histogram(
    "gimle_http_request_seconds",
    "Time from the head of a request to the last byte of its answer.",
    ("route",),
    buckets=_SECONDS,
)
HTTP_IN_FLIGHT = Gauge("gimle_http_in_flight", "HTTP requests being answered now.")
HTTP_DISCONNECTS = Counter("gimle_http_disconnects", "Callers who left before their answer was complete.", ("route",))
OVERHEAD_SECONDS = Histogram(
    "gimle_overhead_seconds",
    "Our own time on an inference call up to its first byte, the provider's taken off.",
    ("route",),
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1),
)


def exposition(registry: Cells = REGISTRY) -> bytes:
    """All metrics in the Prometheus text format."""
    totals = registry.totals()
    lines: list[str] = []
    for name, metric in registry.metrics.items():
        shown = f"{name}_total" if metric.kind == "counter" else name
        lines += [f"# HELP {shown} {_escaped(metric.help)}", f"# TYPE {shown} {metric.kind}"]
        for (of, values), cells in totals.items():
            if of == name:
                labels = _joined(dict(zip(metric.label_names, values, strict=True)))
                lines += metric.lines(labels, cells)
    lines += _processes(registry.processes())
    # A label may hold what no text can: a lone surrogate in a name.
    return "\n".join([*lines, ""]).encode("utf-8", "replace")


def _processes(pids: Sequence[int]) -> Iterator[str]:
    """What the kernel knows of the processes, where it tells it under /proc."""
    shown = (
        ("process_cpu_seconds_total", "counter", "Processor time, user and system.", 0),
        ("process_resident_memory_bytes", "gauge", "Memory in use.", 1),
        ("process_open_fds", "gauge", "Open files and sockets.", 2),
    )
    known = {pid: usage for pid in pids if (usage := _usage(pid)) is not None}
    for name, kind, help, at in shown:
        yield f"# HELP {name} {help}"
        yield f"# TYPE {name} {kind}"
        for pid, usage in known.items():
            yield f'{name}{{pid="{pid}"}} {_number(usage[at])}'


def _usage(pid: int) -> tuple[float, float, float] | None:
    proc = Path(f"/proc/{pid}")
    try:
        after_name = (proc / "stat").read_text().rpartition(")")[2].split()
        resident = int((proc / "statm").read_text().split()[1]) * mmap.PAGESIZE
        files = len(os.listdir(proc / "fd"))
    except (OSError, ValueError):
        return None
    ticks = int(after_name[11]) + int(after_name[12])
    return ticks / os.sysconf("SC_CLK_TCK"), resident, files


def _joined(labels: Mapping[str, str]) -> str:
    # An empty label is as good as none.
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items()) if value)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _braced(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _number(value: float) -> str:
    if value == math.inf:
        return "+Inf"
    return str(float(value))
