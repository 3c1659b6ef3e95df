"""Streams of our own surface: the shape of an event, pings, and who closes what."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from gimle.interfaces.http import sse


def test_an_event_is_two_lines_and_an_empty_one() -> None:
    assert sse.event("done", {"text": "a\nb"}) == b'event: done\ndata: {"text":"a\\nb"}\n\n'


async def test_a_silence_is_filled_with_comments_and_nothing_is_lost() -> None:
    go = asyncio.Event()

    async def source() -> AsyncGenerator[bytes, None]:
        yield b"first"
        await go.wait()
        yield b"second"

    got = []
    async for each in sse.with_pings(source(), 0.01):
        got.append(each)
        if got.count(b": ping\n\n") == 3:
            go.set()
    assert [each for each in got if each != b": ping\n\n"] == [b"first", b"second"]


async def test_who_stops_reading_closes_the_source() -> None:
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            closed.set()

    events = sse.with_pings(source(), 10)
    assert await anext(events) == b"first"
    await events.aclose()
    assert closed.is_set()


async def test_a_fault_of_the_source_comes_through() -> None:
    async def source() -> AsyncGenerator[bytes, None]:
        yield b"first"
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        async for _ in sse.with_pings(source(), 10):
            pass
