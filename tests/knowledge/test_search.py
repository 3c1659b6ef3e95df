"""Search as a whole: what it finds, in which order, and what it says when half of it is missing."""

import pytest
from tests.knowledge import indexed
from tests.knowledge.indexed import WordEmbedder, principal

from gimle.foundation.db import Database
from gimle.foundation.errors import CollectionNotFound, DatabaseUnavailable, InvalidRequest
from gimle.knowledge.embedding import Embedding
from gimle.knowledge.index import index_chunks, remove_document
from gimle.knowledge.search import Mode, Search
from gimle.knowledge.space import Space

TEXTS = [
    "The queen lays up to two thousand eggs a day in early summer.",
    "A smoker calms the colony before the hive is opened.",
    "Honey is ripe when its water content is below eighteen percent.",
    "Varroa mites are treated with oxalic acid in December.",
    "Swarms leave the hive in May when the colony outgrows its room.",
    "The extractor spins the honey out of uncapped frames.",
]


class Bench:
    """A tenant with a collection, its space and a search over it."""

    def __init__(self, db: Database, tenant: str) -> None:
        self.db, self.tenant = db, tenant
        self.embedder = WordEmbedder()
        self.embedding = Embedding(self.embedder)
        self.search = Search(db, self.embedding)

    async def open(self, name: str = "default") -> "Bench":
        self.collection = await indexed.collection(self.db, self.tenant, name)
        dense = await self.embedding.open_space(self.db, self.tenant, self.collection)
        assert dense.space is not None
        self.space: Space = dense.space
        return self

    async def add(self, name: str, texts: list[str]) -> str:
        return await indexed.add(self.db, self.tenant, self.collection, name, texts, dense=(self.embedder, self.space))

    async def ask(self, query: str, top_k: int = 6, mode: Mode = "hybrid") -> list[str]:
        found = await self.search.search(principal(self.tenant), "default", query, top_k, mode)
        return [passage.text for passage in found.passages]


@pytest.fixture
async def bench(db: Database, tenants: tuple[str, str]) -> Bench:
    return await Bench(db, tenants[0]).open()


async def test_a_passage_is_found_with_its_document(bench: Bench) -> None:
    document = await bench.add("bees.txt", TEXTS)
    for mode in ("hybrid", "lexical", "dense"):
        found = await bench.search.search(principal(bench.tenant), bench.collection, "when is honey ripe?", 3, mode)
        assert found.notice is None
        first = found.passages[0]
        assert first.text == TEXTS[2]
        assert (first.document, first.document_name, first.language) == (document, "bees.txt", "en")
        scores = [passage.score for passage in found.passages]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)


async def test_top_k_only_adds_to_the_end(bench: Bench) -> None:
    for number in range(40):
        await bench.add(f"d{number}", [f"{text} Note {number} of {number % 7}." for text in TEXTS])
    whole = await bench.ask("honey and the hive of note 3", 100)
    assert len(whole) == 100
    for top_k in (1, 2, 5, 20, 60):
        assert await bench.ask("honey and the hive of note 3", top_k) == whole[:top_k]


async def test_the_same_text_is_shown_once(bench: Bench) -> None:
    await bench.add("a", TEXTS)
    await bench.add("b", [TEXTS[2], TEXTS[2] + "  "])
    found = await bench.ask("ripe honey water", 10)
    assert sum(text.strip() == TEXTS[2] for text in found) == 1


async def test_after_a_delete_a_search_finds_nothing(bench: Bench) -> None:
    document = await bench.add("a", TEXTS)
    assert await bench.ask("honey")
    async with bench.db.tenant(bench.tenant) as conn:
        await remove_document(conn, document)
        await conn.execute("delete from document where id = %s", (document,))
    for mode in ("hybrid", "lexical", "dense"):
        assert await bench.ask("honey", mode=mode) == []
    async with bench.db.tenant(bench.tenant) as conn:
        for table in ("chunk_vector", "lexical_segment", "lexical_posting", "chunk"):
            assert await (await conn.execute(f"select count(*) as n from {table}")).fetchone() == {"n": 0}


