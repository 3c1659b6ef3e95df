"""What does Gimle cost beside llama.cpp's own server, how soon is that one back, and what do one and two bits save?

    python bench/local.py [--json]

The bare server and the gateway over it answer in turns, on the same model: a scripted one of five megabytes, so that
nothing but the way is measured. Memory is the resident set of the server's process, as the kernel tells it. The last
table has one shape, 1024 wide, stored in sixteen bits a weight, in two, and in less than two.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.gateway.calls import ANNA, call, streamed
from tests.gateway.local import tiny
from tests.gateway.local.installed import QUICK, place

from gimle.foundation import logs
from gimle.foundation.config import Settings
from gimle.foundation.outbound import Outbound, Request
from gimle.gateway.gateway import Gateway
from gimle.gateway.inside import Engines
from gimle.gateway.tokens import Tokens

ROUNDS = 30
WORDS = 400
KILLS = 3
# The server would else remember the prompt, and the second to ask would not wait for it to be read.
ASKED: dict[str, Any] = {"temperature": 0, "cache_prompt": False}
PROMPTS = {"short": "When do bees swarm?", "long": "Bees dance to tell where the flowers are. " * 25}


class Told(msgspec.Struct):
    """One stream: milliseconds to its first word, and words a second from the request to the end."""

    first: float
    rate: float


async def bare(gateway: Gateway, outbound: Outbound, prompt: str) -> Told:
    """Ask the server itself."""
    assert gateway.local is not None
    messages = [{"role": "user", "content": prompt}]
    body = msgspec.json.encode({"model": "x", "messages": messages, "stream": True, "max_tokens": WORDS, **ASKED})
    async with gateway.local.hold("endless") as origin:
        headers = (("authorization", f"Bearer {gateway.local.key}"), ("content-type", "application/json"))
        request = Request(url=f"http://{origin}/v1/chat/completions", headers=headers, body=body)
        began, first, pieces = time.perf_counter(), 0.0, 0
        async with outbound.stream(request) as incoming:
            while piece := await incoming.read():
                pieces += piece.count(b'"content":"')
                first = first or (time.perf_counter() if pieces else 0.0)
    return Told((first - began) * 1000, pieces / (time.perf_counter() - began))


async def through(gateway: Gateway, _: Outbound, prompt: str) -> Told:
    """Ask Gimle."""
    began, first, pieces = time.perf_counter(), 0.0, 0
    messages = [{"role": "user", "content": prompt}]
    asked = call("local/endless", stream=True, max_tokens=WORDS, messages=messages, **ASKED)
    stream = streamed(await gateway.chat(ANNA, asked))
    async for piece in stream:
        pieces += piece.count(b'"content":"')
        first = first or time.perf_counter()
    await stream.close()
    return Told((first - began) * 1000, pieces / (time.perf_counter() - began))


async def overhead(gateway: Gateway, prompt: str) -> dict[str, float]:
    """The best of both ways, taken in turns: what else runs on the machine can only add."""
    told: dict[str, list[Told]] = {"bare": [], "gimle": []}
    async with Outbound() as outbound:
        for number in range(ROUNDS + 3):
            for name, ask in (("bare", bare), ("gimle", through)):
                one = await ask(gateway, outbound, PROMPTS[prompt])
                if number >= 3:
                    told[name].append(one)
    found = {}
    for name, all_ in told.items():
        found[f"{name}_{prompt}_first_ms"] = min(one.first for one in all_)
        found[f"{name}_{prompt}_words_a_second"] = max(one.rate for one in all_)
    return found


async def recovery(data: Path) -> float:
    """Seconds from the kill of a server to the end of the next good answer; the longest of some."""
    longest = 0.0
    for _ in range(KILLS):
        gateway = await opened(data)
        assert gateway.local is not None
        await gateway.chat(ANNA, call("local/tiny"))
        pid = gateway.local.pid("tiny")
        assert pid is not None
        began = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        await gateway.chat(ANNA, call("local/tiny"))
        longest = max(longest, time.perf_counter() - began)
        await gateway.close()
    return longest


async def memory(gateway: Gateway) -> dict[str, float]:
    """Megabytes: of the idle server of a model with no weights to speak of, and of one shape stored in three ways."""
    assert gateway.local is not None
    found = {}
    for name in ("tiny", "f16", "tq2_0", "tq1_0"):
        await gateway.chat(ANNA, call(f"local/{name}", max_tokens=4))
        found[f"{name}_mb"] = gateway.local.load(name).memory / 1e6
        await gateway.local.stop(name)
    return found


async def opened(data: Path, context: int = 2048) -> Gateway:
    """A gateway over the models there, without a database."""
    settings = Settings(data=data, engines=msgspec.structs.replace(QUICK, context=context, slots=1, memory_mb=4000))
    return await Gateway.assemble(None, settings, await Engines.open(settings, Tokens(None)), Tokens(None))


async def measured(data: Path) -> dict[str, float]:
    """All figures."""
    place(data, "tiny", tiny.scripted(data / "scripted.gguf"))
    place(data, "endless", tiny.scripted(data / "endless.gguf", "On and so it goes round ", context=4096))
    sizes = {}
    for name in ("F16", "TQ2_0", "TQ1_0"):
        made = tiny.ternary(data / f"{name}.gguf", name, width=1024, layers=8)
        sizes[f"{name.lower()}_file_mb"] = made.stat().st_size / 1e6
        place(data, name.lower(), made)
    gateway = await opened(data)
    try:
        found = await overhead(gateway, "short") | await overhead(gateway, "long")
    finally:
        await gateway.close()
    # A short context, so that the weights are most of what is seen.
    gateway = await opened(data, context=256)
    try:
        found |= await memory(gateway)
    finally:
        await gateway.close()
    return found | sizes | {"kill_to_answer_s": await recovery(data)}


def show(found: dict[str, float]) -> None:
    """As a table."""
    table = Table("", "value")
    for name, value in found.items():
        table.add_row(name, f"{value:.2f}")
    Console().print(table)


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    logs.configure("critical", as_json=False)
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measured(Path(folder)))
    print(json.dumps(found, indent=1)) if as_json else show(found)


if __name__ == "__main__":
    main()
