"""Who runs, who makes room, who is stopped, and what is told of it."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from tests.gateway.local import tiny
from tests.gateway.local.installed import QUICK, hosting, place, settings

from gimle.foundation.config import EngineSettings
from gimle.foundation.errors import ModelNotFound, RateLimitedError, Unavailable
from gimle.foundation.lifecycle import Tasks
from gimle.foundation.outbound import Origin, Outbound, Request
from gimle.gateway.catalog import Catalog
from gimle.gateway.inside import Engines
from gimle.gateway.local import claims
from gimle.gateway.local import host as hosts
from gimle.gateway.local import process as processes
from gimle.gateway.local.host import Host
from gimle.gateway.tokens import Tokens
from gimle.selection.board import Board

MB = 1 << 20


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A data directory with three models."""
    for name in ("one", "two", "three"):
        place(tmp_path, name, tiny.scripted(tmp_path / f"{name}.gguf"))
    return tmp_path


@pytest.fixture
async def host(models: Path) -> AsyncIterator[Host]:
    async with hosting(settings(models)) as host:
        yield host


def quick(**changed: object) -> EngineSettings:
    return msgspec.structs.replace(QUICK, **changed)


async def healthy(origin: Origin) -> bool:
    async with Outbound(1.0) as outbound:
        request = Request(method="GET", url=f"http://{origin}/health")
        return (await outbound.send(request, seconds=5, limit=1000)).status == 200


async def test_a_model_stays_the_same_object_while_nothing_changes(models: Path) -> None:
    given = settings(models)
    async with hosting(given) as host:
        engines = Engines({}, [], Tokens(None), host)
        catalog = Catalog(None, given, Outbound(), [], host)
        (one, *_) = (model for model in catalog.snapshot(None).registry.models if model.provider == "local")
        seen = engines.seen(one)
        assert engines.seen(one) is seen
        assert seen.unavailable is None
        shutil.rmtree(models / "models" / one.name)
        assert engines.seen(one).unavailable == "it is not installed"
        assert engines.seen(one) is engines.seen(one)


async def test_a_look_at_the_providers_starts_no_server(models: Path) -> None:
    board = Board()
    async with hosting(settings(models)) as host, Outbound() as outbound:
        await Catalog(None, settings(models), outbound, [], host).probe_all(board)
        assert host.load("one").phase == "stopped"
    assert board.known == ()


async def test_a_model_is_ready_while_it_is_held_and_stays_for_the_next(host: Host) -> None:
    assert host.load("one").phase == "stopped"
    async with host.hold("one") as origin:
        assert await healthy(origin)
        load = host.load("one")
        assert (load.phase, load.slots, load.busy, load.waiting) == ("ready", 2, 1, 0)
    load = host.load("one")
    assert (load.phase, load.busy) == ("ready", 0)
    async with host.hold("one") as again:
        assert again == origin


async def test_many_first_calls_start_one_server(host: Host) -> None:
    async def hold() -> tuple[Origin, int | None]:
        async with host.hold("one") as origin:
            return origin, host.pid("one")

    assert len(set(await asyncio.gather(*(hold() for _ in range(10))))) == 1


async def test_who_stops_waiting_does_not_stop_the_start(host: Host) -> None:
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(_hold(host, "one"))
        staying = group.create_task(_hold(host, "one"))
        await asyncio.sleep(0)
        leaving.cancel()
    assert staying.result().port


async def _hold(host: Host, name: str) -> Origin:
    async with host.hold(name) as origin:
        return origin


async def test_more_calls_than_slots_wait_and_too_many_are_sent_away(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "QUEUE", 1)
    async with AsyncExitStack() as held:
        for _ in range(2):
            await held.enter_async_context(host.hold("one"))
        await held.enter_async_context(host.hold("one"))
        load = host.load("one")
        assert (load.busy, load.waiting) == (2, 1)
        with pytest.raises(RateLimitedError, match="Too many calls wait"):
            await held.enter_async_context(host.hold("one"))


async def test_the_longest_unused_makes_room_for_the_next(models: Path) -> None:
    """There is room for two."""
    async with hosting(settings(models, quick(memory_mb=190))) as host:
        await _hold(host, "one")
        await _hold(host, "two")
        await _hold(host, "one")
        await _hold(host, "three")
        assert [host.load(name).phase for name in ("one", "two", "three")] == ["ready", "stopped", "ready"]
        async with host.hold("one"), host.hold("three"):
            with pytest.raises(Unavailable, match="they are not free now"):
                await _hold(host, "two")
        await _hold(host, "two")


async def test_a_model_larger_than_the_budget_says_so(models: Path) -> None:
    async with hosting(settings(models, quick(memory_mb=20))) as host:
        with pytest.raises(Unavailable, match="needs 7.* MB of the 2.* MB") as caught:
            await _hold(host, "one")
        assert "engines.memory_mb" in str(caught.value.hint)


async def test_what_nobody_uses_is_stopped(models: Path) -> None:
    async with hosting(settings(models, quick(idle_seconds=0.4))) as host:
        async with host.hold("one"):
            await asyncio.sleep(1.0)
            assert host.load("one").phase == "ready"
        async with asyncio.timeout(5):
            while host.load("one").phase != "stopped":
                await asyncio.sleep(0.05)
        assert (await _hold(host, "one")).port


