"""Embedding: what is written stays written, nothing is paid for twice, and a bad vector fails alone."""

from collections.abc import Sequence

import numpy as np
import pytest
from tests.knowledge import indexed
from tests.knowledge.indexed import DIMENSIONS, OnceRun, WordEmbedder

from gimle.foundation.db import Database
from gimle.foundation.errors import PayloadTooLarge, PermanentError, RateLimitedError, Unavailable
from gimle.gateway.types import Embedded, Purpose
from gimle.knowledge.embedding import Embedding
from gimle.knowledge.space import Space, check, unit
from gimle.trust.types import Principal


async def opened(db: Database, tenant: str, embedder: WordEmbedder) -> tuple[Embedding, str, Space]:
    collection = await indexed.collection(db, tenant)
    embedding = Embedding(embedder)
    dense = await embedding.open_space(db, tenant, collection)
    assert dense.space is not None
    return embedding, collection, dense.space


async def count(db: Database, tenant: str) -> int:
    async with db.tenant(tenant) as conn:
        found = await (await conn.execute("select count(*) as n from chunk_vector")).fetchone()
    assert found is not None
    return int(found["n"])


async def test_a_crash_does_not_pay_again_for_what_was_written(db: Database, tenants: tuple[str, str]) -> None:
    embedder = WordEmbedder()
    embedding, collection, space = await opened(db, tenants[0], embedder)
    async with db.tenant(tenants[0]) as conn:
        document, chunks = await indexed.insert_document(conn, collection, "a", [f"text {n}" for n in range(300)])
    run = OnceRun(db, tenants[0])
    embedder.fail_after = 150
    with pytest.raises(Unavailable):
        await embedding.embed_chunks(run, db, indexed.principal(tenants[0]), space, document, chunks)
    written = await count(db, tenants[0])
    assert 64 <= written < 300
    embedder.fail_after = None
    embedder.asked.clear()
    seen: list[tuple[int, int]] = []

    async def progress(done: int, total: int) -> None:
        seen.append((done, total))

    outcome = await embedding.embed_chunks(run, db, indexed.principal(tenants[0]), space, document, chunks, progress)
    assert outcome.embedded == 300
    assert len(embedder.asked) == 300 - written
    assert await count(db, tenants[0]) == 300
    assert seen[-1] == (300, 300)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


async def test_unchanged_text_of_a_new_version_is_copied(db: Database, tenants: tuple[str, str]) -> None:
    embedder = WordEmbedder()
    embedding, collection, space = await opened(db, tenants[0], embedder)
    for texts, asked in ((["one", "two", "three"], 3), (["one", "two and a half", "three"], 1)):
        embedder.asked.clear()
        async with db.tenant(tenants[0]) as conn:
            document, chunks = await indexed.insert_document(conn, collection, "a", texts)
        outcome = await embedding.embed_chunks(
            OnceRun(db, tenants[0]), db, indexed.principal(tenants[0]), space, document, chunks
        )
        assert (outcome.embedded, outcome.reused, len(embedder.asked)) == (3, 3 - asked, asked)
    assert await count(db, tenants[0]) == 6


