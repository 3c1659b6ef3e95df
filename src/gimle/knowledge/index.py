"""The search index as ingest sees it: put a document's chunks in, take a document out, keep the whole in shape.

`index_chunks` and `remove_document` belong into the transaction of what they belong to: what that transaction does not
commit is never found. A document is found from the moment its `is_latest` is set, which a trigger tells all searches.
"""

import asyncio
from collections.abc import Sequence

from gimle.foundation import plugins
from gimle.foundation.db import Connection, Database, queries, row
from gimle.foundation.errors import PermanentError
from gimle.knowledge import segments
from gimle.knowledge.embedding import embedded_text
from gimle.knowledge.space import Space, Vectors, check
from gimle.knowledge.types import Chunk

SQL = queries("gimle.knowledge", "index.sql")
_STORE = plugins.load("gimle.knowledge.stores", "pgvector")


async def index_chunks(
    conn: Connection,
    collection: str,
    document: str,
    chunks: Sequence[Chunk],
    vectors: Vectors | None = None,
    space: Space | None = None,
) -> None:
    """Index all chunks of a document, whose rows are there, in the caller's transaction. Doing it again replaces it.

    `vectors`, float32 of shape (chunks, space.dimensions), are optional: `Embedding.embed_chunks` writes them as they
    arrive. Raises `PermanentError` for a vector that may not enter the space; nothing is written then.
    """
    await segments.forget(conn, document)
    if vectors is not None and space is not None:
        _refuse(chunks, vectors, space)
        await _STORE.forget(conn, document)
        hashes = [_STORE.text_hash(embedded_text(chunk)) for chunk in chunks]
        await _STORE.put(conn, space, document, [chunk.number for chunk in chunks], hashes, vectors)
    for draft in await asyncio.to_thread(segments.draft, document, chunks):
        await segments.write(conn, collection, draft)
    # Last, because until the end of the transaction nobody else may move it.
    await conn.execute(SQL["move_generation"], {"collection": collection})


async def remove_document(conn: Connection, document: str) -> None:
    """Take a document out of the index in the caller's transaction: before it is deleted, or when it stops serving."""
    await segments.forget(conn, document)
    await _STORE.forget(conn, document)


async def upkeep(db: Database, tenant: str, collection: str) -> None:
    """Merge small segments and build the vector index when it is time. Call it after an activation; mostly idle."""
    async with db.tenant(tenant) as conn:
        await segments.merge(conn, collection)
    async with db.tenant(tenant) as conn:
        space = await row(conn, SQL["active_space"], {"collection": collection}, Space)
        if space is not None:
            await _STORE.tend(conn, space)


def _refuse(chunks: Sequence[Chunk], vectors: Vectors, space: Space) -> None:
    try:
        refused = check(vectors, len(chunks), space.dimensions)
    except ValueError as wrong:
        raise PermanentError(f"The vectors don't fit the space: {wrong}.") from wrong
    if refused:
        first = refused[0]
        raise PermanentError(f"The vector of chunk {chunks[first.place].id} was refused: {first.reason}.")
