"""The arrows between the rooms: contracts in `pyproject.toml`, kept without exceptions."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CONTRACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
    "contracts"
]


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_each_import_keeps_the_contracts() -> None:
    linter = _python("-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache", "--no-logo")
    assert linter.returncode == 0, linter.stdout + linter.stderr


def test_no_contract_has_an_exception() -> None:
    excused = [contract["id"] for contract in CONTRACTS if "ignore_imports" in contract]
    assert not excused, f"An exception is an ADR, not a line in pyproject.toml: {excused}"


def test_the_rooms_are_listed_completely() -> None:
    layers = next(contract for contract in CONTRACTS if contract["type"] == "layers")
    assert layers["exhaustive"] is True
    assert [layer.strip("()") for layer in layers["layers"]][-5:] == [
        "gateway", "selection", "trust", "jobs", "foundation",
    ]  # fmt: skip


def test_the_client_imports_nothing_heavy() -> None:
    """Who only talks to a server should not wait for a database driver or an inference engine to load.

    click and rich are not asked about: httpx imports them for its own command where they are installed.
    """
    heavy = {"psycopg", "dbos", "litestar", "onnxruntime", "kreuzberg", "numpy"}
    loaded = _python("-c", "import gimle.client, sys; print(*sorted(m for m in sys.modules if '.' not in m))")
    assert loaded.returncode == 0, loaded.stderr
    loaded_heavy = heavy & set(loaded.stdout.split())
    assert not loaded_heavy
