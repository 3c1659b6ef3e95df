"""Many callers at once, with the settings as they come."""

import asyncio
import json
import resource

from tests.gateway.servers import serving as provider
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.foundation.machine import open_files

CROWD = 600
PATH = "/v1/chat/completions"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


async def test_six_hundred_streams_run_at_once(app: App, tenants: tuple[str, str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files()
    begun, all_begun = 0, asyncio.Event()

    async def tells(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal begun
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + FIRST)
        begun += 1
        if begun == CROWD:
            all_begun.set()
        # Nobody's answer ends before everybody's has begun.
        await all_begun.wait()
        writer.write(LAST)
        await writer.drain()

    async def asks(served: Served) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        body = json.dumps({"model": "crowded/m", "stream": True, "messages": [{"role": "user", "content": "Hello"}]})
        writer.write(served.head("POST", PATH, len(body)) + body.encode())
        answer = await reader.readuntil(b"[DONE]")
        writer.close()
        return answer

    try:
        async with provider(tells) as url, serving(app, tenants[0]) as served:
            await served.http.put("/api/v1/allowances", json={"scope": "tenant", "requests_minute": 10_000})
            await served.provide({"name": "crowded", "base_url": url, "models": [{"name": "m"}], "probe": False})
            async with asyncio.timeout(30):
                answers = await asyncio.gather(*(asks(served) for _ in range(CROWD)))
        assert all(b"Hello" in answer for answer in answers)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
