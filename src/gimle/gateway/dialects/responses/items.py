"""The items of a conversation as turns of the neutral form, and back.

The format has an item for each message, thought and tool call; the neutral form has a turn for what one side says in
one go. Items of the model that follow each other make one turn. Where a message begins inside it, its first text says
so under `item`, with the message's own fields.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from gimle.foundation.errors import InvalidRequest, Unsayable
from gimle.gateway.dialects.responses.fields import NAME, checked, kept, own, rest
from gimle.gateway.dialects.responses.parts import BREAKPOINT, read_parts, write_content, write_said
from gimle.gateway.dialects.responses.thoughts import read_thought, sent_thought
from gimle.gateway.neutral import (
    File,
    Foreign,
    Image,
    Json,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Turn,
)


class _Message(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Any]


class _Call(msgspec.Struct, frozen=True):
    call_id: str
    name: str
    arguments: str = ""


class _Result(msgspec.Struct, frozen=True):
    call_id: str
    output: str | list[Any]


class _Ours(msgspec.Struct, frozen=True):
    signature: str | None = None


# -- reading


class Said:
    """Turns as they grow, and which tool each call was for."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.places: dict[str, str] = {}
        self.tools: dict[str, str] = {}

    def answer(self, parts: Sequence[Part], where: Sequence[str], *, message: bool = False) -> None:
        """More of what the model says; a message that follows a message is another turn, unless calls wait."""
        last = self.turns[-1] if self.turns and self.turns[-1].role == "assistant" else None
        if last is None or (message and _has_message(last) and not _has_calls(last)):
            self.add(Turn(role="assistant", parts=tuple(parts)), where)
        else:
            self.turns[-1] = Turn(role="assistant", parts=(*last.parts, *parts))
            self._stand(where, len(last.parts))

    def add(self, turn: Turn, where: Sequence[str]) -> None:
        """A turn of its own."""
        self.turns.append(turn)
        self._stand(where, 0)

    def _stand(self, where: Sequence[str], first: int) -> None:
        number = len(self.turns) - 1
        self.places |= {f"turns[{number}].parts[{n}]": place for n, place in enumerate(where, first)}
        self.places.setdefault(f"turns[{number}]", where[0].partition(".")[0])


def _has_message(turn: Turn) -> bool:
    return any(isinstance(part, Text | Refusal) for part in turn.parts)


def _has_calls(turn: Turn) -> bool:
    return any(isinstance(part, ToolCall) for part in turn.parts)


def read_turns(items: list[Any], first: Sequence[Turn] = ()) -> Said:
    """The turns that the items of a caller make, behind those that are there. Raises `InvalidRequest`."""
    said = Said()
    for turn in first:
        said.add(turn, ["instructions"])
    for number, given in enumerate(items):
        where = f"input[{number}]"
        item = checked(given, dict, where)
        kind = item.get("type") or ("message" if "role" in item else None)
        if not isinstance(kind, str):
            raise InvalidRequest(f"{where}: an item has a type or a role.", field=where)
        read = _READERS.get(kind, _foreign)
        read(said, item, where)
    return said


def _message(said: Said, item: Json, where: str) -> None:
    message = checked(item, _Message, where)
    parts = read_parts(message.content, f"{where}.content")
    places = [f"{where}.content[{n}]" for n in range(len(parts))]
    more = rest(item, "type", "role", "content")
    if message.role == "assistant":
        said.answer(_marked(parts, more), places, message=True)
    else:
        said.add(Turn(role=message.role, parts=parts, extra=kept(more)), places)


def _marked(parts: tuple[Part, ...], item: Json) -> tuple[Part, ...]:
    """The parts of a message, of which the first carries the message's own fields."""
    first = parts[0]
    if not isinstance(first, Text):
        return parts
    return (msgspec.structs.replace(first, extra={NAME: {**own(first.extra), "item": item}}), *parts[1:])


def _call(said: Said, item: Json, where: str) -> None:
    call = checked(item, _Call, where)
    ours = checked(item.get("gimle") or {}, _Ours, f"{where}.gimle")
    said.tools[call.call_id] = call.name
    part = ToolCall(
        id=call.call_id,
        name=call.name,
        arguments=call.arguments,
        signature=ours.signature,
        extra=kept(rest(item, "type", "call_id", "name", "arguments", "gimle")),
    )
    said.answer([part], [where])


