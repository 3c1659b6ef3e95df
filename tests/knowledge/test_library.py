"""Taking in, versions, joining, deleting; names that are only labels; broken files that fail alone."""

import asyncio
from pathlib import Path

import pytest
from tests.knowledge.shelves import Shelf

from gimle.foundation.errors import (
    CollectionNotFound,
    Conflict,
    DocumentNotFound,
    InvalidRequest,
    UnsupportedDocument,
)
from gimle.knowledge.library import document_name
from gimle.trust.types import Principal


def files(folder: Path) -> list[str]:
    return [path.name for path in (folder / "objects").rglob("*") if path.is_file()]


async def test_a_document_becomes_ready_and_is_found(house: Shelf, anna: Principal) -> None:
    ready = await house.put(anna, "lamp.md", "# Lamp\n\nThe lamp turns in ten seconds.\n\n# Horn\n\nIt sounds twice.")
    assert (ready.status, ready.phase, ready.is_latest, ready.version, ready.chunks) == ("ready", "ready", True, 1, 2)
    assert (ready.media_type, ready.language, ready.error) == ("text/markdown", "en", None)
    assert (await house.found(anna, "How often does the lamp turn?"))[0] == "Lamp\n\nThe lamp turns in ten seconds."
    text = await house.library.text(anna, ready.id)
    chunks = await house.library.chunks(anna, ready.id)
    assert [text[chunk.start : chunk.end] for chunk in chunks] == [chunk.text for chunk in chunks]
    assert [chunk.heading for chunk in chunks] == ["Lamp", "Horn"]
    shown = await house.library.collection(anna, "default")
    assert (shown.documents, shown.chunks) == (1, 2)


async def test_the_same_content_again_joins(house: Shelf, anna: Principal, data_dir: Path) -> None:
    taken = await asyncio.gather(*(house.upload(anna, "lamp.md", "The lamp turns.") for _ in range(4)))
    assert len({upload.document.id for upload in taken}) == len({upload.job for upload in taken}) == 1
    await house.ended(anna, taken[0].job)
    assert (await house.upload(anna, "lamp.md", "The lamp turns.")).document.id == taken[0].document.id
    assert len(files(data_dir)) == 1


async def test_a_new_version_serves_once_it_is_ready_and_alone(house: Shelf, anna: Principal) -> None:
    first = await house.put(anna, "lamp.md", "The lamp burns whale oil.")
    second = await house.put(anna, "lamp.md", "The lamp burns acetylene gas.")
    assert (second.version, second.is_latest) == (2, True)
    assert not (await house.library.document(anna, first.id)).is_latest
    assert await house.found(anna, "What does the lamp burn?") == ["The lamp burns acetylene gas."]
    listed, _ = await house.library.documents(anna, "default")
    assert [document.version for document in listed] == [2, 1]
    third = await house.put(anna, "lamp.md", "The lamp burns whale oil.")
    assert (third.version, third.is_latest) == (3, True), "going back to old content is a new version"
    assert await house.found(anna, "What does the lamp burn?") == ["The lamp burns whale oil."]


async def test_a_failed_version_leaves_the_old_one_serving(house: Shelf, anna: Principal) -> None:
    await house.put(anna, "lamp.md", "The lamp burns whale oil.")
    failed = await house.put(anna, "lamp.md", " \n \n")
    assert (failed.status, failed.is_latest) == ("failed", False)
    assert failed.error is not None
    assert "holds no text" in failed.error
    assert await house.found(anna, "What does the lamp burn?") == ["The lamp burns whale oil."]


async def test_a_broken_file_fails_alone_and_may_be_tried_again(house: Shelf, anna: Principal) -> None:
    broken = b"%PDF-1.7\n" + b"junk " * 200
    good, bad = await asyncio.gather(
        house.put(anna, "good.txt", "The horn sounds twice."), house.put(anna, "bad.pdf", broken)
    )
    assert (good.status, bad.status) == ("ready", "failed")
    assert "damaged" in (bad.error or "")
    again = await house.upload(anna, "bad.pdf", broken)
    assert again.document.id == bad.id
    assert again.document.status == "pending"
    assert (await house.ended(anna, again.job)).status == "failed"


