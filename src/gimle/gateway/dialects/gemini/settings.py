"""What a request sets beside the conversation: tools, sampling, the form of the answer, how much to think."""

from collections.abc import Callable

from gimle.foundation.errors import Unsayable
from gimle.gateway.dialects.gemini.shapes import NAME, version
from gimle.gateway.neutral import Ask, Choose, Effort, Format, Json, Reasoning, Tool

_MOST_STOPS = 5
_MODES = {"auto": "AUTO", "none": "NONE", "any": "ANY", "one": "ANY"}
# As Google's own OpenAI-compatible endpoint reads an effort: a level from version 3 on, before it a budget in tokens.
_LEVELS: dict[Effort, str] = {
    "none": "minimal", "minimal": "minimal", "low": "low", "medium": "medium",
    "high": "high", "xhigh": "high", "max": "high",
}  # fmt: skip
_BUDGETS: dict[Effort, int] = {
    "none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576,
}  # fmt: skip
_SAMPLING = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "n": "candidateCount",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "logprobs": "responseLogprobs",
    "top_logprobs": "logprobs",
}
# Hints that Gemini has no word for.
_HINTS = ("parallel_tools", "verbosity", "user", "service_tier", "metadata")

Drop = Callable[[str], None]


def tools(ask: Ask, drop: Drop) -> Json:
    """`tools` and `toolConfig`, where there are any."""
    functions: list[Json] = []
    others: list[Json] = []
    for at, tool in enumerate(ask.tools):
        if isinstance(tool, Tool):
            functions.append(_function(tool, f"tools[{at}]", drop))
        elif tool.dialect == NAME:
            others.append(tool.raw)
        else:
            raise Unsayable(f"Gemini does not have the tool {tool.name!r}.", field=f"tools[{at}]")
    listed = ([{"functionDeclarations": functions}] if functions else []) + others
    return ({"tools": listed} if listed else {}) | ({"toolConfig": _config(ask.choose)} if ask.choose else {})


def _function(tool: Tool, field: str, drop: Drop) -> Json:
    for name, said in (("strict", tool.strict), ("cache", tool.cache)):
        if said is not None:
            drop(f"{field}.{name}")
    own = tool.extra.get(NAME, {})
    written: Json = {"name": tool.name}
    if tool.description is not None:
        written["description"] = tool.description
    if tool.schema is not None and "parameters" not in own:
        written["parametersJsonSchema"] = tool.schema
    return written | own


def _config(choose: Choose) -> Json:
    named = {"allowedFunctionNames": [choose.name]} if choose.mode == "one" else {}
    return {"functionCallingConfig": {"mode": _MODES[choose.mode], **named}}


def settings(ask: Ask, model: str, drop: Drop) -> Json:
    """`generationConfig`, where anything is set."""
    said = {
        "max_tokens": ask.max_tokens, "temperature": ask.temperature, "top_p": ask.top_p, "top_k": ask.top_k,
        "seed": ask.seed, "n": ask.n, "presence_penalty": ask.presence_penalty,
        "frequency_penalty": ask.frequency_penalty, "logprobs": ask.logprobs, "top_logprobs": ask.top_logprobs,
    }  # fmt: skip
    written: Json = {_SAMPLING[name]: value for name, value in said.items() if value is not None}
    if ask.stop:
        if len(ask.stop) > _MOST_STOPS:
            raise Unsayable(f"Gemini takes at most {_MOST_STOPS} stop sequences.", field="stop")
        written["stopSequences"] = ask.stop
    own = ask.extra.get(NAME, {}).get("generationConfig", {})
    if ask.format is not None:
        written |= _form(ask.format, own, drop)
    written |= _thinking(ask.reasoning, model, drop) if ask.reasoning is not None else {}
    hints = (ask.parallel_tools, ask.verbosity, ask.user, ask.service_tier, ask.metadata)
    for name, hint in zip(_HINTS, hints, strict=True):
        if hint is not None:
            drop(name)
    written |= own
    return {"generationConfig": written} if written else {}


def _form(form: Format, own: Json, drop: Drop) -> Json:
    if form.description is not None:
        drop("format.description")
    written: Json = {"responseMimeType": "application/json"}
    if form.schema is not None and "responseSchema" not in own:
        written["responseJsonSchema"] = form.schema
    return written


def _thinking(reasoning: Reasoning, model: str, drop: Drop) -> Json:
    known = version(model)
    if model.startswith("gemma") or (known is not None and known < (2, 5)):
        # These don't think.
        drop("reasoning")
        return {}
    written: Json = {}
    if reasoning.budget is not None:
        written["thinkingBudget"] = reasoning.budget
    elif reasoning.effort is not None:
        if known is None:
            # Whether a model of another name takes levels or budgets, only its owner knows.
            drop("reasoning.effort")
        else:
            written |= _level(reasoning.effort, model) if known >= (3, 0) else _budget(reasoning.effort, model)
    if reasoning.show is not None:
        written["includeThoughts"] = reasoning.show
    return {"thinkingConfig": written} if written else {}


def _level(effort: Effort, model: str) -> Json:
    # Pro has no level below this one.
    least = "low" if "-pro" in model else "minimal"
    return {"thinkingLevel": least if _LEVELS[effort] == "minimal" else _LEVELS[effort]}


def _budget(effort: Effort, model: str) -> Json:
    # 2.5 Pro can't but think: 128 tokens are the least.
    least = 128 if "-pro" in model else 0
    return {"thinkingBudget": max(least, _BUDGETS[effort])}
