"""The locks: everything pinned with hashes, no host named, and a base install that stays small."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted([*(ROOT / "deploy" / "locks").glob("*.txt"), *(ROOT / "src").rglob("*.lock")])
BASE, DEV = "base.txt", "dev.txt"
MOST_PACKAGES = 60
MOST_MEGABYTES = 400


def _entries(lock: Path) -> list[str]:
    """The logical lines of a lock, continuation lines joined, comments left out."""
    text = re.sub(r"^\s*#.*$", "", lock.read_text("utf-8"), flags=re.MULTILINE)
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_each_package_is_pinned_with_hashes(lock: Path) -> None:
    entries = _entries(lock)
    loose = [entry[:60] for entry in entries if not re.match(r"[\w.\[\],-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry)]
    assert entries
    assert not loose, f"Not pinned, or without hashes: {loose}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_names_no_host(lock: Path) -> None:
    """Where packages come from is the business of whoever installs."""
    host = re.compile(r"(?i)\w+://|--(?:index|extra-index|find-links)|trusted-host")
    assert not [line for line in lock.read_text("utf-8").splitlines() if host.search(line)]


def test_the_locks_agree() -> None:
    """What is tested is what is shipped: the development lock holds each package of the others in the same version."""
    held = {lock.name: {entry.split(" ")[0] for entry in _entries(lock)} for lock in LOCKS if lock.suffix == ".txt"}
    assert held.keys() == {BASE, "local.txt", "grpc.txt", DEV}
    assert not {name: lock - held[DEV] for name, lock in held.items() if lock - held[DEV]}


def test_the_base_install_is_small() -> None:
    assert len(_entries(ROOT / "deploy/locks" / BASE)) <= MOST_PACKAGES


@pytest.mark.full
def test_the_base_installs_by_itself_and_stays_light(tmp_path: Path) -> None:
    """A fresh environment from the base lock, with our wheel: it starts, and the packages bring less than 400 MB.

    Bytecode is left out: Python writes it later, where it may, some 60 MB of it.
    """
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True)
    pip = [str(tmp_path / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    before = _megabytes(tmp_path)
    subprocess.run([*pip, "--no-compile", "--require-hashes", "-r", str(ROOT / "deploy/locks" / BASE)], check=True)
    # hatchling builds the wheel in this environment, so that the fresh one holds run-time packages only.
    wheel = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*wheel, "-w", str(tmp_path / "wheel"), str(ROOT)], check=True)
    built = next((tmp_path / "wheel").glob("gimle-*.whl"))
    subprocess.run([*pip, "--no-compile", "--no-deps", str(built)], check=True)
    built.unlink()
    used = _megabytes(tmp_path) - before
    print(f"base install: {used:.0f} MB")
    said = subprocess.run([tmp_path / "bin" / "gimle", "--version"], capture_output=True, text=True, check=True).stdout
    assert "gimle" in said.lower()
    assert used <= MOST_MEGABYTES


def _megabytes(environment: Path) -> float:
    files = (file for file in environment.rglob("*") if "__pycache__" not in file.parts)
    return sum(file.lstat().st_size for file in files if not file.is_dir()) / 1e6
