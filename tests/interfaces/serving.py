"""A real server on a loopback port around an app."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec

from gimle.app import App
from gimle.interfaces import server


class Served(msgspec.Struct, frozen=True):
    """A running server: its URL, an admin's token, and a client that sends it."""

    url: str
    token: str
    http: httpx.AsyncClient
    port: int

    def head(self, method: str, path: str, length: int | None = None, **more: str) -> bytes:
        """The head of a request with the admin's key, for tests that write to the socket themselves."""
        lines = [f"{method} {path} HTTP/1.1", "host: gimle", f"authorization: Bearer {self.token}"]
        lines += [] if length is None else [f"content-length: {length}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    async def provide(self, *providers: dict[str, Any]) -> None:
        """Add providers on this machine, over REST; they stand for some that are not, and take URLs as those do."""
        for provider in providers:
            known = {"local": True, "image_urls": True, **provider}
            added = await self.http.post("/api/v1/llm/providers", json=known)
            assert added.status_code == 201, added.text

    async def raw(self, data: bytes, *, then_close: bool = False) -> bytes:
        """Send bytes as they are, and return all that comes back until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        if then_close:
            writer.write_eof()
        async with asyncio.timeout(20):
            answer = await reader.read()
        writer.close()
        return answer


@asynccontextmanager
async def serving(app: App, tenant: str, *, grace_seconds: float = 2.0) -> AsyncIterator[Served]:
    """Serve the app until the block ends, with an admin key of this tenant."""
    key = await app.keys.create(tenant, "test", admin=True)
    await app.ring.refresh()
    assert key.token is not None
    listening = server.listen("127.0.0.1", 0)
    ready, stop = asyncio.Event(), asyncio.Event()
    url = server.url_of(listening)
    port: int = listening.getsockname()[1]
    async with asyncio.TaskGroup() as group:
        group.create_task(
            server.serve(app, app.settings, ready.set, listening=listening, stop=stop, grace_seconds=grace_seconds)
        )
        await ready.wait()
        headers = {"authorization": f"Bearer {key.token}"}
        try:
            # Plain HTTP: to read the machine's certificates would take longer than most tests.
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30, verify=False) as http:
                yield Served(url, key.token, http, port)
        finally:
            stop.set()
