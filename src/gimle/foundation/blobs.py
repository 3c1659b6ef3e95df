"""Objects by content: the bytes that tenants upload, in `<data>/objects/<tenant>/<first two digits>/<sha256>`.

A file appears whole or not at all, and under a name that is the hash of its content; the same bytes of the same tenant
are kept once. Tenants share nothing, so deleting one's objects can't touch another's.
"""

import asyncio
import hashlib
import os
import re
import tempfile
import time
from pathlib import Path

from gimle.foundation.errors import NotFound, PermanentError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UNFINISHED = ".new-"
_ABANDONED_SECONDS = 3600.0


class Blobs:
    """A store of immutable objects in a local folder."""

    def __init__(self, data: Path) -> None:
        self._root = data / "objects"

    async def put(self, tenant: str, data: bytes) -> str:
        """Keep `data`; returns its SHA-256 in hex. On return it is on disk, also after a loss of power."""
        return await asyncio.to_thread(self._put, tenant, data)

    async def get(self, tenant: str, sha256: str) -> bytes:
        """The bytes. Raises `NotFound`, or `PermanentError` when the file no longer matches its name."""
        return await asyncio.to_thread(self._get, tenant, sha256)

    async def exists(self, tenant: str, sha256: str) -> bool:
        """Whether the object is there."""
        return await asyncio.to_thread(self._path(tenant, sha256).is_file)

    async def delete(self, tenant: str, sha256: str) -> None:
        """Remove the object; nothing happens when it is not there."""
        await asyncio.to_thread(self._path(tenant, sha256).unlink, missing_ok=True)

    async def hashes(self, tenant: str) -> list[str]:
        """The SHA-256 of all objects of a tenant. What a killed writer left is removed when it is an hour old."""
        return await asyncio.to_thread(self._hashes, tenant)

    def _hashes(self, tenant: str) -> list[str]:
        files = list((self._root / tenant).glob("*/*")) if _TENANT.fullmatch(tenant) else []
        for file in files:
            if file.name.startswith(_UNFINISHED) and file.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                file.unlink(missing_ok=True)
        return [file.name for file in files if _SHA256.fullmatch(file.name)]

    def _path(self, tenant: str, sha256: str) -> Path:
        # Both parts become names in the file system, so nothing but their own shape may pass.
        if not _TENANT.fullmatch(tenant) or not _SHA256.fullmatch(sha256):
            raise NotFound("There is no such object.")
        return self._root / tenant / sha256[:2] / sha256

    def _put(self, tenant: str, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._path(tenant, sha256)
        if path.is_file() and path.stat().st_size == len(data):
            return sha256
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
        return sha256

    def _get(self, tenant: str, sha256: str) -> bytes:
        try:
            data = self._path(tenant, sha256).read_bytes()
        except FileNotFoundError:
            raise NotFound("There is no such object.") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise PermanentError("A stored object is damaged: its content no longer matches its name.")
        return data


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder last; the name of a new file is part of the folder, not of the file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