async def test_deleting_deletes_all_of_it(house: Shelf, anna: Principal, data_dir: Path) -> None:
    await house.put(anna, "lamp.md", "The lamp burns whale oil.")
    second = await house.put(anna, "lamp.md", "The lamp burns acetylene gas.")
    other = await house.put(anna, "copy.md", "The lamp burns whale oil.")
    assert other.status == "ready"
    await house.library.delete_document(anna, second.id)
    assert await house.found(anna, "acetylene") == ["The lamp burns whale oil."]
    async with house.db.tenant(anna.tenant) as conn:
        for table in ("document", "chunk", "lexical_segment"):
            row = await (await conn.execute(f"select count(*) as n from {table}")).fetchone()
            assert row is not None
            assert row["n"] == 1, table
    assert files(data_dir) == [other.sha256]
    with pytest.raises(DocumentNotFound):
        await house.library.delete_document(anna, second.id)
    await house.library.delete_document(anna, other.id)
    assert await house.found(anna, "whale oil") == []
    assert files(data_dir) == []


async def test_a_document_deleted_before_it_is_read_ends_its_job_quietly(house: Shelf, anna: Principal) -> None:
    await house.jobs.stop(5.0)
    taken = await house.upload(anna, "lamp.md", "The lamp turns.")
    await house.library.delete_document(anna, taken.document.id)
    await house.jobs.start()
    ended = await house.ended(anna, taken.job)
    assert ended.status == "done"
    assert "skipped" in (ended.result or {})


async def test_a_job_that_was_cancelled_says_so_on_the_document(house: Shelf, anna: Principal) -> None:
    await house.jobs.stop(5.0)
    taken = await house.upload(anna, "lamp.md", "The lamp turns.")
    await house.jobs.cancel(anna.tenant, taken.job)
    shown = await house.library.document(anna, taken.document.id)
    assert (shown.status, shown.error) == ("failed", "Its reading was cancelled.")
    await house.jobs.start()
    assert (await house.put(anna, "lamp.md", "The lamp turns.")).status == "ready"


async def test_without_an_embedder_words_alone_serve(house: Shelf, anna: Principal) -> None:
    house.embedder.available = False
    taken = await house.upload(anna, "lamp.md", "The lamp burns whale oil.")
    ended = await house.ended(anna, taken.job)
    assert ended.status == "done"
    assert "gimle setup" in (ended.result or {})["notice"]
    assert await house.found(anna, "whale oil") == ["The lamp burns whale oil."]


async def test_an_idempotency_key_joins_and_refuses_another_upload(house: Shelf, anna: Principal) -> None:
    one = await house.library.upload(anna, "default", "a.txt", b"One.", None, "key-1")
    assert (await house.library.upload(anna, "default", "a.txt", b"One.", None, "key-1")).document.id == one.document.id
    with pytest.raises(Conflict):
        await house.library.upload(anna, "default", "a.txt", b"Two.", None, "key-1")


async def test_collections_are_made_listed_and_deleted(house: Shelf, anna: Principal, data_dir: Path) -> None:
    for name in ("b", "a", "c"):
        await house.library.create_collection(anna, name)
    with pytest.raises(Conflict):
        await house.library.create_collection(anna, "a")
    for name in ("", " a", "a/b", "a\n", "x" * 129):
        with pytest.raises(InvalidRequest):
            await house.library.create_collection(anna, name)
    page, cursor = await house.library.collections(anna, limit=2)
    rest, end = await house.library.collections(anna, limit=2, after=cursor)
    assert [found.name for found in page + rest] == ["a", "b", "c"]
    assert end is None
    with pytest.raises(CollectionNotFound):
        await house.upload(anna, "x.txt", "x", collection="unknown")
    await house.put(anna, "lamp.md", "The lamp.", collection="a")
    await house.library.delete_collection(anna, "a")
    assert files(data_dir) == []
    with pytest.raises(CollectionNotFound):
        await house.library.collection(anna, "a")


