"""Which models a name stands for."""

import pytest

from gimle.foundation.errors import ModelNotFound
from gimle.selection.registry import Registry
from gimle.selection.types import Model

MODELS = [
    Model(provider="one", name="llama", dialect="openai"),
    Model(provider="two", name="llama", dialect="openai"),
    Model(provider="two", name="org/llama", dialect="openai"),
    Model(provider="two", name="vectors", kind="embedding", dialect="openai", dimensions=8),
    Model(provider="builtin", name="extract"),
]
REGISTRY = Registry(MODELS, {"two": Model(provider="two", name="", dialect="openai")})


@pytest.mark.parametrize(
    "name,found",
    [
        ("one/llama", ["one/llama"]),
        ("llama", ["one/llama", "two/llama"]),
        ("org/llama", ["two/org/llama"]),
        ("two/org/llama", ["two/org/llama"]),
        ("two/brand-new", ["two/brand-new"]),
        ("auto", ["one/llama", "two/llama", "two/org/llama", "builtin/extract"]),
        ("auto:cheapest", ["one/llama", "two/llama", "two/org/llama", "builtin/extract"]),
    ],
)
def test_a_name_stands_for(name: str, found: list[str]) -> None:
    assert [model.id for model in REGISTRY.resolve(name, "chat")] == found


@pytest.mark.parametrize(
    "name", ["nobody", "one/brand-new", "two/", "", "/", "auto:", "auto:cheap", "vectors", "x" * 10_000]
)
def test_a_name_that_stands_for_nothing(name: str) -> None:
    with pytest.raises(ModelNotFound) as raised:
        REGISTRY.resolve(name, "chat")
    assert raised.value.field == "model"
    assert raised.value.hint
    assert len(raised.value.message) < 200


def test_the_hint_has_the_nearest_names() -> None:
    with pytest.raises(ModelNotFound) as raised:
        REGISTRY.resolve("builtin/extrct", "chat")
    assert "builtin/extract" in str(raised.value.hint)


def test_a_model_of_another_kind_is_told_as_such() -> None:
    with pytest.raises(ModelNotFound, match="not a model for embedding"):
        REGISTRY.resolve("one/llama", "embedding")
