"""Collections and documents: taking in, listing, giving out, deleting. What is taken in is read later, by a job.

A document's name is a label, and no file is ever opened by it. It may have folders ("guides/oil.md"). Of an absolute
path the last component counts; a name that climbs (".."), is empty, or holds control characters is refused.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from gimle.foundation import ids
from gimle.foundation.blobs import Blobs
from gimle.foundation.db import Connection, Database, queries, row, rows, scalar
from gimle.foundation.errors import CollectionNotFound, Conflict, DocumentNotFound, GimleError, InvalidRequest
from gimle.gateway.quotas import Quotas
from gimle.jobs.jobs import Jobs
from gimle.knowledge import index, parsing, segments, sniff
from gimle.knowledge.types import DEFAULT_COLLECTION, Chunk, Collection, Document
from gimle.trust.types import Principal

SQL = queries("gimle.knowledge")
INGEST = "ingest"
LONGEST_NAME = 255

_COLLECTION_NAME = re.compile(r"[\w][\w .:-]{0,127}")
_DRIVE = re.compile(r"[A-Za-z]:(?=/)")


class Upload(NamedTuple):
    """What became of an upload: the document (also one that was there already) and the job that reads it."""

    document: Document
    job: str


class _Same(msgspec.Struct, frozen=True):
    id: str
    name: str
    job: str | None
    failed: bool


class _Kept(msgspec.Struct, frozen=True):
    document: str
    request: str
    job: str | None


class Library:
    """The documents of all tenants; every call names whose it is about."""

    def __init__(self, db: Database, jobs: Jobs, blobs: Blobs, quotas: Quotas | None = None) -> None:
        self._db = db
        self._quotas = quotas
        self._jobs = jobs
        self._blobs = blobs

    async def create_collection(self, principal: Principal, name: str) -> Collection:
        """A new, empty collection. Raises `InvalidRequest`, and `Conflict` when the name is taken."""
        _check_collection_name(name)
        async with self._db.tenant(principal.tenant) as conn:
            values = {"id": ids.new("col"), "name": name}
            made = await row(conn, SQL["insert_collection"], values, Collection)
        if made is None:
            raise Conflict(f"There is a collection {name!r} already.", field="name")
        return made

    async def collections(
        self, principal: Principal, limit: int = 50, after: str | None = None
    ) -> tuple[list[Collection], str | None]:
        """A page of collections by name, and the cursor of the next page (`None` after the last)."""
        async with self._db.tenant(principal.tenant) as conn:
            found = await rows(conn, SQL["list_collections"], {"limit": limit + 1, "after": after}, Collection)
        return found[:limit], found[limit - 1].name if len(found) > limit else None

    async def collection(self, principal: Principal, collection: str) -> Collection:
        """One collection by name or id. Raises `CollectionNotFound`."""
        async with self._db.tenant(principal.tenant) as conn:
            return await _collection(conn, collection)

    async def delete_collection(self, principal: Principal, collection: str) -> None:
        """Delete a collection with all documents in it, their index and their files. Raises `CollectionNotFound`."""
        async with self._db.tenant(principal.tenant) as conn:
            found = await _collection(conn, collection)
            contents = await (await conn.execute(SQL["contents"], {"collection": found.id})).fetchall()
            await conn.execute(SQL["delete_collection"], {"id": found.id})
        await self._sweep(principal.tenant, [content["sha256"] for content in contents])

    async def upload(
        self,
        principal: Principal,
        collection: str,
        name: str,
        data: bytes,
        media_type: str | None = None,
        idempotency_key: str | None = None,
    ) -> Upload:
        """Take in a file: its bytes first, then its row and the job that reads it in one transaction.

        The same content again in a collection joins what is there; other content under the same name is a new version,
        which serves once it is ready. A failed document is tried again by uploading it again. The collection "default"
        is made when it is first needed.
        Raises `InvalidRequest`, `UnsupportedDocument` or `UnreadableDocument` for what can't be read,
        `CollectionNotFound`, `QuotaExceeded` when there is no room for it, and `Conflict` when the key was used for
        another upload in the last 24 h; nothing is kept then.
        """
        name = document_name(name)
        values: dict[str, Any] = {
            "name": name,
            "media_type": sniff.media_type(name, media_type, data, parsing.extensions()),
            "size": len(data),
            "sha256": await self._blobs.put(principal.tenant, data),
        }
        try:
            async with self._db.tenant(principal.tenant) as conn:
                # From here on nobody sweeps this content away; if somebody just did, it is put back.
                await conn.execute(SQL["lock"], {"key": _object(principal.tenant, values["sha256"])})
                if not await self._blobs.exists(principal.tenant, values["sha256"]):
                    await self._blobs.put(principal.tenant, data)
                values["collection"] = (await _collection(conn, collection, make_default=True)).id
                document, job = await self._take(conn, principal, values, idempotency_key)
                return Upload(await _document(conn, document), job)
        except GimleError:
            await self._sweep(principal.tenant, [values["sha256"]])
            raise

    async def documents(
        self, principal: Principal, collection: str, limit: int = 50, after: str | None = None
    ) -> tuple[list[Document], str | None]:
        """A page of documents, newest first, all versions, and the cursor of the next page."""
        async with self._db.tenant(principal.tenant) as conn:
            found = await _collection(conn, collection, make_default=True)
            values = {"collection": found.id, "limit": limit + 1, "after": after}
            page = await rows(conn, SQL["list_documents"], values, Document)
        return page[:limit], page[limit - 1].id if len(page) > limit else None

    async def document(self, principal: Principal, document: str) -> Document:
        """One version of a document, and how far its reading is. Raises `DocumentNotFound`."""
        async with self._db.tenant(principal.tenant) as conn:
            return await _document(conn, document)

    async def text(self, principal: Principal, document: str) -> str:
        """The extracted text, to which all offsets refer; empty until it is parsed. Raises `DocumentNotFound`."""
        async with self._db.tenant(principal.tenant) as conn:
            await _document(conn, document)
            return await scalar(conn, SQL["get_text"], {"id": document}) or ""

    async def chunks(self, principal: Principal, document: str) -> list[Chunk]:
        """The chunks in order. Raises `DocumentNotFound`."""
        async with self._db.tenant(principal.tenant) as conn:
            await _document(conn, document)
            return await rows(conn, SQL["list_chunks"], {"id": document}, Chunk)

    async def delete_document(self, principal: Principal, document: str) -> None:
        """Delete a version; deleting the one that serves deletes all versions of its name. Raises `DocumentNotFound`.

        From the return on no search finds it, and its file is gone unless another document has the same content.
        """
        async with self._db.tenant(principal.tenant) as conn:
            await index.remove_document(conn, document)
            gone = await (await conn.execute(SQL["delete_document"], {"id": document})).fetchall()
        if not gone:
            raise _no_document(document)
        await self._sweep(principal.tenant, [version["sha256"] for version in gone])

    async def _take(
        self, conn: Connection, principal: Principal, values: dict[str, Any], key: str | None
    ) -> tuple[str, str]:
        """The document that this upload is, made if need be, and its job."""
        await conn.execute(SQL["lock"], {"key": f"collection {values['collection']}"})
        request = _fingerprint(values)
        if key is not None and (kept := await _by_key(conn, key, request)) is not None:
            return kept.document, kept.job or ""
        same = await row(conn, SQL["find_same"], values, _Same)
        if same is not None and not same.failed and same.job is not None:
            document, job = same.id, same.job
        else:
            if same is None or same.name != values["name"]:
                await self._check_room(conn, principal.tenant, values["size"])
            document = await _revive_or_insert(conn, values, same)
            payload = {"document": document, "key": principal.key}
            job = await self._jobs.enqueue(conn, principal.tenant, INGEST, payload)
            await conn.execute(SQL["set_job"], {"id": document, "job": job})
        if key is not None:
            await conn.execute(SQL["claim_upload"], {"key": key, "id": document, "request": request})
        return document, job

    async def _check_room(self, conn: Connection, tenant: str, size: int) -> None:
        async def stored() -> int:
            # One after the other, so that two do not count on the same room.
            await conn.execute(SQL["lock"], {"key": f"storage {tenant}"})
            return int(await scalar(conn, SQL["stored_bytes"], {}))

        if self._quotas is not None:
            await self._quotas.storage(tenant, size, stored)

    async def embed_missing(self, tenant: str) -> int:
        """Have the documents embedded that were read while there was no embedder. How many there are."""
        async with self._db.tenant(tenant) as conn:
            found = await (await conn.execute(SQL["list_without_vectors"])).fetchall()
            for document in found:
                payload = {"document": document["id"]}
                await self._jobs.enqueue(conn, tenant, INGEST, payload, idempotency_key=f"embed {document['id']}")
        return len(found)

    async def tidy(self, tenant: str) -> None:
        """Remove the last traces of what was deleted: its words in shared index segments, and files without a row,
        which a process leaves that is killed between the two.
        """
        async with self._db.tenant(tenant) as conn:
            collections = await (await conn.execute(SQL["all_collections"])).fetchall()
        for collection in collections:
            async with self._db.tenant(tenant) as conn:
                await segments.purge(conn, collection["id"])
        await self._sweep(tenant, await self._blobs.hashes(tenant))

    async def stored(self, tenant: str) -> int:
        """How many numbers the tenant keeps in vectors: chunks × dimensions, in all spaces."""
        async with self._db.tenant(tenant) as conn:
            return int(await scalar(conn, SQL["stored_numbers"], {}))

    async def _sweep(self, tenant: str, contents: Iterable[str]) -> None:
        """Remove the files to which no row refers any more."""
        for sha256 in set(contents):
            async with self._db.tenant(tenant) as conn:
                await conn.execute(SQL["lock"], {"key": _object(tenant, sha256)})
                if not await scalar(conn, SQL["is_referenced"], {"sha256": sha256}):
                    await self._blobs.delete(tenant, sha256)


def document_name(name: str) -> str:
    """A name as it is kept; the rule stands at the head of this file. Raises `InvalidRequest` with the field "name"."""
    hint = "Give a name such as report.pdf or guides/report.pdf."
    path = unicodedata.normalize("NFC", name).replace("\\", "/").strip()
    if any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for char in path):
        raise InvalidRequest("The name holds control characters.", field="name", hint=hint)
    parts = [part.strip() for part in _DRIVE.sub("", path).split("/")]
    if ".." in parts:
        raise InvalidRequest("The name leads out of its folder.", field="name", hint=hint)
    if path.startswith("/") or _DRIVE.match(path):
        parts = parts[-1:]
    kept = "/".join(part for part in parts if part not in ("", "."))
    if not kept or path.endswith("/"):
        raise InvalidRequest("The name is empty.", field="name", hint=hint)
    if len(kept) > LONGEST_NAME:
        raise InvalidRequest(f"The name is longer than {LONGEST_NAME} characters.", field="name", hint="Shorten it.")
    return kept


def _check_collection_name(name: str) -> None:
    if not _COLLECTION_NAME.fullmatch(name) or name != name.strip():
        raise InvalidRequest(
            "A collection's name begins with a letter or digit; 127 more, blanks and any of . _ : - may follow.",
            field="name",
        )


async def _collection(conn: Connection, collection: str, *, make_default: bool = False) -> Collection:
    if make_default and collection == DEFAULT_COLLECTION:
        await conn.execute(SQL["insert_collection"], {"id": ids.new("col"), "name": DEFAULT_COLLECTION})
    found = await row(conn, SQL["find_collection"], {"collection": collection}, Collection)
    if found is None:
        raise CollectionNotFound(f"There is no collection {collection!r}.", field="collection")
    return found


async def _document(conn: Connection, document: str) -> Document:
    found = await row(conn, SQL["get_document"], {"id": document}, Document)
    if found is None:
        raise _no_document(document)
    return found


def _no_document(document: str) -> DocumentNotFound:
    return DocumentNotFound(f"There is no document {document!r}.", field="document")


async def _revive_or_insert(conn: Connection, values: dict[str, Any], same: _Same | None) -> str:
    if same is not None and same.name == values["name"]:
        await conn.execute(SQL["delete_chunks"], {"id": same.id})
        await conn.execute(SQL["revive_document"], values | {"id": same.id})
        return same.id
    document = ids.new("doc")
    await conn.execute(SQL["insert_document"], values | {"id": document})
    return document


async def _by_key(conn: Connection, key: str, request: str) -> _Kept | None:
    await conn.execute(SQL["lock"], {"key": f"upload {key}"})
    kept = await row(conn, SQL["find_upload"], {"key": key}, _Kept)
    if kept is not None and kept.request != request:
        raise Conflict(
            "This idempotency key was used for another upload.", field="Idempotency-Key", hint="Use a new key."
        )
    return kept


def _object(tenant: str, sha256: str) -> str:
    return f"object {tenant} {sha256}"


def _fingerprint(values: dict[str, Any]) -> str:
    parts = (values["collection"], values["name"], values["sha256"])
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()
