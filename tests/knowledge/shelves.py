"""What the tests of documents share: a library with real jobs on a real database, and a word embedder."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.knowledge.indexed import WordEmbedder

from gimle.foundation.blobs import Blobs
from gimle.foundation.config import JobSettings, KnowledgeSettings
from gimle.foundation.db import Database
from gimle.jobs.jobs import Jobs
from gimle.jobs.types import Job
from gimle.knowledge import ingest
from gimle.knowledge.embedding import Embedding
from gimle.knowledge.library import Library, Upload
from gimle.knowledge.search import Search
from gimle.knowledge.types import Document
from gimle.trust.types import Principal

SETTINGS = KnowledgeSettings(parse_seconds=60)


def count(text: str) -> int:
    """Tokens, roughly: a word and a bit for each six letters more."""
    return sum(1 + len(word) // 6 for word in re.findall(r"\w+|[^\w\s]", text))


class Shelf:
    """The rooms that documents need, open."""

    def __init__(self, db: Database, jobs: Jobs, blobs: Blobs, embedder: WordEmbedder, embedding: Embedding) -> None:
        self.db = db
        self.jobs = jobs
        self.blobs = blobs
        self.embedder = embedder
        self.library = Library(db, jobs, blobs)
        self.search = Search(db, embedding)

    async def put(self, principal: Principal, name: str, data: bytes | str, collection: str = "default") -> Document:
        """Upload and wait for the end; the document as it is then."""
        taken = await self.upload(principal, name, data, collection)
        await self.ended(principal, taken.job)
        return await self.library.document(principal, taken.document.id)

    async def upload(self, principal: Principal, name: str, data: bytes | str, collection: str = "default") -> Upload:
        raw = data.encode() if isinstance(data, str) else data
        return await self.library.upload(principal, collection, name, raw)

    async def ended(self, principal: Principal, job: str) -> Job:
        last: Job | None = None
        async for state in self.jobs.watch(principal.tenant, job):
            last = state
        assert last is not None
        return last

    async def found(self, principal: Principal, query: str, collection: str = "default") -> list[str]:
        """The texts that search finds, best first."""
        return [passage.text for passage in (await self.search.search(principal, collection, query)).passages]


@asynccontextmanager
async def shelf(db: Database, folder: Path, settings: KnowledgeSettings = SETTINGS) -> AsyncIterator[Shelf]:
    embedder = WordEmbedder()
    embedding = Embedding(embedder)
    blobs = Blobs(folder)
    jobs = await Jobs.open(db, [ingest.kind(blobs, embedding, count, settings)], JobSettings(slots=2))
    await jobs.start()
    try:
        yield Shelf(db, jobs, blobs, embedder, embedding)
    finally:
        await jobs.stop(5.0)
        await jobs.close()
