"""Requests to a provider, out of the neutral form."""

from collections.abc import Iterator, Sequence

import msgspec

from gimle.foundation.errors import Unsayable
from gimle.gateway.dialects.anthropic import blocks, models
from gimle.gateway.dialects.anthropic.models import Traits
from gimle.gateway.dialects.anthropic.shapes import NAME, marked, present
from gimle.gateway.neutral import (
    Ask,
    Choose,
    ForeignTool,
    Format,
    Image,
    Json,
    Part,
    Reasoning,
    Text,
    Thinking,
    Tool,
    ToolCall,
    Turn,
    Written,
)
from gimle.gateway.types import Provider

PATH = "/messages"
# The vendor wants a limit on every answer. It counts thoughts too, so it is generous; a model that is known to write
# less gets its own limit, and a budget for thoughts comes on top.
MAX_TOKENS = 16_384

_HOTTEST = 1.0
# The least top_p beside thoughts.
_THINKING_TOP_P = 0.95
_THINKING = ("enabled", "adaptive")
_TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
_EFFORTS = {"minimal": "low"}
# How the vendor tells an instruction in the middle of a conversation to a model that takes no system message there.
_REMINDER = "<system-reminder>\n{}\n</system-reminder>"

Said = tuple[str, list[Json]]


def write_request(ask: Ask, model: str, provider: Provider) -> Written:
    """A request. Raises `Unsayable`, which names the neutral field."""
    _refuse(ask)
    traits, dropped = models.traits(model), _unheard(ask)
    most = _max_tokens(ask, model, provider)
    thinking = _thinking(ask, traits, most, dropped)
    body: Json = {"model": model, "max_tokens": most}
    system, rest = _split(ask.turns)
    body["system"] = _compact(_system(system)) or None
    body["messages"] = _messages(rest, len(system), traits, dropped)
    body |= {
        "tools": [_tool(tool, f"tools[{at}]") for at, tool in enumerate(ask.tools)] or None,
        "tool_choice": _choice(ask.choose, ask.parallel_tools, bool(ask.tools)),
        "stop_sequences": [stop for stop in ask.stop if stop.strip()] or None,
        "metadata": {"user_id": ask.user} if ask.user is not None else None,
        "service_tier": _TIERS.get(ask.service_tier or ""),
        "stream": True if ask.stream else None,
        **_sampling(ask, traits, thinking.get("thinking", {}).get("type") in _THINKING, dropped),
        **thinking,
    }
    if ask.format is not None:
        body["output_config"] = {**body.get("output_config", {}), "format": _format(ask.format, traits)}
    whole = _with_own(present(body), ask.extra.get(NAME, {}))
    return Written(path=PATH, body=msgspec.json.encode(whole), dropped=tuple(dict.fromkeys(dropped)))


def _refuse(ask: Ask) -> None:
    if ask.n not in (None, 1):
        raise Unsayable("Anthropic's models give one answer at a time.", field="n")
    if ask.logprobs or ask.top_logprobs:
        raise Unsayable(
            "Anthropic's models tell no probabilities.", field="logprobs" if ask.logprobs else "top_logprobs"
        )


def _unheard(ask: Ask) -> list[str]:
    """The hints that can't be given."""
    hints = {"seed": ask.seed, "verbosity": ask.verbosity, "metadata": ask.metadata}
    unheard = list(present(hints))
    penalties = {"frequency_penalty": ask.frequency_penalty, "presence_penalty": ask.presence_penalty}
    # A penalty of nothing is none.
    unheard += [name for name, penalty in penalties.items() if penalty]
    if ask.service_tier is not None and ask.service_tier not in _TIERS:
        unheard.append("service_tier")
    if any(not stop.strip() for stop in ask.stop):
        unheard.append("stop")
    unheard += [f"extra.{name}" for dialect, fields in ask.extra.items() if dialect != NAME for name in fields]
    return unheard


