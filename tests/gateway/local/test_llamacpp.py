"""llama.cpp's own server behind the gateway: it is started by a call, answers, dies, comes back, and is left alone."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.gateway.calls import ANNA, call, read, replied, streamed
from tests.gateway.local import tiny
from tests.gateway.local.installed import place, settings

from gimle.foundation.config import GatewaySettings
from gimle.foundation.errors import ContextTooLong, InvalidRequest, Unavailable
from gimle.gateway import sources
from gimle.gateway.gateway import Gateway
from gimle.gateway.inside import Engines
from gimle.gateway.tokens import Tokens
from gimle.gateway.types import Provider

PATIENT = GatewaySettings(first_token_seconds=10, idle_seconds=10, total_seconds=30)


async def opened(data: Path) -> Gateway:
    given = msgspec.structs.replace(settings(data), gateway=PATIENT)
    tokens = Tokens(None)
    return await Gateway.assemble(None, given, await Engines.open(given, tokens), tokens)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with four local models: one that answers, one that never ends, one for vectors, one of three values."""
    place(tmp_path, "tiny", tiny.scripted(tmp_path / "scripted.gguf"))
    place(tmp_path, "endless", tiny.scripted(tmp_path / "endless.gguf", "On and so it goes round ", context=100_000))
    place(tmp_path, "vectors", tiny.embedder(tmp_path / "embedder.gguf"))
    place(tmp_path, "ternary", tiny.ternary(tmp_path / "ternary.gguf"))
    gateway = await opened(tmp_path)
    yield gateway
    await gateway.close()


def text(body: bytes) -> str:
    return str(msgspec.json.decode(body)["choices"][0]["message"]["content"])


async def test_a_call_starts_the_server_and_is_answered(gateway: Gateway) -> None:
    answer = replied(await gateway.chat(ANNA, call("local/tiny")))
    assert text(answer.body) == tiny.SAYS
    assert (answer.provider, answer.attempts) == ("local", 1)
    assert answer.usage is not None
    assert answer.usage.output_tokens == 14
    assert answer.usage.input_tokens > 10


async def test_a_stream_brings_the_words_one_by_one(gateway: Gateway) -> None:
    events = await read(streamed(await gateway.chat(ANNA, call("local/tiny", stream=True))))
    told = [msgspec.json.decode(line[6:]) for line in events.splitlines() if line.startswith(b"data: {")]
    words = [event["choices"][0]["delta"].get("content") for event in told if event["choices"]]
    assert "".join(word or "" for word in words) == tiny.SAYS
    assert len([word for word in words if word]) > 8
    assert events.rstrip().endswith(b"data: [DONE]")


async def test_a_bare_name_and_auto_find_it(gateway: Gateway) -> None:
    assert gateway.resolve(ANNA, "tiny")[0].id == "local/tiny"
    assert "local/tiny" in [model.id for model in gateway.resolve(ANNA, "auto")]
    assert gateway.resolve(ANNA, "auto")[-1].id == "builtin/extract"


async def test_json_follows_the_schema_that_was_asked_for(gateway: Gateway) -> None:
    schema = {"type": "object", "properties": {"found": {"type": "boolean"}}, "required": ["found"]}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    asked = call("local/tiny", response_format=form, max_tokens=60, temperature=0)
    answer = replied(await gateway.chat(ANNA, asked))
    assert isinstance(msgspec.json.decode(text(answer.body).strip())["found"], bool)


async def test_vectors_have_the_models_own_dimensions(gateway: Gateway) -> None:
    found = await gateway.embed(ANNA, "local/vectors", ["bees", "hornets", "bees"])
    assert found.vectors.shape == (3, 64)
    assert float(found.vectors[0] @ found.vectors[2]) > 0.99
    assert found.tokens > 0


async def test_a_ranker_orders_documents(tmp_path: Path) -> None:
    place(tmp_path, "ranker", tiny.embedder(tmp_path / "ranker.gguf", ranks=True))
    gateway = await opened(tmp_path)
    try:
        assert [(model.id, model.kind) for model in gateway.models(ANNA) if model.provider == "local"] == [
            ("local/ranker", "rerank")
        ]
        found = await gateway.rerank(ANNA, "local/ranker", "When do bees swarm?", ["In May.", "Honey is sweet.", "No."])
        assert sorted(one.index for one in found.ranked) == [0, 1, 2]
        scores = [one.score for one in found.ranked]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
    finally:
        await gateway.close()


async def test_weights_of_three_values_are_computed_with(gateway: Gateway) -> None:
    answer = replied(await gateway.chat(ANNA, call("local/ternary", max_tokens=8)))
    assert answer.usage is not None
    assert answer.usage.output_tokens == 8


async def test_a_prompt_that_is_too_long_names_the_field(gateway: Gateway) -> None:
    long = call("local/tiny", messages=[{"role": "user", "content": "Bees dance. " * 400}])
    with pytest.raises(ContextTooLong) as caught:
        await gateway.chat(ANNA, long)
    assert caught.value.field == "messages"


