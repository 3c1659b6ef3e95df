"""What a caller of `/v1/responses` says: checked, and read into the neutral form."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from gimle.foundation.errors import InvalidRequest, Unsayable
from gimle.gateway.dialects.responses.fields import NAME, checked, kept, rest
from gimle.gateway.dialects.responses.items import Said, read_turns
from gimle.gateway.neutral import (
    Ask,
    Choose,
    Effort,
    ForeignTool,
    Format,
    Json,
    Reasoning,
    Text,
    Tool,
    Turn,
)
from gimle.gateway.types import ChatCall, Prompt
from gimle.gateway.wire import BYTES_A_TOKEN, decoded

_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _Format(msgspec.Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class _TextOptions(msgspec.Struct, frozen=True):
    format: _Format | None = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct, frozen=True):
    effort: Effort | None = None
    summary: str | None = None
    generate_summary: str | None = None


class _Request(msgspec.Struct, frozen=True):
    """The fields that the neutral form has a place for, and those that must be checked."""

    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: _Positive | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    text: _TextOptions | None = None
    reasoning: _Reasoning | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    background: bool | None = None
    store: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None


_FIELDS = {field.name: msgspec.json.Decoder(field.type) for field in msgspec.structs.fields(_Request)}
_ANY = msgspec.json.Decoder()
# Fields that mean nothing to another vendor, since Gimle itself does what they ask for.
_OURS = ("model", "stream", "store", "gimle")
# Fields that change what is answered, and that only OpenAI's own service can carry out.
_THEIRS = {
    "background": "Answers in the background are not served by this model's provider.",
    "conversation": "Conversations are not kept by this model's provider.",
    "previous_response_id": "Earlier responses are not kept by this model's provider.",
    "prompt": "Prompt templates are not kept by this model's provider.",
}
# The neutral form holds these; what of `reasoning` and `include` it doesn't is kept apart.
_HELD = (
    *("input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens", "temperature"),
    *("top_p", "top_logprobs", "text", "reasoning", "include", "metadata", "user", "service_tier"),
)
_LOGPROBS = "message.output_text.logprobs"


def inspect(call: ChatCall) -> Prompt:
    """Check the known fields of a request. Raises `InvalidRequest`, which names the field."""
    given = _given(call)
    if given.input is None and given.previous_response_id is None and given.prompt is None:
        raise InvalidRequest("The request has no input.", field="input", hint="Send text, or a list of items.")
    form = given.text.format if given.text else None
    structured = form is not None and form.type != "text"
    said = bytes(call.body.get("input", b""))
    asked = {"tools": bool(given.tools), "json_schema": structured, "vision": b'"input_image"' in said}
    return Prompt(
        max_tokens=given.max_output_tokens,
        plain=not (given.tools or structured or given.include or given.reasoning),
        include_usage=True,
        capabilities=frozenset(name for name, needed in asked.items() if needed),
        tokens=(len(said) + len(given.instructions or "")) // BYTES_A_TOKEN,
    )


def _given(call: ChatCall) -> _Request:
    return _Request(**{name: decoded(call.body[name], _FIELDS[name], name) for name in _FIELDS if name in call.body})


def read_request(call: ChatCall) -> Ask:
    """All that a request says. Raises `InvalidRequest`, or `Unsayable` for what only OpenAI's own service can do."""
    given = _given(call)
    for name, message in _THEIRS.items():
        if msgspec.structs.asdict(given)[name]:
            raise Unsayable(message, field=name)
    choose, tools = _choice(given)
    form = given.text.format if given.text else None
    logprobs = given.top_logprobs is not None or _LOGPROBS in (given.include or ())
    return Ask(
        turns=tuple(_said(given).turns),
        tools=tools,
        choose=choose,
        parallel_tools=given.parallel_tool_calls,
        max_tokens=given.max_output_tokens,
        temperature=given.temperature,
        top_p=given.top_p,
        logprobs=logprobs or None,
        top_logprobs=given.top_logprobs,
        format=_format(form),
        reasoning=_reasoning(given.reasoning),
        verbosity=given.text.verbosity if given.text else None,
        user=given.user or given.safety_identifier,
        service_tier=given.service_tier,
        metadata=given.metadata,
        stream=call.stream,
        show_usage=True,
        extra=kept(_extra(call, given)),
    )