async def test_one_that_hangs_is_killed_and_comes_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_HEALTH_SECONDS", 0.1)
    await _hold(host, "one")
    first = host.pid("one")
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    async with asyncio.timeout(10):
        while host.pid("one") in (first, None):
            await asyncio.sleep(0.05)
    assert await healthy(await _hold(host, "one"))


async def test_a_stop_that_is_cut_short_leaves_no_process(host: Host) -> None:
    await _hold(host, "one")
    pid = host.pid("one")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # So it hears nothing of being told to end.
    tasks = Tasks()
    tasks.start(host.stop("one"), "stopping")
    await asyncio.sleep(0)
    await tasks.close()
    assert not Path(f"/proc/{pid}").exists()


async def test_a_start_that_takes_too_long_is_given_up(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosting(settings(models, quick(start_seconds=0.001))) as host:
        with pytest.raises(Unavailable, match="was not ready within"):
            await _hold(host, "one")


async def test_an_unknown_model_is_not_found(host: Host) -> None:
    with pytest.raises(ModelNotFound) as caught:
        await _hold(host, "four")
    assert "gimle models pull four" in str(caught.value.hint)


async def test_an_engine_that_is_not_installed_says_what_to_do(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert host.load("one").phase == "degraded"
    with pytest.raises(Unavailable, match=r"pip install 'gimle\[local\]'"):
        await _hold(host, "one")


async def test_two_processes_share_one_server(models: Path) -> None:
    """Two hosts on one data directory: the second finds the first one's server, and takes over when that one goes."""
    async with hosting(settings(models)) as first, hosting(settings(models)) as second:
        origin = await _hold(first, "one")
        assert await _hold(second, "one") == origin
        assert (first.key, second.pid("one")) == (second.key, None)
        await first.stop("one")
        taken = await _hold(second, "one")
        assert taken != origin
        assert second.pid("one") is not None
        assert await _hold(first, "one") == taken


async def test_what_another_process_holds_makes_no_room_and_is_not_idle(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_UPKEEP_SECONDS", 0.25)
    monkeypatch.setattr(claims, "_TOUCH_SECONDS", 0.1)
    small = settings(models, quick(memory_mb=120, idle_seconds=0.3))
    async with hosting(small) as owner, hosting(small) as other:
        await _hold(owner, "one")
        async with other.hold("one") as origin:
            await asyncio.sleep(1.5)
            with pytest.raises(Unavailable, match="they are not free now"):
                await _hold(owner, "two")
            assert await healthy(origin)
        async with asyncio.timeout(5):
            while owner.load("one").phase != "stopped":
                await asyncio.sleep(0.05)
        assert (await _hold(owner, "two")).port


async def test_a_start_that_fails_leaves_the_model_to_others(models: Path) -> None:
    async with hosting(settings(models, quick(memory_mb=20))) as small, hosting(settings(models)) as large:
        with pytest.raises(Unavailable, match="needs"):
            await _hold(small, "one")
        assert await healthy(await _hold(large, "one"))


async def test_a_call_that_comes_while_it_is_stopped_starts_it_anew(host: Host) -> None:
    first = await _hold(host, "one")
    async with asyncio.TaskGroup() as group:
        group.create_task(host.stop("one"))
        await asyncio.sleep(0)
        again = group.create_task(_hold(host, "one"))
    assert again.result() != first
    assert await healthy(await _hold(host, "one"))


OWNER = """
import asyncio, sys
sys.path[:0] = {path!r}
from pathlib import Path
from tests.gateway.local.installed import hosting, settings

async def main():
    async with hosting(settings(Path({data!r}))) as host:
        async with host.hold("one"):
            print("pid", host.pid("one"), flush=True)
            await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_server_dies_with_the_process_that_started_it(models: Path) -> None:
    source = OWNER.format(path=sys.path, data=str(models))
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", source, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert owner.stdout is not None
    while not (line := await owner.stdout.readline()).startswith(b"pid "):
        assert line, "it ended before it had a server"
    pid = int(line.split()[1])
    os.kill(pid, 0)
    owner.kill()
    await owner.wait()
    async with asyncio.timeout(5):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.02)
    async with hosting(settings(models)) as host:
        assert await healthy(await _hold(host, "one"))


async def test_weights_of_three_values_take_a_fraction_of_the_memory(tmp_path: Path) -> None:
    """The same model in two bits a weight, in less than two, and in sixteen; weights are most of its file."""
    for name in ("F16", "TQ2_0", "TQ1_0"):
        place(tmp_path, name.lower(), tiny.ternary(tmp_path / f"{name}.gguf", name, width=512))
    sizes = {name: (tmp_path / f"{name}.gguf").stat().st_size for name in ("F16", "TQ2_0", "TQ1_0")}
    assert sizes["TQ1_0"] < sizes["TQ2_0"] < sizes["F16"] / 5
    async with hosting(settings(tmp_path)) as host:
        for name in ("tq2_0", "tq1_0"):
            assert await healthy(await _hold(host, name))
