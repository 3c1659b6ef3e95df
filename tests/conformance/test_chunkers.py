"""What every chunker keeps to. A new one brings `tests/fixtures/chunkers/<name>.json`: how it cuts the fixture."""

import json
from pathlib import Path

import pytest

from gimle.foundation import plugins
from gimle.knowledge.types import Cut, Parsed

CHUNKERS = "gimle.knowledge.chunkers"
NAMES = plugins.names(CHUNKERS)
FIXTURES = Path(__file__).parents[1] / "fixtures"
LIMIT = 12


def _count(text: str) -> int:
    return len(text.split())


def _parsed() -> Parsed:
    data = (FIXTURES / "parsers" / "markdown.md").read_bytes()
    parsed: Parsed = plugins.load("gimle.knowledge.parsers", "markdown").parse(data, "text/markdown")
    return parsed


def _cut(name: str, parsed: Parsed, limit: int = LIMIT) -> list[Cut]:
    cuts: list[Cut] = plugins.load(CHUNKERS, name).cut(parsed, limit, _count)
    return cuts


@pytest.mark.parametrize("name", NAMES)
def test_it_cuts_the_fixture_as_recorded(name: str) -> None:
    parsed = _parsed()
    shown = [{"text": parsed.text[cut.start : cut.end], "heading": cut.heading} for cut in _cut(name, parsed)]
    assert shown == json.loads((FIXTURES / "chunkers" / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8, 100])
def test_no_cut_is_too_long_and_no_word_is_lost(name: str, limit: int) -> None:
    parsed = _parsed()
    cuts = _cut(name, parsed, limit)
    assert all(_count(parsed.text[cut.start : cut.end]) <= limit for cut in cuts)
    assert " ".join(parsed.text[cut.start : cut.end] for cut in cuts).split() == parsed.text.split()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_makes_nothing(name: str) -> None:
    assert _cut(name, Parsed("", ())) == []
