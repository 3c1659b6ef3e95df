"""OpenAI's own SDK for Node, unchanged, against a running server.

It is installed once, into pytest's cache, from a lock that pins it by its hash and names no host.
"""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.interfaces import vendor
from tests.interfaces.served import ran
from tests.interfaces.serving import Served, serving
from tests.interfaces.test_how_to import blocks, meant_for

from gimle.app import App
from gimle.testing import WORDS, Behaviour, Upstream

pytestmark = pytest.mark.full

SOURCES = Path(__file__).parents[1] / "fixtures" / "node"
TEXT = "".join(WORDS)
INSTALL_SECONDS = 180


@pytest.fixture(scope="session")
def installed(pytestconfig: pytest.Config) -> Path:
    """The folder in which Node finds the SDK. Skips where Node is absent, or the SDK can't be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node and npm are not installed.")
    folder = pytestconfig.cache.mkdir("node")
    kept = folder / "node_modules" / ".package-lock.json"
    pinned = (SOURCES / "package-lock.json").read_bytes()
    fresh = kept.exists() and (folder / "package-lock.json").read_bytes() == pinned
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
    if not fresh:
        install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        assert "EINTEGRITY" not in done.stderr, "The SDK is not the one that the lock pins."
        if done.returncode != 0:
            pytest.skip(f"npm can't install the SDK: {done.stderr.strip()[-300:]}")
    return folder


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running:
        # The stand-in fails as the model's name says.
        await running.provide({**vendor.provider(upstream), "any_model": True})
        yield running


class Node(NamedTuple):
    """Programs that use the SDK."""

    folder: Path
    served: Served

    async def run(self, part: str) -> Any:
        """What a part of the session has printed."""
        told = {"GIMLE_URL": self.served.url + "/v1", "GIMLE_KEY": self.served.token}
        return json.loads(await ran("node", "session.mjs", part, home=self.folder, **told))


@pytest.fixture
def node(installed: Path, served: Served) -> Node:
    return Node(installed, served)


async def test_it_chats(node: Node, upstream: Upstream) -> None:
    assert await node.run("chat") == {"text": TEXT, "usage": 11 + len(WORDS), "provider": "stand"}
    assert upstream.received[-1].json["seed"] == 7


async def test_it_reads_a_stream_and_its_usage(node: Node) -> None:
    assert await node.run("stream") == {"text": TEXT, "tokens": 11 + len(WORDS)}


async def test_it_streams_the_arguments_of_tools(node: Node, upstream: Upstream) -> None:
    upstream.plan.append(vendor.streams_the_weather_call())
    told = await node.run("tools")
    arguments = vendor.WEATHER_CALL["function"]["arguments"]
    assert told["calls"] == [[vendor.WEATHER_CALL["id"], arguments], ["call_second", arguments]]
    assert (told["finish"], told["pieces"] >= 6) == ("tool_calls", True)


async def test_the_program_of_the_how_to_prints_its_answer(installed: Path, served: Served) -> None:
    program = installed / "how_to.mjs"
    program.write_text(meant_for(blocks("javascript")[0], served))
    assert await ran("node", str(program), home=installed) == TEXT


async def test_it_embeds(node: Node) -> None:
    assert await node.run("embeddings") == [8, 8]


async def test_it_asks_for_responses_and_goes_on_with_one(node: Node, upstream: Upstream) -> None:
    assert await node.run("responses") == {"whole": TEXT, "text": TEXT, "streamed": TEXT, "later": TEXT}
    said = [message["content"] for message in upstream.received[-1].json["messages"]]
    assert said == ["When do bees swarm?", TEXT, "Why?"]


async def test_it_lists_models(node: Node) -> None:
    assert {"stand/mock", "stand/vectors"} <= set(await node.run("models"))


async def test_it_raises_its_own_errors_with_the_providers_words(node: Node, upstream: Upstream) -> None:
    wrong = vendor.refuses(400, "Invalid value for 'temperature'.", "invalid_request_error", param="temperature")
    upstream.plan.append(wrong)
    told = await node.run("errors")
    found = {name: (error["kind"], error.get("status")) for name, error in told.items()}
    assert found == {
        "refused": ("BadRequestError", 400),
        "limited": ("RateLimitError", 429),
        "down": ("InternalServerError", 502),
        "stranger": ("AuthenticationError", 401),
        "unknown": ("NotFoundError", 404),
        "broken": ("APIError", None),
    }
    assert told["refused"]["request"]
    assert "Invalid value for 'temperature'." in told["refused"]["message"]


async def test_a_caller_who_aborts_ends_the_providers_work(node: Node, upstream: Upstream) -> None:
    upstream.usual = Behaviour(chunks=1000, event_delay=0.02)
    assert (await node.run("abort"))["seen"] >= 3
    async with asyncio.timeout(5):
        await upstream.left.wait()
    assert upstream.open_streams == 0
