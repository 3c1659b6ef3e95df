"""The tokens of a request, where we count them."""

import pytest

from gimle.gateway.counting import tokens
from gimle.gateway.neutral import (
    Ask,
    Audio,
    File,
    Foreign,
    Image,
    Part,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)


def counted(*parts: Part, tools: tuple[Tool, ...] = ()) -> int:
    return tokens(Ask(turns=(Turn(role="user", parts=parts),), tools=tools), lambda text: len(text.split()))


def test_words_are_counted_wherever_they_stand() -> None:
    bare = counted()
    text = Text(text="a b c")
    for part in (
        text,
        Thinking(text="a b c"),
        Thinking(sealed="a b c"),
        ToolCall(id="x", name="a", arguments="b c"),
        ToolResult(id="x", parts=(text,)),
        File(text="a b c"),
        Refusal(text="a b c"),
    ):
        assert counted(part) == bare + 3
    assert counted(Foreign(dialect="a", raw={"a": "b"})) > bare
    assert counted(tools=(Tool(name="a", description="b c", schema={"type": "object"}),)) > bare + 3


@pytest.mark.parametrize("part", [Image(url="https://x/y.png"), File(data="A" * 100), File(id="file_1")])
def test_what_has_no_words_has_a_price(part: Part) -> None:
    assert counted(part) > 1000
    assert counted(ToolResult(id="x", parts=(Image(url="https://x/y.png"),))) > 1000


def test_a_long_document_costs_more_than_a_short_one() -> None:
    assert counted(File(data="A" * 1_000_000)) > 5 * counted(File(data="A"))
    assert counted(Audio(data="A" * 1_000_000, media_type="audio/wav")) > counted()
