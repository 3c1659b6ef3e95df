"""How fast is search at 10 000 and 100 000 chunks, and how fast do chunks get in? Each figure beside its floor.

    python bench/search.py [--chunks 10000 100000] [--queries 300]

Texts and vectors are generated: words by Zipf's law, vectors in clusters. Every query is new, so none is answered from
the cache of query vectors, and the first ones meet cold postings. The embedder's part of a search is measured apart,
with the real model where its weights are installed; so is ingest, beside what the model alone does in this process.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gimle.foundation import config, ids, plugins, postgres
from gimle.foundation.db import Connection, Database
from gimle.foundation.migrate import migrate
from gimle.gateway import weights
from gimle.gateway.gateway import Gateway
from gimle.gateway.minilm import Encoder
from gimle.gateway.types import Embedded
from gimle.jobs.run import Run
from gimle.knowledge.embedding import Embedding
from gimle.knowledge.index import index_chunks, upkeep
from gimle.knowledge.lexical import Lexical
from gimle.knowledge.search import Search
from gimle.knowledge.space import Space, Vectors
from gimle.knowledge.types import Chunk
from gimle.trust.types import Principal

T = TypeVar("T")
DIMENSIONS = 384
WORDS, CHUNKS_A_DOCUMENT, VOCABULARY = 120, 50, 60_000
store = plugins.load("gimle.knowledge.stores", "pgvector")


def _embedded(vectors: Vectors) -> Embedded:
    return Embedded(vectors=vectors, model="generated", provider="bench", tokens=0)


class Generated(Gateway):
    """Instead of an embedder: a vector in one of 200 clusters, without any time of its own."""

    def __init__(self) -> None:
        self._chance = np.random.default_rng(1)
        self._centres = self._chance.normal(size=(200, DIMENSIONS)).astype(np.float32)

    def draw(self, count: int) -> Vectors:
        """So many vectors."""
        places = self._chance.integers(0, len(self._centres), count)
        return self._centres[places] + 0.8 * self._chance.normal(size=(count, DIMENSIONS)).astype(np.float32)

    async def embed(
        self, principal: Principal, model: str, texts: Sequence[str], *, dimensions: int | None = None
    ) -> Embedded:
        """Vectors that have nothing to do with the texts."""
        return _embedded(self.draw(len(texts)))

    def space(self, name: str, principal: Principal | None = None) -> dict[str, Any]:
        """The facts of the space."""
        return {"version": "generated", "dimensions": DIMENSIONS, "languages": ("en",)}


class Local(Generated):
    """The real model in this process, as the gateway would call it."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = encoder

    async def embed(
        self, principal: Principal, model: str, texts: Sequence[str], *, dimensions: int | None = None
    ) -> Embedded:
        """Vectors of the texts."""
        return _embedded(await asyncio.to_thread(self._encoder.encode, list(texts)))


