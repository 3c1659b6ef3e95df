"""The lexical channel: what it finds, what it must not find, and that the database reads it by index."""

import asyncio
import random

import pytest
from tests.knowledge import indexed

from gimle.foundation.db import Database
from gimle.knowledge import segments
from gimle.knowledge.index import index_chunks, remove_document, upkeep
from gimle.knowledge.lexical import Cache, Candidates, Lexical
from gimle.knowledge.segments import SQL, Size, due

WORDS = [
    "hive",
    "queen",
    "honey",
    "swarm",
    "wax",
    "frame",
    "smoker",
    "drone",
    "nectar",
    "brood",
    "pollen",
    "comb",
]


async def ask(db: Database, tenant: str, collection: str, query: str, lexical: Lexical | None = None) -> Candidates:
    async with db.tenant(tenant) as conn:
        found = await conn.execute("select generation from lexical_generation where collection = %s", (collection,))
        line = await found.fetchone()
        generation = line["generation"] if line else 0
        return await (lexical or Lexical()).candidates(conn, tenant, collection, generation, query, 100)


async def texts(db: Database, tenant: str, found: Candidates) -> list[str]:
    best = sorted(found.scores, key=lambda number: (-found.scores[number], number))
    async with db.tenant(tenant) as conn:
        read = await conn.execute("select number, text from chunk where number = any(%s)", (best,))
        known = {line["number"]: line["text"] for line in await read.fetchall()}
    return [known[number] for number in best]


async def test_any_word_matches_and_the_rarer_one_counts_more(db: Database, tenants: tuple[str, str]) -> None:
    collection = await indexed.collection(db, tenants[0])
    await indexed.add(
        db, tenants[0], collection, "a", ["the hive hums", "the hive rests", "wax and a hive", "a smoker"]
    )
    found = await texts(db, tenants[0], await ask(db, tenants[0], collection, "hive wax propolis"))
    assert found[0] == "wax and a hive"
    assert set(found) == {"the hive hums", "the hive rests", "wax and a hive"}


async def test_both_languages_of_a_collection_are_asked(db: Database, tenants: tuple[str, str]) -> None:
    collection = await indexed.collection(db, tenants[0])
    await indexed.add(db, tenants[0], collection, "en", ["The queens are marked in spring."])
    await indexed.add(db, tenants[0], collection, "de", ["Die Waben werden im Mai geschleudert."], language="de")
    assert await texts(db, tenants[0], await ask(db, tenants[0], collection, "queen")) == [
        "The queens are marked in spring."
    ]
    german = await ask(db, tenants[0], collection, "Wabe schleudern")
    assert await texts(db, tenants[0], german) == ["Die Waben werden im Mai geschleudert."]


async def test_a_deleted_document_is_gone_at_once_from_a_warm_cache(db: Database, tenants: tuple[str, str]) -> None:
    collection = await indexed.collection(db, tenants[0])
    kept = await indexed.add(db, tenants[0], collection, "kept", ["honey in the comb"])
    lost = await indexed.add(db, tenants[0], collection, "lost", ["honey in a secret jar"])
    lexical = Lexical()
    assert len((await ask(db, tenants[0], collection, "honey", lexical)).scores) == 2
    async with db.tenant(tenants[0]) as conn:
        await conn.execute("delete from document where id = %s", (lost,))
    assert await texts(db, tenants[0], await ask(db, tenants[0], collection, "honey secret", lexical)) == [
        "honey in the comb"
    ]
    async with db.tenant(tenants[0]) as conn:
        await remove_document(conn, kept)
        await conn.execute("delete from document where id = %s", (kept,))
    assert (await ask(db, tenants[0], collection, "honey", lexical)).scores == {}


async def test_a_pending_document_is_found_from_its_activation_on(db: Database, tenants: tuple[str, str]) -> None:
    collection = await indexed.collection(db, tenants[0])
    lexical = Lexical()
    async with db.tenant(tenants[0]) as conn:
        document, chunks = await indexed.insert_document(conn, collection, "a", ["brood frames"])
        await index_chunks(conn, collection, document, chunks)
    assert (await ask(db, tenants[0], collection, "brood", lexical)).scores == {}
    async with db.tenant(tenants[0]) as conn:
        await indexed.activate(conn, document)
    assert len((await ask(db, tenants[0], collection, "brood", lexical)).scores) == 1