class Faulty(WordEmbedder):
    """Gives NaN for one text and zero for another."""

    def vector(self, text: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        if text == "nan":
            return np.full(self.dimensions, np.nan, np.float32)
        return np.zeros(self.dimensions, np.float32) if text == "zero" else super().vector(text)


async def test_a_bad_vector_fails_alone_with_its_reason(db: Database, tenants: tuple[str, str]) -> None:
    embedding, collection, space = await opened(db, tenants[0], Faulty())
    async with db.tenant(tenants[0]) as conn:
        document, chunks = await indexed.insert_document(conn, collection, "a", ["fine", "nan", "zero", "good"])
    outcome = await embedding.embed_chunks(
        OnceRun(db, tenants[0]), db, indexed.principal(tenants[0]), space, document, chunks
    )
    assert outcome.embedded == 2
    assert sorted(outcome.rejected) == sorted(
        [f"{chunks[1].id}: it contains NaN or infinity", f"{chunks[2].id}: it is the zero vector"]
    )
    assert await count(db, tenants[0]) == 2


async def test_wrong_dimensions_stop_the_document(db: Database, tenants: tuple[str, str]) -> None:
    embedder = WordEmbedder()
    embedding, collection, space = await opened(db, tenants[0], embedder)
    async with db.tenant(tenants[0]) as conn:
        document, chunks = await indexed.insert_document(conn, collection, "a", ["fine"])
    embedder.dimensions = 32
    with pytest.raises(PermanentError, match="64 dimensions were expected"):
        await embedding.embed_chunks(
            OnceRun(db, tenants[0]), db, indexed.principal(tenants[0]), space, document, chunks
        )


class Narrow(WordEmbedder):
    """Takes ten texts at most, and refuses the first call for being too early."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    async def embed(
        self,
        principal: Principal,
        model: str,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        purpose: Purpose | None = None,
    ) -> Embedded:
        self.calls += 1
        if self.calls == 1:
            raise RateLimitedError("Slow down.", after=0.01)
        if len(texts) > 10:
            raise PayloadTooLarge("Ten at most.")
        return await super().embed(principal, model, texts)


async def test_batches_shrink_to_what_the_embedder_bears(db: Database, tenants: tuple[str, str]) -> None:
    embedder = Narrow()
    embedding, collection, space = await opened(db, tenants[0], embedder)
    async with db.tenant(tenants[0]) as conn:
        document, chunks = await indexed.insert_document(conn, collection, "a", [f"text {n}" for n in range(200)])
    outcome = await embedding.embed_chunks(
        OnceRun(db, tenants[0]), db, indexed.principal(tenants[0]), space, document, chunks
    )
    assert outcome.embedded == 200
    assert sorted(embedder.asked) == sorted(f"text {n}" for n in range(200))
    async with db.tenant(tenants[0]) as conn:
        found = await conn.execute(
            "select c.text, v.embedding::vector::real[] as v from chunk_vector v join chunk c on c.number = v.chunk"
        )
        for line in await found.fetchall():
            assert np.allclose(line["v"], embedder.vector(line["text"]), atol=1e-3)


async def test_without_an_embedder_there_is_a_notice_and_no_space(db: Database, tenants: tuple[str, str]) -> None:
    embedder = WordEmbedder()
    embedder.available = False
    collection = await indexed.collection(db, tenants[0])
    dense = await Embedding(embedder).open_space(db, tenants[0], collection)
    assert dense.space is None
    assert dense.notice is not None
    assert "gimle setup" in dense.notice


async def test_another_version_of_the_model_never_meets_the_old_vectors(db: Database, tenants: tuple[str, str]) -> None:
    embedder = WordEmbedder()
    embedding, collection, space = await opened(db, tenants[0], embedder)
    embedder.version = "2"
    dense = await embedding.open_space(db, tenants[0], collection)
    assert dense.space is None
    assert "no longer the version" in (dense.notice or "")


async def test_a_query_is_embedded_once(db: Database, tenants: tuple[str, str]) -> None:
    embedder = WordEmbedder()
    embedding, _, space = await opened(db, tenants[0], embedder)
    for _ in range(3):
        vector = await embedding.embed_query(indexed.principal(tenants[0]), space, "where is the queen")
    assert embedder.asked == ["where is the queen"]
    assert vector.shape == (DIMENSIONS,)
    assert np.linalg.norm(vector) == pytest.approx(1.0)


def test_check_names_what_is_wrong() -> None:
    vectors = np.ones((4, 3), np.float32)
    vectors[1, 2] = np.inf
    vectors[3] = 0
    assert [(one.place, one.reason) for one in check(vectors, 4, 3)] == [
        (1, "it contains NaN or infinity"),
        (3, "it is the zero vector"),
    ]
    with pytest.raises(ValueError, match="expected"):
        check(vectors, 4, 2)


def test_unit_bears_huge_and_tiny_numbers() -> None:
    made = unit(np.array([[3e38, 3e38], [1e-11, 0]], np.float32))
    assert np.allclose(made, [[0.5**0.5, 0.5**0.5], [1, 0]])
