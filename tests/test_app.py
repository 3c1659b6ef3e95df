"""The house as a whole: it opens, closes, refuses, and leaves nothing behind."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gimle.app import App
from gimle.foundation.config import Settings, load
from gimle.foundation.errors import Conflict, DatabaseUnavailable
from gimle.foundation.postgres import running
from gimle.trust.types import Principal

_NOTE = b"# Lamp\n\nThe lamp of the lighthouse turns once in ten seconds."


@pytest.mark.parametrize("mode, there", [("off", False), ("asked", True), ("on", True)])
async def test_the_cache_is_there_unless_it_is_switched_off(settings: Settings, mode: Any, there: bool) -> None:
    cache = msgspec.structs.replace(settings.cache, mode=mode, similarity=0.95)
    async with await App.open(msgspec.structs.replace(settings, cache=cache)) as app:
        assert (app.gateway.cached is not None) == there


async def test_no_more_connections_are_used_than_the_pool_may_have(settings: Settings) -> None:
    small = msgspec.structs.replace(settings, database=msgspec.structs.replace(settings.database, pool=2))
    async with await App.open(small) as app, app.db.shared(), app.db.shared():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), app.db.shared():
                pytest.fail("This is a third connection.")


async def test_a_document_comes_in_and_a_cited_answer_comes_out(app: App, admin: Principal) -> None:
    upload = await app.library.upload(admin, "default", "lamp.md", _NOTE)
    async with asyncio.timeout(60):
        states = [job.status async for job in app.jobs.watch(admin.tenant, upload.job)]
    assert states[-1] == "done"
    answer = await app.answers.ask(admin, "default", "How often does the lamp turn?")
    assert answer.answered
    assert answer.citations[0].quote in _NOTE.decode()
    assert answer.citations[0].document_name == "lamp.md"
    assert {component.name for component in (await app.health.report()).components} >= {"postgres", "embedder"}


async def test_without_a_worker_a_job_waits_for_another_process(settings: Settings, database_url: str) -> None:
    """`jobs.in_process` off: this process takes uploads and leaves the work to `gimle worker`."""
    idle = msgspec.structs.replace(settings, jobs=msgspec.structs.replace(settings.jobs, in_process=False))
    async with await App.open(idle) as app:
        principal = app.ring.principal((idle.data / "admin.key").read_text().strip())
        assert principal is not None
        upload = await app.library.upload(principal, "default", "lamp.md", _NOTE)
        assert (await app.jobs.get(principal.tenant, upload.job)).status == "queued"
    async with await App.open(settings) as worker, asyncio.timeout(60):
        states = [job.status async for job in worker.jobs.watch(principal.tenant, upload.job)]
    assert states[-1] == "done"


async def test_the_embedded_database_ends_with_the_app(data_dir: Path) -> None:
    settings = load({"data": data_dir}, {})
    async with await App.open(settings):
        assert running(data_dir) is not None
        with pytest.raises(Conflict, match="already runs"):
            await App.open(settings)
    assert running(data_dir) is None


async def test_an_app_that_can_not_open_leaves_nothing_open(data_dir: Path) -> None:
    broken = load({"data": data_dir, "database.url": "postgresql://nobody@127.0.0.1:1/none?connect_timeout=2"}, {})
    with pytest.raises(DatabaseUnavailable):
        await App.open(broken)
    assert not (data_dir / "admin.key").exists()
