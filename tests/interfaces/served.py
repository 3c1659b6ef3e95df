"""A `gimle up` in a process of its own, as a user starts it: for the tests that go through the front door."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

START_SECONDS = 120
STOP_SECONDS = 60


class Up(NamedTuple):
    """A running server."""

    process: subprocess.Popen[str]
    url: str
    key: str
    data: Path


@contextmanager
def up(data: Path, *flags: str) -> Iterator[Up]:
    """Start on a free port, wait until it is ready, and stop it at the end by Ctrl-C unless it has ended by then."""
    log = (data / "up.log").open("a")
    process = subprocess.Popen(
        [sys.executable, "-m", "gimle", "up", "--json", "--port", "0", "--no-setup", "--data", str(data), *flags],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        ready = _ready(process)
        yield Up(process, ready["url"], Path(ready["key_file"]).read_text().strip(), data)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(STOP_SECONDS)
        if process.stdout is not None:
            process.stdout.close()
        log.close()


def _ready(process: subprocess.Popen[str]) -> dict[str, str]:
    """The document that `up --json` prints when it takes requests."""
    assert process.stdout is not None
    text = ""
    while (line := process.stdout.readline()) not in ("", "}\n"):
        text += line
    assert line, f"gimle up ended with {process.wait()}; its words are in up.log"
    ready: dict[str, str] = json.loads(text + line)
    return ready
