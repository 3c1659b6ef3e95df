"""How good models are, as a source outside says."""

import asyncio
import json

import pytest

from gimle.foundation.errors import GimleError, UpstreamError
from gimle.foundation.outbound import Outbound
from gimle.gateway.opinions import ask, read

MODELS = {"a/x", "b/y"}


async def _source(status: int, body: bytes, heard: list[bytes]) -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        heard.extend([head, await reader.readexactly(length)])
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


async def test_a_source_is_asked_for_our_models_with_its_key() -> None:
    heard: list[bytes] = []
    told = {"metrics": [{"model": "a/x", "quality": 0.9}, {"model": "other/z", "quality": 0.1}]}
    async with await _source(200, json.dumps(told).encode(), heard) as source, Outbound(2.0) as outbound:
        url = f"http://127.0.0.1:{source.sockets[0].getsockname()[1]}/quality"
        assert await ask(outbound, url, "secret", MODELS) == {"a/x": 0.9}
    assert b"authorization: bearer secret" in heard[0].lower()
    assert json.loads(heard[1]) == {"models": ["a/x", "b/y"]}


async def test_a_source_that_fails_is_told_as_such() -> None:
    async with await _source(500, b"no", []) as source, Outbound(2.0) as outbound:
        url = f"http://127.0.0.1:{source.sockets[0].getsockname()[1]}/quality"
        with pytest.raises(UpstreamError):
            await ask(outbound, url, None, MODELS)
    async with Outbound(2.0) as outbound:
        with pytest.raises(GimleError):
            await ask(outbound, "http://127.0.0.1:9/quality", None, MODELS)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'{"metrics": 3}', b'{"metrics": [{"model": 1}]}', b"[" * 100_000]
)
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        read(body, MODELS)


def test_what_makes_no_sense_is_left_out() -> None:
    assert read(b'{"metrics": [{"model": "a/x", "quality": 1.5}, {"model": "b/y", "quality": 1}]}', MODELS) == {
        "b/y": 1.0
    }
