"""BitNet's own server, started by somebody else: a provider by its address, as the packaged file describes it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.gateway.calls import ANNA, call, opened, read, replied, streamed

from gimle.foundation.errors import ModelNotFound, UpstreamError
from gimle.gateway.gateway import Gateway
from gimle.selection.types import Need

SERVER = Path(__file__).parents[2] / "fixtures" / "engines" / "bitnet.py"
SAYS = "Bees dance to tell where flowers are."


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    model = tmp_path / "ggml-model-i2_s.gguf"
    model.write_bytes(b"GGUF")
    port = await _free_port()
    flags = ["-m", str(model), "-c", "2048", "-t", "1", "-ngl", "0", "--host", "127.0.0.1", "--port", str(port), "-cb"]
    server = await asyncio.create_subprocess_exec(sys.executable, os.fspath(SERVER), *flags)
    provider = {"base_url": f"http://127.0.0.1:{port}/v1", "models": [{"name": "bitnet", "capabilities": []}]}
    try:
        async with asyncio.timeout(10), opened(tmp_path, {"bitnet-server": provider}) as gateway:
            while not (await gateway.catalog.status(ANNA.tenant, "bitnet-server")).available:
                await asyncio.sleep(0.05)
            yield gateway
    finally:
        server.kill()
        await server.wait()


async def _free_port() -> int:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def test_it_answers_whole_and_as_a_stream(gateway: Gateway) -> None:
    answer = replied(await gateway.chat(ANNA, call("bitnet-server/bitnet")))
    assert msgspec.json.decode(answer.body)["choices"][0]["message"]["content"] == SAYS
    stream = streamed(await gateway.chat(ANNA, call("bitnet-server/bitnet", stream=True)))
    events = await read(stream)
    assert b"[DONE]" not in events
    assert stream.usage is not None
    assert (stream.usage.input_tokens, stream.usage.output_tokens) == (9, 8)


async def test_what_it_does_not_know_is_an_error_and_auto_passes_it_by(gateway: Gateway) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    with pytest.raises(UpstreamError, match="Unsupported param: tools"):
        await gateway.chat(ANNA, call("bitnet-server/bitnet", tools=[tool]))
    assert "bitnet-server/bitnet" in [model.id for model in gateway.resolve(ANNA, "auto")]
    with pytest.raises(ModelNotFound, match="can do tools"):
        gateway.resolve(ANNA, "auto", need=Need(capabilities=frozenset({"tools"})))