def places(call: ChatCall) -> Mapping[str, str]:
    """Where in a checked request the turns and their parts stand."""
    return _said(_given(call)).places


def _said(given: _Request) -> Said:
    turns: tuple[Turn, ...] = ()
    if given.instructions is not None:
        # Marked, so that they come out as instructions where the same dialect writes them.
        turns = (Turn(role="system", parts=(Text(text=given.instructions),), extra={NAME: {"instructions": True}}),)
    if isinstance(given.input, str):
        said = read_turns([], turns)
        said.add(Turn(role="user", parts=(Text(text=given.input),)), ["input"])
        return said
    return read_turns(given.input or [], turns)


# -- tools


class _Function(msgspec.Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Named(msgspec.Struct, frozen=True):
    name: str


class _Allowed(msgspec.Struct, frozen=True):
    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


_MODES: Mapping[str, Literal["auto", "none", "any"]] = {"auto": "auto", "none": "none", "required": "any"}


def _tool(raw: Json, where: str) -> Tool | ForeignTool:
    if raw.get("type") != "function":
        name = raw.get("name") or raw.get("type")
        return ForeignTool(dialect=NAME, name=str(name), raw=raw)
    function = checked(raw, _Function, where)
    # Also where it is empty: this dialect takes a function without `strict` for a strict one, where others don't.
    more = rest(raw, "type", "name", "description", "parameters", "strict")
    return Tool(
        name=function.name,
        description=function.description,
        schema=function.parameters,
        strict=function.strict,
        extra={NAME: more},
    )


def _choice(given: _Request) -> tuple[Choose | None, tuple[Tool | ForeignTool, ...]]:
    """Which tool is wanted, and the tools among which it is."""
    tools = tuple(_tool(raw, f"tools[{n}]") for n, raw in enumerate(given.tools or ()))
    wanted = given.tool_choice
    if wanted is None:
        return None, tools
    if isinstance(wanted, str):
        if wanted not in _MODES:
            raise InvalidRequest(f"There is no tool_choice {wanted[:64]!r}.", field="tool_choice")
        return Choose(mode=_MODES[wanted]), tools
    if wanted.get("type") == "function":
        return Choose(mode="one", name=checked(wanted, _Named, "tool_choice").name), tools
    if wanted.get("type") == "allowed_tools":
        allowed = checked(wanted, _Allowed, "tool_choice")
        names = {tool.get("name") or tool.get("type") for tool in allowed.tools}
        return Choose(mode=_MODES[allowed.mode]), tuple(tool for tool in tools if tool.name in names)
    # Another kind of tool, which is foreign itself: kept as it is for its own dialect.
    return None, tools


# -- the rest


def _format(form: _Format | None) -> Format | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return Format()
    if form.schema is None:
        raise InvalidRequest("A json_schema format has a schema.", field="text.format.schema")
    return Format(schema=form.schema, name=form.name or "answer", description=form.description, strict=form.strict)


def _reasoning(given: _Reasoning | None) -> Reasoning | None:
    if given is None:
        return None
    summary = given.summary or given.generate_summary
    return Reasoning(effort=given.effort, show=True if summary else None)


def _extra(call: ChatCall, given: _Request) -> Json:
    """What the neutral form has no field for, by its own name."""
    extra = {name: decoded(raw, _ANY, name) for name, raw in call.body.items() if name not in (*_HELD, *_OURS)}
    extra = {name: value for name, value in extra.items() if value is not None}
    if given.reasoning is not None:
        thinking = rest(decoded(call.body["reasoning"], _ANY, "reasoning"), "effort")
        extra |= {"reasoning": thinking} if thinking else {}
    if include := [name for name in given.include or () if name != _LOGPROBS]:
        extra["include"] = include
    if isinstance(given.tool_choice, dict) and given.tool_choice.get("type") not in ("function", "allowed_tools"):
        extra["tool_choice"] = given.tool_choice
    return extra
