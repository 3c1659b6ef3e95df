"""Requests: from a caller into the neutral form, and out of it for a provider."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from gimle.foundation.errors import InvalidRequest, Unsayable
from gimle.gateway.neutral import (
    Ask,
    Audio,
    Choose,
    Effort,
    File,
    Foreign,
    ForeignTool,
    Format,
    Image,
    Json,
    Part,
    Reasoning,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    Written,
)
from gimle.gateway.types import ChatCall, Provider
from gimle.gateway.wire import MALFORMED, found

NAME = "openai"
PATH = "/chat/completions"
# What this format calls a neutral field, where it calls it otherwise.
NAMES: Mapping[str, str] = {
    "turns": "messages",
    "parts": "content",
    "choose": "tool_choice",
    "parallel_tools": "parallel_tool_calls",
    "format": "response_format",
    "reasoning": "reasoning_effort",
    "reasoning.effort": "reasoning_effort",
    "format.description": "response_format.json_schema.description",
    "cache": "cache_control",
    "sealed": "data",
}

# -- what a caller sends


class _Url(msgspec.Struct, frozen=True):
    url: str
    detail: str | None = None


class _Sound(msgspec.Struct, frozen=True):
    data: str
    format: str


class _FileData(msgspec.Struct, frozen=True):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _Part(msgspec.Struct, frozen=True):
    type: Literal["text", "image_url", "input_audio", "file", "refusal"]
    text: str | None = None
    refusal: str | None = None
    image_url: _Url | None = None
    input_audio: _Sound | None = None
    file: _FileData | None = None
    # Not OpenAI's own, but what its other speakers take for Anthropic's marks.
    cache_control: Json | None = None


class _Function(msgspec.Struct, frozen=True):
    name: str
    arguments: str = ""


class _ToolCall(msgspec.Struct, frozen=True):
    id: str
    function: _Function
    # Google's place for the signature of its thoughts, in its compatible interface.
    extra_content: Json | None = None


class _Detail(msgspec.Struct, frozen=True):
    """A thought as OpenRouter tells it, and takes it back."""

    type: str
    text: str | None = None
    summary: str | None = None
    signature: str | None = None
    data: str | None = None


class _Message(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: _Function | None = None
    reasoning_content: str | None = None
    reasoning_details: list[_Detail] | None = None


class _FunctionTool(msgspec.Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct, frozen=True):
    type: str = "function"
    function: _FunctionTool | None = None
    cache_control: Json | None = None


class _Schema(msgspec.Struct, frozen=True):
    name: str = "answer"
    schema: Json | None = None
    description: str | None = None
    strict: bool | None = None


class _Form(msgspec.Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _Request(msgspec.Struct, frozen=True):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    tools: list[Json] | None = None
    tool_choice: str | Json | None = None
    functions: list[_FunctionTool] | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    response_format: _Form | None = None
    reasoning_effort: Effort | None = None
    verbosity: str | None = None
    user: str | None = None
    service_tier: str | None = None
    metadata: dict[str, str] | None = None
    stream_options: _StreamOptions | None = None


_FIELDS = frozenset(_Request.__struct_fields__) | {"model", "stream"}
_REQUEST = msgspec.json.Decoder(_Request)
_AUDIO = {"wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "opus": "audio/opus", "pcm16": "audio/pcm"}
_FORMATS = {media_type: name for name, media_type in _AUDIO.items()}
# An old-style function call has no id, and its answer is found by the function's name.
_OLD_CALL = "call_"


def read_request(call: ChatCall) -> Ask:
    """All that a request says. Raises `InvalidRequest`, which names the field."""
    body = msgspec.json.encode(call.body)
    try:
        asked = _REQUEST.decode(body)
    except MALFORMED as wrong:
        what, where = found(wrong, "")
        field = where.lstrip(".") or "messages"
        raise InvalidRequest(f"{field}: {what}.", field=field) from None
    unknown = {name: msgspec.json.decode(raw) for name, raw in call.body.items() if name not in _FIELDS}
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    reasoning = Reasoning(effort=asked.reasoning_effort) if asked.reasoning_effort is not None else None
    return Ask(
        turns=tuple(_turn(message, f"messages[{at}]") for at, message in enumerate(asked.messages)),
        tools=tuple(_tools(asked)),
        choose=_choose(asked.tool_choice),
        parallel_tools=asked.parallel_tool_calls,
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        stop=tuple(stop),
        seed=asked.seed,
        n=asked.n,
        logprobs=asked.logprobs,
        top_logprobs=asked.top_logprobs,
        frequency_penalty=asked.frequency_penalty,
        presence_penalty=asked.presence_penalty,
        format=_format(asked.response_format),
        reasoning=reasoning,
        verbosity=asked.verbosity,
        user=asked.user,
        service_tier=asked.service_tier,
        metadata=asked.metadata,
        stream=call.stream,
        show_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        extra={NAME: unknown} if unknown else {},
    )


def _turn(message: _Message, field: str) -> Turn:
    if message.role == "tool" or message.role == "function":
        call = message.tool_call_id or _OLD_CALL + (message.name or "")
        parts = tuple(part for part in _content(message, field) if isinstance(part, Text | Image | File))
        return Turn(role="tool", parts=(ToolResult(id=call, parts=parts, name=message.name),))
    said: list[Part] = [*_thoughts(message), *_content(message, field)]
    if message.refusal:
        said.append(Refusal(text=message.refusal))
    said.extend(_call(call) for call in message.tool_calls or ())
    if message.function_call is not None:
        old = message.function_call
        said.append(ToolCall(id=_OLD_CALL + old.name, name=old.name, arguments=old.arguments))
    return Turn(role=message.role, parts=tuple(said), name=message.name)


def _thoughts(message: _Message) -> Iterator[Thinking]:
    for detail in message.reasoning_details or ():
        if detail.type == "reasoning.encrypted":
            yield Thinking(sealed=detail.data)
        else:
            yield Thinking(text=detail.text or detail.summary or "", signature=detail.signature)
    if message.reasoning_content and not message.reasoning_details:
        yield Thinking(text=message.reasoning_content)


def _content(message: _Message, field: str) -> Iterator[Part]:
    if isinstance(message.content, str):
        if message.content:
            yield Text(text=message.content)
        return
    for at, part in enumerate(message.content or ()):
        yield _part(part, f"{field}.content[{at}]")


def _part(part: _Part, field: str) -> Part:
    match part:
        case _Part(type="text", text=str(text)):
            return Text(text=text, cache=_mark(part))
        case _Part(type="refusal", refusal=str(text)):
            return Refusal(text=text)
        case _Part(type="image_url", image_url=_Url(url=url, detail=detail)):
            media_type, data = _data_url(url)
            shown = url if data is None else None
            return Image(url=shown, data=data, media_type=media_type, detail=detail, cache=_mark(part))
        case _Part(type="input_audio", input_audio=_Sound(data=data, format=form)):
            return Audio(data=data, media_type=_AUDIO.get(form, f"audio/{form}"))
        case _Part(type="file", file=_FileData(file_data=given, file_id=id_, filename=name)):
            media_type, data = _data_url(given or "")
            return File(data=data or given, id=id_, name=name, media_type=media_type, cache=_mark(part))
    raise InvalidRequest(f"{field}: A part of the type `{part.type}` needs its `{part.type}`.", field=field)


def _mark(part: _Part | _Tool) -> Json | None:
    """A cache mark without the one type that there is."""
    return None if part.cache_control is None else {k: v for k, v in part.cache_control.items() if k != "type"}


def _data_url(url: str) -> tuple[str | None, str | None]:
    """Media type and base64 of a data URL; nothing of any other."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return None, None
    return head[5:-7].partition(";")[0] or None, data


