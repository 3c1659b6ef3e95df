"""What this machine has to give: memory, processors and open files, the limits of a container included."""

import os
import resource
from pathlib import Path

import msgspec

_ROOT = Path("/")
# A container without a limit tells a number near 2^63.
_NO_LIMIT = 1 << 60
# More than any process here needs, and less than what would make others slow that close all they could have inherited.
_MOST_FILES = 65_536


class Memory(msgspec.Struct, frozen=True):
    """Bytes: all there is, and what a new process could take without pushing another one out."""

    total: int
    available: int


def memory(root: Path = _ROOT) -> Memory:
    """The memory of this machine, or of the container where that has less. `root` is where /proc and /sys are."""
    told = _meminfo(root)
    found = Memory(told.get("MemTotal", 0), told.get("MemAvailable", 0)) if told else _by_pages()
    for limit, used in _container(root):
        if limit < _NO_LIMIT:
            found = Memory(min(found.total, limit), max(0, min(found.available, limit - used)))
    return found


def cores(root: Path = _ROOT) -> float:
    """How many processors this process may keep busy; a container's share may be a fraction."""
    own = len(os.sched_getaffinity(0)) if "sched_getaffinity" in vars(os) else os.cpu_count() or 1
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").partition(" ")
    if not quota:
        quota = _text(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
        period = _text(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit() and int(quota) > 0 < int(period):
        return min(float(own), int(quota) / int(period))
    return float(own)


def open_files() -> int:
    """Let this process have as many files and sockets open as the system allows it, which most give only to those who
    ask; how many that is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def _meminfo(root: Path) -> dict[str, int]:
    lines = (line.split() for line in _text(root / "proc/meminfo").splitlines())
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if len(words) == 3 and words[2] == "kB"}


def _by_pages() -> Memory:
    """Where there is no /proc. What is free is unknown there, so half of all is taken for it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Memory(total, total // 2)


def _container(root: Path) -> list[tuple[int, int]]:
    """(limit, used) of the control group, in its newer and its older form. Cache that can be dropped is not used."""
    groups = (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory.stat", "inactive_file"),
        (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "sys/fs/cgroup/memory/memory.usage_in_bytes",
            "sys/fs/cgroup/memory/memory.stat",
            "total_inactive_file",
        ),
    )
    found = []
    for limit, used, stat, cache in groups:
        most, now = _text(root / limit), _text(root / used)
        if most.isdigit() and now.isdigit():
            lines = (line.split() for line in _text(root / stat).splitlines())
            dropped = next((int(words[1]) for words in lines if words[:1] == [cache]), 0)
            found.append((int(most), max(0, int(now) - dropped)))
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip()
    except OSError:
        return ""
