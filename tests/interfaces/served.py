"""Programs in processes of their own, as a user starts them: for the tests that go through the front door."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

STOP_SECONDS = 60
# As most systems start a program: it may have more files open only if it asks for that.
_FEW_FILES = ("sh", "-c", 'ulimit -Sn 512; exec "$@"', "sh")


class Told(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Up(NamedTuple):
    """A running server."""

    process: subprocess.Popen[str]
    url: str
    key: str
    data: Path


@contextmanager
def up(data: Path, *flags: str, command: str = "up") -> Iterator[Up]:
    """Start on a free port, wait until it is ready, and stop it at the end by Ctrl-C unless it has ended by then."""
    flags = ("--no-setup", *flags) if command == "up" else flags
    with started(data, command, "--port", "0", *flags) as (process, ready):
        key = Path(ready["key_file"]).read_text().strip() if ready["key_file"] else ""
        yield Up(process, str(ready["url"]), key, data)


@contextmanager
def started(data: Path, command: str, *flags: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A command that runs until it is stopped, and the document that it prints when it is ready."""
    log = (data / f"{command}.log").open("a")
    process = subprocess.Popen(
        [*_FEW_FILES, sys.executable, "-m", "gimle", command, "--json", "--data", str(data), *flags],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        yield process, _ready(process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(STOP_SECONDS)
        if process.stdout is not None:
            process.stdout.close()
        log.close()


async def ran(*words: str, home: Path, **environment: str) -> str:
    """What a program prints that must end well, in a process of its own, as a user starts it."""
    known = {"HOME": str(home), "LLM_USER_PATH": str(home), "PATH": f"/usr/local/bin:{os.defpath}", **environment}
    program = await asyncio.create_subprocess_exec(
        *words, cwd=home, env=known,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        said, complaints = await program.communicate()
    assert program.returncode == 0, complaints.decode()
    return said.decode()


def _ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The document that a command prints with --json when it is ready."""
    assert process.stdout is not None
    text = ""
    while (line := process.stdout.readline()) not in ("", "}\n"):
        text += line
    assert line, f"gimle ended with {process.wait()}; its log lies in the data directory"
    ready: dict[str, Any] = json.loads(text + line)
    return ready
