"""How many tokens a request has, where no provider counts: its words by a counter, its pictures by a rule. Pure."""

from collections.abc import Callable, Iterator

import msgspec

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
)

# What the marks around a turn and a tool cost beside their words.
_TURN_TOKENS = 4
_TOOL_TOKENS = 12
# What vendors put before the first tool to explain them all.
_TOOLS_TOKENS = 700
# About the most that vendors charge for a picture which they do not take apart, and for a page of a document.
_IMAGE_TOKENS = 1600
_PAGE_TOKENS = 3000
# Sound and documents as base64: bytes a second of the usual formats, and of a page.
_BYTES_A_PAGE = 50_000


def tokens(ask: Ask, count: Callable[[str], int]) -> int:
    """About the most tokens of a request. `count` gives those of a text."""
    turns = sum(_TURN_TOKENS + sum(_part(part, count) for part in turn.parts) for turn in ask.turns)
    return turns + sum(_TOOL_TOKENS + sum(map(count, _tool(tool))) for tool in ask.tools if isinstance(tool, Tool))


def at_most(ask: Ask, count: Callable[[str], int]) -> int:
    """The most tokens of a request, where `count` gives no fewer of a text than its model does."""
    return tokens(ask, count) + (_TOOLS_TOKENS if ask.tools else 0) + _TURN_TOKENS


def _part(part: Part, count: Callable[[str], int]) -> int:
    match part:
        case Image():
            return _IMAGE_TOKENS
        case File(text=None):
            return _PAGE_TOKENS * max(1, len(part.data or "") // _BYTES_A_PAGE)
        case Audio(data=data):
            return len(data) // _BYTES_A_PAGE * _PAGE_TOKENS
        case ToolResult(parts=parts):
            return sum(_part(each, count) for each in parts)
    return sum(map(count, _words(part)))


def _words(part: Part) -> Iterator[str]:
    match part:
        case ToolCall(name=name, arguments=arguments):
            yield from (name, arguments)
        case Thinking(text=text, sealed=sealed):
            yield sealed or text
        case Foreign(raw=raw):
            yield msgspec.json.encode(raw).decode()
        case File(text=str(text)):
            yield text
        case Text(text=text) | Refusal(text=text):
            yield text


def _tool(tool: Tool) -> Iterator[str]:
    yield tool.name
    yield tool.description or ""
    yield msgspec.json.encode(tool.schema or {}).decode()
