"""The vector store: exact or by index it finds the same, whatever else is in the table."""

import asyncio

import numpy as np
import psycopg
import pytest
from tests.knowledge import indexed
from tests.knowledge.indexed import DIMENSIONS, WordEmbedder

from gimle.foundation import plugins
from gimle.foundation.db import Database
from gimle.foundation.errors import PermanentError
from gimle.knowledge.embedding import Embedding
from gimle.knowledge.index import index_chunks, upkeep
from gimle.knowledge.space import Space, Vectors

pgvector = plugins.load("gimle.knowledge.stores", "pgvector")


async def opened(db: Database, tenant: str, name: str = "default") -> Space:
    dense = await Embedding(WordEmbedder()).open_space(db, tenant, await indexed.collection(db, tenant, name))
    assert dense.space is not None
    return dense.space


def drawn(seed: int, count: int) -> Vectors:
    """Clustered vectors, as texts give: uniform noise has no neighbourhoods to find."""
    chance = np.random.default_rng(seed)
    centres = chance.normal(size=(20, DIMENSIONS))
    made = centres[chance.integers(0, 20, count)] + 0.7 * chance.normal(size=(count, DIMENSIONS))
    unit: Vectors = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return unit


async def fill(
    db: Database, tenant: str, space: Space, vectors: Vectors, name: str = "a", live: bool = True
) -> list[int]:
    async with db.tenant(tenant) as conn:
        document, chunks = await indexed.insert_document(
            conn, space.collection, name, [f"{name} {n}" for n in range(len(vectors))]
        )
        await index_chunks(conn, space.collection, document, chunks, vectors, space)
        if live:
            await indexed.activate(conn, document)
    return [chunk.number for chunk in chunks]


async def near(db: Database, tenant: str, space: Space, query: Vectors, depth: int) -> list[int]:
    async with db.tenant(tenant) as conn:
        found = await pgvector.nearest(conn, space, query, depth, [])
    return sorted(found.near, key=lambda number: -found.scores[number])


async def current(db: Database, tenant: str, space: Space) -> Space:
    async with db.tenant(tenant) as conn:
        dense = await Embedding(WordEmbedder()).space(conn, space.collection)
    assert dense.space is not None
    return dense.space


async def test_copied_vectors_come_back_as_they_went_in(db: Database, tenants: tuple[str, str]) -> None:
    space = await opened(db, tenants[0])
    vectors = drawn(1, 2500) * 1000.0
    numbers = await fill(db, tenants[0], space, vectors)
    async with db.tenant(tenants[0]) as conn:
        found = await conn.execute("select chunk, embedding::vector::real[] as v from chunk_vector order by chunk")
        read = await found.fetchall()
    assert [line["chunk"] for line in read] == numbers
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(np.array([line["v"] for line in read]), expected, atol=6e-4)


async def test_the_exact_scan_is_exact(db: Database, tenants: tuple[str, str]) -> None:
    space = await opened(db, tenants[0])
    vectors = drawn(2, 800)
    numbers = await fill(db, tenants[0], space, vectors)
    await fill(db, tenants[0], space, drawn(2, 100), "pending", live=False)
    for query in drawn(3, 5):
        order = np.argsort(-(vectors.astype(np.float16).astype(np.float32) @ query), kind="stable")
        found = await near(db, tenants[0], space, query, 50)
        assert len(set(found) & {numbers[place] for place in order[:50]}) >= 49, "half precision may swap a tie"
        assert found[0] == numbers[order[0]]


