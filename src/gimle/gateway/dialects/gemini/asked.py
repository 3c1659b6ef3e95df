"""What a caller sets beside the conversation, in our form. What it can't hold is kept under Gemini's own names."""

from typing import Any

import msgspec

from gimle.foundation.errors import InvalidRequest
from gimle.gateway.dialects.gemini.schemas import json_schema
from gimle.gateway.dialects.gemini.shapes import NAME, camel
from gimle.gateway.neutral import Choose, Effort, ForeignTool, Format, Json, Reasoning, Tool
from gimle.gateway.wire import MALFORMED, invalid

_SAMPLING = {
    "maxOutputTokens": "max_tokens",
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "seed": "seed",
    "candidateCount": "n",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
    "responseLogprobs": "logprobs",
    "logprobs": "top_logprobs",
}
_JSON = "application/json"
_EFFORTS: dict[str, Effort] = {"minimal": "minimal", "low": "low", "medium": "medium", "high": "high"}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """`rest` is what our form does not know, by Gemini's names."""

    tools: tuple[Tool | ForeignTool, ...]
    choose: Choose | None
    format: Format | None
    reasoning: Reasoning | None
    stop: tuple[str, ...]
    sampling: dict[str, Any]
    rest: Json


class _Function(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    parameters_json_schema: dict[str, Any] | None = None


class _Calling(msgspec.Struct, frozen=True, rename="camel"):
    mode: str = "AUTO"
    allowed_function_names: list[str] = []


class _ToolConfig(msgspec.Struct, frozen=True, rename="camel"):
    function_calling_config: _Calling | None = None


class _Thinking(msgspec.Struct, frozen=True, rename="camel"):
    include_thoughts: bool | None = None
    thinking_budget: int | None = None
    thinking_level: str | None = None


class _Generation(msgspec.Struct, frozen=True, rename="camel"):
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    seed: int | None = None
    candidate_count: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_logprobs: bool | None = None
    logprobs: int | None = None
    stop_sequences: list[str] = []
    response_mime_type: str | None = None
    response_schema: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None
    thinking_config: _Thinking | None = None


def read_settings(fields: Json) -> Asked:
    """`fields` holds `tools`, `toolConfig` and `generationConfig`. Raises `InvalidRequest`, which names the field."""
    said = {field.encode_name for field in msgspec.structs.fields(_Generation)}
    given = _spelled(fields.get("generationConfig") or {}, "generationConfig")
    if "thinkingConfig" in given:
        given["thinkingConfig"] = _spelled(given["thinkingConfig"], "generationConfig.thinkingConfig")
    config: _Generation = _shaped(given, _Generation, "generationConfig")
    whole = msgspec.to_builtins(config)
    rest = {name: value for name, value in given.items() if name not in said}
    form, kept = _form(config)
    choose, tool_config = _choose(fields.get("toolConfig"))
    own = ({"generationConfig": rest | kept} if rest or kept else {}) | tool_config
    sampling = {ours: whole[theirs] for theirs, ours in _SAMPLING.items() if whole[theirs] is not None}
    if isinstance(sampling.get("top_k"), float):
        sampling["top_k"] = int(sampling["top_k"])
    return Asked(
        tools=_tools(fields.get("tools") or []),
        choose=choose,
        format=form,
        reasoning=_reasoning(config.thinking_config),
        stop=tuple(config.stop_sequences),
        sampling=sampling,
        rest=own,
    )


def _shaped(value: Any, kind: Any, field: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except MALFORMED as wrong:
        raise invalid(wrong, field) from None


def _spelled(value: Any, field: str) -> Json:
    return {camel(name): inner for name, inner in _shaped(value or {}, dict[str, Any], field).items()}


def _tools(listed: Any) -> tuple[Tool | ForeignTool, ...]:
    found: list[Tool | ForeignTool] = []
    for at, one in enumerate(_shaped([listed] if isinstance(listed, dict) else listed, list[dict[str, Any]], "tools")):
        raw = _spelled(one, f"tools[{at}]")
        field = f"tools[{at}].functionDeclarations"
        declared = _shaped(raw.pop("functionDeclarations", None) or [], list[dict[str, Any]], field)
        found += [_tool(_spelled(each, field), f"{field}[{n}]") for n, each in enumerate(declared)]
        found += [ForeignTool(dialect=NAME, name=name, raw={name: value}) for name, value in raw.items()]
    return tuple(found)


def _tool(raw: Json, field: str) -> Tool:
    said: _Function = _shaped(raw, _Function, field)
    known = ("name", "description", "parametersJsonSchema")
    # Google's own form of a schema is kept beside its translation, so that Google gets it back as it was.
    rest = {name: value for name, value in raw.items() if name not in known}
    schema = said.parameters_json_schema
    if schema is None and said.parameters is not None:
        schema = json_schema(said.parameters)
    return Tool(name=said.name, description=said.description, schema=schema, extra={NAME: rest} if rest else {})


def _choose(raw: Any) -> tuple[Choose | None, Json]:
    """The choice, and the configuration itself where it says more than a choice holds."""
    if raw is None:
        return None, {}
    raw = _spelled(raw, "toolConfig")
    if "functionCallingConfig" in raw:
        raw["functionCallingConfig"] = _spelled(raw["functionCallingConfig"], "toolConfig.functionCallingConfig")
    said: _ToolConfig = _shaped(raw, _ToolConfig, "toolConfig")
    calling = said.function_calling_config
    if calling is None:
        return None, {"toolConfig": raw}
    names = calling.allowed_function_names
    match calling.mode, len(names):
        case "AUTO" | "MODE_UNSPECIFIED", 0:
            choose = Choose(mode="auto")
        case "NONE", _:
            choose = Choose(mode="none")
        case "ANY", 0:
            choose = Choose(mode="any")
        case "ANY", 1:
            choose = Choose(mode="one", name=names[0])
        case "ANY", _:
            return Choose(mode="any"), {"toolConfig": raw}
        case "AUTO" | "VALIDATED", _:
            return Choose(mode="auto"), {"toolConfig": raw}
        case _:
            raise InvalidRequest(
                f"There is no mode {calling.mode[:40]!r}.", field="toolConfig.functionCallingConfig.mode"
            )
    return choose, {} if raw.keys() == {"functionCallingConfig"} else {"toolConfig": raw}


def _form(config: _Generation) -> tuple[Format | None, Json]:
    if config.response_mime_type in (None, "text/plain") and config.response_json_schema is None:
        return None, {"responseMimeType": config.response_mime_type} if config.response_mime_type else {}
    if config.response_mime_type not in (None, _JSON):
        return None, _without_none(
            {"responseMimeType": config.response_mime_type, "responseSchema": config.response_schema}
        )
    if config.response_json_schema is not None:
        return Format(schema=config.response_json_schema), {}
    if config.response_schema is not None:
        return Format(schema=json_schema(config.response_schema)), {"responseSchema": config.response_schema}
    return Format(), {}


def _reasoning(said: _Thinking | None) -> Reasoning | None:
    if said is None:
        return None
    effort = "none" if said.thinking_budget == 0 else _EFFORTS.get((said.thinking_level or "").lower())
    return Reasoning(effort=effort, budget=said.thinking_budget, show=said.include_thoughts)


def _without_none(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not None}