async def test_what_a_rolled_back_transaction_indexed_is_never_found(db: Database, tenants: tuple[str, str]) -> None:
    collection = await indexed.collection(db, tenants[0])
    await indexed.add(db, tenants[0], collection, "a", ["nectar"])
    with pytest.raises(ZeroDivisionError):
        async with db.tenant(tenants[0]) as conn:
            document, chunks = await indexed.insert_document(conn, collection, "b", ["nectar too"])
            await index_chunks(conn, collection, document, chunks)
            await indexed.activate(conn, document)
            raise ZeroDivisionError
    assert await texts(db, tenants[0], await ask(db, tenants[0], collection, "nectar")) == ["nectar"]


async def test_indexing_again_replaces(db: Database, tenants: tuple[str, str]) -> None:
    collection = await indexed.collection(db, tenants[0])
    async with db.tenant(tenants[0]) as conn:
        document, chunks = await indexed.insert_document(conn, collection, "a", ["pollen one", "pollen two"])
        await index_chunks(conn, collection, document, chunks)
        await index_chunks(conn, collection, document, chunks[:1])
        await indexed.activate(conn, document)
    assert await texts(db, tenants[0], await ask(db, tenants[0], collection, "pollen")) == ["pollen one"]


async def test_merging_changes_no_score(
    db: Database, tenants: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SMALL", 20)
    monkeypatch.setattr(segments, "_SMALL_COUNT", 8)
    chance = random.Random(1)
    collection = await indexed.collection(db, tenants[0])
    lexical = Lexical()
    names = []
    for number in range(30):
        said = [" ".join(chance.choices(WORDS, k=9)) for _ in range(3)]
        names.append(await indexed.add(db, tenants[0], collection, f"d{number}", said))
    async with db.tenant(tenants[0]) as conn:
        await conn.execute("delete from document where id = any(%s)", (names[3:9],))
    before = await ask(db, tenants[0], collection, "queen smoker wax", lexical)
    await upkeep(db, tenants[0], collection)
    after, fresh = [await ask(db, tenants[0], collection, "queen smoker wax", one) for one in (lexical, Lexical())]
    async with db.tenant(tenants[0]) as conn:
        sizes = await (await conn.execute("select size, packed is null as apart from lexical_segment")).fetchall()
    assert [(line["size"], line["apart"]) for line in sizes] == [(72, True)]
    assert before.scores == pytest.approx(after.scores)
    assert fresh.scores == after.scores
    assert after.ranked[0].mean == pytest.approx(before.ranked[0].mean)


async def test_a_purge_leaves_no_word_of_a_deleted_document(
    db: Database, tenants: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SMALL", 4)
    monkeypatch.setattr(segments, "_SMALL_COUNT", 2)
    collection = await indexed.collection(db, tenants[0])
    for number in range(6):
        secret = await indexed.add(db, tenants[0], collection, f"d{number}", [f"comb number {number} zanzibar{number}"])
    await upkeep(db, tenants[0], collection)
    async with db.tenant(tenants[0]) as conn:
        await conn.execute("delete from document where id = %s", (secret,))
        terms = await (await conn.execute("select term from lexical_posting")).fetchall()
        assert any("zanzibar5" in line["term"] for line in terms)
        assert await segments.purge(conn, collection) == 1
        terms = await (await conn.execute("select term from lexical_posting")).fetchall()
    assert not any("zanzibar5" in line["term"] for line in terms)
    assert len((await ask(db, tenants[0], collection, "comb")).scores) == 5


async def test_a_segment_that_loses_many_documents_is_rewritten(
    db: Database, tenants: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_SMALL_COUNT", 4)
    collection = await indexed.collection(db, tenants[0])
    made = [await indexed.add(db, tenants[0], collection, f"d{n}", [f"comb {n} zanzibar{n}"]) for n in range(4)]
    await upkeep(db, tenants[0], collection)
    async with db.tenant(tenants[0]) as conn:
        await remove_document(conn, made[0])
        await conn.execute("delete from document where id = %s", (made[0],))
    assert len((await ask(db, tenants[0], collection, "comb")).scores) == 3
    await upkeep(db, tenants[0], collection)
    async with db.tenant(tenants[0]) as conn:
        found = await (await conn.execute("select gone, documents, packed from lexical_segment")).fetchall()
    assert [(line["gone"], sorted(line["documents"])) for line in found] == [([], sorted(made[1:]))]
    assert b"zanzibar0" not in found[0]["packed"]
    assert len((await ask(db, tenants[0], collection, "comb")).scores) == 3


async def test_a_search_that_meets_a_merge_misses_nothing(
    db: Database, tenants: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SMALL", 2)
    monkeypatch.setattr(segments, "_SMALL_COUNT", 2)
    collection = await indexed.collection(db, tenants[0])
    lexical = Lexical()
    for number in range(4):
        await indexed.add(db, tenants[0], collection, f"d{number}", [f"frame {number}", f"comb {number}"])
    await upkeep(db, tenants[0], collection)
    await ask(db, tenants[0], collection, "frame", lexical)
    async with db.tenant(tenants[0]) as conn:
        line = await (await conn.execute("select generation from lexical_generation")).fetchone()
        assert line is not None
        # The generation is read, then another transaction replaces the segments, then the postings are asked for.
        async with db.tenant(tenants[0]) as other:
            ids = await (await other.execute("select id from lexical_segment")).fetchall()
            await segments._rewrite(other, collection, [one["id"] for one in ids])
            await other.execute(SQL["move_generation"], {"collection": collection})
        found = await lexical.candidates(conn, tenants[0], collection, line["generation"], "comb", 100)
    assert len(found.scores) == 4


async def test_concurrent_writers_and_searches_agree(db: Database, tenants: tuple[str, str]) -> None:
    collection = await indexed.collection(db, tenants[0])
    lexical = Lexical()

    async def write(name: str) -> None:
        await indexed.add(db, tenants[0], collection, name, [f"swarm {name}"])
        assert (await ask(db, tenants[0], collection, f"swarm {name}", lexical)).scores

    async with asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(write(f"x{number}"))
    assert len((await ask(db, tenants[0], collection, "swarm", lexical)).scores) == 12


@pytest.mark.parametrize("query", ["read_postings", "read_segments", "read_serving", "read_passages"])
async def test_the_app_role_reads_by_index(db: Database, tenants: tuple[str, str], query: str) -> None:
    collection = await indexed.collection(db, tenants[0])
    await indexed.add(db, tenants[0], collection, "a", [f"word{n} hive" for n in range(600)])
    async with db.tenant(tenants[0]) as conn:
        await conn.execute("reset role")
        await conn.execute("analyze")
        await conn.execute("set local role gimle_app")
        await conn.execute("set local enable_seqscan = off")
        plan = await conn.execute(
            "explain " + SQL[query],
            {
                "segments": [1, 2],
                "terms": ["hive", "word7"],
                "collection": collection,
                "known": [1],
                "numbers": [1, 2],
            },
        )
        text = "\n".join(line["QUERY PLAN"] for line in await plan.fetchall())
    assert "Seq Scan" not in text, text
    if query == "read_postings":
        assert "lexical_posting_pkey" in text, text
        assert "(segment = ANY" in text, text
        assert "(term = ANY" in text, text


def test_the_cache_stays_within_its_bytes_and_drops_the_oldest() -> None:
    cache: Cache[str] = Cache(100)
    for number in range(10):
        cache.put((number,), str(number), 30)
        assert cache.get((0,)) in (None, "0")
    assert cache.bytes <= 100
    assert cache.get((9,)) == "9"
    assert cache.get((0,)) == "0", "what is used stays"
    assert cache.get((1,)) is None
    cache.put((9,), "again", 200)
    assert cache.bytes == 0


def test_what_is_due_keeps_languages_and_sizes_apart() -> None:
    small = [Size(number, "en", 1) for number in range(63)]
    assert due(small) == []
    assert due([*small, Size(99, "de", 1)]) == []
    assert due([*small, Size(63, "en", 1)]) == [list(range(64))]
    assert due([Size(number, "en", 511) for number in range(9)]) == [list(range(9))]
    assert due([Size(number, "en", 5000) for number in range(8)]) == [list(range(8))]
    assert due([Size(number, "en", 40000) for number in range(80)]) == []
    assert due([Size(1, "en", 40000, gone=25, documents=100), Size(2, "en", 9, gone=1, documents=5)]) == [[1]]
