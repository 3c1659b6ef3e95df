"""A real server on a loopback port around an app, and a model provider of its own to talk to."""

import asyncio
import json
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
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
                yield Served(url, key.token, http, port)
        finally:
            stop.set()


class Upstream:
    """A provider that speaks OpenAI's dialect on a socket; the model's name says how it behaves.

    `steady` answers, `endless` streams until it is cut off, `silent` never answers, `dying` breaks in mid-stream,
    `refusing` finds fault with the request.
    """

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.heads: list[str] = []
        self.left = asyncio.Event()
        self.arrived = asyncio.Event()
        self.written = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Upstream":
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                length = next(
                    int(x.split(":")[1]) for x in head.lower().split("\r\n") if x.startswith("content-length")
                )
                body = await reader.readexactly(length)
                self.heads.append(head)
                self.bodies.append(body)
                self.arrived.set()
                await self._behave(json.loads(body), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, StopIteration):
            self.left.set()
        finally:
            writer.close()

    async def _behave(
        self, asked: dict[str, object], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        model = asked["model"]
        if model == "silent":
            await reader.readexactly(1)
        elif model == "refusing":
            await self._whole(writer, b'{"error":{"message":"no","type":"invalid_request_error"}}', "400 Bad Request")
        elif asked.get("stream"):
            await self._events(writer, endless=model == "endless", dying=model == "dying")
        else:
            await self._whole(writer, WHOLE)

    async def _whole(self, writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK") -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    async def _events(self, writer: asyncio.StreamWriter, *, endless: bool, dying: bool) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in EVENTS[:2]:
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
        if dying:
            raise ConnectionError
        while endless:
            padded = EVENTS[1].replace(b"Hello", b"x" * 4096)
            writer.write(b"%x\r\n%s\r\n" % (len(padded), padded))
            self.written += 1
            await writer.drain()
            await asyncio.sleep(0.001)
        rest = b"".join(EVENTS[2:])
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest))
        await writer.drain()


# With spaces, escapes and fields of a provider's own, so that a test sees whether the bytes were touched.
WHOLE = (
    b'{"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "steady", "x_own": {"a": 1.50},\n'
    b' "choices": [{"index": 0, "message": {"role": "assistant", "content": "Gr\\u00fc\\u00dfe"},'
    b' "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}'
)


def _event(delta: bytes, finish: bytes = b"null") -> bytes:
    return (
        b'data: {"id":"chatcmpl-1", "object":"chat.completion.chunk","created":1,"model":"steady","x_own":1.50,'
        b'"choices":[{"index":0,"delta":' + delta + b',"finish_reason":' + finish + b"}]}\n\n"
    )


EVENTS = (
    _event(b'{"role":"assistant","content":""}'),
    _event(b'{"content":"Hello"}'),
    _event(b'{"content":" \\ud83d\\ude00"}'),
    _event(b"{}", b'"stop"'),
    b"data: [DONE]\n\n",
)
