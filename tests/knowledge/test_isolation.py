"""One tenant never meets another's documents: not by id, name, content, key, search or answer, nor in SQL."""

from collections.abc import Awaitable, Callable

import psycopg
import pytest
from tests.knowledge.shelves import Shelf

from gimle.foundation import ids
from gimle.foundation.errors import CollectionNotFound, DocumentNotFound, JobNotFound, NotFound
from gimle.knowledge.types import Document
from gimle.trust.types import Principal

SECRET = "The vault of Anna opens with the number 4711."


@pytest.fixture
async def secret(house: Shelf, anna: Principal) -> Document:
    return await house.put(anna, "vault.txt", SECRET)


async def test_a_foreign_id_is_an_unknown_id(house: Shelf, anna: Principal, bert: Principal, secret: Document) -> None:
    """Each call gets the very answer that an id gets which never was."""
    library = house.library
    calls: list[tuple[Callable[[str], Awaitable[object]], str, str]] = [
        (lambda given: library.document(bert, given), secret.id, ids.new("doc")),
        (lambda given: library.text(bert, given), secret.id, ids.new("doc")),
        (lambda given: library.chunks(bert, given), secret.id, ids.new("doc")),
        (lambda given: library.delete_document(bert, given), secret.id, ids.new("doc")),
        (lambda given: library.collection(bert, given), secret.collection, ids.new("col")),
        (lambda given: library.documents(bert, given), secret.collection, ids.new("col")),
        (lambda given: library.delete_collection(bert, given), secret.collection, ids.new("col")),
        (lambda given: house.search.search(bert, given, "vault"), secret.collection, ids.new("col")),
        (lambda given: house.jobs.get(bert.tenant, given), secret.job or "", ids.new("job")),
    ]
    for call, foreign, unknown in calls:
        answers = []
        for given in (foreign, unknown):
            with pytest.raises((DocumentNotFound, CollectionNotFound, JobNotFound)) as refused:
                await call(given)
            answers.append((type(refused.value), refused.value.message.replace(given, "ID"), refused.value.field))
        assert answers[0] == answers[1]
    assert (await library.document(anna, secret.id)).is_latest


async def test_search_in_the_same_name_finds_only_ones_own(
    house: Shelf, anna: Principal, bert: Principal, secret: Document
) -> None:
    await house.put(bert, "own.txt", "Bert has a vault without a number.")
    assert await house.found(bert, "vault number 4711") == ["Bert has a vault without a number."]
    assert await house.found(anna, "vault number 4711") == [SECRET]


async def test_the_same_content_is_not_joined_across_tenants(
    house: Shelf, anna: Principal, bert: Principal, secret: Document
) -> None:
    other = await house.put(bert, "vault.txt", SECRET)
    assert other.id != secret.id
    await house.library.delete_document(bert, other.id)
    assert await house.blobs.get(anna.tenant, secret.sha256) == SECRET.encode()
    with pytest.raises(NotFound):
        await house.blobs.get(bert.tenant, secret.sha256)


async def test_an_idempotency_key_belongs_to_its_tenant(house: Shelf, anna: Principal, bert: Principal) -> None:
    one = await house.library.upload(anna, "default", "a.txt", b"One.", None, "key-1")
    two = await house.library.upload(bert, "default", "b.txt", b"Two.", None, "key-1")
    assert one.document.id != two.document.id


@pytest.mark.parametrize("table", ["collection", "document", "chunk", "upload_key"])
async def test_sql_without_a_where_sees_ones_own_rows_only(
    house: Shelf, anna: Principal, bert: Principal, secret: Document, table: str
) -> None:
    await house.library.upload(anna, "default", "a.txt", b"One.", None, "key-1")
    for who, seen in ((anna, True), (bert, False)):
        async with house.db.tenant(who.tenant) as conn:
            found = await (await conn.execute(f"select * from {table}")).fetchall()
        assert bool(found) == seen
    async with house.db.shared() as conn:
        assert not await (await conn.execute(f"select * from {table}")).fetchall()
    async with house.db.tenant(bert.tenant) as conn:
        assert (await conn.execute(f"delete from {table}")).rowcount == 0


async def test_a_row_can_not_be_written_or_moved_to_another_tenant(
    house: Shelf, anna: Principal, bert: Principal, secret: Document
) -> None:
    values = {"id": ids.new("doc"), "collection": secret.collection, "tenant": anna.tenant}
    columns = "insert into document (id, tenant, collection, name, media_type, size, sha256, version) values "
    rest = "%(collection)s, 'x', 'text/plain', 1, repeat('0', 64), 1)"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with house.db.tenant(bert.tenant) as conn:
            await conn.execute(columns + "(%(id)s, %(tenant)s, " + rest, values)
    # The check of a foreign key sees all rows: only the tenant in it keeps this out.
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        async with house.db.tenant(bert.tenant) as conn:
            await conn.execute(columns + "(%(id)s, current_setting('app.tenant'), " + rest, values)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with house.db.tenant(anna.tenant) as conn:
            await conn.execute("update collection set tenant = %s", (bert.tenant,))