async def test_deleting_the_collection_leaves_no_row(bench: Bench) -> None:
    await bench.add("a", TEXTS)
    await bench.ask("honey")
    async with bench.db.tenant(bench.tenant) as conn:
        await conn.execute("delete from collection where id = %s", (bench.collection,))
    with pytest.raises(CollectionNotFound):
        await bench.search.search(principal(bench.tenant), bench.collection, "honey")
    async with bench.db.tenant(bench.tenant) as conn:
        for table in (
            "chunk_vector",
            "vector_space",
            "lexical_segment",
            "lexical_posting",
            "lexical_generation",
        ):
            assert await (await conn.execute(f"select count(*) as n from {table}")).fetchone() == {"n": 0}


async def test_a_new_version_takes_over_in_one_moment(bench: Bench) -> None:
    old = await bench.add("a", ["Honey of the old version."])
    async with bench.db.tenant(bench.tenant) as conn:
        new, chunks = await indexed.insert_document(conn, bench.collection, "a", ["Honey of the new version."])
        await index_chunks(conn, bench.collection, new, chunks)
    assert await bench.ask("honey version") == ["Honey of the old version."]
    async with bench.db.tenant(bench.tenant) as conn:
        await remove_document(conn, old)
        await conn.execute(
            "update document set is_latest = (id = %s), status = 'ready' where id = any(%s)",
            (new, [old, new]),
        )
    assert await bench.ask("honey version") == ["Honey of the new version."]


async def test_without_the_embedder_words_serve_and_it_says_so(bench: Bench) -> None:
    await bench.add("a", TEXTS)
    bench.embedder.available = False
    for mode in ("hybrid", "dense"):
        found = await bench.search.search(principal(bench.tenant), "default", "varroa mites", 2, mode)
        assert found.passages[0].text == TEXTS[3]
        assert "by words only" in (found.notice or "")
    lexical = await bench.search.search(principal(bench.tenant), "default", "varroa mites", 2, "lexical")
    assert lexical.notice is None, "who asks for words is not told that there are only words"


async def test_an_embedder_that_fails_now_is_told_of(bench: Bench) -> None:
    await bench.add("a", TEXTS)
    bench.embedder.fail_after = 0
    found = await bench.search.search(principal(bench.tenant), "default", "varroa mites", 2)
    assert found.passages[0].text == TEXTS[3]
    assert "The embedder is gone." in (found.notice or "")


async def test_an_empty_collection_and_a_hopeless_query_give_nothing(bench: Bench) -> None:
    assert await bench.ask("honey") == []
    await bench.add("a", TEXTS)
    assert await bench.ask("xylophone", mode="lexical") == []
    assert await bench.ask("?!", mode="lexical") == []


@pytest.mark.parametrize(
    "query, top_k, mode, field",
    [
        ("", 5, "hybrid", "query"),
        (" \n", 5, "hybrid", "query"),
        ("x" * 8001, 5, "hybrid", "query"),
        ("bee", 0, "hybrid", "top_k"),
        ("bee", 101, "hybrid", "top_k"),
        ("bee", 5, "magic", "mode"),
    ],
)
async def test_bad_input_names_the_field(bench: Bench, query: str, top_k: int, mode: Mode, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await bench.search.search(principal(bench.tenant), "default", query, top_k, mode)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "query", ["'; drop table chunk; --", "\x01\x02 honey", "🐝🐝 honey", "honey " * 1300, "%(x)s honey %s"]
)
async def test_odd_queries_are_only_words(bench: Bench, query: str) -> None:
    await bench.add("a", TEXTS)
    found = await bench.ask(query, mode="lexical")
    assert all(isinstance(text, str) for text in found)


async def test_a_connection_killed_in_the_middle_leaves_nothing_to_find(bench: Bench) -> None:
    await bench.add("a", TEXTS)
    with pytest.raises(DatabaseUnavailable):
        async with bench.db.tenant(bench.tenant) as conn:
            document, chunks = await indexed.insert_document(conn, bench.collection, "b", ["honey from Zanzibar"])
            vectors = bench.embedder.vector("honey from Zanzibar")[None]
            await index_chunks(conn, bench.collection, document, chunks, vectors, bench.space)
            await indexed.activate(conn, document)
            await conn.execute("reset role")
            await conn.execute("select pg_terminate_backend(pg_backend_pid())")
    assert await bench.ask("Zanzibar", mode="lexical") == []
    assert "honey from Zanzibar" not in await bench.ask("honey from Zanzibar", 100)
    await bench.add("b", ["honey from Zanzibar"])
    assert (await bench.ask("honey from Zanzibar"))[0] == "honey from Zanzibar"
