"""Several processes behind one port: a parent that answers nothing itself, and members that it watches over.

    parent ─┬─ server 1 ┐
            ├─ server … ├─ each with a listening socket of its own on the same port (SO_REUSEPORT)
            ├─ server N ┘
            └─ jobs       does the jobs, so that no request waits behind one

The members share no state but the database; keys and providers reach them all by its notifications. Their metrics lie
in one folder, where each can add them up. A member that dies is replaced; if one dies too often the parent stops them
all and says so. Members die with their parent.
"""

import asyncio
import contextlib
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from gimle.foundation import children, logs
from gimle.foundation.errors import MemberDied, Unavailable
from gimle.foundation.telemetry import REGISTRY
from gimle.interfaces.server import listen

log = logs.get("crew")

# A member that dies more often than this within so many seconds will not come right by itself.
LIVES = 3
LIVES_SECONDS = 300.0

Role = Literal["server", "jobs"]


class Orders(msgspec.Struct, frozen=True):
    """What a member is told on its standard input. `settings` as `config.written` gives them."""

    role: Role
    settings: dict[str, Any]
    folder: str
    crew: int


class Crew:
    """The members, as one server: `run` them until a signal comes."""

    def __init__(self, settings: dict[str, Any], roles: tuple[Role, ...]) -> None:
        self._settings = settings
        self._roles = roles
        self._living: set[asyncio.subprocess.Process] = set()
        self._deaths: deque[float] = deque()
        self._stopping = asyncio.Event()
        self._failure: MemberDied | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        """Start the members, call `ready`, keep them alive until SIGINT or SIGTERM, and wait until they have stopped.

        A second signal does not let them finish. Raises `MemberDied` when one did not start, or died too often.
        """
        with tempfile.TemporaryDirectory(prefix="gimle-crew-") as folder, self._signals():
            async with asyncio.TaskGroup() as group:
                # The first one brings database and keys up to date, which the others then find so.
                first, *others = self._roles
                started = [await self._start(first, Path(folder))]
                started += await asyncio.gather(*(self._start(role, Path(folder)) for role in others))
                if dead := [process.returncode for process in started if process and process.returncode is not None]:
                    self._give_up(MemberDied(f"A process of the server did not start: it ended with {dead[0]}."))
                if not self._stopping.is_set():
                    ready()
                for role, process in zip(self._roles, started, strict=True):
                    group.create_task(self._watch(role, process, Path(folder)))
        if self._failure is not None:
            raise self._failure

    async def _start(self, role: Role, folder: Path) -> asyncio.subprocess.Process | None:
        """A member that is ready, or has died before that; None if there is no need of it any more."""
        if self._stopping.is_set():
            return None
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gimle", "member",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            # A session of its own, so that Ctrl-C at the terminal reaches the parent alone.
            start_new_session=True, preexec_fn=children.bound(signal.SIGTERM),
        )  # fmt: skip
        self._living.add(process)
        assert process.stdin is not None
        assert process.stdout is not None
        orders = Orders(role, self._settings, str(folder), len(self._roles))
        with contextlib.suppress(ConnectionError):
            process.stdin.write(msgspec.json.encode(orders) + b"\n")
            await process.stdin.drain()
            process.stdin.close()
        if not await process.stdout.readline():
            await process.wait()
        return process

    async def _watch(self, role: Role, process: asyncio.subprocess.Process | None, folder: Path) -> None:
        while process is not None:
            code = await process.wait()
            self._living.discard(process)
            if self._stopping.is_set():
                return
            log.error("member_died", role=role, pid=process.pid, code=code)
            if self._too_often():
                said = f"Processes of the server died {LIVES} times within {LIVES_SECONDS / 60:g} minutes."
                self._give_up(MemberDied(f"{said} The last ({role}) ended with {code}.", hint="The log says why."))
                return
            process = await self._start(role, folder)

    def _too_often(self) -> bool:
        now = asyncio.get_running_loop().time()
        self._deaths.append(now)
        while self._deaths[0] < now - LIVES_SECONDS:
            self._deaths.popleft()
        return len(self._deaths) >= LIVES

    def _give_up(self, failure: MemberDied) -> None:
        self._failure = self._failure or failure
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        for process in self._living:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handled = (signal.SIGINT, signal.SIGTERM)
        for each in handled:
            loop.add_signal_handler(each, self._stop)
        try:
            yield
        finally:
            for each in handled:
                loop.remove_signal_handler(each)


def complete(crew: int) -> Callable[[], Coroutine[Any, Any, str]]:
    """A check of health: whether all members live."""

    async def check() -> str:
        living = len(REGISTRY.processes())
        if living < crew:
            raise Unavailable(f"{living} of {crew} processes run.")
        return f"{living} processes"

    return check


def reserved(host: str, port: int) -> socket.socket:
    """A socket that holds the port for the members without listening on it. Raises `ConfigError` when it is taken."""
    with listen(host, port) as probe:
        family, address = probe.family, probe.getsockname()
    holder = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind(address)
    return holder