async def test_a_caller_who_leaves_frees_the_slot(gateway: Gateway) -> None:
    host = local(gateway)
    stream = streamed(await gateway.chat(ANNA, call("local/endless", stream=True, max_tokens=100_000)))
    async for _ in stream:
        break
    assert (host.load("endless").busy, host.load("endless").slots) == (1, 2)
    assert await working(gateway, "endless") == 1
    await stream.close()
    async with asyncio.timeout(5):
        while await working(gateway, "endless"):
            await asyncio.sleep(0.02)
    assert host.load("endless").busy == 0


async def test_a_killed_server_is_back_within_three_seconds(gateway: Gateway) -> None:
    await gateway.chat(ANNA, call("local/tiny"))
    host = local(gateway)
    first = host.pid("tiny")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    began = time.monotonic()
    answer = replied(await gateway.chat(ANNA, call("local/tiny")))
    assert time.monotonic() - began < 3.0
    assert text(answer.body) == tiny.SAYS
    assert host.pid("tiny") != first


async def test_one_that_keeps_dying_is_left_alone_and_another_answers(gateway: Gateway) -> None:
    host = local(gateway)
    for _ in range(3):
        await gateway.chat(ANNA, call("local/tiny"))
        pid = host.pid("tiny")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while host.pid("tiny") == pid:
            await asyncio.sleep(0.01)
    assert host.load("tiny").phase == "degraded"
    with pytest.raises(Unavailable, match="died 3 times within 5 minutes"):
        await gateway.chat(ANNA, call("local/tiny"))
    for name in ("endless", "ternary"):
        host.store.remove(name)
    gateway.catalog.refresh()
    assert replied(await gateway.chat(ANNA, call("auto"))).provider == "builtin"


@pytest.mark.parametrize("double", [False, True])
async def test_a_broken_file_ends_its_process_and_nothing_else(tmp_path: Path, double: bool) -> None:
    """One is cut off in the middle, and refused; at the other the engine aborts."""
    sound = tiny.scripted(tmp_path / "sound.gguf", double=double)
    broken = place(tmp_path, "broken", sound)
    if not double:
        broken.write_bytes(sound.read_bytes()[:200_000])
    gateway = await opened(tmp_path)
    try:
        with pytest.raises(Unavailable, match="broken"):
            await gateway.chat(ANNA, call("local/broken"))
        load = local(gateway).load("broken")
        assert load.phase == "degraded"
        assert load.error
        assert ("GGML_ASSERT" if double else "not within the file bounds") in load.error
        assert replied(await gateway.chat(ANNA, call("auto"))).provider == "builtin"
    finally:
        await gateway.close()


def test_nobody_else_has_an_address_in_its_domain() -> None:
    with pytest.raises(InvalidRequest) as caught:
        sources.check(Provider(name="mine", base_url="http://tiny.local.gimle/v1"), ())
    assert caught.value.field == "base_url"


async def test_who_has_no_key_is_turned_away(gateway: Gateway) -> None:
    from gimle.foundation.outbound import Outbound, Request

    host = local(gateway)
    async with host.hold("tiny") as origin, Outbound() as outbound:
        assert origin.host == "127.0.0.1"
        asked = Request(url=f"http://{origin}/v1/chat/completions", body=b'{"messages": []}')
        assert (await outbound.send(asked, seconds=5, limit=10_000)).status == 401


async def test_neither_key_nor_prompt_is_told_to_others(gateway: Gateway) -> None:
    host = local(gateway)
    await gateway.chat(ANNA, call("local/tiny"))
    pid = host.pid("tiny")
    process = Path(f"/proc/{pid}")
    assert host.key.encode() not in (process / "cmdline").read_bytes()
    environment = (process / "environ").read_bytes()
    assert host.key.encode() not in environment
    assert b"OMP_WAIT_POLICY=PASSIVE" in environment
    assert not any("bees" in line for line in host.lines("tiny"))


async def test_an_idle_server_is_small(gateway: Gateway) -> None:
    await gateway.chat(ANNA, call("local/tiny"))
    assert 10e6 < local(gateway).load("tiny").memory < 80e6


async def test_a_model_that_is_removed_is_no_longer_offered(gateway: Gateway) -> None:
    await gateway.chat(ANNA, call("local/tiny"))
    local(gateway).store.remove("tiny")
    async with asyncio.timeout(10):
        while "local/tiny" in [model.id for model in gateway.models(ANNA)] or local(gateway).pid("tiny"):
            await asyncio.sleep(0.05)


def local(gateway: Gateway) -> Any:
    host = gateway._engines.local
    assert host is not None
    return host


async def working(gateway: Gateway, name: str) -> int:
    """How many slots of a server are at work, as it says itself."""
    from gimle.foundation.outbound import Outbound, Request

    host = local(gateway)
    async with host.hold(name) as origin, Outbound() as outbound:
        asked = Request(method="GET", url=f"http://{origin}/slots", headers=(("authorization", f"Bearer {host.key}"),))
        slots = msgspec.json.decode((await outbound.send(asked, seconds=5, limit=1_000_000)).body)
    return sum(slot["is_processing"] for slot in slots)