def _with_own(body: Json, kept: Json) -> Json:
    """The request with the fields that only this dialect knows, also those inside of a field that all know."""
    for name, value in kept.items():
        mine = body.get(name)
        body[name] = _with_own(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return body


def _max_tokens(ask: Ask, model: str, provider: Provider) -> int:
    if ask.max_tokens is not None:
        return ask.max_tokens
    budget = ask.reasoning.tokens if ask.reasoning else None
    most = next((known.max_output for known in provider.models if known.name == model), None)
    return min(MAX_TOKENS + (budget or 0), most or MAX_TOKENS + (budget or 0))


# -- turns


def _split(turns: Sequence[Turn]) -> tuple[Sequence[Turn], Sequence[Turn]]:
    """The system turns with which a conversation begins, and the rest of it."""
    first = next((at for at, turn in enumerate(turns) if not _is_system(turn)), len(turns))
    if first == len(turns):
        raise Unsayable("Anthropic's models need a message of the user.", field="turns")
    return turns[:first], turns[first:]


def _is_system(turn: Turn) -> bool:
    return turn.role in ("system", "developer")


def _system(turns: Sequence[Turn]) -> list[Json]:
    return [block for at, turn in enumerate(turns) for block in _instruction(turn, f"turns[{at}]")]


def _instruction(turn: Turn, field: str) -> Iterator[Json]:
    for at, part in enumerate(turn.parts):
        if not isinstance(part, Text):
            raise Unsayable("Anthropic's system prompts are text.", field=f"{field}.parts[{at}]")
        if part.text.strip():
            yield blocks.write(part, f"{field}.parts[{at}]")


def _messages(turns: Sequence[Turn], before: int, traits: Traits, dropped: list[str]) -> list[Json]:
    said: list[Said] = []
    for at, turn in enumerate(turns, before):
        field = f"turns[{at}]"
        if turn.name is not None:
            dropped.append(f"{field}.name")
        if _is_system(turn):
            _say(said, "system", list(_instruction(turn, field)))
        else:
            _say(said, "assistant" if turn.role == "assistant" else "user", list(_blocks(turn, field, dropped)))
    return [{"role": role, "content": _compact(content)} for role, content in _placed(said, traits)]


def _say(said: list[Said], role: str, content: list[Json]) -> None:
    """Adjacent turns of one role become one message, and an empty one none: the vendor takes neither."""
    if content and said and said[-1][0] == role:
        said[-1][1].extend(content)
    elif content:
        said.append((role, content))


def _placed(said: list[Said], traits: Traits) -> list[Said]:
    """System messages stay where the model takes them there: behind the user, and before the assistant or the end."""
    placed: list[Said] = []
    for at, (role, content) in enumerate(said):
        if role == "system":
            fits = at > 0 and said[at - 1][0] == "user" and (at + 1 == len(said) or said[at + 1][0] == "assistant")
            if not (fits and traits.system_turns):
                role, content = "user", [_reminder(block) for block in content]
        _say(placed, role, content)
    return [(role, _results_first(content) if role == "user" else content) for role, content in placed]


def _reminder(block: Json) -> Json:
    return {**block, "text": _REMINDER.format(block["text"])}


def _results_first(content: list[Json]) -> list[Json]:
    return sorted(content, key=lambda block: block.get("type") != "tool_result")


def _blocks(turn: Turn, field: str, dropped: list[str]) -> Iterator[Json]:
    for at, part in enumerate(turn.parts):
        place = f"{field}.parts[{at}]"
        if _says_something(part, place, dropped):
            yield blocks.write(part, place)


def _says_something(part: Part, place: str, dropped: list[str]) -> bool:
    """Whether the vendor takes a part: no empty texts, and no thoughts but those that it has signed or sealed."""
    match part:
        case Text(text=text):
            return bool(text.strip())
        case Thinking(sealed=None, signature=None):
            dropped.append(place)
            return False
        case ToolCall(signature=str()):
            dropped.append(f"{place}.signature")
        case Image(detail=str(detail)) if detail != "auto":
            dropped.append(f"{place}.detail")
    return True


def _compact(content: list[Json]) -> str | list[Json]:
    """One plain text as a string; else the blocks."""
    plain = len(content) == 1 and content[0].keys() == {"type", "text"} and content[0]["type"] == "text"
    return content[0]["text"] if plain else content


# -- the rest of a request


def _tool(tool: Tool | ForeignTool, field: str) -> Json:
    if isinstance(tool, ForeignTool):
        if tool.dialect == NAME:
            return tool.raw
        raise Unsayable(f"The tool {tool.name!r} runs at another vendor.", field=field)
    schema = {"type": "object", "properties": {}} if tool.schema is None else tool.schema
    said = {"name": tool.name, "description": tool.description, "input_schema": schema, "strict": tool.strict}
    return {**present(said), **tool.extra.get(NAME, {}), **marked(tool.cache)}


def _choice(choose: Choose | None, parallel: bool | None, tools: bool) -> Json | None:
    """Which tool the model shall call, and whether several at a time."""
    if choose is None and (parallel is None or not tools):
        return None
    mode = choose.mode if choose else "auto"
    alone = None if parallel is None or mode == "none" else not parallel
    type_, name = ("tool", choose.name) if choose and mode == "one" else (mode, None)
    return present({"type": type_, "name": name, "disable_parallel_tool_use": alone})


def _sampling(ask: Ask, traits: Traits, thinks: bool, dropped: list[str]) -> Json:
    """How bold to be. The vendor takes a temperature of 1 at most, and of its newer models none at all."""
    asked = present({"temperature": ask.temperature, "top_p": ask.top_p, "top_k": ask.top_k})
    if not traits.sampling:
        dropped.extend(asked)
        return {}
    if ask.temperature is not None and ask.temperature > _HOTTEST:
        dropped.append("temperature")
        asked["temperature"] = _HOTTEST
    if thinks and traits.strict:
        fits = {
            "temperature": asked.get("temperature") == _HOTTEST,
            "top_p": asked.get("top_p", 0.0) >= _THINKING_TOP_P,
            "top_k": False,
        }
        dropped.extend(name for name in asked if not fits[name])
        asked = {name: value for name, value in asked.items() if fits[name]}
    if asked.keys() >= {"temperature", "top_p"} and not traits.both:
        dropped.append("top_p")
        del asked["top_p"]
    return asked


def _thinking(ask: Ask, traits: Traits, most: int, dropped: list[str]) -> Json:
    """How much to think, in the way that the model knows."""
    asked = ask.reasoning
    if asked is None:
        return {}
    if asked.effort == "none":
        if not traits.rests:
            # It always thinks: a little is the nearest that it can do.
            dropped.append("reasoning")
            return {"output_config": {"effort": "low"}}
        return {"thinking": {"type": "disabled"}}
    if asked.effort is not None and asked.effort == ask.extra.get(NAME, {}).get("output_config", {}).get("effort"):
        # The caller spoke of the effort alone.
        return {}
    said = _thought(asked, traits, most, dropped)
    if traits.strict and "thinking" in said and ask.choose and ask.choose.mode in ("any", "one"):
        dropped.append("reasoning")
        del said["thinking"]
    return said


def _thought(asked: Reasoning, traits: Traits, most: int, dropped: list[str]) -> Json:
    said: Json = {}
    display = None if asked.show is None else ("summarized" if asked.show else "omitted")
    budget = asked.tokens if traits.budget else None
    if budget is not None and traits.strict:
        budget = models.budget_within(budget, most)
    if budget is not None:
        said["thinking"] = present({"type": "enabled", "budget_tokens": budget, "display": display})
    elif traits.adaptive:
        said["thinking"] = present({"type": "adaptive", "display": display})
    if budget != asked.tokens:
        dropped.append("reasoning.budget")
    if asked.effort is not None and traits.effort:
        said["output_config"] = {"effort": _EFFORTS.get(asked.effort, asked.effort)}
    elif asked.effort is not None:
        dropped.append("reasoning.effort")
    return said


def _format(form: Format, traits: Traits) -> Json:
    if form.schema is None:
        raise Unsayable("Anthropic's models give JSON by a schema only.", field="format")
    if not traits.schema:
        raise Unsayable("This model holds to no schema.", field="format")
    return {"type": "json_schema", "schema": form.schema}
