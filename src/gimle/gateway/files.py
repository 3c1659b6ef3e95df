"""Files that callers upload once and name in their requests: pictures, documents.

They belong to a tenant. Their bytes are kept once a tenant, however often they are uploaded, apart from the documents
of the knowledge base, and go with the last file that has them.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from gimle.foundation import ids
from gimle.foundation.blobs import Blobs
from gimle.foundation.db import Database, queries, row, rows, scalar
from gimle.foundation.errors import FileNotKnown, InvalidImage, InvalidRequest
from gimle.gateway.pixels import shape

SQL = queries("gimle.gateway")
PURPOSES = ("user_data", "vision")
_LONGEST_NAME = 255


class Uploaded(msgspec.Struct, frozen=True):
    """A file. Its type is told by its content; `size` is in bytes."""

    id: str
    name: str
    purpose: str
    media_type: str
    size: int
    sha256: str
    created_at: datetime


class Files:
    """The files of all tenants; every call names whose it is about."""

    def __init__(self, db: Database, data: Path) -> None:
        self._db = db
        self._blobs = Blobs(data / "files")

    async def create(self, tenant: str, name: str, purpose: str, body: bytes) -> Uploaded:
        """Keep a file. Raises `InvalidRequest`, and `InvalidImage` for a purpose `vision` that is no picture."""
        if purpose not in PURPOSES:
            raise InvalidRequest(f"The purpose is {' or '.join(PURPOSES)}, not {purpose[:64]!r}.", field="purpose")
        if not body:
            raise InvalidRequest("The file is empty.", field="file")
        media_type = media_type_of(body)
        if purpose == "vision" and not media_type.startswith("image/"):
            raise InvalidImage(field="file", hint="Send PNG, JPEG, GIF or WebP, or name the purpose user_data.")
        sha256 = hashlib.sha256(body).hexdigest()
        params = {
            "id": ids.new("file"),
            "name": _label(name),
            "purpose": purpose,
            "media_type": media_type,
            "size": len(body),
            "sha256": sha256,
        }
        async with self._db.tenant(tenant) as conn:
            await conn.execute(SQL["lock_content"], {"sha256": sha256})
            await self._blobs.put(tenant, body)
            made = await row(conn, SQL["insert_file"], params, Uploaded)
        assert made is not None
        return made

    async def find(self, tenant: str, id_: str) -> Uploaded:
        """One file. Raises `FileNotKnown`."""
        async with self._db.tenant(tenant) as conn:
            found = await row(conn, SQL["find_file"], {"id": id_}, Uploaded)
        if found is None:
            raise FileNotKnown(f"There is no file {id_[:64]!r}.", field="file_id")
        return found

    async def list(
        self, tenant: str, limit: int, after: str | None = None, purpose: str | None = None, *, newest: bool = True
    ) -> Sequence[Uploaded]:
        """A page of files, those behind the id `after`."""
        params = {"limit": limit, "after": after, "purpose": purpose}
        async with self._db.tenant(tenant) as conn:
            return await rows(conn, SQL["list_files" if newest else "list_files_up"], params, Uploaded)

    async def content(self, tenant: str, id_: str) -> tuple[Uploaded, bytes]:
        """A file and its bytes. Raises `FileNotKnown`."""
        found = await self.find(tenant, id_)
        return found, await self._blobs.get(tenant, found.sha256)

    async def delete(self, tenant: str, id_: str) -> None:
        """Forget a file, and its bytes where no other has them. Raises `FileNotKnown`."""
        async with self._db.tenant(tenant) as conn:
            sha256 = await scalar(conn, SQL["delete_file"], {"id": id_})
            if sha256 is None:
                raise FileNotKnown(f"There is no file {id_[:64]!r}.", field="file_id")
            await conn.execute(SQL["lock_content"], {"sha256": sha256})
            if not await scalar(conn, SQL["has_content"], {"sha256": sha256}):
                await self._blobs.delete(tenant, sha256)


def media_type_of(body: bytes) -> str:
    """The type of a file, by its content: a picture's, PDF, plain text, or none that is known."""
    try:
        return shape(body).media_type
    except InvalidImage:
        pass
    if body.startswith(b"%PDF-"):
        return "application/pdf"
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return "application/octet-stream"
    return "application/octet-stream" if b"\0" in body else "text/plain"


def _label(name: str) -> str:
    """A name to show; nothing is ever opened by it. Raises `InvalidRequest`."""
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise InvalidRequest(f"A file has a name of 1 to {_LONGEST_NAME} printable characters.", field="file")
    return name