@pytest.mark.parametrize("share", [1.0, 0.1, 0.01])
async def test_recall_by_index_at_every_share_of_serving_vectors(
    db: Database, tenants: tuple[str, str], monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(pgvector, "EXACT_BELOW", 1000)
    space = await opened(db, tenants[0])
    total, serving = 3000, int(3000 * share)
    vectors = drawn(4, total)
    numbers = await fill(db, tenants[0], space, vectors[:serving], "live")
    if serving < total:
        await fill(db, tenants[0], space, vectors[serving:], "pending", live=False)
    await upkeep(db, tenants[0], space.collection)
    space = await current(db, tenants[0], space)
    assert space.indexed
    recalls = []
    for query in vectors[:serving][:: max(serving // 20, 1)] + drawn(5, 1) * 0.5:
        best = {numbers[place] for place in np.argsort(-(vectors[:serving] @ query))[:50]}
        found = await near(db, tenants[0], space, query / np.linalg.norm(query), 100)
        recalls.append(len(best & set(found)) / len(best))
    assert np.mean(recalls) >= 0.99
    assert min(recalls) >= 0.9


async def test_fewer_than_asked_for_are_found_by_the_exact_scan(
    db: Database, tenants: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector, "EXACT_BELOW", 10)
    space = await opened(db, tenants[0])
    numbers = await fill(db, tenants[0], space, drawn(6, 30))
    await upkeep(db, tenants[0], space.collection)
    space = await current(db, tenants[0], space)
    assert space.indexed
    assert sorted(await near(db, tenants[0], space, drawn(7, 1)[0], 100)) == numbers


async def test_two_builders_at_once_make_one_index(
    db: Database, tenants: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector, "EXACT_BELOW", 100)
    space = await opened(db, tenants[0])
    await fill(db, tenants[0], space, drawn(12, 400))
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(upkeep(db, tenants[0], space.collection))
    assert (await current(db, tenants[0], space)).indexed
    async with db.tenant(tenants[0]) as conn:
        found = await conn.execute("select count(*) as n from pg_indexes where indexname like 'hnsw%'")
        assert await found.fetchone() == {"n": 1}


async def test_the_app_role_walks_the_index_of_the_space(
    db: Database, tenants: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector, "EXACT_BELOW", 500)
    space = await opened(db, tenants[0])
    await fill(db, tenants[0], space, drawn(8, 1000))
    await upkeep(db, tenants[0], space.collection)
    async with db.tenant(tenants[0]) as conn:
        await conn.execute("reset role")
        await conn.execute("analyze")
        await conn.execute("set local role gimle_app")
        await conn.execute(pgvector.SQL["scan_index"], {"width": "200"})
        sql = "explain " + pgvector.SQL["nearest_indexed"].replace("halfvec(1)", f"halfvec({DIMENSIONS})")
        params = {"space": space.id, "query": drawn(9, 1)[0], "depth": 100}
        plan = "\n".join(line["QUERY PLAN"] for line in await (await conn.execute(sql, params)).fetchall())
    assert f"Index Scan using hnsw_{space.id}" in plan, plan
    assert "Sort" not in plan, plan


async def test_scores_are_given_for_wanted_chunks_too_and_a_background(db: Database, tenants: tuple[str, str]) -> None:
    space = await opened(db, tenants[0])
    vectors = drawn(10, 300)
    numbers = await fill(db, tenants[0], space, vectors)
    query = drawn(11, 1)[0]
    async with db.tenant(tenants[0]) as conn:
        found = await pgvector.nearest(conn, space, query, 10, numbers[:5])
    assert set(numbers[:5]) <= found.scores.keys()
    assert len(found.near) == 10
    assert found.scores[numbers[0]] == pytest.approx(float(vectors[0] @ query), abs=2e-3)
    assert np.allclose(np.sort(found.background), np.sort(vectors @ query), atol=2e-3)


@pytest.mark.parametrize(
    "bad, reason",
    [
        (np.full((1, DIMENSIONS), np.nan, np.float32), "NaN"),
        (np.zeros((1, DIMENSIONS), np.float32), "zero vector"),
        (np.ones((1, 8), np.float32), "64 dimensions were expected"),
        (np.ones((2, DIMENSIONS), np.float32), "1 vectors"),
    ],
)
async def test_bad_vectors_are_refused_and_nothing_is_written(
    db: Database, tenants: tuple[str, str], bad: Vectors, reason: str
) -> None:
    space = await opened(db, tenants[0])
    with pytest.raises(PermanentError, match=reason):
        async with db.tenant(tenants[0]) as conn:
            document, chunks = await indexed.insert_document(conn, space.collection, "a", ["text"])
            await index_chunks(conn, space.collection, document, chunks, bad, space)
    async with db.tenant(tenants[0]) as conn:
        for table in ("chunk_vector", "lexical_segment", "document"):
            found = await (await conn.execute(f"select count(*) as n from {table}")).fetchone()
            assert found == {"n": 0}


async def test_a_foreign_key_holds_vectors_to_their_space(db: Database, tenants: tuple[str, str]) -> None:
    space = await opened(db, tenants[0])
    narrow = Space(id=space.id, collection=space.collection, model="x", version="1", dimensions=8)
    async with db.tenant(tenants[0]) as conn:
        document, chunks = await indexed.insert_document(conn, space.collection, "a", ["text"])
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        async with db.tenant(tenants[0]) as conn:
            await pgvector.put(conn, narrow, document, [chunks[0].number], [bytes(32)], np.ones((1, 8), np.float32))