async def test_nothing_is_kept_of_what_is_refused(house: Shelf, anna: Principal, data_dir: Path) -> None:
    for name, data, error in (("a.txt", b"", InvalidRequest), ("a.exe", b"MZ\x00", UnsupportedDocument)):
        with pytest.raises(error):
            await house.upload(anna, name, data)
    with pytest.raises(InvalidRequest):
        await house.upload(anna, "../a.txt", b"x")
    assert (await house.library.documents(anna, "default"))[0] == []
    assert not (data_dir / "objects").exists()


async def test_a_page_of_documents_ends_where_the_next_begins(house: Shelf, anna: Principal) -> None:
    for number in range(5):
        await house.upload(anna, f"{number}.txt", f"Text {number}.")
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        page, cursor = await house.library.documents(anna, "default", limit=2, after=cursor)
        seen += [document.name for document in page]
    assert seen == ["4.txt", "3.txt", "2.txt", "1.txt", "0.txt"]
    assert cursor is None


@pytest.mark.parametrize(
    "given, kept",
    [
        ("report.pdf", "report.pdf"),
        ("guides/oil.md", "guides/oil.md"),
        ("guides\\oil.md", "guides/oil.md"),
        ("./guides//oil.md", "guides/oil.md"),
        ("/etc/passwd", "passwd"),
        ("C:\\Users\\anna\\plan.txt", "plan.txt"),
        ("Gru\u0308n.txt", "Grün.txt"),
    ],
)
def test_a_name_is_a_label(given: str, kept: str) -> None:
    assert document_name(given) == kept


@pytest.mark.parametrize(
    "given", ["", " ", ".", "/", "a/", "..", "../a", "a/../b", "a\x00.txt", "a\n.txt", "a\u202etxt.exe", "x" * 256]
)
def test_a_name_that_leads_astray_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        document_name(given)
    assert refused.value.field == "name"


async def test_what_was_read_without_an_embedder_is_embedded_when_there_is_one(house: Shelf, anna: Principal) -> None:
    house.embedder.available = False
    await house.put(anna, "lamp.md", "The lamp burns whale oil.")
    found = await house.search.search(anna, "default", "whale oil")
    assert [passage.text for passage in found.passages] == ["The lamp burns whale oil."]
    assert "No embedder serves" in (found.notice or "")
    house.embedder.available = True
    assert await house.library.embed_missing(anna.tenant) == 1
    [job, *_], _ = await house.jobs.list(anna.tenant)
    await house.ended(anna, job.id)
    found = await house.search.search(anna, "default", "whale oil", mode="dense")
    assert [passage.text for passage in found.passages] == ["The lamp burns whale oil."]
    assert found.notice is None
    assert await house.library.embed_missing(anna.tenant) == 0


async def test_tidying_removes_files_without_a_row_and_no_others(house: Shelf, anna: Principal, data_dir: Path) -> None:
    kept = await house.put(anna, "lamp.md", "The lamp burns whale oil.")
    orphan = await house.blobs.put(anna.tenant, b"A process was killed before the row was written.")
    assert sorted(files(data_dir)) == sorted([kept.sha256, orphan])
    await house.library.tidy(anna.tenant)
    assert files(data_dir) == [kept.sha256]


async def test_the_default_collection_is_empty_until_something_is_uploaded(house: Shelf, anna: Principal) -> None:
    found = await house.search.search(anna, "default", "whale oil")
    assert found.passages == ()
    assert "gimle upload" in (found.notice or "")
