"""What a caller of generateContent sends: checked, and in our form.

Names are taken in both spellings that Google takes (`inlineData`, `inline_data`), and one part or content where a list
is asked for. The JSON of arguments and answers stays the text that it is.
"""

from collections import defaultdict, deque

import msgspec

from gimle.foundation.errors import InvalidRequest
from gimle.gateway.dialects.gemini.asked import Asked, read_settings
from gimle.gateway.dialects.gemini.parts import read_part
from gimle.gateway.dialects.gemini.shapes import ANY, NAME, camel, made_id
from gimle.gateway.neutral import Ask, Audio, File, Image, Json, Part, Role, ToolCall, ToolResult, Turn
from gimle.gateway.types import ChatCall, Prompt, Provider
from gimle.gateway.wire import BYTES_A_TOKEN, MALFORMED, NULL, decoded, invalid

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SETTINGS = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_ROLE = msgspec.json.Decoder(str | None)
# Objects inside a part whose own names have two spellings.
_NESTED = ("inlineData", "fileData", "functionCall", "functionResponse")
_KNOWN = ("contents", "systemInstruction", "tools", "toolConfig", "generationConfig")
# The route says these.
_IN_THE_PATH = ("model", "stream")


def inspect(call: ChatCall) -> Prompt:
    """Check the known fields of a request. Raises `InvalidRequest`, which names the field."""
    ask = read_request(call)
    parts = [part for turn in ask.turns for part in turn.parts]
    seen = any(isinstance(part, Image) for part in parts)
    able = {"tools": bool(ask.tools), "json_schema": ask.format is not None, "vision": seen}
    spoken = not (ask.tools or ask.format or ask.logprobs) and ask.n in (None, 1)
    return Prompt(
        max_tokens=ask.max_tokens,
        plain=spoken and not any(isinstance(part, Audio | File) for part in parts),
        include_usage=True,
        capabilities=frozenset(name for name, needed in able.items() if needed),
        tokens=len(call.body["contents"]) // BYTES_A_TOKEN,
    )


def patch(call: ChatCall, model: str, provider: Provider) -> bytes:
    """The caller's own bytes: the model stands in the path."""
    return msgspec.json.encode({name: value for name, value in call.body.items() if name not in _IN_THE_PATH})


def shorten(call: ChatCall, most: int, provider: Provider) -> ChatCall:
    """A call with another limit on its answer, which stands among its settings in either spelling."""
    name = next((name for name in call.body if camel(name) == "generationConfig"), "generationConfig")
    given = decoded(call.body.get(name, NULL), _SETTINGS, name) or {}
    kept = {setting: raw for setting, raw in given.items() if camel(setting) != "maxOutputTokens"}
    settings = msgspec.Raw(msgspec.json.encode({**kept, "maxOutputTokens": most}))
    return msgspec.structs.replace(call, body={**call.body, name: settings})


def read_request(call: ChatCall) -> Ask:
    """All that a request says. Raises `InvalidRequest`, which names the field."""
    fields = {camel(name): value for name, value in call.body.items()}
    if "contents" not in fields:
        raise InvalidRequest("The request has no contents.", field="contents", hint='Send [{"parts": [{"text": …}]}].')
    said = read_settings({name: decoded(fields[name], ANY, name) for name in _KNOWN[2:] if name in fields})
    turns = _Turns()
    if "systemInstruction" in fields:
        parts = _content(fields["systemInstruction"], "systemInstruction")[1]
        turns.add("system", [turns.part(raw, f"systemInstruction.parts[{n}]") for n, raw in enumerate(parts)])
    for at, raw in enumerate(_listed(fields["contents"], "contents")):
        turns.content(raw, f"contents[{at}]")
    if not turns.listed:
        raise InvalidRequest("The request has no contents.", field="contents")
    rest = {name: decoded(value, ANY, name) for name, value in fields.items() if name not in (*_KNOWN, *_IN_THE_PATH)}
    return _ask(said, tuple(turns.listed), rest, call.stream)


def _ask(said: Asked, turns: tuple[Turn, ...], rest: Json, stream: bool) -> Ask:
    own = rest | said.rest
    return Ask(
        turns=turns,
        tools=said.tools,
        choose=said.choose,
        format=said.format,
        reasoning=said.reasoning,
        stop=said.stop,
        stream=stream,
        show_usage=True,
        extra={NAME: own} if own else {},
        **said.sampling,
    )


class _Turns:
    """The turns of a conversation; answers find the calls that they answer, also where neither has an id."""

    def __init__(self) -> None:
        self.listed: list[Turn] = []
        self._asked: defaultdict[str, deque[str]] = defaultdict(deque)

    def add(self, role: Role, parts: list[Part]) -> None:
        if parts:
            self.listed.append(Turn(role=role, parts=tuple(parts)))

    def content(self, raw: msgspec.Raw, field: str) -> None:
        said, parts = _content(raw, field)
        if said not in (None, "user", "model", "function"):
            raise InvalidRequest(f"There is no role {said!r}.", field=f"{field}.role", hint="Use `user` or `model`.")
        if said == "model":
            self.add("assistant", [self.part(one, f"{field}.parts[{n}]") for n, one in enumerate(parts)])
            return
        gathered: list[Part] = []
        role: Role = "user"
        for n, one in enumerate(parts):
            part = self.part(one, f"{field}.parts[{n}]")
            its: Role = "tool" if isinstance(part, ToolResult) else "user"
            if its != role:
                self.add(role, gathered)
                role, gathered = its, []
            gathered.append(part)
        self.add(role, gathered)

    def part(self, raw: msgspec.Raw, field: str) -> Part:
        try:
            part = read_part(_spelled(bytes(raw)), field)
        except MALFORMED as wrong:
            raise invalid(wrong, field) from None
        if isinstance(part, ToolCall):
            self._asked[part.name].append(part.id)
        if isinstance(part, ToolResult):
            return self._answer(part, field)
        return part

    def _answer(self, part: ToolResult, field: str) -> ToolResult:
        asked = self._asked[part.name or ""]
        if part.id:
            if part.id in asked:
                asked.remove(part.id)
            return part
        return msgspec.structs.replace(part, id=asked.popleft() if asked else made_id(field, part.name))


def _content(raw: msgspec.Raw, field: str) -> tuple[str | None, list[msgspec.Raw]]:
    """The role of a content, and its parts."""
    if bytes(raw)[:1] == b'"':
        return None, [msgspec.Raw(msgspec.json.encode({"text": msgspec.Raw(raw)}))]
    fields = decoded(raw, _FIELDS, field)
    role = decoded(fields["role"], _ROLE, f"{field}.role") if "role" in fields else None
    return role, _listed(fields["parts"], f"{field}.parts") if "parts" in fields else []


def _listed(raw: msgspec.Raw, field: str) -> list[msgspec.Raw]:
    return [raw] if bytes(raw)[:1] == b"{" else decoded(raw, _LIST, field)


def _spelled(raw: bytes) -> bytes:
    """A part in the one spelling that we read."""
    if b"_" not in raw:
        return raw
    fields = {camel(name): value for name, value in _FIELDS.decode(raw).items()}
    for name in _NESTED:
        if name in fields and bytes(fields[name])[:1] == b"{":
            inner = {camel(key): value for key, value in _FIELDS.decode(fields[name]).items()}
            fields[name] = msgspec.Raw(msgspec.json.encode(inner))
    return msgspec.json.encode(fields)
