"""What every engine inside Gimle keeps to, whatever it runs on. Those with processes: test_engines_serving.py."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gimle.foundation import plugins
from gimle.foundation.config import Settings
from gimle.gateway.types import Engine
from gimle.selection.types import Model

ENGINES = "gimle.gateway.engines"
NAMES = tuple(name for name in plugins.names(ENGINES) if "MODELS" in vars(plugins.load(ENGINES, name)))
QUESTION = [
    {"role": "system", "content": "The mill of Birkenried was built in 1712. It has two wheels."},
    {"role": "user", "content": "When was the mill built?"},
]


@pytest.fixture(params=NAMES)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    opened: Engine = await plugins.load(ENGINES, request.param).open(Settings(data=tmp_path))
    yield opened
    await opened.close()


def models(name: str) -> tuple[Model, ...]:
    found: tuple[Model, ...] = plugins.load(ENGINES, name).MODELS
    return found


@pytest.mark.parametrize("name", NAMES)
def test_its_models_are_local_and_complete(name: str) -> None:
    assert models(name)
    for model in models(name):
        assert model.provider == name
        assert model.local
        assert model.context_window > 0
        assert (model.kind == "embedding") == (model.dimensions is not None)


async def test_what_serves_is_what_it_lists(engine: Engine) -> None:
    listed = {model.name for name in NAMES for model in models(name)}
    assert engine.available <= listed


async def test_it_answers_and_says_the_same_twice(engine: Engine) -> None:
    text = await engine.chat(QUESTION)
    assert "1712" in text
    assert text == await engine.chat(QUESTION)


async def test_like_texts_have_like_vectors(engine: Engine) -> None:
    texts = ["The mill was built in 1712.", "They built the mill in 1712.", "Hornets hunt insects."]
    vectors = await engine.embed(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape[0] == 3
    assert np.isfinite(vectors).all()
    similar = vectors @ vectors.T
    assert similar[0, 1] > similar[0, 2]


async def test_a_text_has_nearly_the_same_vector_whatever_stands_beside_it(engine: Engine) -> None:
    """Eight-bit arithmetic scales by the whole batch, so neighbours move a vector a little; they may not turn it."""
    alone = await engine.embed(["The mill was built in 1712."])
    among = await engine.embed(["Hornets hunt insects.", "The mill was built in 1712.", "x " * 300])
    assert float(alone[0] @ among[1]) > 0.98
