"""What every vector store keeps to: what was put is found, what is gone is not, and nobody finds a stranger's."""

from types import ModuleType

import numpy as np
import pytest
from tests.knowledge import indexed
from tests.knowledge.indexed import WordEmbedder

from gimle.foundation import plugins
from gimle.foundation.db import Database
from gimle.knowledge.embedding import Embedding
from gimle.knowledge.space import Space, Vectors
from gimle.knowledge.types import Chunk

STORES = "gimle.knowledge.stores"
TEXTS = ["the mill has two wheels", "hornets hunt insects", "the mill stands by the water"]


@pytest.fixture(params=plugins.names(STORES))
def store(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.load(STORES, request.param)


def vectors(texts: list[str]) -> Vectors:
    return np.stack([WordEmbedder().vector(text) for text in texts])


async def new_space(db: Database, tenant: str) -> Space:
    opened = await Embedding(WordEmbedder()).open_space(db, tenant, await indexed.collection(db, tenant))
    assert opened.space is not None
    return opened.space


async def put(db: Database, store: ModuleType, tenant: str, space: Space, texts: list[str]) -> list[Chunk]:
    """A document that serves, with its vectors in the store."""
    async with db.tenant(tenant) as conn:
        document, chunks = await indexed.insert_document(conn, space.collection, texts[0], texts)
        hashes = [store.text_hash(text) for text in texts]
        await store.put(conn, space, document, [chunk.number for chunk in chunks], hashes, vectors(texts))
        await indexed.activate(conn, document)
    return chunks


async def find(db: Database, store: ModuleType, tenant: str, space: Space, text: str) -> list[int]:
    async with db.tenant(tenant) as conn:
        found = await store.nearest(conn, space, WordEmbedder().vector(text), 2, [])
    return sorted(found.near, key=lambda number: -found.scores[number])


async def test_what_was_put_is_found(store: ModuleType, db: Database, tenants: tuple[str, str]) -> None:
    space = await new_space(db, tenants[0])
    chunks = await put(db, store, tenants[0], space, TEXTS)
    for text, chunk in zip(TEXTS, chunks, strict=True):
        assert (await find(db, store, tenants[0], space, text))[0] == chunk.number


async def test_what_is_forgotten_is_gone(store: ModuleType, db: Database, tenants: tuple[str, str]) -> None:
    space = await new_space(db, tenants[0])
    chunks = await put(db, store, tenants[0], space, TEXTS)
    async with db.tenant(tenants[0]) as conn:
        await store.forget(conn, chunks[0].document)
        assert await store.done(conn, space, chunks[0].document) == set()
    assert await find(db, store, tenants[0], space, TEXTS[0]) == []


async def test_a_stranger_finds_nothing(store: ModuleType, db: Database, tenants: tuple[str, str]) -> None:
    mine, theirs = await new_space(db, tenants[0]), await new_space(db, tenants[1])
    await put(db, store, tenants[0], mine, TEXTS)
    assert await find(db, store, tenants[1], theirs, TEXTS[0]) == []
    assert await find(db, store, tenants[1], mine, TEXTS[0]) == [], "the id of a foreign space opens nothing"


async def test_an_unchanged_text_is_not_paid_twice(store: ModuleType, db: Database, tenants: tuple[str, str]) -> None:
    space = await new_space(db, tenants[0])
    await put(db, store, tenants[0], space, TEXTS)
    async with db.tenant(tenants[0]) as conn:
        document, chunks = await indexed.insert_document(conn, space.collection, "second", [TEXTS[1], "a new text"])
        numbers = [chunk.number for chunk in chunks]
        hashes = [store.text_hash(chunk.text) for chunk in chunks]
        assert await store.reuse(conn, space, document, numbers, hashes) == {numbers[0]}
        assert await store.done(conn, space, document) == {numbers[0]}
