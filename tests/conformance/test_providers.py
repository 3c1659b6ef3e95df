"""What every packaged provider keeps to. A provider is data: being read and checked as at a start is its test."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gimle.foundation import config, plugins
from gimle.foundation.config import Settings
from gimle.gateway.catalog import Access
from gimle.gateway.sources import configured
from gimle.gateway.types import Dialect, Provider

PROVIDERS = configured(Settings(data=Path("/nonexistent")), plugins.names("gimle.gateway.engines"))
FOLDER = Path(config.__file__).parents[1] / "gateway" / "providers"
NEEDED = {
    "openai", "azure", "google", "mistral", "groq", "together", "openrouter", "deepseek", "xai", "cohere",
    "cohere-chat", "fireworks", "ollama", "lm-studio", "vllm", "llama-server",
}  # fmt: skip
CAPABILITIES = {"tools", "json_schema", "vision", "reasoning"}
each = pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)


def dialect_of(provider: Provider) -> Dialect:
    found: Dialect = plugins.load("gimle.gateway.dialects", provider.dialect).DIALECT
    return found


@each
def test_it_is_reached_safely(provider: Provider) -> None:
    assert provider.source == "packaged"
    if provider.local:
        # What runs beside Gimle is asked nowhere else, and not before someone says that it runs.
        assert urlsplit(provider.base_url).hostname == "127.0.0.1"
        assert provider.api_key_env is None
        assert not provider.enabled
    else:
        assert provider.base_url.startswith("https://")
        assert provider.api_key_env


@each
def test_it_holds_no_secret(provider: Provider) -> None:
    """The file names where a key is; a key in it would be everybody's."""
    text = (FOLDER / f"{provider.name}.toml").read_text("utf-8")
    assert not any(sign in text for sign in ("sk-", "AIza", "gsk_", "xai-", "Bearer"))


@each
def test_its_models_have_sound_sizes(provider: Provider) -> None:
    assert provider.models or provider.any_model
    for model in provider.models:
        assert model.context_window >= (1024 if model.kind == "chat" else 256)
        assert model.max_output is None or model.max_output <= model.context_window
        assert model.kind != "chat" or model.max_output is not None
        assert (model.kind == "embedding") == (model.dimensions is not None)
        assert model.parameters is None or model.parameters >= 10_000_000


@each
def test_its_models_can_do_what_gimle_knows(provider: Provider) -> None:
    for model in provider.models:
        assert set(model.capabilities) <= CAPABILITIES
        assert model.kind == "chat" or not model.capabilities


@each
def test_its_dialect_serves_its_models(provider: Provider) -> None:
    dialect = dialect_of(provider)
    serves = {
        "chat": dialect.chat,
        "embedding": dialect.embeddings,
        "rerank": dialect.rerank,
        "transcription": dialect.transcription,
    }
    for model in provider.models:
        assert serves[model.kind] is not None, f"{provider.dialect} has nothing for {model.kind}"
    # Whoever takes any name takes chats.
    assert dialect.chat is not None or not provider.any_model


@each
def test_what_it_says_of_continuing_is_of_use(provider: Provider) -> None:
    continues = provider.continues_assistant or any(model.continues_assistant for model in provider.models)
    assert continues or not (provider.continue_message or provider.continue_request)


@each
def test_its_prices_can_be_looked_up(provider: Provider) -> None:
    assert provider.local == (provider.price_ref is None)


@each
def test_its_addresses_are_whole(provider: Provider) -> None:
    dialect = dialect_of(provider)
    access = Access(provider, dialect, ())
    assert access.url(dialect.models_path).startswith(provider.base_url)
    assert "{" not in access.url("/x", "some/model")


def test_each_file_is_a_provider() -> None:
    files = {file.stem for file in FOLDER.glob("*.toml")}
    assert files == {provider.name for provider in PROVIDERS}
    assert files >= NEEDED


def test_nobody_is_asked_before_there_is_a_key_or_a_word_of_the_user() -> None:
    """A fresh install reaches nothing, so `auto` has nothing to trip over."""
    for provider in PROVIDERS:
        assert provider.api_key_env or not provider.enabled
