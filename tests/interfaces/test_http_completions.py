"""OpenAI's older completions with OpenAI's own SDK: as they came to who knows them, as a chat to all others."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.testing import Behaviour, Upstream

FIXTURES = Path(__file__).parents[1] / "fixtures" / "dialects"
RECORDED = json.loads((FIXTURES / "completions.json").read_text("utf-8"))


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    """The server, with the stand-in as a provider who knows completions, and once more as one who does not."""
    async with serving(app, tenants[0]) as running:
        for name, dialect in (("openai-like", "openai"), ("other", "responses")):
            provider = {"name": name, "base_url": upstream.url, "dialect": dialect, "any_model": True}
            await running.provide(provider)
        yield running


async def test_a_completion_passes_as_it_came(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(body=json.dumps(RECORDED["reply"]).encode()))
    answer = await sdk.completions.create(
        model="openai-like/m", prompt=["Say this", "is a test"], max_tokens=7, echo=True, logprobs=2
    )
    assert answer.choices[0].text == "\n\nThis is indeed a test"
    sent = upstream.received[-1]
    assert sent.path == "/v1/completions"
    assert sent.json == {
        **{"model": "m", "prompt": ["Say this", "is a test"], "max_tokens": 7, "echo": True, "logprobs": 2}
    }


async def test_a_stream_passes_without_the_usage_that_nobody_asked_for(
    sdk: openai.AsyncOpenAI, upstream: Upstream
) -> None:
    upstream.usual = Behaviour(events=tuple(event.encode() for event in RECORDED["stream"]), piece=5)
    told = [piece async for piece in await sdk.completions.create(model="openai-like/m", prompt="a", stream=True)]
    assert "".join(piece.choices[0].text for piece in told) == "This is indeed a test"
    options: Any = {"include_usage": True}
    asked = await sdk.completions.create(model="openai-like/m", prompt="a", stream=True, stream_options=options)
    last = [piece async for piece in asked][-1]
    assert last.usage is not None
    assert last.usage.total_tokens == 12


async def test_others_are_asked_as_a_chat(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(body=(FIXTURES / "responses" / "incomplete.json").read_bytes()))
    answer = await sdk.completions.create(model="other/m", prompt="Bees", max_tokens=5, temperature=0.5)
    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
        "text_completion",
        "Bees",
        "length",
    )
    sent = upstream.received[-1]
    assert (sent.path, sent.json["input"][0]["content"]) == ("/v1/responses", "Bees")
    assert sent.json["max_output_tokens"] == 5


async def test_the_engine_inside_continues_too(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.completions.create(model="builtin/extract", prompt="Who are you?")
    stream = await sdk.completions.create(model="builtin/extract", prompt="Who are you?", stream=True)
    assert "".join([piece.choices[0].text async for piece in stream]) == whole.choices[0].text != ""


async def test_what_others_can_not_do_names_the_field(sdk: openai.AsyncOpenAI) -> None:
    for fields in ({"echo": True}, {"suffix": "z"}, {"best_of": 3}, {"stop": "\n"}, {"n": 2}):
        asked: Any = fields
        with pytest.raises(openai.BadRequestError) as wrong:
            await sdk.completions.create(model="other/m", prompt="a", **asked)
        assert (wrong.value.param, wrong.value.code) == (next(iter(fields)), "unsupported_parameter")
    with pytest.raises(openai.BadRequestError) as wrong:
        await sdk.completions.create(model="other/m", prompt=["a", "b"])
    assert wrong.value.param == "prompt"
    with pytest.raises(openai.BadRequestError) as wrong:
        await sdk.completions.create(model="other/m", prompt="a", extra_body={"gimle": {"collection": "default"}})
    assert wrong.value.param == "gimle.collection"