def _call(call: _ToolCall) -> ToolCall:
    google = (call.extra_content or {}).get("google") or {}
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments, signature=signature)


def _tools(asked: _Request) -> Iterator[Tool | ForeignTool]:
    for at, told in enumerate(asked.tools or ()):
        try:
            tool = msgspec.convert(told, _Tool)
        except msgspec.ValidationError as wrong:
            raise InvalidRequest(f"tools[{at}]: {wrong}.", field=f"tools[{at}]") from None
        if tool.type != "function":
            yield ForeignTool(dialect=NAME, name=tool.type, raw=told)
        elif tool.function is None:
            raise InvalidRequest(f"tools[{at}].function is missing.", field=f"tools[{at}].function")
        else:
            yield _tool(tool.function, _mark(tool))
    for function in asked.functions or ():
        yield _tool(function, None)


def _tool(function: _FunctionTool, cache: Json | None) -> Tool:
    return Tool(
        name=function.name,
        description=function.description,
        schema=function.parameters,
        strict=function.strict,
        cache=cache,
    )


def _choose(choice: str | Json | None) -> Choose | None:
    match choice:
        case None:
            return None
        case "auto" | "none":
            return Choose(mode=choice)
        case "required":
            return Choose(mode="any")
        case {"type": "function", "function": {"name": str(name)}}:
            return Choose(mode="one", name=name)
    raise InvalidRequest(
        "tool_choice is none, auto, required, or names a function.",
        field="tool_choice",
        hint='For example {"type": "function", "function": {"name": "…"}}.',
    )


