"""A job that dies anywhere goes on where it was; versions activate in order; what fails says why."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.knowledge.indexed import WordEmbedder, principal
from tests.knowledge.shelves import SETTINGS, count, shelf

from gimle.foundation.blobs import Blobs
from gimle.foundation.config import JobSettings, KnowledgeSettings
from gimle.foundation.db import Connection, Database
from gimle.foundation.errors import NotFound, PermanentError, Unavailable
from gimle.jobs.jobs import Jobs
from gimle.knowledge import ingest
from gimle.knowledge.embedding import Embedding
from gimle.knowledge.library import Library
from gimle.knowledge.search import Search
from gimle.knowledge.types import Document
from gimle.trust.types import Principal

T = TypeVar("T")
TEXT = "# Light\n\n" + "\n\n".join(f"Lamp number {n} was lit in 18{n:02}." for n in range(40))


class KilledError(BaseException):
    """The process is gone: nothing that follows in it may run."""


class Fragile:
    """A run whose guards live with the job, so that the next attempt finds them; dies before or after an effect."""

    def __init__(self, db: Database, tenant: str, payload: dict[str, Any], guards: dict[str, Any]) -> None:
        self.db, self.tenant, self.payload, self.guards = db, tenant, payload, guards
        self.id, self.attempt, self.cancelled = "job_test", 1, False
        self.steps = 0
        self.dies_at: int | None = None
        self.phases: list[str] = []

    async def once(self, effect: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        self._step()
        if effect in self.guards:
            stored: T = self.guards[effect]
            return stored
        async with self.db.tenant(self.tenant) as conn:
            result = await work(conn)
        self.guards[effect] = result
        self._step()
        return result

    async def progress(self, phase: str, done: int = 0, total: int = 0) -> None:
        if phase not in self.phases:
            self.phases.append(phase)
        self._step()

    def _step(self) -> None:
        self.steps += 1
        if self.steps == self.dies_at:
            raise KilledError


class Bench:
    """A library whose jobs nobody runs but the test."""

    def __init__(self, db: Database, jobs: Jobs, folder: Path, tenant: str) -> None:
        self.db, self.tenant, self.who = db, tenant, principal(tenant)
        self.jobs = jobs
        self.embedder = WordEmbedder()
        embedding = Embedding(self.embedder)
        self.blobs = Blobs(folder)
        self.library = Library(db, jobs, self.blobs)
        self.handler = ingest.Ingest(self.blobs, embedding, count, SETTINGS)
        self.search = Search(db, embedding)

    async def put(self, name: str, text: str) -> Document:
        return (await self.library.upload(self.who, "default", name, text.encode())).document

    def run(self, document: str, guards: dict[str, Any]) -> Fragile:
        return Fragile(self.db, self.tenant, {"document": document, "key": "key_test"}, guards)

    async def perform(self, run: Fragile) -> dict[str, Any]:
        return await self.handler.perform(run)  # type: ignore[arg-type] # It has what a handler uses of a run.

    async def finish(self, document: Document) -> Document:
        await self.perform(self.run(document.id, {}))
        return await self.library.document(self.who, document.id)

    async def found(self, query: str) -> list[str]:
        return [p.text for p in (await self.search.search(self.who, "default", query)).passages]


@pytest.fixture
async def bench(db: Database, data_dir: Path, tenants: tuple[str, str]) -> AsyncIterator[Bench]:
    embedding = Embedding(WordEmbedder())
    jobs = await Jobs.open(db, [ingest.kind(Blobs(data_dir), embedding, count, SETTINGS)], JobSettings())
    yield Bench(db, jobs, data_dir, tenants[0])
    await jobs.close()


async def test_the_phases_come_in_order(bench: Bench) -> None:
    document = await bench.put("a.md", TEXT)
    run = bench.run(document.id, {})
    result = await bench.perform(run)
    assert run.phases == ["parsing", "chunking", "embedding", "indexing", "ready"]
    ready = await bench.library.document(bench.who, document.id)
    assert result["chunks"] == result["embedded"] == ready.chunks
    assert (ready.status, ready.phase) == ("ready", "ready")


async def test_killed_at_any_step_it_goes_on_and_nothing_is_doubled(bench: Bench) -> None:
    """Die at each step in turn, then once more to the end: one set of chunks, no written vector paid twice."""
    first = bench.run((await bench.put("a.md", TEXT)).id, {})
    await bench.perform(first)
    chunks = (await bench.library.documents(bench.who, "default"))[0][0].chunks
    for step in range(1, first.steps + 1):
        document = await bench.put(f"{step}.md", TEXT.replace("Lamp", f"Lamp{step}"))
        guards: dict[str, Any] = {}
        bench.embedder.asked.clear()
        dying = bench.run(document.id, guards)
        dying.dies_at = step
        with pytest.raises((KilledError, BaseExceptionGroup)):
            await bench.perform(dying)
        written = any(effect.startswith("vectors:") for effect in guards)
        shown = await bench.library.document(bench.who, document.id)
        assert shown.is_latest == (shown.status == "ready"), "nobody reads half a document"
        await bench.perform(bench.run(document.id, guards))
        ready = await bench.library.document(bench.who, document.id)
        assert (ready.status, ready.is_latest, ready.chunks) == ("ready", True, chunks), step
        # Only a batch that came back and was not written when the process died is asked for again.
        assert not written or len(bench.embedder.asked) == len(set(bench.embedder.asked)), step
        assert len(await bench.library.chunks(bench.who, document.id)) == chunks


async def test_an_older_version_that_ends_later_does_not_serve(bench: Bench) -> None:
    older = await bench.put("a.md", "The lamp burns whale oil.")
    newer = await bench.put("a.md", "The lamp burns acetylene gas.")
    assert (await bench.finish(newer)).is_latest
    late = await bench.finish(older)
    assert (late.status, late.is_latest) == ("ready", False)
    assert await bench.found("lamp burns") == ["The lamp burns acetylene gas."]


async def test_versions_that_end_at_once_leave_one_serving(bench: Bench) -> None:
    versions = [await bench.put("a.md", f"The lamp burns oil of kind {n}.") for n in range(4)]
    await asyncio.gather(*(bench.perform(bench.run(version.id, {})) for version in versions))
    listed, _ = await bench.library.documents(bench.who, "default")
    assert [version.id for version in listed if version.is_latest] == [versions[-1].id]
    assert await bench.found("lamp burns oil") == ["The lamp burns oil of kind 3."]


async def test_a_passing_fault_leaves_the_document_pending(bench: Bench) -> None:
    document = await bench.put("a.md", TEXT)
    bench.embedder.fail_after = 0
    guards: dict[str, Any] = {}
    with pytest.raises(Unavailable):
        await bench.perform(bench.run(document.id, guards))
    shown = await bench.library.document(bench.who, document.id)
    assert (shown.status, shown.phase, shown.error) == ("pending", "embedding", None)
    bench.embedder.fail_after = None
    await bench.perform(bench.run(document.id, guards))
    assert (await bench.library.document(bench.who, document.id)).is_latest


async def test_a_lost_file_is_a_reason(bench: Bench) -> None:
    document = await bench.put("a.md", TEXT)
    await bench.blobs.delete(bench.tenant, document.sha256)
    with pytest.raises((NotFound, PermanentError)):
        await bench.perform(bench.run(document.id, {}))
    shown = await bench.library.document(bench.who, document.id)
    assert shown.status == "failed"
    assert shown.error


async def test_a_replay_of_a_failed_job_clears_the_reason(bench: Bench) -> None:
    document = await bench.put("a.md", TEXT)
    await bench.blobs.delete(bench.tenant, document.sha256)
    with pytest.raises(NotFound):
        await bench.perform(bench.run(document.id, {}))
    await bench.blobs.put(bench.tenant, TEXT.encode())
    ready = await bench.finish(document)
    assert (ready.status, ready.error) == ("ready", None)


@pytest.mark.parametrize("done", [("text",), ("text", "chunks")])
async def test_a_job_from_before_the_document_was_begun_anew_serves_nothing_empty(
    bench: Bench, done: tuple[str, ...]
) -> None:
    """A job fails, the file is uploaded again, that job is cancelled, and somebody retries the first one."""
    old = await bench.put("a.md", TEXT)
    guards: dict[str, Any] = {}
    bench.embedder.fail_after = 0
    with pytest.raises(Unavailable):
        await bench.perform(bench.run(old.id, guards))
    bench.embedder.fail_after = None
    await bench.jobs.cancel(bench.tenant, old.job or "")
    new = await bench.put("a.md", TEXT)
    assert (new.id, new.job == old.job) == (old.id, False)
    await bench.jobs.cancel(bench.tenant, new.job or "")
    with pytest.raises(PermanentError, match="began the document anew"):
        await bench.perform(bench.run(old.id, {effect: guards[effect] for effect in done}))
    shown = await bench.library.document(bench.who, old.id)
    assert (shown.status, shown.is_latest, shown.chunks) == ("failed", False, 0)
    ready = await bench.finish(await bench.put("a.md", TEXT))
    assert (ready.id, ready.status) == (old.id, "ready")
    assert await bench.library.text(bench.who, old.id)


async def test_chunk_tokens_says_how_long_a_chunk_may_be(
    db: Database, data_dir: Path, tenants: tuple[str, str]
) -> None:
    who = principal(tenants[0])
    sizes = []
    for limit in (30, 120):
        async with shelf(db, data_dir, KnowledgeSettings(chunk_tokens=limit)) as house:
            ready = await house.put(who, f"{limit}.md", TEXT.replace("Lamp", f"Light{limit}"))
            sizes.append(max(count(chunk.text) for chunk in await house.library.chunks(who, ready.id)))
    assert 15 < sizes[0] <= 30 < sizes[1] <= 120


async def test_real_jobs_carry_it(db: Database, data_dir: Path, tenants: tuple[str, str]) -> None:
    """The same through the engine, with progress on the job and the result kept."""
    async with shelf(db, data_dir) as house:
        who = Principal(tenants[0], "key_test")
        taken = await house.upload(who, "a.md", TEXT)
        ended = await house.ended(who, taken.job)
        assert ended.status == "done"
        assert (ended.result or {})["document"] == taken.document.id
        assert (await house.library.document(who, taken.document.id)).is_latest
