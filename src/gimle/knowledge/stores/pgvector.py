"""Vectors in PostgreSQL: binary COPY in, an exact scan for small spaces, an HNSW index of its own for each large one.

An index over one space only (a partial one) has no foreign rows to filter away, so its recall does not depend on how
large the other tenants are, and a small space never pays for it.
"""

import hashlib
import struct
from collections.abc import Sequence
from typing import LiteralString

import numpy as np

from gimle.foundation.db import Connection, Params, queries, scalar
from gimle.knowledge.space import Nearest, Space, Vectors, unit

SQL = queries("gimle.knowledge", "index.sql")

# Above so many vectors a space gets an index; below it the exact scan is as fast and never wrong.
EXACT_BELOW = 20_000
# How far the index is searched for each neighbour that is wanted; recall at 4 is measured in bench/search.py.
_WIDTH = 4
_SAMPLE = 512
_COPY = "copy staged_vector (chunk, space, document, text_sha256, embedding) from stdin (format binary)"
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_ROWS_A_WRITE = 2000


def text_hash(text: str) -> bytes:
    """What tells an unchanged text: its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


async def put(
    conn: Connection,
    space: Space,
    document: str,
    chunks: Sequence[int],
    hashes: Sequence[bytes],
    vectors: Vectors,
) -> None:
    """Copy the vectors of one document's chunks (by number) in. They are checked already; they get unit length."""
    halves = unit(vectors).astype(">f2")
    await conn.execute(SQL["stage_vectors"])
    async with conn.cursor() as cursor, cursor.copy(_COPY) as copy:
        await copy.write(_HEADER)
        for start in range(0, len(chunks), _ROWS_A_WRITE):
            part = slice(start, start + _ROWS_A_WRITE)
            await copy.write(_encode(space, document, chunks[part], hashes[part], halves[part]))
        await copy.write(_TRAILER)
    await conn.execute(SQL["take_staged_vectors"])


def _encode(
    space: Space,
    document: str,
    chunks: Sequence[int],
    hashes: Sequence[bytes],
    halves: np.ndarray[tuple[int, ...], np.dtype[np.float16]],
) -> bytes:
    """Rows in the binary COPY format, all of one width, laid out by numpy: 50 times faster than row by row."""
    space_id, document_id = space.id.encode(), document.encode()
    layout = np.dtype(
        [
            ("fields", ">i2"),
            ("chunk_size", ">i4"),
            ("chunk", ">i8"),
            ("names", f"V{8 + len(space_id) + len(document_id)}"),
            ("hash_size", ">i4"),
            ("hash", "V32"),
            ("vector_size", ">i4"),
            ("width", ">i2"),
            ("unused", ">i2"),
            ("vector", ">f2", (space.dimensions,)),
        ]
    )
    table = np.zeros(len(chunks), layout)
    table["fields"], table["chunk_size"], table["hash_size"] = 5, 8, 32
    table["chunk"] = chunks
    names = struct.pack(">i", len(space_id)) + space_id + struct.pack(">i", len(document_id)) + document_id
    table["names"] = np.void(names)
    table["hash"] = np.frombuffer(b"".join(hashes), "V32")
    table["vector_size"], table["width"] = 4 + 2 * space.dimensions, space.dimensions
    table["vector"] = halves
    return table.tobytes()


async def done(conn: Connection, space: Space, document: str) -> set[int]:
    """The numbers of the document's chunks that have their vector."""
    found = await conn.execute(SQL["chunks_with_vector"], {"space": space.id, "document": document})
    return {line["chunk"] for line in await found.fetchall()}


async def reuse(
    conn: Connection, space: Space, document: str, chunks: Sequence[int], hashes: Sequence[bytes]
) -> set[int]:
    """Give those chunks whose very text has a vector in this space already a copy of it; return their numbers."""
    found = await conn.execute(
        SQL["reuse_vectors"],
        {"space": space.id, "document": document, "chunks": list(chunks), "hashes": list(hashes)},
    )
    return {line["chunk"] for line in await found.fetchall()}


async def forget(conn: Connection, document: str) -> None:
    """Delete the vectors of a document in all spaces."""
    await conn.execute(SQL["delete_vectors"], {"document": document})


async def nearest(conn: Connection, space: Space, query: Vectors, depth: int, also: Sequence[int]) -> Nearest:
    """The `depth` serving chunks nearest to the query (a unit vector), and the cosines of those in `also`.

    A large space is searched by its index, and exactly when that yields fewer than `depth`.
    """
    near = await _walk(conn, space, query, depth) if space.indexed else {}
    if len(near) < depth:
        near = await _scan(conn, space, query, depth)
    others = {"space": space.id, "query": query, "chunks": [chunk for chunk in also if chunk not in near]}
    found = await _scores(conn, SQL["score_chunks"], others) if others["chunks"] else {}
    sample = await scalar(conn, SQL["sample_space"], {"space": space.id, "query": query, "sample": _SAMPLE})
    return Nearest(scores=found | near, near=frozenset(near), background=np.array(sample or [], np.float32))


async def _scan(conn: Connection, space: Space, query: Vectors, depth: int) -> dict[int, float]:
    wanted = {"space": space.id, "collection": space.collection, "query": query, "depth": depth}
    return await _scores(conn, SQL["nearest_exact"], wanted)


async def _walk(conn: Connection, space: Space, query: Vectors, depth: int) -> dict[int, float]:
    # The settings are for this statement only: they end with the savepoint, which is rolled back.
    async with conn.transaction(force_rollback=True):
        await conn.execute(SQL["scan_index"], {"width": str(min(_WIDTH * depth, 1000))})
        # An index over an expression is used only where the query repeats it to the letter, width included.
        sql = SQL["nearest_indexed"].replace("halfvec(1)", f"halfvec({space.dimensions:d})")
        wanted = {"space": space.id, "query": query, "depth": depth}
        return await _scores(conn, sql, wanted)


async def _scores(conn: Connection, sql: LiteralString, wanted: Params) -> dict[int, float]:
    # Never as a prepared statement: a plan for any parameters can't know that the index covers the wanted space.
    found = await conn.execute(sql, wanted, prepare=False)
    return {line["chunk"]: line["score"] for line in await found.fetchall()}


async def tend(conn: Connection, space: Space) -> bool:
    """Build the index of a space that has outgrown the exact scan; True when it was built now.

    Writers of vectors wait for as long as it takes (some ten seconds); readers don't. A rollback leaves nothing behind.
    """
    if space.indexed or space.dimensions > 4000:
        return False
    if not await scalar(conn, SQL["more_than"], {"space": space.id, "limit": EXACT_BELOW}):
        return False
    if not await scalar(conn, SQL["lock_build"], {"space": space.id}):
        return False
    return bool(await scalar(conn, SQL["build_index"], {"space": space.id}))
