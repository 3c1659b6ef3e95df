"""Events that go straight from the provider's connection to the caller's, without anybody being woken for them."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.gateway.servers import Serve, saying
from tests.gateway.servers import serving as provider
from tests.interfaces.serving import Served, serving

from gimle.app import App

PATH = "/v1/chat/completions"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"
STEP = 0.02


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def words(told: bytes) -> list[int]:
    return [int(number) for number in re.findall(rb"word-(\d+) ", told)]


def telling(*pieces: bytes) -> Serve:
    """Pieces one by one, so that all but the first find the reader waiting."""
    return saying(HEAD, *pieces, after=STEP)


@asynccontextmanager
async def streaming(app: App, tenant: str, serve: Serve) -> AsyncIterator[tuple[Served, asyncio.StreamReader]]:
    """A stream of that provider's, asked for by a caller who reads what he likes."""
    async with provider(serve) as url, serving(app, tenant) as served:
        await served.provide({"name": "stand", "base_url": url, "models": [{"name": "m"}], "probe": False})
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=64 * 1024)
        body = json.dumps({"model": "stand/m", "stream": True, "messages": [{"role": "user", "content": "Hello"}]})
        writer.write(served.head("POST", PATH, len(body), connection="close") + body.encode())
        try:
            async with asyncio.timeout(30):
                yield served, reader
        finally:
            writer.transport.abort()


async def test_all_events_arrive_in_their_order(app: App, tenants: tuple[str, str]) -> None:
    told_of = [event(f"word-{number} ") for number in range(20)]
    # Two in one piece, one in two, and the end with what comes before it.
    odd = [told_of[5] + told_of[6], told_of[7][:20], told_of[7][20:]]
    pieces = [*told_of[:5], *odd, *told_of[8:], event("", "stop") + DONE]
    async with streaming(app, tenants[0], telling(*pieces)) as (_, reader):
        told = await reader.read()
        assert words(told) == list(range(20))
        assert told.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("wrong", [b"data: {no json\n\n", b'data: {"error": {"message": "out of memory"}}\n\n'])
async def test_nothing_passes_behind_a_wrong_event(app: App, tenants: tuple[str, str], wrong: bytes) -> None:
    pieces = (event("one "), event("two "), event("three ") + wrong + event("never "), event("", "stop") + DONE)
    async with streaming(app, tenants[0], telling(*pieces)) as (_, reader):
        told = await reader.read()
        assert told.count(b"three ") == 1
        assert b"never " not in told
        assert b'"error"' in told.rpartition(b"data: ")[2]
        assert DONE not in told


async def test_an_end_that_comes_before_its_time_is_told(app: App, tenants: tuple[str, str]) -> None:
    async with streaming(app, tenants[0], telling(event("one "), event("two "), event("three "))) as (_, reader):
        told = await reader.read()
        assert b"three " in told
        assert b"upstream_error" in told
        assert DONE not in told


async def test_a_slow_reader_holds_the_provider(app: App, tenants: tuple[str, str]) -> None:
    sent = 0
    many = 400

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        for number in range(many):
            writer.write(event(f"word-{number} " + "x" * 100_000))
            await writer.drain()
            sent = number
        writer.write(event("", "stop") + DONE)

    async with streaming(app, tenants[0], floods) as (_, reader):
        before = -1
        while before != sent or sent == 0:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < many - 1
        told = await reader.read()
        assert words(told) == list(range(many))
        assert told.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_the_patience_with_a_stream_begins_anew_with_each_event(app: App, tenants: tuple[str, str]) -> None:
    """Thirty events take longer together than the time that one may take."""
    app.gateway._upstream._idle_seconds = 10 * STEP
    pieces = [event(f"word-{number} ") for number in range(30)]

    async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await telling(*pieces)(reader, writer)
        await asyncio.sleep(20)

    async with streaming(app, tenants[0], stalls) as (_, reader):
        began = asyncio.get_running_loop().time()
        told = await reader.read()
        assert b"word-29 " in told
        assert b"nothing came within 0.2 s" in told
        assert asyncio.get_running_loop().time() - began < 10
