"""No tenant meets another's postings, vectors or passages, not even by asking with the other's ids."""

import psycopg
import pytest
from tests.knowledge import indexed
from tests.knowledge.indexed import WordEmbedder, principal

from gimle.foundation.db import Database
from gimle.foundation.errors import CollectionNotFound
from gimle.knowledge.embedding import Embedding
from gimle.knowledge.index import index_chunks, remove_document, upkeep
from gimle.knowledge.lexical import Lexical
from gimle.knowledge.search import Mode, Search
from gimle.knowledge.segments import SQL
from gimle.knowledge.space import Space

TABLES = ("lexical_generation", "lexical_segment", "lexical_posting", "vector_space", "chunk_vector")


class Two:
    """The first tenant has a document on treasure; the second has a collection of the same name, and its own."""

    def __init__(self, db: Database, tenants: tuple[str, str]) -> None:
        self.db, (self.first, self.second) = db, tenants
        self.embedder = WordEmbedder()
        self.embedding = Embedding(self.embedder)
        self.search = Search(db, self.embedding)
        self.collections: dict[str, str] = {}
        self.spaces: dict[str, Space] = {}
        self.documents: dict[str, str] = {}

    async def open(self) -> "Two":
        for tenant, texts in (
            (self.first, ["the treasure lies under the oak"] * 600),
            (self.second, ["nothing here"]),
        ):
            self.collections[tenant] = await indexed.collection(self.db, tenant)
            dense = await self.embedding.open_space(self.db, tenant, self.collections[tenant])
            assert dense.space is not None
            self.spaces[tenant] = dense.space
            self.documents[tenant] = await indexed.add(
                self.db,
                tenant,
                self.collections[tenant],
                "a",
                texts,
                dense=(self.embedder, dense.space),
            )
        return self


@pytest.fixture
async def two(db: Database, tenants: tuple[str, str]) -> Two:
    return await Two(db, tenants).open()


@pytest.mark.parametrize("mode", ["hybrid", "lexical", "dense"])
async def test_the_own_collection_of_the_same_name_is_searched(two: Two, mode: Mode) -> None:
    for tenant, text in ((two.first, "the treasure lies under the oak"), (two.second, "nothing here")):
        found = await two.search.search(principal(tenant), "default", "treasure oak nothing", 5, mode)
        assert {passage.text for passage in found.passages} == {text}


async def test_a_foreign_collection_does_not_exist(two: Two) -> None:
    await two.search.search(principal(two.first), two.collections[two.first], "treasure", 5)
    with pytest.raises(CollectionNotFound) as foreign:
        await two.search.search(principal(two.second), two.collections[two.first], "treasure", 5)
    with pytest.raises(CollectionNotFound) as unknown:
        await two.search.search(principal(two.second), "col_" + "0" * 32, "treasure", 5)
    assert foreign.value.message.replace(two.collections[two.first], "") == unknown.value.message.replace(
        "col_" + "0" * 32, ""
    )


async def test_a_warm_cache_of_one_tenant_says_nothing_to_another(two: Two) -> None:
    lexical = Lexical()
    for tenant, hits in ((two.first, 100), (two.second, 0), (two.first, 100)):
        async with two.db.tenant(tenant) as conn:
            found = await lexical.candidates(conn, tenant, two.collections[two.first], 2, "treasure", 100)
        assert len(found.scores) == hits


async def test_a_foreign_space_gives_no_vector(two: Two) -> None:
    store = two.search._store
    async with two.db.tenant(two.second) as conn:
        found = await store.nearest(
            conn, two.spaces[two.first], two.embedder.vector("treasure"), 10, list(range(1, 700))
        )
        assert (found.scores, len(found.near), len(found.background)) == ({}, 0, 0)
        assert await store.done(conn, two.spaces[two.first], two.documents[two.first]) == set()


async def test_no_table_shows_a_foreign_row(two: Two) -> None:
    for tenant, other in ((two.first, two.second), (two.second, two.first)):
        async with two.db.tenant(tenant) as conn:
            for table in TABLES:
                found = await conn.execute(f"select count(*) as n from {table} where tenant = %s", (other,))
                assert await found.fetchone() == {"n": 0}
    async with two.db.shared() as conn:
        for table in TABLES:
            assert await (await conn.execute(f"select count(*) as n from {table}")).fetchone() == {"n": 0}


async def test_a_foreign_document_can_be_neither_removed_nor_indexed(two: Two) -> None:
    async with two.db.tenant(two.second) as conn:
        await remove_document(conn, two.documents[two.first])
        await upkeep(two.db, two.second, two.collections[two.first])
    found = await two.search.search(principal(two.first), "default", "treasure", 1)
    assert len(found.passages) == 1
    async with two.db.tenant(two.first) as conn:
        own, chunks = await indexed.insert_document(conn, two.collections[two.first], "b", ["more treasure"])
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        async with two.db.tenant(two.second) as conn:
            await index_chunks(conn, two.collections[two.first], own, chunks)


async def test_vectors_cannot_be_put_on_foreign_chunks_or_into_a_foreign_space(two: Two) -> None:
    async with two.db.tenant(two.second) as conn:
        mine, chunks = await indexed.insert_document(conn, two.collections[two.second], "b", ["mine"])
    vectors = two.embedder.vector("mine")[None]
    store = two.search._store
    for space, number in ((two.spaces[two.first], chunks[0].number), (two.spaces[two.second], 1)):
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            async with two.db.tenant(two.second) as conn:
                await store.put(conn, space, mine, [number], [bytes(32)], vectors)


async def test_the_index_builder_serves_only_the_callers_own_space(two: Two) -> None:
    async with two.db.tenant(two.second) as conn:
        for space, built in ((two.spaces[two.first], False), (two.spaces[two.second], True)):
            found = await (await conn.execute(SQL["build_index"], {"space": space.id})).fetchone()
            assert found == {"built": built}
