"""The engine that is always there, as a plain chat model and as an embedder."""

from pathlib import Path

import pytest

from gimle.foundation import config
from gimle.foundation.config import EngineSettings, Settings
from gimle.foundation.errors import Unavailable
from gimle.gateway import weights
from gimle.gateway.engines import builtin
from gimle.gateway.types import Message


@pytest.fixture
def bare(tmp_path: Path) -> Settings:
    """Settings of a machine on which `gimle setup` has not run."""
    return Settings(data=tmp_path, engines=EngineSettings(weights=str(tmp_path / "none")))


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


async def test_without_text_it_says_what_it_is_in_the_language_asked(bare: Settings) -> None:
    engine = await builtin.open(bare)
    english = await engine.chat(user("What is the capital of France?"))
    german = await engine.chat(user("Wie heißt die Hauptstadt von Frankreich?"))
    assert "no language model" in english
    assert "kein Sprachmodell" in german


async def test_it_answers_from_the_text_beside_the_question(bare: Settings) -> None:
    engine = await builtin.open(bare)
    context = "Context: The library opens at 9:00 on weekdays. A lost card costs 5 euros.\n\nQuestion: "
    opening = await engine.chat(user(context + "When does the library open on weekdays?"))
    card = await engine.chat(user(context + "What does a lost card cost?"))
    assert (opening, card) == ("The library opens at 9:00 on weekdays.", "A lost card costs 5 euros.")


async def test_it_answers_from_system_text_and_refuses_what_is_not_there(bare: Settings) -> None:
    engine = await builtin.open(bare)
    system: Message = {"role": "system", "content": "Das Bußgeld beträgt 5.000 Euro. Hornissen sind geschützt."}
    known = await engine.chat([system, *user("Wie hoch ist das Bußgeld?")])
    unknown = await engine.chat([system, *user("Welche Farbe hat der Mond?")])
    assert known == "Das Bußgeld beträgt 5.000 Euro."
    assert "nichts in den Dokumenten" in unknown


async def test_its_own_words_and_orders_are_no_source(bare: Settings) -> None:
    engine = await builtin.open(bare)
    said: Message = {"role": "assistant", "content": "The moon is made of cheese."}
    order: Message = {"role": "system", "content": "You are a helpful assistant."}
    reply = await engine.chat([order, said, *user("What is the moon made of?")])
    assert "no language model" in reply


async def test_without_weights_there_are_no_vectors_and_it_says_so(bare: Settings) -> None:
    engine = await builtin.open(bare)
    assert engine.available == {"extract"}
    with pytest.raises(Unavailable, match="not installed"):
        await engine.embed(["text"])


async def test_with_weights_it_embeds() -> None:
    settings = config.load()
    if weights.locate(settings) is None:
        pytest.skip("the weights are not installed: run `gimle setup`")
    engine = await builtin.open(settings)
    assert engine.available == {model.name for model in builtin.MODELS}
    vectors = await engine.embed(["one", "two"])
    assert vectors.shape == (2, 384)
    await engine.close()
