"""The manifest is sound, and what is chosen from it fits."""

import pytest

from gimle.foundation import plugins
from gimle.gateway.local import limits, manifest
from gimle.gateway.local.types import Entry

GB = 1_000_000_000


@pytest.mark.parametrize("entry", manifest.entries(), ids=lambda entry: entry.name)
def test_each_model_is_pinned_or_says_what_is_wrong_with_it(entry: Entry) -> None:
    assert entry.engine in plugins.names("gimle.gateway.engines")
    assert entry.licence.url.startswith("https://")
    assert entry.licence.open or entry.licence.notice
    if entry.fault is None:
        assert len(entry.model.revision) == 40
        assert entry.model.sha256
        assert entry.model.size
        assert entry.memory > entry.model.size


def test_the_default_is_llama_and_bitnet_says_why_it_is_not_offered() -> None:
    assert manifest.entries()[0].name == manifest.DEFAULT
    assert all(entry.fault for entry in manifest.entries() if entry.name.startswith("bitnet"))
    assert manifest.entry("bonsai-4b").bits < 2


@pytest.mark.parametrize(
    "available, cores, chosen",
    [
        (32 * GB, 16, "llama-3-8b-instruct"),
        (7 * GB, 4, "llama-3-8b-instruct"),
        (32 * GB, 2, "bonsai-8b"),
        (5 * GB, 8, "bonsai-8b"),
        (5 * GB, 1, "bonsai-4b"),
        (2 * GB, 2, "bonsai-4b"),
        (1 * GB, 0.5, None),
        (1 * GB, 1, "bonsai-1.7b"),
        (int(0.5 * GB), 4, None),
    ],
)
def test_the_best_that_fits_is_chosen(available: int, cores: float, chosen: str | None) -> None:
    entry = limits.choose(manifest.entries(), available, cores)
    assert (entry.name if entry else None) == chosen
