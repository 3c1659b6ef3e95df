"""One server process: started, heard, asked for its health, ended. What its death leads to is the host's business."""

import asyncio
import contextlib
import re
import signal
from collections import deque
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gimle.foundation import children, logs
from gimle.foundation.config import child_environment
from gimle.foundation.errors import ModelNotLoadable, Unavailable, UpstreamError
from gimle.foundation.lifecycle import Tasks
from gimle.foundation.outbound import Origin, Outbound, Request
from gimle.gateway.local.llamacpp_process import REFUSED
from gimle.gateway.local.types import Launch, Plan

log = logs.get("engine")

_LINES_KEPT = 200
_LONGEST_LINE = 64 * 1024
_POLL_SECONDS = 0.05
_HEALTH_SECONDS = 5.0
_HEALTH_BYTES = 64 * 1024
# A server that does not answer so often in a row hangs.
_MISSES = 3
_GOODBYE_SECONDS = 3.0
# How its own words begin: a clock, a level and a place, of which nobody but its authors makes anything.
_PREFIX = re.compile(r"^[\d.]+ [A-Z] +[\w ]{1,20}?:? *\w+: ")


class _Ready(msgspec.Struct):
    ready: str


class ServerProcess:
    """A running server, at `origin`. `ended` is set when it has died or was stopped."""

    def __init__(self, plan: Plan, process: asyncio.subprocess.Process, outbound: Outbound) -> None:
        self.origin = Origin("127.0.0.1", plan.port, secure=False)
        self.ended = asyncio.Event()
        self._plan = plan
        self._process = process
        self._outbound = outbound
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._said: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks = Tasks()

    @classmethod
    async def start(cls, plan: Plan, launch: Launch, outbound: Outbound, seconds: float) -> "ServerProcess":
        """A process that serves. Raises `ModelNotLoadable` where it says so, else `Unavailable`."""
        try:
            process = await asyncio.create_subprocess_exec(
                *launch.command,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                limit=_LONGEST_LINE, env=child_environment(**launch.environment),
                # A session of its own, so that Ctrl-C at the terminal reaches Gimle alone, which ends it then.
                start_new_session=True, preexec_fn=children.bound(signal.SIGKILL),
            )  # fmt: skip
        except OSError as wrong:
            raise Unavailable(f"The server of {plan.name} can't be started: {wrong.strerror}.") from None
        server = cls(plan, process, outbound)
        try:
            await server._await_ready(launch, seconds)
        except BaseException:
            await server.stop()
            raise
        server._tasks.start(server._watch(), f"engine.{plan.name}")
        return server

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def memory(self) -> int:
        """The bytes of memory that it holds now; 0 where that can't be known."""
        try:
            with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * 4096
        except (OSError, IndexError):
            return 0

    @property
    def last_words(self) -> str:
        """The line of its log that tells most of why it failed; empty when it said nothing."""
        lines = [_PREFIX.sub("", line) for line in self._lines]
        telling = [line for line in lines if "error" in line.lower() or "ASSERT" in line]
        return (telling or lines or [""])[0]

    @property
    def lines(self) -> tuple[str, ...]:
        """The end of its log."""
        return tuple(self._lines)

    async def stop(self) -> None:
        """End it: in peace where it listens, at once where it does not or the caller is cancelled. Then it is gone."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            log.warning("engine_killed", model=self._plan.name, pid=self.pid)
        finally:
            self._signal(signal.SIGKILL)
            await self._process.wait()
            self.ended.set()
            await self._tasks.close()

    # -- inside

    async def _await_ready(self, launch: Launch, seconds: float) -> None:
        assert self._process.stdin is not None
        self._tasks.start(self._hear(self._process.stdout, announces=launch.announces), "engine.output")
        self._tasks.start(self._hear(self._process.stderr, announces=False), "engine.errors")
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(launch.told)
            await self._process.stdin.drain()
        try:
            async with asyncio.timeout(seconds):
                if launch.announces:
                    await self._announced()
                while not await self._healthy():
                    self._check_alive()
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise Unavailable(f"{self._plan.name} was not ready within {seconds:g} s.") from None

    async def _announced(self) -> None:
        """Wait until it has said where it serves, or has died."""
        async with asyncio.TaskGroup() as group:
            dying = group.create_task(self._process.wait())
            either: set[asyncio.Future[Any]] = {dying, self._said}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            dying.cancel()
        if not self._said.done():
            # Its last words may still be on their way through the pipe.
            await self._tasks.idle()
            self._check_alive()
        parts = urlsplit(self._said.result())
        self.origin = Origin(parts.hostname or "", parts.port or 0, secure=False)

    def _check_alive(self) -> None:
        status = self._process.returncode
        if status is None:
            return
        why = self.last_words or f"it ended with status {status}"
        if status == REFUSED:
            raise ModelNotLoadable(
                f"{self._plan.name} can't be loaded: {why}.", hint="Remove the model and pull it anew."
            )
        raise Unavailable(f"The server of {self._plan.name} died at its start: {why}.")

    async def _hear(self, pipe: asyncio.StreamReader | None, *, announces: bool) -> None:
        """Keep the last lines of what it says, and find in them where it serves."""
        assert pipe is not None
        while True:
            try:
                line = await pipe.readline()
            except ValueError:  # A line without an end: what came of it is dropped.
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            if announces and not self._said.done():
                with contextlib.suppress(msgspec.DecodeError):
                    self._said.set_result(msgspec.json.decode(text, type=_Ready).ready)
                    continue
            if text:
                self._lines.append(text)

    async def _healthy(self) -> bool:
        request = Request(method="GET", url=f"http://{self.origin}/health")
        try:
            reply = await self._outbound.send(request, seconds=_HEALTH_SECONDS, limit=_HEALTH_BYTES)
        except UpstreamError:
            return False
        return reply.status == 200

    async def _watch(self) -> None:
        """Until it dies: ask for its health, and kill it when it hangs."""
        misses = 0
        async with asyncio.TaskGroup() as group:
            dying = group.create_task(self._process.wait())
            while not dying.done():
                await asyncio.wait({dying}, timeout=_HEALTH_SECONDS)
                misses = 0 if dying.done() or await self._healthy() else misses + 1
                if misses >= _MISSES:
                    log.error("engine_hangs", model=self._plan.name, pid=self.pid)
                    self._signal(signal.SIGKILL)
                    await dying
        log.info("engine_ended", model=self._plan.name, pid=self.pid, status=self._process.returncode)
        self.ended.set()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