class Once(Run):
    """A job's run without its guard."""

    async def once(self, effect: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        """The work in a transaction."""
        async with self.db.tenant(self.tenant) as conn:
            return await work(conn)


class Text:
    """Text after Zipf's law over a made-up vocabulary."""

    def __init__(self) -> None:
        self._chance = np.random.default_rng(2)
        letters = np.array(list("bcdfghjklmnprstvwz"))
        vowels = np.array(list("aeiou"))
        self._words = [
            "".join(a + b for a, b in zip(self._chance.choice(letters, 3), self._chance.choice(vowels, 3), strict=True))
            + str(self._chance.choice(letters))
            for _ in range(VOCABULARY)
        ]
        # The first hundred ranks are the stop words, which a query does not search for.
        share = 1.0 / np.arange(101, VOCABULARY + 101)
        self._upto = np.cumsum(share / share.sum())

    def draw(self, words: int) -> str:
        """So many words."""
        places = np.searchsorted(self._upto, self._chance.random(words))
        return " ".join(self._words[min(place, VOCABULARY - 1)] for place in places)


async def insert(conn: Connection, collection: str, texts: Sequence[str]) -> tuple[str, list[Chunk]]:
    """A document with its chunks, not indexed yet."""
    document = ids.new("doc")
    await conn.execute(
        "insert into document (id, collection, name, media_type, size, sha256, version)"
        " values (%s, %s, %s, 'text/plain', 1, repeat('0', 64), 1)",
        (document, collection, document),
    )
    found = await conn.execute("select nextval('chunk_number') as n from generate_series(1, %s)", (len(texts),))
    chunks = [
        Chunk(
            id=ids.new("chk"),
            number=line["n"],
            document=document,
            ordinal=n,
            text=text,
            start=n,
            end=n + 1,
            language="en",
        )
        for n, (line, text) in enumerate(zip(await found.fetchall(), texts, strict=True))
    ]
    await conn.execute(
        "insert into chunk (id, number, collection, document, ordinal, text, start_char, end_char, language)"
        " select c.id, c.number, %s, %s, c.ordinal, c.text, c.ordinal, c.ordinal + 1, 'en'"
        " from unnest(%s::text[], %s::bigint[], %s::text[]) with ordinality c(id, number, text, ordinal)",
        (collection, document, [c.id for c in chunks], [c.number for c in chunks], list(texts)),
    )
    return document, chunks


async def open_collection(db: Database, tenant: str, name: str, embedding: Embedding) -> Space:
    """A collection with its space."""
    collection = ids.new("col")
    async with db.tenant(tenant) as conn:
        await conn.execute("insert into collection (id, name) values (%s, %s)", (collection, name))
    dense = await embedding.open_space(db, tenant, collection)
    assert dense.space is not None
    return dense.space


async def fill(db: Database, tenant: str, space: Space, count: int, text: Text, made: Generated) -> dict[str, float]:
    """Index so many chunks, document by document, as ingest does; seconds of each part."""
    taken = {"index": 0.0, "upkeep": 0.0}
    for _ in range(count // CHUNKS_A_DOCUMENT):
        texts = [text.draw(WORDS) for _ in range(CHUNKS_A_DOCUMENT)]
        vectors = made.draw(CHUNKS_A_DOCUMENT)
        async with db.tenant(tenant) as conn:
            document, chunks = await insert(conn, space.collection, texts)
            began = time.perf_counter()
            await index_chunks(conn, space.collection, document, chunks, vectors, space)
            taken["index"] += time.perf_counter() - began
            await conn.execute("update document set status = 'ready', is_latest = true where id = %s", (document,))
        began = time.perf_counter()
        await upkeep(db, tenant, space.collection)
        taken["upkeep"] += time.perf_counter() - began
    return taken


async def measure(
    search: Search, principal: Principal, space: Space, text: Text, queries: int, mode: Any
) -> dict[str, float]:
    """Milliseconds of a whole search, the first 20 left out as warm-up: median and 95th percentile of the clock, and
    the processor time of both processes, which other programs on the machine disturb less."""
    taken = []
    for number in range(queries + 20):
        if number == 20:
            worked = processor_seconds()
        query = text.draw(8)
        began = time.perf_counter()
        await search.search(principal, space.collection, query, 6, mode)
        taken.append(1000 * (time.perf_counter() - began))
    worked = processor_seconds() - worked
    taken = taken[20:]
    return {
        "p50_ms": round(statistics.median(taken), 1),
        "p95_ms": round(float(np.percentile(taken, 95)), 1),
        "cpu_ms": round(1000 * worked / queries, 1),
    }


def processor_seconds() -> float:
    """Of this process and of all its descendants that live, which are the server's."""
    parents, used = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)], used[int(entry.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(used[pid] for pid in ours) / os.sysconf("SC_CLK_TCK")


async def recall(db: Database, tenant: str, space: Space, made: Generated) -> float:
    """The share of the 10 truly nearest that are among the 100 candidates, by index, over 30 queries."""
    hits = 0
    async with db.tenant(tenant) as conn:
        for query in made.draw(30):
            query /= np.linalg.norm(query)
            near = (await store.nearest(conn, space, query, 100, [])).near
            true = await store._scan(conn, space, query, 10)
            hits += len(near & true.keys())
    return round(hits / 300, 4)


async def copy_vectors(db: Database, tenant: str, made: Generated) -> dict[str, float]:
    """Seconds to take 10 000 chunks with vectors in, and to build the nearest-neighbour index over them."""
    embedding = Embedding(made)
    space = await open_collection(db, tenant, "copied", embedding)
    async with db.tenant(tenant) as conn:
        document, chunks = await insert(conn, space.collection, [f"text {n}" for n in range(10_000)])
    vectors = made.draw(10_000)
    began = time.perf_counter()
    async with db.tenant(tenant) as conn:
        hashes = [store.text_hash(chunk.text) for chunk in chunks]
        await store.put(conn, space, document, [chunk.number for chunk in chunks], hashes, vectors)
    copied = time.perf_counter() - began
    async with db.tenant(tenant) as conn:
        await conn.execute(store.SQL["build_index"], {"space": space.id})
    both = time.perf_counter() - began
    async with db.tenant(tenant) as conn:
        await conn.execute("delete from collection where id = %s", (space.collection,))
    return {"copy_s": round(copied, 2), "copy_and_index_s": round(both, 2)}


async def ingest(db: Database, tenant: str, encoder: Encoder, texts: Sequence[str]) -> dict[str, float]:
    """Chunks a second: rows, words and vectors of documents of 50 chunks, and the model alone over the same texts."""
    encoder.encode(list(texts[:64]))
    began = time.perf_counter()
    for start in range(0, len(texts), 64):
        encoder.encode(list(texts[start : start + 64]))
    alone = len(texts) / (time.perf_counter() - began)
    embedding = Embedding(Local(encoder))
    space = await open_collection(db, tenant, "ingested", embedding)
    principal = Principal(tenant=tenant, key="key_bench")
    once = Once(db, "job_bench", tenant, "bench", {}, 1)
    began = time.perf_counter()
    for start in range(0, len(texts), CHUNKS_A_DOCUMENT):
        async with db.tenant(tenant) as conn:
            document, chunks = await insert(conn, space.collection, texts[start : start + CHUNKS_A_DOCUMENT])
            await index_chunks(conn, space.collection, document, chunks)
        await embedding.embed_chunks(once, db, principal, space, document, chunks)
        async with db.tenant(tenant) as conn:
            await conn.execute("update document set status = 'ready', is_latest = true where id = %s", (document,))
        await upkeep(db, tenant, space.collection)
    whole = len(texts) / (time.perf_counter() - began)
    began = time.perf_counter()
    for n in range(50):
        await embedding.embed_query(principal, space, f"where is the {n}th queen of the hive")
    query = 1000 * (time.perf_counter() - began) / 50
    return {
        "model_alone_chunks_s": round(alone, 1),
        "ingest_chunks_s": round(whole, 1),
        "share": round(whole / alone, 3),
        "query_embedding_ms": round(query, 1),
    }


def real_texts(count: int) -> list[str]:
    """Stretches of the example corpus, each with a number of its own so that no two are the same."""
    files = sorted((Path(__file__).parent.parent / "examples" / "corpus").rglob("*.md"))
    words = " ".join(file.read_text("utf-8") for file in files).split()
    starts = [37 * n % max(len(words) - WORDS, 1) for n in range(count)]
    return [f"Note {n}. " + " ".join(words[start : start + WORDS]) for n, start in enumerate(starts)]


async def run(url: str, sizes: Sequence[int], queries: int) -> dict[str, Any]:
    """All figures."""
    await migrate(url)
    db = await Database.open(url, size=4)
    tenant = ids.new("ten")
    async with db.shared() as conn:
        await conn.execute("insert into tenant (id, name) values (%s, 'bench')", (tenant,))
    principal = Principal(tenant=tenant, key="key_bench")
    made, text = Generated(), Text()
    figures: dict[str, Any] = {"copy_10000": await copy_vectors(db, tenant, made)}
    folder = weights.locate(config.load())
    if folder is not None:
        encoder = await asyncio.to_thread(Encoder.load, folder)
        figures["ingest"] = await ingest(db, tenant, encoder, real_texts(600))
    embedding = Embedding(made)
    for size in sizes:
        space = await open_collection(db, tenant, f"of {size}", embedding)
        taken = await fill(db, tenant, space, size, text, made)
        async with db.tenant(tenant) as conn:
            dense = await embedding.space(conn, space.collection)
            found = await conn.execute(
                "select count(*) as n from lexical_segment where collection = %s", (space.collection,)
            )
            line = await found.fetchone()
        assert dense.space is not None
        search = Search(db, embedding, Lexical())
        began = time.perf_counter()
        await search.search(principal, space.collection, text.draw(8))
        result: dict[str, Any] = {
            "filled_s": {part: round(seconds, 1) for part, seconds in taken.items()},
            "segments": line["n"] if line else 0,
            "indexed": dense.space.indexed,
            "first_search_ms": round(1000 * (time.perf_counter() - began), 1),
            "recall_10_in_100": await recall(db, tenant, dense.space, made),
        }
        for mode in ("hybrid", "lexical", "dense"):
            result[mode] = await measure(search, principal, space, text, queries, mode)
        figures[f"search_{size}"] = result
        print(json.dumps({f"search_{size}": result}), flush=True)
    await db.close()
    return figures


def main() -> None:
    """Start a server of our own, measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--chunks", type=int, nargs="+", default=[10_000, 100_000])
    arguments.add_argument("--queries", type=int, default=300)
    chosen = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gimle-bench-"))
    server = postgres.Embedded.start(folder, durable=True)
    try:
        print(json.dumps(asyncio.run(run(server.url, chosen.chunks, chosen.queries)), indent=2))
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