def _result(said: Said, item: Json, where: str) -> None:
    result = checked(item, _Result, where)
    parts = read_parts(result.output, f"{where}.output")
    for number, part in enumerate(parts):
        if not isinstance(part, Text | Image | File):
            place = f"{where}.output[{number}]"
            raise Unsayable("A tool's result is text, images and files here.", field=place)
    part = ToolResult(
        id=result.call_id,
        parts=tuple(part for part in parts if isinstance(part, Text | Image | File)),
        name=said.tools.get(result.call_id),
        extra=kept(rest(item, "type", "call_id", "output")),
    )
    said.add(Turn(role="tool", parts=(part,)), [where])
    turn = len(said.turns) - 1
    said.places |= {f"turns[{turn}].parts[0].parts[{n}]": f"{where}.output[{n}]" for n in range(len(parts))}


def _thought(said: Said, item: Json, where: str) -> None:
    said.answer([read_thought(item, where)], [where])


def _foreign(said: Said, item: Json, where: str) -> None:
    if item.get("type") == "item_reference":
        raise Unsayable("Items can't be referred to here.", field=where, hint="Send the item itself.")
    said.answer([Foreign(dialect=NAME, raw=item)], [where])


_READERS: dict[str, Callable[[Said, Json, str], None]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _result,
    "reasoning": _thought,
}


# -- writing


class Items(msgspec.Struct):
    """A conversation for a provider, and the neutral names of what had to be left out."""

    items: list[Json] = []
    dropped: list[str] = []


def write_items(turns: Sequence[Turn]) -> Items:
    """The items that say the same as these turns. Raises `Unsayable`, which names the turn."""
    written = Items()
    for number, turn in enumerate(turns):
        where = f"turns[{number}]"
        if turn.name is not None:
            written.dropped.append(f"{where}.name")
        written.dropped += [f"{where}.parts[{n}].cache" for n, part in enumerate(turn.parts) if _is_marked(part)]
        if turn.role == "assistant":
            _write_answer(turn, where, written)
        elif turn.role == "tool":
            _write_results(turn, where, written)
        else:
            content = write_content(turn.parts, where)
            written.items.append({"type": "message", **own(turn.extra), "role": turn.role, "content": content})
    return written


def _is_marked(part: Part) -> bool:
    """Whether a part carries a cache mark that OpenAI, who caches by itself, has not asked for."""
    if not isinstance(part, Text | Image | File | ToolCall | ToolResult):
        return False
    return part.cache is not None and BREAKPOINT not in own(part.extra)


def _write_results(turn: Turn, where: str, written: Items) -> None:
    for number, part in enumerate(turn.parts):
        place = f"{where}.parts[{number}]"
        if not isinstance(part, ToolResult):
            raise Unsayable("A turn of tools holds results only.", field=place)
        if part.failed:
            written.dropped.append(f"{place}.failed")
        output = write_content(part.parts, place)
        written.items.append({"type": "function_call_output", **own(part.extra), "call_id": part.id, "output": output})


def _write_answer(turn: Turn, where: str, written: Items) -> None:
    number = 0
    for parts in _grouped(turn.parts):
        place, number = f"{where}.parts[{number}]", number + len(parts)
        match parts[0]:
            case Text() | Refusal():
                written.items.append(_written_message([part for part in parts if isinstance(part, Text | Refusal)]))
            case ToolCall() as call:
                written.items.append(write_call(call))
            case Thinking() as thought:
                item = sent_thought(thought)
                if item is None:
                    written.dropped.append(place)
                else:
                    written.items.append(item)
            case Foreign(dialect=dialect, raw=raw) if dialect == NAME:
                written.items.append(raw)
            case _:
                raise Unsayable("The model's own turns can't hold such a part in OpenAI's responses.", field=place)


def _grouped(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """The parts of each item: those of a message together, all others alone."""
    group: list[Part] = []
    for part in parts:
        joins = isinstance(part, Text | Refusal) and group and isinstance(group[0], Text | Refusal)
        begins = isinstance(part, Text) and "item" in own(part.extra)
        if group and (begins or not joins):
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _written_message(said: list[Text | Refusal]) -> Json:
    first = said[0]
    fields = own(first.extra).get("item", {}) if isinstance(first, Text) else {}
    return {"type": "message", **fields, "role": "assistant", "content": [write_said(part) for part in said]}


def write_call(call: ToolCall) -> Json:
    """A tool call as an item."""
    item = {"type": "function_call", **own(call.extra), "call_id": call.id, "name": call.name}
    return {**item, "arguments": call.arguments or "{}"}
