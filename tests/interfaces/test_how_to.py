"""The programs of `docs/how-to/use-any-sdk.md` do what the page says, against a running server."""

import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.interfaces import vendor
from tests.interfaces.served import ran
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.testing import WORDS, Upstream

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "use-any-sdk.md").read_text("utf-8")
TEXT = "".join(WORDS)


def blocks(language: str) -> list[str]:
    """The blocks of the page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def meant_for(block: str, served: Served) -> str:
    """A block for this server and its key, and for the one model here that answers in a known way."""
    there = block.replace("http://127.0.0.1:8080", served.url).replace("gk_…", served.token)
    return re.sub(r"\bauto\b", "stand/mock", there)


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running:
        await running.provide(vendor.provider(upstream))
        yield running


@pytest.mark.parametrize("number, answers", [(0, 3), (1, 2), (2, 1)], ids=["openai", "anthropic", "langchain"])
async def test_each_program_prints_its_answers(served: Served, tmp_path: Path, number: int, answers: int) -> None:
    said = await ran(sys.executable, "-c", meant_for(blocks("python")[number], served), home=tmp_path)
    assert said.count(TEXT) == answers


async def test_llm_finds_the_model(served: Served, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(meant_for(blocks("yaml")[0], served))
    (tmp_path / "keys.json").write_text(f'{{"gimle": "{served.token}"}}')
    assert await ran(sys.executable, "-m", "llm", "-m", "gimle", "When do bees swarm?", home=tmp_path) == TEXT + "\n"
