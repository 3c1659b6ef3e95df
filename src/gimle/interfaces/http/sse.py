"""Server-sent events of `/api/v1`: `progress`, `done`, `error`, `notice`, each with JSON data."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Literal

import msgspec
from litestar.response import Stream

Event = Literal["progress", "done", "error", "notice"]

# A proxy may cut a connection that says nothing; a comment keeps it, and no client shows it.
_PING = b": ping\n\n"
_NO_HEADERS: Mapping[str, str] = {}
PING_SECONDS = 15.0


class _End:
    """What stands behind the last event."""


_END = _End()


def event(name: Event, data: object) -> bytes:
    """One event on the wire. JSON has no raw line breaks, so one `data:` line holds it."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


def stream(events: AsyncGenerator[bytes, None], more: Mapping[str, str] = _NO_HEADERS) -> Stream:
    """An answer that sends these events as they come, and closes their source when the caller leaves."""
    # As a header and not as a media type, because the route's own media type would win over that.
    headers = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-store",
        "x-accel-buffering": "no",
        **more,
    }
    return Stream(with_pings(events), headers=headers)


async def with_pings(events: AsyncGenerator[bytes, None], seconds: float = PING_SECONDS) -> AsyncGenerator[bytes, None]:
    """The events, with a comment whenever none came for so many seconds."""
    upcoming = asyncio.gather(anext(events, _END))
    try:
        while True:
            done, _ = await asyncio.wait({upcoming}, timeout=seconds)
            if not done:
                yield _PING
                continue
            (came,) = upcoming.result()
            if isinstance(came, _End):
                return
            yield came
            upcoming = asyncio.gather(anext(events, _END))
    finally:
        upcoming.cancel()
        await asyncio.wait({upcoming})
        if not upcoming.cancelled():
            upcoming.exception()
        await events.aclose()
