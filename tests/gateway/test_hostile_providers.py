"""The gateway over providers that do everything wrong: a clear fault in time, little memory, nothing left behind."""

import asyncio
import gzip
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from tests.gateway.calls import ANNA, call, opened, read, streamed
from tests.gateway.servers import Serve, saying, serving

from gimle.foundation.config import GatewaySettings
from gimle.foundation.errors import InvalidRequest, ModelNotFound, UpstreamError
from gimle.gateway.gateway import Gateway

BRISK = GatewaySettings(connect_seconds=1, first_token_seconds=1.0, idle_seconds=0.5, total_seconds=4)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n"
EVENTS = HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\n"
JSON = HEAD % b"application/json" + b"content-length: %d\r\n\r\n"
MEGABYTE = 1_000_000
DEEP = b'{"choices":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"Well"}}]}\n\n'
HTML = b"<html><body>Please log in.</body></html>"
BOMB = gzip.compress(b"0" * 50 * MEGABYTE)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def over(serve: Serve, folder: Path) -> AsyncIterator[Gateway]:
    """A gateway whose one provider is this server. At the end nothing of its calls is left."""
    tasks = len(asyncio.all_tasks())
    async with serving(serve) as url:
        providers = {"mock": {"base_url": f"{url}/v1", "models": [{"name": "mock"}]}}
        async with opened(folder, providers, BRISK) as gateway:
            yield gateway
    await asyncio.sleep(0.05)
    assert len(asyncio.all_tasks()) == tasks


def for_ever(head: bytes, again: bytes, most: int = 10**12) -> Serve:
    """Answer with the same bytes again and again, up to so many in all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        sent = 0
        while sent < most:
            writer.write(again)
            await writer.drain()
            sent += len(again)

    return serve


@contextmanager
def within(megabytes: int) -> Iterator[None]:
    """The block holds no more memory than that at any time."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < megabytes * MEGABYTE


ENDLESS = {
    "a line without end": for_ever(EVENTS, chunk(b"a" * 65_536), 100 * MEGABYTE),
    "comments without end": for_ever(EVENTS, chunk(b": ping\n\n" * 1000)),
    "events that say nothing": for_ever(EVENTS, chunk(b'data: {"choices":[]}\n\n' * 1000)),
    "data that is empty": for_ever(EVENTS, chunk(b"data:\n\n" * 1000)),
    "a header without end": for_ever(HEAD % b"text/event-stream", b"x-filler: " + b"a" * 4000 + b"\r\n"),
    "a body without end": for_ever(JSON % 10**12, b" " * 65_536),
    "an extension without end": for_ever(EVENTS + b"1;", b"x" * 65_536),
}


@pytest.mark.parametrize("way", ENDLESS)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_never_ends_is_cut_off(way: str, stream: bool, tmp_path: Path) -> None:
    """An answer that is read whole may grow to its limit of 64 MB, once, however often it is tried again."""
    async with over(ENDLESS[way], tmp_path) as gateway, asyncio.timeout(8):
        with within(70 if stream else 100), pytest.raises(UpstreamError):
            await gateway.chat(ANNA, call(stream=stream))


async def test_a_line_that_never_ends_behind_the_first_word_is_cut_off(tmp_path: Path) -> None:
    """Its pieces are small: to look through all that has come at each of them would take minutes."""
    async with over(for_ever(EVENTS + chunk(FIRST), chunk(b"a" * 1024)), tmp_path) as gateway, asyncio.timeout(8):
        stream = streamed(await gateway.chat(ANNA, call(stream=True)))
        with within(70), pytest.raises(UpstreamError):
            await read(stream)


WRONG = {
    "a page": JSON % len(HTML) + HTML,
    "a page that says it is a stream": EVENTS + chunk(HTML) + b"0\r\n\r\n",
    "nested too deeply": JSON % len(DEEP) + DEEP,
    "nested too deeply in a stream": EVENTS + chunk(b"data: " + DEEP + b"\n\n") + b"0\r\n\r\n",
    "no bytes": JSON % 0,
    "no event": EVENTS + b"0\r\n\r\n",
    "a bomb": HEAD % b"application/json" + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(BOMB) + BOMB,
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{} ",
    "a length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk of no size": EVENTS + b"-1\r\nx\r\n0\r\n\r\n",
    "a redirect": b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /v1/chat/completions\r\ncontent-length: 0\r\n\r\n",
    "no HTTP": b"220 mail.example.org ESMTP\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
}


@pytest.mark.parametrize("way", WRONG)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_no_answer_is_a_fault_of_the_provider(way: str, stream: bool, tmp_path: Path) -> None:
    async with over(saying(WRONG[way]), tmp_path) as gateway, asyncio.timeout(8):
        with within(30), pytest.raises(UpstreamError) as told:
            await gateway.chat(ANNA, call(stream=stream))
    assert told.value.message.isprintable()
    assert len(told.value.message) < 1000


async def test_a_redirect_takes_the_key_nowhere(tmp_path: Path) -> None:
    """Also when it leads to another server, which is never asked."""
    asked: list[bytes] = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))

    async with serving(elsewhere) as other:
        moved = f"HTTP/1.1 302 Found\r\nlocation: {other}/v1\r\ncontent-length: 0\r\n\r\n".encode()
        async with over(saying(moved), tmp_path) as gateway:
            with pytest.raises(UpstreamError):
                await gateway.chat(ANNA, call())
    assert asked == []


async def test_the_connection_of_a_wrong_answer_serves_no_other_call(tmp_path: Path) -> None:
    """What is left on it could be taken for the answer of somebody else."""
    leftovers = EVENTS + chunk(b'data: {"choices": 7}\n\n') + chunk(FIRST)
    came_later: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(leftovers)
        await writer.drain()
        with suppress(ConnectionError):
            came_later.append(await reader.read())

    async with over(serve, tmp_path) as gateway:
        for _ in range(2):
            with suppress(UpstreamError):
                await gateway.chat(ANNA, call(stream=True))
    assert came_later
    assert not any(b"POST" in data for data in came_later)


@pytest.mark.parametrize("name", ["a\x00b", "a\r\nx-evil: 1", "\x1b[31mred", "a\u2028b", "a\u202eb", "\ud7ff\uffff"])
async def test_control_characters_in_a_models_name(name: str, tmp_path: Path) -> None:
    """They reach no provider, no header and no terminal: the refusal tells them escaped."""
    async with over(saying(b""), tmp_path) as gateway:
        for asked in (name, f"mock/{name}", f"auto:{name}", f"{name}/mock"):
            with pytest.raises((ModelNotFound, InvalidRequest)) as told:
                await gateway.chat(ANNA, call(asked))
            assert f"{told.value.message}{told.value.hint}".isprintable()
