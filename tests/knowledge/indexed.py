"""What the tests of the index share: an embedder that needs no weights, and documents put straight into the tables."""

import re
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from gimle.foundation import ids
from gimle.foundation.db import Connection, Database
from gimle.foundation.errors import Unavailable
from gimle.gateway.gateway import Gateway
from gimle.gateway.types import Embedded, Purpose
from gimle.jobs.run import Run
from gimle.knowledge.index import index_chunks
from gimle.knowledge.space import Space, Vectors
from gimle.knowledge.types import Chunk
from gimle.trust.types import Principal

T = TypeVar("T")
DIMENSIONS = 64


class WordEmbedder(Gateway):
    """Texts that share words are near: each word has a direction, drawn from its hash. Counts what it is asked."""

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        self.dimensions = dimensions
        self.version = "1"
        self.available = True
        self.asked: list[str] = []
        self.fail_after: int | None = None

    async def embed(
        self,
        principal: Principal,
        model: str,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        purpose: Purpose | None = None,
    ) -> Embedded:
        if not self.available or (self.fail_after is not None and len(self.asked) >= self.fail_after):
            raise Unavailable("The embedder is gone.")
        self.asked.extend(texts)
        return Embedded(vectors=np.stack([self.vector(text) for text in texts]), model=model, provider="test", tokens=0)

    def vector(self, text: str) -> Vectors:
        total = np.zeros(self.dimensions, np.float32)
        for word in re.findall(r"\w+", text.lower()):
            total += np.random.default_rng(zlib.crc32(word.encode())).normal(size=self.dimensions).astype(np.float32)
        return total / max(float(np.linalg.norm(total)), 1e-30)

    def space(self, name: str, principal: Principal | None = None) -> dict[str, Any]:
        if not self.available:
            raise Unavailable(f"The model {name} is not installed.", hint="Run `gimle setup`.")
        return {
            "model": name,
            "version": self.version,
            "dimensions": self.dimensions,
            "normalised": True,
            "languages": ("en",),
        }


class OnceRun(Run):
    """A job's run as far as embedding needs it: guards kept in memory, the effect in a real transaction."""

    def __init__(self, db: Database, tenant: str) -> None:
        super().__init__(db, "job_test", tenant, "test", {}, 1)
        self.effects: dict[str, object] = {}

    async def once(self, effect: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        assert effect not in self.effects
        async with self.db.tenant(self.tenant) as conn:
            result = await work(conn)
        self.effects[effect] = result
        return result


def principal(tenant: str) -> Principal:
    return Principal(tenant=tenant, key="key_test")


async def collection(db: Database, tenant: str, name: str = "default") -> str:
    made = ids.new("col")
    async with db.tenant(tenant) as conn:
        await conn.execute("insert into collection (id, name) values (%s, %s)", (made, name))
    return made


async def insert_document(
    conn: Connection, collection_id: str, name: str, texts: Sequence[str], language: str = "en"
) -> tuple[str, list[Chunk]]:
    """A pending document and its chunks, in the caller's transaction; not indexed."""
    document = ids.new("doc")
    await conn.execute(
        "insert into document (id, collection, name, media_type, size, sha256, version) values (%s, %s, %s,"
        " 'text/plain', 1, repeat('0', 64), (select count(*) + 1 from document where collection = %s and name = %s))",
        (document, collection_id, name, collection_id, name),
    )
    found = await conn.execute("select nextval('chunk_number') as n from generate_series(1, %s)", (len(texts),))
    numbers = [line["n"] for line in await found.fetchall()]
    chunks = [
        Chunk(
            id=ids.new("chk"),
            number=number,
            document=document,
            ordinal=ordinal,
            text=text,
            start=ordinal * 1000,
            end=ordinal * 1000 + max(len(text), 1),
            language=language,
        )
        for ordinal, (text, number) in enumerate(zip(texts, numbers, strict=True))
    ]
    await conn.execute(
        "insert into chunk (id, number, collection, document, ordinal, text, start_char, end_char, language)"
        " select c.id, c.number, %(collection)s, %(document)s, c.ordinal - 1, c.text, c.ordinal, c.ordinal + 1,"
        " %(language)s from unnest(%(ids)s::text[], %(numbers)s::bigint[], %(texts)s::text[])"
        " with ordinality c(id, number, text, ordinal)",
        {
            "collection": collection_id,
            "document": document,
            "language": language,
            "ids": [chunk.id for chunk in chunks],
            "numbers": numbers,
            "texts": list(texts),
        },
    )
    return document, chunks


async def activate(conn: Connection, document: str) -> None:
    await conn.execute("update document set status = 'ready', is_latest = true where id = %s", (document,))


async def add(
    db: Database,
    tenant: str,
    collection_id: str,
    name: str,
    texts: Sequence[str],
    *,
    language: str = "en",
    dense: tuple[WordEmbedder, Space] | None = None,
) -> str:
    """A serving document with its index, in one transaction; with vectors when there is a space."""
    async with db.tenant(tenant) as conn:
        document, chunks = await insert_document(conn, collection_id, name, texts, language)
        vectors = space = None
        if dense is not None:
            embedder, space = dense
            vectors = np.stack([embedder.vector(text) for text in texts])
        await index_chunks(conn, collection_id, document, chunks, vectors, space)
        await activate(conn, document)
    return document