def _format(form: _Form | None) -> Format | None:
    if form is None or form.type == "text":
        return None
    if form.json_schema is None:
        return Format()
    told = form.json_schema
    return Format(schema=told.schema or {}, name=told.name, description=told.description, strict=told.strict)


# -- what goes to a provider

# Budgets of thinking, in tokens, up to which an effort is taken for as much.
_EFFORTS: Sequence[tuple[int, Effort]] = ((1024, "minimal"), (4096, "low"), (16384, "medium"))


def write_request(ask: Ask, model: str, provider: Provider) -> Written:
    """A request. Raises `Unsayable`, which names the neutral field."""
    dropped = ["top_k"] if ask.top_k is not None else []
    dropped += [f"extra.{name}" for dialect, fields in ask.extra.items() if dialect != NAME for name in fields]
    marked = (at for at, tool in enumerate(ask.tools) if isinstance(tool, Tool) and tool.cache is not None)
    dropped += [f"tools[{at}].cache" for at in marked]
    body: Json = {**ask.extra.get(NAME, {}), "model": model}
    back = provider.takes_thoughts
    turns = ((f"turns[{at}]", turn) for at, turn in enumerate(ask.turns))
    body["messages"] = [said for field, turn in turns for said in _messages(turn, field, back, dropped)]
    fields: Json = {
        "tools": [_written_tool(tool, f"tools[{at}]") for at, tool in enumerate(ask.tools)] or None,
        "tool_choice": _written_choice(ask.choose),
        "parallel_tool_calls": ask.parallel_tools if ask.tools else None,
        provider.max_tokens_field: ask.max_tokens,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "stop": list(ask.stop) or None,
        "seed": ask.seed,
        "n": ask.n,
        "logprobs": ask.logprobs,
        "top_logprobs": ask.top_logprobs,
        "frequency_penalty": ask.frequency_penalty,
        "presence_penalty": ask.presence_penalty,
        "response_format": _written_format(ask.format),
        "reasoning_effort": _effort(ask.reasoning, provider.reasons(model), dropped),
        "verbosity": ask.verbosity,
        "user": ask.user,
        "service_tier": ask.service_tier,
        "metadata": ask.metadata,
        "stream": True if ask.stream else None,
        "stream_options": {"include_usage": True} if ask.stream and provider.stream_usage else None,
    }
    body.update({name: value for name, value in fields.items() if value is not None})
    return Written(path=PATH, body=msgspec.json.encode(body), dropped=tuple(dict.fromkeys(dropped)))


def _messages(turn: Turn, field: str, back: bool, dropped: list[str]) -> Iterator[Json]:
    """One turn as messages: each result of a tool is one of its own. `back`: calls take their thoughts along."""
    results = [(at, part) for at, part in enumerate(turn.parts) if isinstance(part, ToolResult)]
    for at, result in results:
        if result.failed:
            dropped.append(f"{field}.parts[{at}].failed")
        parts = [_written_part(part, f"{field}.parts[{at}].parts[{n}]", dropped) for n, part in enumerate(result.parts)]
        if any(part["type"] != "text" for part in parts):
            raise Unsayable(
                "This model's provider takes only text as the result of a tool.", field=f"{field}.parts[{at}]"
            )
        yield {"role": "tool", "tool_call_id": result.id, "content": _joined(parts)}
    if len(results) < len(turn.parts) or not turn.parts:
        role = "user" if turn.role == "tool" else turn.role
        yield {"role": role, **_said(turn, field, back, dropped), **({"name": turn.name} if turn.name else {})}


