"""A model hub on this machine, with the interface of the real one, and all that can go wrong on the way."""

import asyncio
import hashlib
import json
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec

REVISION = "a" * 40


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """What befalls one request for a file. `cut` closes after so many bytes, `stall` stops there for good.

    `flip` changes a byte and not the size; `slow` is seconds between pieces; `redirect` an address to go to instead;
    `whole` answers a request for a part with all of it.
    """

    status: int | None = None
    cut: int | None = None
    stall: int | None = None
    flip: bool = False
    slow: float = 0.0
    redirect: str | None = None
    whole: bool = False
    headers: tuple[tuple[str, str], ...] = ()


class Asked(msgspec.Struct, frozen=True):
    """A request as it came: header names in lower case."""

    path: str
    headers: dict[str, str]


class FakeHub:
    """`files` by repository and name; `plan` the troubles of the next requests for files; `asked` all requests.

    `moved` has the address to go to in place of a repository's.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.plan: deque[Trouble] = deque()
        self.asked: list[Asked] = []
        self.licence: dict[str, Any] = {"license": "apache-2.0"}
        self.moved: dict[str, str] = {}
        self.private = False
        self.url = ""
        self.sent = 0

    @property
    def fetches(self) -> list[Asked]:
        """The requests for files."""
        return [asked for asked in self.asked if "/resolve/" in asked.path or "/cdn/" in asked.path]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
            asked = Asked(head[0].split(" ")[1], headers)
            self.asked.append(asked)
            if (about := re.match(r"/api/models/([^/]+/[^/]+)/revision/", asked.path)) is not None:
                await self._about(about[1], asked, writer)
            else:
                await self._file(asked, writer)
        writer.close()

    async def _about(self, repository: str, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if self.private and asked.headers.get("authorization") != "bearer hf_secret":
            return await _say(writer, 401)
        if repository in self.moved:
            return await _say(writer, 307, headers=(("Location", self.moved[repository]),))
        if repository not in self.files:
            return await _say(writer, 404)
        siblings = [
            {"rfilename": name, "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}}
            for name, data in self.files[repository].items()
        ]
        body = {"id": repository, "sha": REVISION, "siblings": siblings, "cardData": self.licence, "tags": ["gguf"]}
        await _say(writer, 200, json.dumps(body).encode())

    async def _file(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        trouble = self.plan.popleft() if self.plan else Trouble()
        if trouble.redirect is not None:
            return await _say(writer, 302, headers=(("Location", trouble.redirect),))
        if trouble.status is not None:
            return await _say(writer, trouble.status, headers=trouble.headers)
        found = re.match(r"/([^/]+/[^/]+)/(?:resolve/[^/]+|cdn)/(.+)$", asked.path)
        data = self.files.get(found[1], {}).get(found[2]) if found else None
        if data is None:
            return await _say(writer, 404)
        begin, etag = 0, f'"{hashlib.sha256(data).hexdigest()}"'
        fits = asked.headers.get("if-range", etag) == etag
        if (part := re.match(r"bytes=(\d+)-", asked.headers.get("range", ""))) and fits and not trouble.whole:
            begin = int(part[1])
            if begin >= len(data):
                return await _say(writer, 416)
        await self._send(data, begin, trouble, etag, writer)

    async def _send(self, data: bytes, begin: int, trouble: Trouble, etag: str, writer: asyncio.StreamWriter) -> None:
        headers = [("Content-Length", str(len(data) - begin)), ("ETag", etag), ("Accept-Ranges", "bytes")]
        if begin:
            headers.append(("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}"))
        writer.write(_head(206 if begin else 200, headers))
        if trouble.flip:
            data = data[:-1] + bytes([data[-1] ^ 255])
        end = trouble.cut if trouble.cut is not None else trouble.stall
        rest = data[begin : None if end is None else begin + end]
        for at in range(0, len(rest), 65536):
            piece = rest[at : at + 65536]
            writer.write(piece)
            self.sent += len(piece)
            await writer.drain()
            if trouble.slow:
                await asyncio.sleep(trouble.slow)
        if trouble.stall is not None:
            await asyncio.sleep(60)


async def _say(
    writer: asyncio.StreamWriter, status: int, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
) -> None:
    writer.write(_head(status, [("Content-Length", str(len(body))), *headers]) + body)
    await writer.drain()


def _head(status: int, headers: list[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in headers), "Connection: close", "", ""]
    return "\r\n".join(lines).encode()


@asynccontextmanager
async def standing() -> AsyncIterator[FakeHub]:
    """A hub that listens."""
    hub = FakeHub()
    answering: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        answering.add(task)
        try:
            await hub.answer(reader, writer)
        finally:
            answering.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    hub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield hub
    finally:
        server.close()
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)
        await server.wait_closed()
