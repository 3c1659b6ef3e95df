"""What every engine keeps to that serves a model from a process of its own, behind the gateway as its callers see it.

llama.cpp runs for real, on a model of some megabytes; BitNet's server is played by a stand-in that has its flags and
speaks its HTTP.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from tests.gateway.calls import ANNA, call, read, replied, streamed
from tests.gateway.local.installed import QUICK, place

from gimle.foundation import plugins
from gimle.foundation.config import EngineSettings, GatewaySettings, Settings
from gimle.foundation.outbound import Outbound, Request
from gimle.gateway.gateway import Gateway
from gimle.gateway.inside import Engines
from gimle.gateway.local.host import Host
from gimle.gateway.local.serving import Serving
from gimle.gateway.local.types import Facts, Plan
from gimle.gateway.tokens import Tokens

PACKAGE = "gimle.gateway.engines"
FIXTURES = Path(__file__).parents[1] / "fixtures" / "engines"
NAMES = tuple(name for name in plugins.names(PACKAGE) if "SERVING" in vars(plugins.load(PACKAGE, name)))
PLAN = Plan(
    name="tiny", model="/models/tiny.gguf", kind="chat", context=512, slots=2, threads=1, key="the-secret",
    key_file="/engines/key", port=8123,
)  # fmt: skip


class Prepared(NamedTuple):
    """How an engine is tried: its settings, and what its model says."""

    engines: EngineSettings
    says: str


def llamacpp(folder: Path) -> Prepared:
    from tests.gateway.local import tiny

    place(folder, "tiny", tiny.scripted(folder / "scripted.gguf"))
    place(folder, "endless", tiny.scripted(folder / "endless.gguf", "On and so it goes round ", context=100_000))
    return Prepared(QUICK, tiny.SAYS)


def bitnet(folder: Path) -> Prepared:
    program = folder / "llama-server"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {FIXTURES / "bitnet.py"} "$@"\n')
    program.chmod(0o755)
    for name in ("tiny", "endless"):
        made = folder / f"{name}.gguf"
        made.write_bytes(b"GGUF in i2_s")
        place(folder, name, made, engine="bitnet", facts=Facts(architecture="bitnet", context=2048))
    return Prepared(msgspec.structs.replace(QUICK, bitnet=str(program)), "Bees dance to tell where flowers are.")


PREPARE: dict[str, Callable[[Path], Prepared]] = {"llamacpp": llamacpp, "bitnet": bitnet}


class Tried(NamedTuple):
    gateway: Gateway
    host: Host
    says: str


@pytest.fixture(params=NAMES)
async def tried(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Tried]:
    prepared = PREPARE[request.param](tmp_path)
    patient = GatewaySettings(first_token_seconds=10, idle_seconds=10, total_seconds=30)
    given = Settings(data=tmp_path, engines=prepared.engines, gateway=patient)
    gateway = await Gateway.assemble(None, given, await Engines.open(given, Tokens(None)), Tokens(None))
    assert gateway.local is not None
    yield Tried(gateway, gateway.local, prepared.says)
    await gateway.close()


def serving(name: str) -> Serving:
    found: Serving = plugins.load(PACKAGE, name).SERVING
    return found


@pytest.mark.parametrize("name", NAMES)
def test_its_key_is_told_to_it_alone(name: str) -> None:
    """The list of processes shows a command to everybody on the machine."""
    settings = EngineSettings(bitnet="/opt/bitnet/llama-server")
    launch = serving(name).launch(PLAN, settings)
    assert "the-secret" not in " ".join((*launch.command, *launch.environment, *launch.environment.values()))
    assert launch.environment["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_lacks(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    missing = serving(name).missing(EngineSettings())
    assert missing
    assert "gimle[local]" in missing or "engines.bitnet" in missing
    assert serving("bitnet").missing(EngineSettings(bitnet=str(tmp_path / "nothing")))


async def test_it_answers_whole_and_counts(tried: Tried) -> None:
    answer = replied(await tried.gateway.chat(ANNA, call("local/tiny")))
    assert answer.status == 200
    message = msgspec.json.decode(answer.body)["choices"][0]
    assert (message["message"]["content"], message["finish_reason"]) == (tried.says, "stop")
    assert answer.usage is not None
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0


async def test_it_keeps_to_the_limit_on_its_answer(tried: Tried) -> None:
    answer = replied(await tried.gateway.chat(ANNA, call("local/tiny", max_tokens=2)))
    choice = msgspec.json.decode(answer.body)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert tried.says.startswith(choice["message"]["content"].strip())
    assert answer.usage is not None
    assert answer.usage.output_tokens == 2


async def test_it_streams_word_by_word_and_tells_its_usage(tried: Tried) -> None:
    stream = streamed(await tried.gateway.chat(ANNA, call("local/tiny", stream=True)))
    events = [msgspec.json.decode(line[6:]) for line in (await read(stream)).splitlines() if line[:7] == b"data: {"]
    words = [choice["delta"].get("content") or "" for event in events for choice in event["choices"]]
    assert "".join(words) == tried.says
    assert sum(map(bool, words)) > 5
    assert stream.usage is not None
    assert stream.usage.output_tokens > 5


async def test_another_dialect_speaks_with_it(tried: Tried) -> None:
    from tests.gateway.calls import parsed

    body = {"model": "local/tiny", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello?"}]}
    asked = msgspec.structs.replace(parsed(msgspec.json.encode(body), "local/tiny"), dialect="anthropic")
    answer = msgspec.json.decode(replied(await tried.gateway.chat(ANNA, asked)).body)
    assert answer["content"][0]["text"] == tried.says
    assert answer["stop_reason"] == "end_turn"


async def test_a_caller_who_leaves_costs_nothing_more(tried: Tried) -> None:
    asked = call("local/endless", stream=True, max_tokens=90_000, messages=[{"role": "user", "content": "endless"}])
    stream = streamed(await tried.gateway.chat(ANNA, asked))
    async for _ in stream:
        break
    assert tried.host.load("endless").busy == 1
    pid = tried.host.pid("endless")
    assert pid is not None
    await stream.close()
    assert tried.host.load("endless").busy == 0
    async with asyncio.timeout(10):
        used = _seconds(pid)
        while True:
            await asyncio.sleep(0.2)
            if (now := _seconds(pid)) - used < 0.05:
                break
            used = now


async def test_it_comes_back_after_a_kill(tried: Tried) -> None:
    await tried.gateway.chat(ANNA, call("local/tiny"))
    first = tried.host.pid("tiny")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    answer = replied(await tried.gateway.chat(ANNA, call("local/tiny")))
    assert msgspec.json.decode(answer.body)["choices"][0]["message"]["content"] == tried.says
    assert tried.host.pid("tiny") not in (None, first)


async def test_who_lacks_the_key_gets_nothing(tried: Tried) -> None:
    async with tried.host.hold("tiny") as origin, Outbound() as outbound:
        asked = Request(url=f"http://{origin}/v1/chat/completions", body=b'{"messages": []}')
        assert (await outbound.send(asked, seconds=5, limit=10_000)).status == 401


async def test_it_ends_with_its_host(tried: Tried) -> None:
    await tried.gateway.chat(ANNA, call("local/tiny"))
    pid = tried.host.pid("tiny")
    assert pid is not None
    await tried.host.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def _seconds(pid: int) -> float:
    """The processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
