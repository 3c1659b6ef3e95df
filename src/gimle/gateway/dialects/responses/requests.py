"""What a provider of `/responses` is sent. Nothing is kept there: Gimle keeps its own state, and sends all of it."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from gimle.foundation.errors import Unsayable
from gimle.gateway.dialects.responses.fields import NAME, own, rest
from gimle.gateway.dialects.responses.items import write_items
from gimle.gateway.dialects.responses.thoughts import is_carried
from gimle.gateway.neutral import (
    Ask,
    Choose,
    ForeignTool,
    Format,
    Json,
    Reasoning,
    Thinking,
    Tool,
    Turn,
    Written,
)
from gimle.gateway.types import ChatCall, Provider
from gimle.gateway.wire import MALFORMED

PATH = "/responses"
_ITEMS = msgspec.json.Decoder(str | list[dict[str, Any]])
_NO_SCHEMA: Json = {"type": "object", "properties": {}}
# Tokens of thought up to which an effort goes, where a caller counts them instead.
_EFFORTS = ((1024, "minimal"), (4096, "low"), (16384, "medium"))


# -- the caller's own request


def patch(call: ChatCall, model: str, provider: Provider) -> bytes:
    """The caller's own bytes with the model patched, and without thoughts that this provider has not made."""
    body = {**call.body, "model": msgspec.Raw(msgspec.json.encode(model))}
    said = bytes(body.get("input", b""))
    if b'"gimle' in said and (items := _items(said)) is not None:
        body["input"] = msgspec.Raw(msgspec.json.encode([_clean(item) for item in items if _is_for(item, provider)]))
    return msgspec.json.encode(body)


def shorten(call: ChatCall, most: int, provider: Provider) -> ChatCall:
    """A call with another limit on its answer."""
    return replace(call, body={**call.body, "max_output_tokens": msgspec.Raw(str(most))})


def _items(said: bytes) -> list[Json] | None:
    """The items of an input; None for plain text, and for what was never meant to be items."""
    try:
        items = _ITEMS.decode(said)
    except MALFORMED:
        return None
    return None if isinstance(items, str) else items


def _is_for(item: Json, provider: Provider) -> bool:
    """Whether a provider can read an item: sealed thoughts open only where they were made."""
    if item.get("type") != "reasoning":
        return True
    ours = item.get("gimle")
    made_by = ours.get("provider") if isinstance(ours, dict) else None
    return not is_carried(item.get("encrypted_content")) and made_by in (None, provider.name)


def _clean(item: Json) -> Json:
    return rest(item, "gimle")


# -- another dialect's request


def write_request(ask: Ask, model: str, provider: Provider) -> Written:
    """A request that says the same. Raises `Unsayable`, which names the neutral field."""
    _refuse(ask)
    extra, reasons = own(ask.extra), provider.reasons(model)
    instructions, turns = _instructions(ask.turns)
    said = write_items(turns)
    body: Json = {
        **rest(extra, "reasoning", "include"),
        "model": model,
        "instructions": instructions,
        "input": said.items,
        "store": False,
        "stream": ask.stream or None,
        "tools": [_tool(tool, f"tools[{n}]") for n, tool in enumerate(ask.tools)] or None,
        "tool_choice": _choice(ask.choose) if ask.choose else extra.get("tool_choice"),
        "parallel_tool_calls": ask.parallel_tools,
        "max_output_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "top_logprobs": ask.top_logprobs,
        "text": _text(ask),
        "reasoning": _reasoning(ask.reasoning, extra.get("reasoning", {})) if reasons else None,
        "include": _include(ask, extra.get("include", []), reasons) or None,
        "metadata": ask.metadata,
        "user": None if ask.user == extra.get("safety_identifier") else ask.user,
        "service_tier": ask.service_tier,
    }
    sent = {name: value for name, value in body.items() if value is not None}
    dropped = dict.fromkeys([*said.dropped, *_dropped(ask, reasons)])
    return Written(path=PATH, body=msgspec.json.encode(sent), dropped=tuple(dropped))


