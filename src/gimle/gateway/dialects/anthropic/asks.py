"""Requests of callers, into the neutral form."""

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import msgspec

from gimle.foundation.errors import InvalidRequest
from gimle.gateway.dialects.anthropic import blocks
from gimle.gateway.dialects.anthropic.shapes import NAME, Misshapen, decode, fields, mark, own, rest, value
from gimle.gateway.neutral import (
    Ask,
    Choose,
    Effort,
    ForeignTool,
    Format,
    Json,
    Part,
    Reasoning,
    Role,
    Text,
    Tool,
    ToolResult,
    Turn,
)
from gimle.gateway.types import ChatCall
from gimle.gateway.wire import NULL

# What this format calls a neutral field, where it calls it otherwise.
NAMES: Mapping[str, str] = {
    "turns": "messages",
    "parts": "content",
    "stop": "stop_sequences",
    "choose": "tool_choice",
    "parallel_tools": "tool_choice.disable_parallel_tool_use",
    "format": "output_config.format",
    "reasoning": "thinking",
    "reasoning.effort": "output_config.effort",
    "budget": "budget_tokens",
    "user": "metadata.user_id",
    "cache": "cache_control",
    "sealed": "data",
    "failed": "is_error",
}


class _Message(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[msgspec.Raw]


class _MidSystem(msgspec.Struct, frozen=True):
    content: list[msgspec.Raw]


class _Tool(msgspec.Struct, frozen=True):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: Json | None = None
    strict: bool | None = None
    cache_control: Json | None = None


class _Choice(msgspec.Struct, frozen=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Thinking(msgspec.Struct, frozen=True):
    type: str
    budget_tokens: int | None = None
    display: str | None = None


class _Form(msgspec.Struct, frozen=True):
    type: str
    schema: Json | None = None


class _Output(msgspec.Struct, frozen=True):
    effort: str | None = None
    format: msgspec.Raw = NULL


class _Metadata(msgspec.Struct, frozen=True):
    user_id: str | None = None


class _Request(msgspec.Struct, frozen=True):
    """The fields that have a place in the neutral form."""

    messages: list[msgspec.Raw]
    model: msgspec.Raw = NULL
    stream: msgspec.Raw = NULL
    system: str | list[msgspec.Raw] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: _Choice | None = None
    thinking: msgspec.Raw = NULL
    output_config: msgspec.Raw = NULL
    metadata: msgspec.Raw = NULL
    service_tier: str | None = None


_REQUEST = msgspec.json.Decoder(_Request)
_MESSAGE = msgspec.json.Decoder(_Message)
_MID_SYSTEM = msgspec.json.Decoder(_MidSystem)
_TOOL = msgspec.json.Decoder(_Tool)
_THINKING = msgspec.json.Decoder(_Thinking | None)
_FORM = msgspec.json.Decoder(_Form)
_OUTPUT = msgspec.json.Decoder(_Output | None)
_METADATA = msgspec.json.Decoder(_Metadata | None)
_EFFORTS: Mapping[str, Effort] = {effort: effort for effort in get_args(Effort) if effort != "none"}
_TIERS = {"standard_only": "default"}
_SHOWN = {"summarized": True, "omitted": False}


def read_request(call: ChatCall) -> Ask:
    """All that a request says. Raises `InvalidRequest`, which names the field."""
    try:
        return _ask(call)
    except Misshapen as wrong:
        at = wrong.at.lstrip(".") or "messages"
        raise InvalidRequest(str(wrong).lstrip("."), field=at) from None


def _ask(call: ChatCall) -> Ask:
    asked = decode(_REQUEST, msgspec.json.encode(call.body), "")
    kept = {name: value(raw, name) for name, raw in call.body.items() if name not in _Request.__struct_fields__}
    choice = asked.tool_choice
    alone = choice.disable_parallel_tool_use if choice else None
    form = _format(asked.output_config, kept)
    return Ask(
        turns=tuple(turn for turn, _, _ in _turns(asked)),
        tools=tuple(_tool(raw, f"tools[{at}]") for at, raw in enumerate(asked.tools or ())),
        choose=_choose(choice),
        parallel_tools=None if alone is None else not alone,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        stop=tuple(asked.stop_sequences or ()),
        format=form,
        reasoning=_reasoning(asked, kept),
        user=_user(asked.metadata, kept),
        service_tier=_TIERS.get(asked.service_tier or "", asked.service_tier),
        stream=call.stream,
        show_usage=True,
        extra=own(kept),
    )


# -- turns


# A turn, where the message stands that holds it, and where each of its parts does.
_Placed = tuple[Turn, str, tuple[str, ...]]


def places(call: ChatCall) -> Mapping[str, str]:
    """Where in a checked request the turns and their parts stand."""
    told: dict[str, str] = {}
    for number, (_, at, parts) in enumerate(_turns(decode(_REQUEST, msgspec.json.encode(call.body), ""))):
        told[f"turns[{number}]"] = at
        told |= {f"turns[{number}].parts[{n}]": place for n, place in enumerate(parts)}
    return told


def _turns(asked: _Request) -> Iterator[_Placed]:
    if isinstance(asked.system, str):
        yield Turn(role="system", parts=(Text(text=asked.system),)), "system", ("system",)
    elif asked.system:
        parts = tuple(_parts(asked.system, "system"))
        yield Turn(role="system", parts=parts), "system", tuple(f"system[{n}]" for n in range(len(parts)))
    for at, raw in enumerate(asked.messages):
        yield from _message(raw, f"messages[{at}]")


def _message(raw: msgspec.Raw, at: str) -> Iterator[_Placed]:
    """The turns of a message: results of tools have their own, and so have system instructions inside it."""
    told = decode(_MESSAGE, raw, at)
    if isinstance(told.content, str):
        yield Turn(role=told.role, parts=(Text(text=told.content),)), at, (f"{at}.content",)
        return
    held: dict[str, Part] = {}
    for n, block in enumerate(told.content):
        place = f"{at}.content[{n}]"
        for role, part in _block(block, told.role, place):
            if role == told.role:
                held[place] = part
                continue
            if held:
                yield Turn(role=told.role, parts=tuple(held.values())), at, tuple(held)
                held = {}
            yield Turn(role=role, parts=(part,)), at, (place,)
    if held or not told.content:
        yield Turn(role=told.role, parts=tuple(held.values())), at, tuple(held)


def _block(raw: msgspec.Raw, role: Role, at: str) -> Iterator[tuple[Role, Part]]:
    kind = blocks.kind(raw, at)
    if kind == "mid_conv_system":
        for part in _parts(decode(_MID_SYSTEM, raw, at).content, f"{at}.content"):
            yield "system", part
        return
    part = blocks.read(raw, at)
    yield ("tool" if isinstance(part, ToolResult) else role), part


def _parts(raws: list[msgspec.Raw], at: str) -> Iterator[Part]:
    return (blocks.read(raw, f"{at}[{n}]") for n, raw in enumerate(raws))


# -- the rest of a request


def _tool(raw: msgspec.Raw, at: str) -> Tool | ForeignTool:
    # What the vendor runs itself has a type of its own, and not always a name.
    type_ = fields(raw, at).get("type", NULL)
    if bytes(type_) not in (b"null", b'"custom"'):
        told = value(raw, at)
        return ForeignTool(dialect=NAME, name=str(told.get("name") or told["type"]), raw=told)
    tool = decode(_TOOL, raw, at)
    return Tool(
        name=tool.name,
        description=tool.description,
        schema=tool.input_schema,
        strict=tool.strict,
        cache=mark(tool.cache_control),
        extra=own(rest(raw, _Tool, at)),
    )


def _choose(choice: _Choice | None) -> Choose | None:
    if choice is None:
        return None
    if choice.type == "tool":
        if choice.name is None:
            raise Misshapen("It names no tool", "tool_choice.name")
        return Choose(mode="one", name=choice.name)
    return Choose(mode=choice.type)


def _format(raw: msgspec.Raw, kept: Json) -> Format | None:
    """The form of the answer. What else the object says stays with what only this dialect knows."""
    told = decode(_OUTPUT, raw, "output_config")
    if told is None:
        return None
    beside: Json = rest(raw, _Output, "output_config")
    form: Format | None = None
    if bytes(told.format) != b"null":
        at = "output_config.format"
        asked = decode(_FORM, told.format, at)
        if asked.type == "json_schema" and asked.schema is not None:
            form = Format(schema=asked.schema)
            beside |= {"format": others} if (others := rest(told.format, _Form, at)) else {}
        else:
            beside["format"] = value(told.format, at)
    if beside:
        kept["output_config"] = beside
    return form


def _reasoning(asked: _Request, kept: Json) -> Reasoning | None:
    """How much to think. An effort means more than thoughts here: where it does not stand beside them, it is kept."""
    told = decode(_THINKING, asked.thinking, "thinking")
    output = decode(_OUTPUT, asked.output_config, "output_config")
    given = output.effort if output else None
    effort: Effort | None = _EFFORTS.get(given or "")
    if given is not None and (told is None or told.type == "disabled" or effort is None):
        kept["output_config"] = {**kept.get("output_config", {}), "effort": given}
    if told is None:
        return Reasoning(effort=effort) if effort is not None else None
    if told.type not in ("enabled", "adaptive", "disabled"):
        kept["thinking"] = value(asked.thinking, "thinking")
        return None
    if beside := rest(asked.thinking, _Thinking, "thinking"):
        kept["thinking"] = beside
    if told.type == "disabled":
        return Reasoning(effort="none")
    return Reasoning(effort=effort, budget=told.budget_tokens, show=_SHOWN.get(told.display or ""))


def _user(raw: msgspec.Raw, kept: Json) -> str | None:
    told: _Metadata | None = decode(_METADATA, raw, "metadata")
    if told is None:
        return None
    if beside := rest(raw, _Metadata, "metadata"):
        kept["metadata"] = beside
    return told.user_id