def _said(turn: Turn, field: str, back: bool, dropped: list[str]) -> Json:
    parts, calls, refusals, thoughts = [], [], [], []
    back = back and any(isinstance(part, ToolCall) for part in turn.parts)
    for at, part in enumerate(turn.parts):
        match part:
            case ToolResult():
                continue
            case Thinking(text=text) if back and text:
                thoughts.append(text)
            case Thinking():
                # A thought means something to the model that had it only.
                dropped.append(f"{field}.parts[{at}]")
            case ToolCall():
                calls.append(_written_call(part))
            case Refusal(text=text):
                refusals.append(text)
            case _:
                parts.append(_written_part(part, f"{field}.parts[{at}]", dropped))
    said: Json = {"content": _joined(parts) if parts or not (calls or refusals) else None}
    if calls:
        said["tool_calls"] = calls
    if back:
        # Also without a thought: DeepSeek misses the field itself.
        said["reasoning_content"] = "\n".join(thoughts)
    if refusals:
        said["refusal"] = "\n".join(refusals)
    return said


def _joined(parts: list[Json]) -> Any:
    """One plain text as a string, which every compatible server reads; else the parts."""
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and set(parts[0]) == {"type", "text"} else parts


def _written_call(call: ToolCall) -> Json:
    written: Json = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    if call.signature is not None:
        written["extra_content"] = {"google": {"thought_signature": call.signature}}
    return written


def _written_part(part: Part, field: str, dropped: list[str]) -> Json:
    if isinstance(part, Text | Image | File) and part.cache is not None:
        dropped.append(f"{field}.cache")
    match part:
        case Text(text=text):
            return {"type": "text", "text": text}
        case Image(url=url, data=data, media_type=media_type, detail=detail) if url or data:
            shown = url or f"data:{media_type or 'image/png'};base64,{data}"
            return {"type": "image_url", "image_url": {"url": shown, **({"detail": detail} if detail else {})}}
        case Audio(data=data, media_type=media_type) if media_type in _FORMATS:
            return {"type": "input_audio", "input_audio": {"data": data, "format": _FORMATS[media_type]}}
        case File(text=str(text), name=name):
            return {"type": "text", "text": f"{name}\n\n{text}" if name else text}
        case File(data=str(data), name=name, media_type=media_type):
            whole = f"data:{media_type or 'application/pdf'};base64,{data}"
            return {"type": "file", "file": {"filename": name or "document", "file_data": whole}}
        case Foreign(dialect="openai", raw=raw):
            return raw
    raise Unsayable("This model's provider has no such kind of part.", field=field)


def _written_tool(tool: Tool | ForeignTool, field: str) -> Json:
    if isinstance(tool, ForeignTool):
        if tool.dialect == NAME:
            return tool.raw
        raise Unsayable(f"The tool {tool.name!r} runs at another vendor.", field=field)
    function = {"name": tool.name, "description": tool.description, "parameters": tool.schema, "strict": tool.strict}
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _written_choice(choose: Choose | None) -> str | Json | None:
    if choose is None:
        return None
    if choose.mode == "one":
        return {"type": "function", "function": {"name": choose.name}}
    return "required" if choose.mode == "any" else choose.mode


def _written_format(form: Format | None) -> Json | None:
    if form is None:
        return None
    if form.schema is None:
        return {"type": "json_object"}
    schema = {"name": form.name, "description": form.description, "strict": form.strict, "schema": form.schema}
    return {"type": "json_schema", "json_schema": {name: value for name, value in schema.items() if value is not None}}


def _effort(reasoning: Reasoning | None, reasons: bool, dropped: list[str]) -> Effort | None:
    if reasoning is None:
        return None
    if not reasons:
        dropped.append("reasoning")
        return None
    if reasoning.effort is not None or reasoning.tokens is None:
        return reasoning.effort
    # There is no budget here: the effort that comes near is taken, and the caller told.
    dropped.append("reasoning.budget")
    return next((effort for most, effort in _EFFORTS if reasoning.tokens <= most), "high")
