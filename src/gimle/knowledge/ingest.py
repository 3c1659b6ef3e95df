"""The job that makes an uploaded file searchable: parse, chunk, embed, activate.

Each step leaves what it made in the database together with its guard row, so an attempt after a crash goes on where the
last one ended and pays nothing twice. The document serves from one statement on; until then, and if this fails, the
version before it does.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from gimle.foundation import ids, plugins
from gimle.foundation.blobs import Blobs
from gimle.foundation.config import KnowledgeSettings
from gimle.foundation.db import Connection, Jsonb, queries, row, rows
from gimle.foundation.errors import GimleError, PermanentError, RateLimitedError, TransientError
from gimle.gateway.language import detect
from gimle.jobs.run import Run
from gimle.jobs.types import JobKind
from gimle.knowledge import index, parsing
from gimle.knowledge.embedding import Embedding
from gimle.knowledge.library import INGEST
from gimle.knowledge.types import Block, Chunk, Cut, Parsed, Phase
from gimle.trust.types import Principal

SQL = queries("gimle.knowledge")
CHUNKER = "structure"
Count = Callable[[str], int]

SOFT_SECONDS, HARD_SECONDS = 840.0, 900.0


class _Work(msgspec.Struct, frozen=True):
    id: str
    collection: str
    name: str
    media_type: str
    sha256: str
    status: Literal["pending", "ready", "failed"]
    text: str | None
    layout: list[Block] | None
    pages: int | None
    language: str | None


def kind(blobs: Blobs, embedding: Embedding, count: Count, settings: KnowledgeSettings) -> JobKind:
    """The kind "ingest", whose payload names a `document`. `count` counts the tokens of the embedder."""
    return JobKind(
        name=INGEST,
        queue="ingestion",
        handler=Ingest(blobs, embedding, count, settings).perform,
        soft_seconds=SOFT_SECONDS,
        hard_seconds=HARD_SECONDS,
    )


class Ingest:
    """The handler and what it works with."""

    def __init__(self, blobs: Blobs, embedding: Embedding, count: Count, settings: KnowledgeSettings) -> None:
        self._blobs = blobs
        self._embedding = embedding
        self._count = count
        self._settings = settings

    async def perform(self, run: Run) -> dict[str, Any]:
        """Make one document ready. Raises what a step raises; the reason for good then stands on the document too."""
        async with run.db.tenant(run.tenant) as conn:
            work = await row(conn, SQL["get_work"], {"id": run.payload["document"]}, _Work)
        if work is None:
            return {"skipped": "The document was deleted before it was read."}
        try:
            return await self._perform(run, work)
        except (TransientError, RateLimitedError):
            raise
        except GimleError as final:
            await _fail(run, work, final)
            raise

    async def _perform(self, run: Run, work: _Work) -> dict[str, Any]:
        parsed = await self._parse(run, work)
        chunks = await self._chunk(run, work, parsed)
        embedded, notice = await self._embed(run, work, chunks)
        await _enter(run, work, "indexing")
        serves = await run.once("activate", lambda conn: _activate(conn, work))
        await index.upkeep(run.db, run.tenant, work.collection)
        await run.progress("ready", len(chunks), len(chunks))
        return {"document": work.id, "chunks": len(chunks), "embedded": embedded, "serves": serves, "notice": notice}

    async def _parse(self, run: Run, work: _Work) -> Parsed:
        if work.text is not None and work.layout is not None:
            return Parsed(work.text, tuple(work.layout), work.pages)
        await _enter(run, work, "parsing")
        data = await self._blobs.get(run.tenant, work.sha256)
        parsed = await parsing.parse(data, work.media_type, self._settings)
        await run.once("text", lambda conn: _store_text(conn, work, parsed))
        return parsed

    async def _chunk(self, run: Run, work: _Work, parsed: Parsed) -> list[Chunk]:
        async with run.db.tenant(run.tenant) as conn:
            found = await rows(conn, SQL["list_chunks"], {"id": work.id}, Chunk)
        if found:
            return found
        await _enter(run, work, "chunking")
        cut = plugins.load("gimle.knowledge.chunkers", CHUNKER).cut
        cuts: list[Cut] = await asyncio.to_thread(cut, parsed, self._settings.chunk_tokens, self._count)
        languages = await asyncio.to_thread(_languages, parsed, cuts)
        await run.once("chunks", lambda conn: _store_chunks(conn, work, parsed, cuts, languages))
        async with run.db.tenant(run.tenant) as conn:
            stored = await rows(conn, SQL["list_chunks"], {"id": work.id}, Chunk)
        if not stored:
            raise _begun_anew()
        return stored

    async def _embed(self, run: Run, work: _Work, chunks: Sequence[Chunk]) -> tuple[int, str | None]:
        """Vectors for all chunks, as far as there is an embedder; else words alone serve, and a notice says so."""
        dense = await self._embedding.open_space(run.db, run.tenant, work.collection)
        if dense.space is None:
            return 0, dense.notice
        await _enter(run, work, "embedding", len(chunks))
        principal = Principal(run.tenant, run.payload.get("key", ""))

        async def progress(done: int, total: int) -> None:
            await run.progress("embedding", done, total)

        outcome = await self._embedding.embed_chunks(run, run.db, principal, dense.space, work.id, chunks, progress)
        refused = f"{len(outcome.rejected)} chunks have no vector: {outcome.rejected[0]}" if outcome.rejected else None
        return outcome.embedded, refused


async def _enter(run: Run, work: _Work, phase: Phase, total: int = 0) -> None:
    async with run.db.tenant(run.tenant) as conn:
        await conn.execute(SQL["set_phase"], {"id": work.id, "phase": phase})
    await run.progress(phase, 0, total)


async def _store_text(conn: Connection, work: _Work, parsed: Parsed) -> None:
    values = {
        "id": work.id,
        "text": parsed.text,
        "layout": Jsonb(msgspec.to_builtins(parsed.blocks)),
        "pages": parsed.pages,
        "language": detect(parsed.text),
    }
    await conn.execute(SQL["store_text"], values)


async def _store_chunks(
    conn: Connection, work: _Work, parsed: Parsed, cuts: Sequence[Cut], languages: Sequence[str]
) -> int:
    """The rows of all chunks and their words in the index; both are there or neither."""
    await conn.execute(SQL["delete_chunks"], {"id": work.id})
    numbers = await (await conn.execute(SQL["next_numbers"], {"count": len(cuts)})).fetchall()
    chunks = [
        Chunk(
            id=ids.new("chk"),
            number=numbers[at]["number"],
            document=work.id,
            ordinal=at,
            text=parsed.text[cut.start : cut.end],
            start=cut.start,
            end=cut.end,
            page=cut.page,
            heading=cut.heading,
            language=languages[at],
        )
        for at, cut in enumerate(cuts)
    ]
    await conn.execute(SQL["insert_chunks"], _columns(work, chunks))
    counted = await conn.execute(SQL["count_chunks"], {"id": work.id, "chunks": len(chunks)})
    if not counted.rowcount:
        raise _begun_anew()
    await index.index_chunks(conn, work.collection, work.id, chunks)
    return len(chunks)


def _columns(work: _Work, chunks: Sequence[Chunk]) -> dict[str, Any]:
    return {
        "collection": work.collection,
        "document": work.id,
        "ids": [chunk.id for chunk in chunks],
        "numbers": [chunk.number for chunk in chunks],
        "ordinals": [chunk.ordinal for chunk in chunks],
        "texts": [chunk.text for chunk in chunks],
        "starts": [chunk.start for chunk in chunks],
        "ends": [chunk.end for chunk in chunks],
        "pages": [chunk.page for chunk in chunks],
        "headings": [chunk.heading for chunk in chunks],
        "languages": [chunk.language for chunk in chunks],
    }


def _languages(parsed: Parsed, cuts: Sequence[Cut]) -> list[str]:
    """The language of each chunk; a chunk too short to tell has that of its document."""
    whole = detect(parsed.text)
    found = (detect(parsed.text[cut.start : cut.end]) for cut in cuts)
    return [whole if language == "und" else language for language in found]


async def _activate(conn: Connection, work: _Work) -> bool:
    """Let the newest ready version serve, and take what it replaces out of the index. Whether this one serves."""
    await conn.execute(SQL["lock"], {"key": f"versions {work.collection} {work.name}"})
    moved = await (
        await conn.execute(SQL["activate"], {"id": work.id, "collection": work.collection, "name": work.name})
    ).fetchall()
    for version in moved:
        if not version["is_latest"]:
            await index.remove_document(conn, version["id"])
    return any(version["id"] == work.id and version["is_latest"] for version in moved)


def _begun_anew() -> PermanentError:
    """What this job made is gone: after it had failed, an upload of the same file began the document anew."""
    return PermanentError("A later upload began the document anew.", hint="Upload the file again.")


async def _fail(run: Run, work: _Work, final: GimleError) -> None:
    reason = f"{final.message} {final.hint}" if final.hint else final.message
    async with run.db.tenant(run.tenant) as conn:
        await conn.execute(SQL["fail_document"], {"id": work.id, "error": reason})
