"""What every packaged provider keeps to. A provider is data: being read and checked as at a start is its test."""

from pathlib import Path

import pytest

from gimle.foundation import config, plugins
from gimle.foundation.config import Settings
from gimle.gateway.sources import configured
from gimle.gateway.types import Provider

PROVIDERS = configured(Settings(data=Path("/nonexistent")), plugins.names("gimle.gateway.engines"))


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_it_is_reached_safely(provider: Provider) -> None:
    assert provider.source == "packaged"
    assert provider.local or provider.base_url.startswith("https://")
    assert provider.local or provider.api_key_env


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_it_holds_no_secret(provider: Provider) -> None:
    """The file names where a key is; a key in it would be everybody's."""
    file = Path(config.__file__).parents[1] / "gateway" / "providers" / f"{provider.name}.toml"
    assert "sk-" not in file.read_text("utf-8")


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_its_models_have_sound_sizes(provider: Provider) -> None:
    assert provider.models
    for model in provider.models:
        assert model.context_window >= 1024
        assert model.max_output is None or model.max_output <= model.context_window
        assert model.kind != "chat" or model.max_output is not None


def test_each_file_is_a_provider() -> None:
    files = {file.stem for file in (Path(config.__file__).parents[1] / "gateway" / "providers").glob("*.toml")}
    assert files == {provider.name for provider in PROVIDERS}
