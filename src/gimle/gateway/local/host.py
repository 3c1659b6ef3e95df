"""The servers of local models: started when a call needs one, stopped when nobody does, brought back when they die.

A call holds a model's server for as long as its connection lasts. All servers of one process keep to a budget of
memory: the one that was not used for the longest time makes room. One that dies is started again, after a pause; one
that keeps dying is left alone for some minutes, and calls go to the next model.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from gimle.foundation import logs, machine
from gimle.foundation.config import Settings
from gimle.foundation.errors import GimleError, ModelNotLoadable, RateLimitedError, Unavailable
from gimle.foundation.lifecycle import Tasks
from gimle.foundation.outbound import Origin, Outbound
from gimle.gateway.local import claims, limits
from gimle.gateway.local.claims import Claim
from gimle.gateway.local.limits import Lives, Resident
from gimle.gateway.local.process import ServerProcess
from gimle.gateway.local.serving import Serving
from gimle.gateway.local.store import Store
from gimle.gateway.local.types import Kept, Load, Plan

log = logs.get("engine")

LOCAL = "local"
# So many calls may wait for a slot before more are sent away.
QUEUE = 24
_UPKEEP_SECONDS = 2.0
_READING_SECONDS = 300.0
_ELSEWHERE_SECONDS = 0.05


class _Seat:
    """One model: its server if it has one, who holds it, and what became of those before."""

    def __init__(self, name: str, claim: Claim) -> None:
        self.name = name
        self.claim = claim
        self.lives = Lives()
        self.server: ServerProcess | None = None
        self.opening: asyncio.Future[Origin] | None = None
        self.holders = 0
        self.used_at = 0.0
        self.plan: Plan | None = None
        self.memory = 0
        self.error: str | None = None
        # The file that could not be loaded: another one may be.
        self.refused: str | None = None


class Host:
    """All local models of one process. `engines` by name; `store` holds the models."""

    def __init__(self, settings: Settings, engines: Mapping[str, Serving], store: Store) -> None:
        self.store = store
        self._settings = settings.engines
        self._engines = engines
        self._folder = settings.data / "engines"
        self._key: str | None = None
        self._seats: dict[str, _Seat] = {}
        self._outbound = Outbound(connect_seconds=1.0)
        self._placing = asyncio.Lock()
        self._tasks = Tasks()
        self._minding = False

    @property
    def key(self) -> str:
        """What its servers ask of whoever calls them."""
        if self._key is None:
            self._key, _ = claims.key(self._folder)
        return self._key

    @property
    def context(self) -> int:
        """The most tokens that one conversation may hold."""
        return self._settings.context

    @property
    def first_token_seconds(self) -> float:
        """How long the first word may take: the model may have to be loaded, and reads a long prompt slowly."""
        return self._settings.start_seconds + _READING_SECONDS

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[Origin]:
        """A model's server, ready, for as long as the block lasts.

        Raises `ModelNotFound`, `RateLimitedError` when too many wait for it already, and `Unavailable` when it can't
        be started.
        """
        kept = self.store.get(name)
        if problem := self.problem(name):
            raise Unavailable(f"{LOCAL}/{name} can't serve now: {problem}.")
        seat = self._seat(name)
        if seat.holders >= (seat.plan.slots if seat.plan else 1) + QUEUE:
            raise RateLimitedError(f"Too many calls wait for {LOCAL}/{name}.", after=2.0)
        seat.holders += 1
        try:
            yield await self._serving(seat, kept)
        finally:
            seat.holders -= 1
            seat.used_at = self._now()

    def problem(self, name: str) -> str | None:
        """Why a model can't serve now; None when it can, or it can be tried."""
        kept = self.store.all().get(name)
        seat = self._seats.get(name)
        if kept is None:
            return "it is not installed"
        if seat is not None and seat.server is not None:
            return None
        engine = self._engines.get(kept.installed.engine)
        if engine is None:
            return f"there is no engine {kept.installed.engine!r}"
        if missing := engine.missing(self._settings):
            return missing
        if seat is None:
            return None
        if seat.refused == kept.installed.sha256:
            return seat.error
        if seat.lives.wait(self._now()) is None:
            return f"its server died {limits.LIVES} times within {limits.LIVES_SECONDS / 60:g} minutes ({seat.error})"
        return None

    def load(self, name: str) -> Load:
        """How a model's server does. Raises `ModelNotFound`."""
        self.store.get(name)
        problem = self.problem(name)
        seat = self._seats.get(name)
        if seat is None:
            return Load(name=name, phase="degraded" if problem else "stopped", error=problem)
        running = seat.server is not None
        slots = seat.plan.slots if seat.plan and running else 0
        return Load(
            name=name,
            phase="degraded" if problem else "ready" if running else "starting" if seat.opening else "stopped",
            slots=slots,
            busy=min(seat.holders, slots),
            waiting=max(0, seat.holders - slots),
            memory=seat.server.memory if seat.server else 0,
            error=problem,
        )

    def lines(self, name: str) -> tuple[str, ...]:
        """The end of what a model's server has logged."""
        seat = self._seats.get(name)
        return seat.server.lines if seat and seat.server else ()

    def pid(self, name: str) -> int | None:
        """The process that serves a model, if one of ours does."""
        seat = self._seats.get(name)
        return seat.server.pid if seat and seat.server else None

    async def stop(self, name: str) -> None:
        """Stop a model's server; the next call starts it again."""
        if (seat := self._seats.get(name)) is not None:
            await self._stop(seat)
            # Unless a call has begun to start it anew meanwhile.
            if seat.server is None and seat.opening is None:
                seat.claim.release()

    async def close(self) -> None:
        """Stop all servers."""
        await self._tasks.close()
        await asyncio.gather(*(self.stop(name) for name in list(self._seats)))
        await self._outbound.close()

    # -- starting

    def _seat(self, name: str) -> _Seat:
        if name not in self._seats:
            _ = self.key  # makes the folder
            self._seats[name] = _Seat(name, Claim(self._folder, name))
        if not self._minding:
            self._minding = True
            self._tasks.start(self._upkeep(), "engine.upkeep")
        return self._seats[name]

    async def _serving(self, seat: _Seat, kept: Kept) -> Origin:
        if seat.server is not None and not seat.server.ended.is_set():
            return seat.server.origin
        begun = self._now()
        while not seat.claim.take():
            # Another process of this data directory serves it, or is about to.
            if (origin := seat.claim.told()) is not None:
                seat.claim.touch()
                return origin
            if self._now() - begun > self._settings.start_seconds:
                raise Unavailable(f"{LOCAL}/{seat.name} is being started by another process, and is not ready.")
            await asyncio.sleep(_ELSEWHERE_SECONDS)
        if seat.opening is None:
            self._open(seat, kept)
        assert seat.opening is not None
        # Who stops waiting does not stop the start: others may wait for it too.
        return await asyncio.shield(seat.opening)

    def _open(self, seat: _Seat, kept: Kept) -> None:
        seat.opening = asyncio.get_running_loop().create_future()
        self._tasks.start(self._start(seat, kept, seat.opening), f"engine.start.{seat.name}")

    async def _start(self, seat: _Seat, kept: Kept, opening: asyncio.Future[Origin]) -> None:
        try:
            server = await self._started(seat, kept)
        except GimleError as error:
            seat.claim.release()
            opening.set_exception(error)
            opening.exception()  # Nobody may be waiting any more.
        except asyncio.CancelledError:
            opening.cancel()
            raise
        else:
            seat.server, seat.error, seat.used_at = server, None, self._now()
            seat.claim.tell(server.origin)
            self._tasks.start(self._mind(seat, server, kept), f"engine.mind.{seat.name}")
            opening.set_result(server.origin)
        finally:
            seat.opening = None

    async def _started(self, seat: _Seat, kept: Kept) -> ServerProcess:
        wait = seat.lives.wait(self._now())
        if wait is None:
            raise Unavailable(f"{LOCAL}/{seat.name} can't serve now: {self.problem(seat.name)}.")
        await asyncio.sleep(wait)
        engine = self._engines[kept.installed.engine]
        async with self._placing:
            seat.plan = await self._planned(seat, kept)
            begun = self._now()
            try:
                launch = engine.launch(seat.plan, self._settings)
                server = await ServerProcess.start(seat.plan, launch, self._outbound, self._settings.start_seconds)
            except ModelNotLoadable as refused:
                # It will say the same the next time; so the file is left alone until it is another one.
                seat.refused, seat.error = kept.installed.sha256, refused.message.rstrip(".")
                raise Unavailable(refused.message, hint=refused.hint) from None
            except Unavailable as failed:
                seat.error = failed.message.rstrip(".")
                seat.lives.died(self._now())
                raise
        log.info("engine_ready", model=seat.name, pid=server.pid, seconds=round(self._now() - begun, 2))
        return server

    async def _planned(self, seat: _Seat, kept: Kept) -> Plan:
        """How it is started, when there is room for it. Raises `Unavailable` when there is none."""
        own, facts = self._settings, kept.installed.facts
        size = sum(file.stat().st_size for file in kept.folder.glob("*.gguf"))
        found, cores = machine.memory(), machine.cores()
        resident = self._resident()
        held = sum(each.memory for each in resident)
        most = limits.budget(own.memory_mb, found.total, found.available + held)
        context, slots = min(own.context, facts.context), limits.slots(own.slots, cores)
        seat.memory = limits.needed(size, facts, context, slots, twice=False)
        await self._make_room(seat, most, resident)
        # What the others leave of the budget, and what the machine has free now that room was made.
        free = min(most - sum(each.memory for each in self._resident()), machine.memory().available)
        twice = limits.copies(size, free)
        if twice:
            seat.memory = limits.needed(size, facts, context, slots, twice=True)
        key, key_file = claims.key(self._folder)
        return Plan(
            name=seat.name,
            model=str(kept.model),
            kind=facts.kind,
            context=context,
            slots=slots,
            threads=limits.threads(own.threads, cores),
            key=key,
            key_file=str(key_file),
            projector=str(kept.folder / kept.installed.projector) if kept.installed.projector else None,
            copies=twice,
            port=_free_port(),
        )

    async def _make_room(self, seat: _Seat, most: int, resident: list[Resident]) -> None:
        leaving = limits.room(seat.memory, most, resident)
        if leaving is None:
            megabytes = f"{seat.memory / 1e6:.0f} MB of the {most / 1e6:.0f} MB"
            raise Unavailable(
                f"{LOCAL}/{seat.name} needs {megabytes} that models may take, and they are not free now.",
                hint="Set engines.memory_mb, or choose a smaller model.",
            )
        for name in leaving:
            log.info("engine_makes_room", model=name, wanted=seat.name)
            await self.stop(name)

    def _resident(self) -> list[Resident]:
        return [
            Resident(seat.name, max(seat.memory, seat.server.memory), seat.used_at, busy=_is_busy(seat))
            for seat in self._seats.values()
            if seat.server is not None
        ]

    # -- minding

    async def _mind(self, seat: _Seat, server: ServerProcess, kept: Kept) -> None:
        """See a server die, and bring it back."""
        await server.ended.wait()
        if seat.server is not server:
            return
        seat.server = None
        seat.claim.silence()
        seat.error = server.last_words or "it was killed"
        seat.lives.died(self._now())
        log.error("engine_died", model=seat.name, pid=server.pid, detail=seat.error)
        if seat.lives.wait(self._now()) is None:
            seat.claim.release()
        elif seat.opening is None:
            self._open(seat, kept)

    async def _upkeep(self) -> None:
        """Stop what nobody uses, and what is no longer installed; tell other processes whose servers we hold."""
        while True:
            await asyncio.sleep(min(_UPKEEP_SECONDS, self._settings.idle_seconds / 2))
            for seat in list(self._seats.values()):
                gone = seat.name not in self.store.all()
                unused = min(self._now() - seat.used_at, seat.claim.unused())
                idle = not _is_busy(seat) and unused > self._settings.idle_seconds
                if seat.server is None and seat.holders > 0:
                    seat.claim.touch()
                if seat.server is not None and (gone or idle):
                    log.info("engine_stopped", model=seat.name, reason="removed" if gone else "idle")
                    await self.stop(seat.name)

    async def _stop(self, seat: _Seat) -> None:
        # Whoever minds it must not take this for a death.
        server, seat.server = seat.server, None
        if server is not None:
            await server.stop()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _is_busy(seat: _Seat) -> bool:
    """Whether a call holds its server: one of ours, or of another process, which says so in each of its rounds."""
    return seat.holders > 0 or seat.claim.unused() < 2 * _UPKEEP_SECONDS


def _free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
