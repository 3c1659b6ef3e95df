"""Answers of `/v1/responses` that are kept, so that callers may ask for them again and build on them.

Kept beside the answer's way and not on it: the caller has the last byte before the row is written. Who asks for it at
once waits for the writing. A crash in between loses the row, and whoever builds on it is told that it is not there.
"""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from gimle.foundation import ids, logs
from gimle.foundation.db import Database, queries, row, rows
from gimle.foundation.errors import GimleError, PreviousResponseNotFound, ResponseNotFound
from gimle.foundation.lifecycle import Tasks

SQL = queries("gimle.gateway")
log = logs.get("gateway")

# Answers that wait for the database at most; beyond that, new ones are not kept.
_MOST_WAITING = 1000
_CLOSING_SECONDS = 5.0
# Another node may be about to write the row that this one is asked for.
_LOOKS = (0.05, 0.2, 0.75)
_YOUNG_MS = 3_600_000


class Kept(msgspec.Struct, frozen=True):
    """An answer: the JSON list of what its request added, and the response object as its caller got it.

    `previous` is the answer that it is built on, `provider` who made it.
    """

    id: str
    previous: str | None
    provider: str
    items: bytes
    reply: bytes


class Responses:
    """Keeps answers, each for 30 days after it was last built on."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._tasks = Tasks()
        self._waiting: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Write what still waits, within a few seconds."""
        if self._waiting:
            await asyncio.wait(self._waiting.values(), timeout=_CLOSING_SECONDS)
        await self._tasks.close()

    @property
    def waiting(self) -> int:
        """How many answers are still to be written."""
        return len(self._waiting)

    def keep(self, tenant: str, kept: Kept) -> None:
        """Write an answer in the background. Never raises: an answer that is not kept is still an answer."""
        if self.waiting >= _MOST_WAITING:
            log.warning("response_not_kept", response=kept.id, error="too many wait for the database")
            return
        key = tenant, kept.id
        task = self._waiting[key] = self._tasks.start(self._write(tenant, kept), "gateway.responses")
        task.add_done_callback(lambda _: self._waiting.pop(key, None))

    async def find(self, tenant: str, id_: str) -> Kept:
        """One answer. Raises `ResponseNotFound`."""
        await self._written(tenant, id_)
        async with self._db.tenant(tenant) as conn:
            found = await row(conn, SQL["find_response"], {"id": id_}, Kept)
        if found is None:
            raise _unknown(id_)
        return found

    async def lineage(self, tenant: str, id_: str) -> Sequence[Kept]:
        """An answer and what is still there of those that it is built on, the oldest first. None where it is not."""
        await self._written(tenant, id_)
        async with self._db.tenant(tenant) as conn:
            return await rows(conn, SQL["response_chain"], {"id": id_}, Kept)

    async def chain(self, tenant: str, id_: str) -> Sequence[Kept]:
        """An answer to build on, after all that it is built on itself. Raises `PreviousResponseNotFound`."""
        found = await self.lineage(tenant, id_)
        for pause in _LOOKS if _is_young(id_) else ():
            if found:
                break
            await asyncio.sleep(pause)
            found = await self.lineage(tenant, id_)
        if not found:
            raise PreviousResponseNotFound(
                f"There is no response {id_[:64]!r} to build on.",
                field="previous_response_id",
                hint="It was not stored, or was deleted, or has expired. Send the whole conversation as `input`.",
            )
        if (lost := found[0].previous) is not None:
            raise PreviousResponseNotFound(
                f"The conversation before {found[0].id} is gone: {lost} was deleted.",
                field="previous_response_id",
                hint="Send the whole conversation as `input`.",
            )
        return found

    async def delete(self, tenant: str, id_: str) -> None:
        """Forget an answer. Raises `ResponseNotFound`."""
        await self._written(tenant, id_)
        async with self._db.tenant(tenant) as conn:
            cursor = await conn.execute(SQL["delete_response"], {"id": id_})
            if await cursor.fetchone() is None:
                raise _unknown(id_)

    async def sweep(self, tenant: str) -> int:
        """Forget what has expired; how many that were."""
        async with self._db.tenant(tenant) as conn:
            cursor = await conn.execute(SQL["sweep_responses"])
        return cursor.rowcount

    async def _written(self, tenant: str, id_: str) -> None:
        if (writing := self._waiting.get((tenant, id_))) is not None:
            await asyncio.wait([writing])

    async def _write(self, tenant: str, kept: Kept) -> None:
        try:
            async with self._db.tenant(tenant) as conn:
                await conn.execute(SQL["insert_response"], msgspec.structs.asdict(kept))
        except GimleError as error:
            log.warning("response_not_kept", response=kept.id, error=error.code, detail=error.message)


def _unknown(id_: str) -> ResponseNotFound:
    return ResponseNotFound(f"There is no response {id_[:64]!r}.", field="response_id")


def _is_young(id_: str) -> bool:
    """Whether an id of ours was made so lately that its answer may have ended just now."""
    if not ids.is_id(id_, "resp"):
        return False
    born = int(id_.removeprefix("resp_")[:12], 16)
    return abs(time.time_ns() // 1_000_000 - born) < _YOUNG_MS
