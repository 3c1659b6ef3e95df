"""`gimle serve --workers`: several processes behind one port, seen from outside."""

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.interfaces.served import started

from gimle.foundation import telemetry
from gimle.foundation.errors import ConfigError
from gimle.interfaces import crew, server
from gimle.testing import Behaviour, Upstream

CHAT = {"model": "stand/mock", "messages": [{"role": "user", "content": "x"}]}


class Many:
    """A running crew."""

    def __init__(self, parent: int, url: str, key: str) -> None:
        self.parent = parent
        self.url = url
        self.headers = {"authorization": f"Bearer {key}"}

    def client(self) -> httpx.AsyncClient:
        """A client that opens a connection for each request, so that all members get some."""
        limits = httpx.Limits(max_keepalive_connections=0)
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, limits=limits, timeout=30)

    async def workers(self) -> set[int]:
        """The processes that the metrics know."""
        async with self.client() as http:
            text = (await http.get("/metrics")).text
        return {int(pid) for pid in re.findall(r'process_open_fds\{pid="(\d+)"\}', text)}

    async def all_but(self, killed: set[int]) -> set[int]:
        """Wait until all three work, and none of those that were killed."""
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    living = await self.workers()
                    if len(living) == 3 and not living & killed:
                        return living
                await asyncio.sleep(0.1)


@pytest.fixture
def many(data_dir: Path, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Many]:
    monkeypatch.setenv("GIMLE_LIMITS__REQUESTS_MINUTE", "0")
    flags = ("--workers", "2", "--port", "0", "--database-url", database_url)
    with started(data_dir, "serve", *flags) as (process, ready):
        yield Many(process.pid, ready["url"], Path(ready["key_file"]).read_text().strip())
    assert process.returncode == 0


async def add_provider(many: Many, upstream: Upstream) -> None:
    provider = {"name": "stand", "base_url": upstream.url, "local": True, "models": [{"name": "mock"}]}
    async with many.client() as http:
        assert (await http.post("/api/v1/llm/providers", json=provider)).status_code == 201
        # Every member must have heard of it, and one can't choose which one answers.
        async with asyncio.timeout(10):
            known = 0
            while known < 12:
                answer = await http.get("/v1/models")
                known = known + 1 if "stand/mock" in answer.text else 0


async def test_members_share_the_work_the_truth_and_the_numbers(many: Many, upstream: Upstream) -> None:
    await add_provider(many, upstream)
    async with many.client() as http:
        for _ in range(30):
            answer = await http.post("/v1/chat/completions", json=CHAT)
            assert answer.status_code == 200, answer.text
        text = (await http.get("/metrics")).text
        health = (await http.get("/health")).json()
    # Whoever was asked shows the sum of all.
    assert re.search(
        r'gimle_model_calls_total\{kind="chat",model="mock",owner="ten_\w+",provider="stand"\} 30\.0', text
    ), text
    assert 'route="/v1/chat/completions",status="200"} 30.0' in text
    assert {each["name"]: each["status"] for each in health["components"]}["processes"] == "healthy"
    assert len(await many.workers()) == 3, "Two answer, and one does the jobs."


async def test_a_member_that_is_killed_under_load_takes_only_its_own_calls_along(
    many: Many, upstream: Upstream
) -> None:
    await add_provider(many, upstream)
    upstream.usual = Behaviour(head_delay=0.01)
    before = await many.workers()
    victim = max(before)
    answered, broken, stop = 0, 0, asyncio.Event()

    async def caller(http: httpx.AsyncClient) -> None:
        nonlocal answered, broken
        while not stop.is_set():
            try:
                answer = await http.post("/v1/chat/completions", json=CHAT)
            except httpx.TransportError:
                broken += 1
                continue
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"], "An answer that has come is whole."
            answered += 1

    async with many.client() as http, asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(caller(http))
        await asyncio.sleep(0.5)
        os.kill(victim, signal.SIGKILL)
        await many.all_but({victim})
        stop.set()
    assert answered > 20
    assert broken <= 16, "Only what was with the killed one can be lost."
    async with many.client() as http:
        text = (await http.get("/metrics")).text
    counted = re.search(r'route="/v1/chat/completions",status="200"\} (\d+)', text)
    assert counted is not None
    assert int(counted[1]) >= answered, "What the killed one has counted is not forgotten."


@pytest.mark.full
async def test_a_member_that_keeps_dying_stops_the_whole(data_dir: Path, database_url: str) -> None:
    flags = ("--workers", "2", "--port", "0", "--database-url", database_url)
    with started(data_dir, "serve", *flags) as (process, ready):
        running = Many(process.pid, ready["url"], "none")
        killed: set[int] = set()
        for _ in range(crew.LIVES):
            members = await running.all_but(killed)
            killed.add(max(members))
            os.kill(max(members), signal.SIGKILL)
        assert await asyncio.to_thread(process.wait, 30) == 1
    log = (data_dir / "serve.log").read_text()
    assert "died 3 times within 5 minutes" in log
    for pid in members:
        assert not telemetry.alive(pid)


async def test_a_signal_lets_every_member_finish(many: Many, upstream: Upstream) -> None:
    await add_provider(many, upstream)
    upstream.usual = Behaviour(head_delay=0.7)
    async with many.client() as http, asyncio.TaskGroup() as group:
        calls = [group.create_task(http.post("/v1/chat/completions", json=CHAT)) for _ in range(6)]
        await asyncio.sleep(0.4)
        os.kill(many.parent, signal.SIGTERM)
    assert [call.result().status_code for call in calls] == [200] * 6


def test_the_port_of_another_is_not_shared() -> None:
    with server.listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError):
        crew.reserved("127.0.0.1", taken.getsockname()[1])


def test_the_orders_of_a_member_hold_all_settings(settings: object) -> None:
    from gimle.foundation import config

    assert isinstance(settings, config.Settings)
    told = json.loads(json.dumps(config.written(settings)))
    assert config.restored(told) == settings