def _refuse(ask: Ask) -> None:
    unsayable = {
        "n": ask.n is not None and ask.n > 1,
        "stop": bool(ask.stop),
        "frequency_penalty": bool(ask.frequency_penalty),
        "presence_penalty": bool(ask.presence_penalty),
    }
    for name, said in unsayable.items():
        if said:
            raise Unsayable(f"OpenAI's responses have no field like {name}.", field=name)


def _dropped(ask: Ask, reasons: bool) -> Sequence[str]:
    hints = {"seed": ask.seed, "top_k": ask.top_k}
    dropped = [name for name, value in hints.items() if value is not None]
    if ask.reasoning is not None and not reasons:
        dropped.append("reasoning")
    elif ask.reasoning is not None and ask.reasoning.tokens is not None:
        dropped.append("reasoning.budget")
    marked = (n for n, tool in enumerate(ask.tools) if isinstance(tool, Tool) and tool.cache is not None)
    dropped += [f"tools[{n}].cache" for n in marked]
    for dialect, fields in ask.extra.items():
        if dialect != NAME:
            dropped += [f"extra.{name}" for name in fields]
    return dropped


def _instructions(turns: Sequence[Turn]) -> tuple[str | None, Sequence[Turn]]:
    """What a caller of this dialect gave as instructions; all other system turns keep their place."""
    if turns and own(turns[0].extra).get("instructions"):
        return turns[0].text, turns[1:]
    return None, turns


def _tool(tool: Tool | ForeignTool, where: str) -> Json:
    if isinstance(tool, ForeignTool):
        if tool.dialect != NAME:
            raise Unsayable(f"Only its own vendor can run the tool {tool.name}.", field=where)
        return tool.raw
    written: Json = {"type": "function", "name": tool.name, "parameters": tool.schema or _NO_SCHEMA}
    if tool.description is not None:
        written["description"] = tool.description
    if tool.strict is not None or NAME not in tool.extra:
        # Elsewhere a function that does not say is not strict; here it would be.
        written["strict"] = bool(tool.strict)
    return {**written, **own(tool.extra)}


def _choice(choose: Choose) -> str | Json:
    if choose.mode == "one":
        return {"type": "function", "name": choose.name}
    return "required" if choose.mode == "any" else choose.mode


def _text(ask: Ask) -> Json | None:
    text: Json = {}
    if ask.format is not None:
        text["format"] = _format(ask.format)
    if ask.verbosity is not None:
        text["verbosity"] = ask.verbosity
    return text or None


def _format(form: Format) -> Json:
    if form.schema is None:
        return {"type": "json_object"}
    fields = {"description": form.description, "strict": form.strict}
    known = {name: value for name, value in fields.items() if value is not None}
    return {"type": "json_schema", "name": form.name, "schema": form.schema, **known}


def _reasoning(asked: Reasoning | None, more: Json) -> Json | None:
    if asked is None:
        return None
    effort = asked.effort or (_effort(asked.tokens) if asked.tokens is not None else None)
    thinking = {"effort": effort, "summary": "auto" if asked.show else None, **more}
    return {name: value for name, value in thinking.items() if value is not None} or None


def _effort(budget: int) -> str:
    return next((effort for tokens, effort in _EFFORTS if budget <= tokens), "high")


def _include(ask: Ask, more: list[str], reasons: bool) -> list[str]:
    """What an answer shall carry besides: log probabilities, and thoughts in a form that can be sent again."""
    thinks = ask.reasoning is not None and ask.reasoning.effort != "none"
    thought = any(isinstance(part, Thinking) for turn in ask.turns for part in turn.parts)
    include = list(more)
    if reasons and (thinks or thought):
        include.append("reasoning.encrypted_content")
    if ask.logprobs:
        include.append("message.output_text.logprobs")
    return list(dict.fromkeys(include))
