"""What processes announce to one another through PostgreSQL: one connection listens for all who want to hear."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import LiteralString

import psycopg

from gimle.foundation import logs
from gimle.foundation.errors import GimleError
from gimle.foundation.lifecycle import Tasks

log = logs.get("listener")

_AGAIN_SECONDS = 1.0


class Listener:
    """Hears channels of one database for its process. It connects when the first is wanted, and anew after a loss."""

    def __init__(self, url: str, session: str) -> None:
        self._url = url
        self._session = session
        self._ears: defaultdict[LiteralString, set[asyncio.Queue[str]]] = defaultdict(set)
        # The channels that the present connection listens to.
        self._open: set[str] = set()
        # The wait for notes, which a new channel interrupts.
        self._pause: asyncio.Timeout | None = None
        self._tasks = Tasks()
        self._started = False

    async def hear(self, channel: LiteralString) -> AsyncGenerator[str, None]:
        """The payloads notified on a channel, for as long as one iterates.

        First an empty one, and another after each new connect: "you may have missed something".
        """
        notes: asyncio.Queue[str] = asyncio.Queue()
        ears = self._ears[channel]
        ears.add(notes)
        if channel in self._open:
            notes.put_nowait("")
        elif not self._started:
            self._started = True
            self._tasks.start(self._listen(), "listener")
        elif self._pause is not None:
            self._pause.reschedule(asyncio.get_running_loop().time())
            self._pause = None
        try:
            while True:
                yield await notes.get()
        finally:
            ears.discard(notes)

    async def follow(self, channel: LiteralString, read: Callable[[str], Awaitable[None]]) -> None:
        """Have each payload of a channel read, until cancelled: again after a second where that fails."""
        async with aclosing(self.hear(channel)) as notes:
            async for note in notes:
                await _have_read(channel, note, read)
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    # Python 3.11's wait_for, which the pool uses, may swallow a cancellation; then this is where it
                    # counts.
                    return

    async def close(self) -> None:
        """Give the connection back."""
        await self._tasks.close()

    async def _listen(self) -> None:
        while True:
            self._open.clear()
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, options=self._session, application_name="gimle listener"
                ) as conn:
                    while True:
                        await self._open_new(conn)
                        await self._pass_on(conn)
            except psycopg.OperationalError:
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _open_new(self, conn: psycopg.AsyncConnection) -> None:
        """Listen to the channels that are wanted and not listened to yet; more may come meanwhile."""
        while channel := next((name for name in self._ears if name not in self._open), None):
            await conn.execute(f"listen {channel}")
            self._open.add(channel)
            self._tell(channel, "")

    async def _pass_on(self, conn: psycopg.AsyncConnection) -> None:
        """Pass on what is notified, until a new channel is wanted."""
        try:
            async with asyncio.timeout(None) as self._pause:
                async for note in conn.notifies():
                    self._tell(note.channel, note.payload)
        except TimeoutError:
            return
        finally:
            self._pause = None

    def _tell(self, channel: str, payload: str) -> None:
        for notes in self._ears.get(channel, ()):
            notes.put_nowait(payload)


async def _have_read(channel: str, note: str, read: Callable[[str], Awaitable[None]]) -> None:
    while True:
        try:
            return await read(note)
        except GimleError as error:
            log.warning("not_read", channel=channel, error=error.code, detail=error.message)
        await asyncio.sleep(_AGAIN_SECONDS)
