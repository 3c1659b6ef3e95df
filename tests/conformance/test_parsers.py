"""What every parser keeps to. A new one brings a file `tests/fixtures/parsers/<name>.<extension>`.

All fixtures say the same: a heading, two sentences, a second heading, two things.
"""

from pathlib import Path

import pytest

from gimle.foundation import plugins
from gimle.foundation.config import KnowledgeSettings
from gimle.foundation.errors import GimleError
from gimle.knowledge import parsing
from gimle.knowledge.types import Parsed

NAMES = plugins.names(parsing.PARSERS)
FIXTURES = Path(__file__).parents[1] / "fixtures" / "parsers"
SAID = ("The lending shelf", "The shelf opens at nine.", "Bring your card.", "a drill", "a ladder of 6 metres")
RUBBISH = [b"\x00", b"\xff\xfe\x00\xd8" * 50, bytes(range(256)) * 20]
SETTINGS = KnowledgeSettings(parse_seconds=60)


def _media_type(file: Path) -> str:
    return parsing.extensions()[file.suffix.removeprefix(".")]


def _file(name: str) -> Path:
    (file,) = FIXTURES.glob(f"{name}.*")
    return file


async def _parse(name: str) -> Parsed:
    file = _file(name)
    return await parsing.parse(file.read_bytes(), _media_type(file), SETTINGS)


@pytest.mark.parametrize("name", NAMES)
async def test_it_reads_its_fixture_and_keeps_every_word(name: str) -> None:
    text = " ".join((await _parse(name)).text.split())
    places = [text.find(said) for said in SAID]
    assert -1 not in places, text
    assert places == sorted(places), "The order of the document is lost"


@pytest.mark.parametrize("name", NAMES)
async def test_its_blocks_cover_the_text_in_order(name: str) -> None:
    parsed = await _parse(name)
    at, outside = 0, ""
    for block in parsed.blocks:
        assert at <= block.start < block.end <= len(parsed.text)
        outside += parsed.text[at : block.start]
        at = block.end
    assert not (outside + parsed.text[at:]).strip()


@pytest.mark.parametrize("name", NAMES)
async def test_it_says_the_same_twice(name: str) -> None:
    assert await _parse(name) == await _parse(name)


@pytest.mark.parametrize("name", NAMES)
async def test_a_page_number_stands_where_the_format_has_pages(name: str) -> None:
    parsed = await _parse(name)
    pages = {block.page for block in parsed.blocks}
    assert pages == ({None} if parsed.pages is None else set(range(1, parsed.pages + 1)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", RUBBISH, ids=["nul", "half", "all"])
async def test_rubbish_is_refused_or_read_but_never_breaks_it(name: str, data: bytes) -> None:
    try:
        parsed = await parsing.parse(data, _media_type(_file(name)), SETTINGS)
    except GimleError:
        return
    assert parsed.text.strip()


@pytest.mark.parametrize("name", NAMES)
def test_no_two_parsers_read_the_same(name: str) -> None:
    mine = set(plugins.load(parsing.PARSERS, name).READS)
    others = {kind for other in NAMES if other != name for kind in plugins.load(parsing.PARSERS, other).READS}
    assert mine
    assert not mine & others
