"""From nothing to an answer and back, with the real engine: fetched, started, asked, cut off, killed, replaced."""

import asyncio
import os
import signal
from pathlib import Path

import msgspec
from tests.gateway.calls import ANNA, call, read, replied, streamed
from tests.gateway.local import tiny
from tests.gateway.local.fakehub import Trouble, standing
from tests.gateway.local.installed import QUICK

from gimle.foundation.config import GatewaySettings, Settings
from gimle.foundation.download import Patience
from gimle.gateway.gateway import Gateway
from gimle.gateway.inside import Engines
from gimle.gateway.local.host import Host
from gimle.gateway.local.pull import Pull
from gimle.gateway.tokens import Tokens

PATIENCE = Patience(pause_seconds=0.01, idle_seconds=2.0)


async def test_from_the_hub_to_the_answer_and_back_to_what_is_built_in(tmp_path: Path) -> None:
    async with standing() as hub:
        model = tiny.scripted(tmp_path / "scripted.gguf").read_bytes()
        hub.files["org/tiny-gguf"] = {"Tiny.gguf": model}
        given = Settings(
            data=tmp_path / "data",
            engines=msgspec.structs.replace(QUICK, hub=hub.url),
            gateway=GatewaySettings(first_token_seconds=10, total_seconds=30, breaker_seconds=0.1),
        )
        gateway = await Gateway.assemble(None, given, await Engines.open(given, Tokens(None)), Tokens(None))
        assert gateway.local is not None
        try:
            assert replied(await gateway.chat(ANNA, call("auto"))).provider == "builtin"
            # Fetched, with a cut on the way.
            hub.plan.append(Trouble(cut=len(model) // 2))
            pull = Pull(given, gateway.local.store, PATIENCE)
            wanted = await pull.find("hf:org/tiny-gguf/Tiny.gguf")
            installed = await pull.run(wanted, lambda file, progress: None)
            assert (installed.name, installed.facts.architecture) == ("tiny", "llama")
            gateway.catalog.refresh()
            await _asked_and_cut_off(gateway)
            await _killed_until_it_is_left_alone(gateway, gateway.local)
        finally:
            await gateway.close()


async def _asked_and_cut_off(gateway: Gateway) -> None:
    answer = replied(await gateway.chat(ANNA, call("auto")))
    assert (answer.provider, tiny.SAYS.encode() in answer.body) == ("local", True)
    assert b"[DONE]" in await read(streamed(await gateway.chat(ANNA, call("auto", stream=True))))
    left = streamed(await gateway.chat(ANNA, call("local/tiny", stream=True)))
    async for _ in left:
        break
    await left.close()


async def _killed_until_it_is_left_alone(gateway: Gateway, host: Host) -> None:
    for death in range(3):
        pid = host.pid("tiny")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while host.pid("tiny") == pid:
                await asyncio.sleep(0.01)
        if death < 2:
            assert replied(await gateway.chat(ANNA, call("local/tiny"))).provider == "local"
    assert host.load("tiny").phase == "degraded"
    assert replied(await gateway.chat(ANNA, call("auto"))).provider == "builtin"
