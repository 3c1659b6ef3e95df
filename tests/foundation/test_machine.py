"""Memory and processors are those of the container where it has less than the machine."""

import subprocess
import sys
from pathlib import Path

from gimle.foundation import machine
from gimle.foundation.machine import Memory

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\nHugePages_Total: 0\n"
GB = 1 << 30


def rooted(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        file = tmp_path / name.replace("__", "/").replace("_DOT_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_without_a_limit_it_is_the_machines(tmp_path: Path) -> None:
    root = rooted(tmp_path, proc__meminfo=MEMINFO, sys__fs__cgroup__memory_DOT_max="max\n")
    assert machine.memory(root) == Memory(16_000_000 << 10, 8_000_000 << 10)


def test_the_containers_limit_counts_and_its_cache_does_not(tmp_path: Path) -> None:
    root = rooted(
        tmp_path,
        proc__meminfo=MEMINFO,
        sys__fs__cgroup__memory_DOT_max=f"{4 * GB}\n",
        sys__fs__cgroup__memory_DOT_current=f"{3 * GB}\n",
        sys__fs__cgroup__memory_DOT_stat=f"anon 5\ninactive_file {2 * GB}\nactive_file 7\n",
    )
    assert machine.memory(root) == Memory(4 * GB, 3 * GB)


def test_older_containers_tell_the_same_elsewhere(tmp_path: Path) -> None:
    root = rooted(
        tmp_path,
        proc__meminfo=MEMINFO,
        sys__fs__cgroup__memory__memory_DOT_limit_in_bytes=f"{2 * GB}\n",
        sys__fs__cgroup__memory__memory_DOT_usage_in_bytes=f"{GB}\n",
        sys__fs__cgroup__memory__memory_DOT_stat="total_inactive_file 0\n",
    )
    assert machine.memory(root) == Memory(2 * GB, GB)
    (root / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("9223372036854771712")
    assert machine.memory(root).total == 16_000_000 << 10


def test_a_machine_without_proc_is_asked_otherwise(tmp_path: Path) -> None:
    found = machine.memory(tmp_path)
    assert 0 < found.available < found.total


def test_processors_are_those_that_may_be_used(tmp_path: Path) -> None:
    own = machine.cores(tmp_path)
    assert own >= 1
    assert machine.cores(rooted(tmp_path, sys__fs__cgroup__cpu_DOT_max="50000 100000\n")) == 0.5
    assert machine.cores(rooted(tmp_path, sys__fs__cgroup__cpu_DOT_max="max 100000\n")) == own


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    told = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], flush=True)"
    program = f"from gimle.foundation import machine; {told}; print(machine.open_files()); {told}"
    made = subprocess.run(
        ["sh", "-c", f"ulimit -Sn 200; ulimit -Hn 300; exec {sys.executable} -c '{program}'"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.split() == ["200", "300", "300"]
