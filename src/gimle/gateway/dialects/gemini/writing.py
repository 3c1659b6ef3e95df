"""Any dialect's request as one of Gemini's."""

from collections.abc import Callable
from itertools import chain

import msgspec

from gimle.foundation.errors import Unsayable
from gimle.gateway.dialects.gemini.settings import settings, tools
from gimle.gateway.dialects.gemini.shapes import NAME, is_made, path, unmarked, version
from gimle.gateway.neutral import (
    Ask,
    Audio,
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
    Written,
)
from gimle.gateway.types import Provider
from gimle.gateway.wire import MALFORMED

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
# What Google names for calls that another model made: from version 3 on, an unsigned call is refused.
_UNSIGNED = "skip_thought_signature_validator"
# What Gemini reads by URL, by the ending of the URL.
_KINDS = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
    "heic": "image/heic", "heif": "image/heif", "pdf": "application/pdf", "mp4": "video/mp4", "txt": "text/plain",
}  # fmt: skip
# Parts that stay together, and their place among the answers where that tells what they answer.
_Unit = tuple[int | None, list[Json]]


def write_request(ask: Ask, model: str, provider: Provider) -> Written:
    """Where a request goes, and its body. Raises `Unsayable`."""
    dropped: dict[str, None] = {}

    def drop(field: str) -> None:
        dropped[field] = None

    system, contents = _Conversation(ask, model, drop).written()
    for dialect, fields in ask.extra.items():
        if dialect != NAME:
            for name in fields:
                drop(name)
    own = {name: value for name, value in ask.extra.get(NAME, {}).items() if name != "generationConfig"}
    body: Json = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": system}
    body |= tools(ask, drop) | settings(ask, model, drop) | own
    verb = path(model, "streamGenerateContent") + "?alt=sse" if ask.stream else path(model, "generateContent")
    return Written(path=verb, body=msgspec.json.encode(body), dropped=tuple(dropped))


class _Conversation:
    """Turns as contents. What adjacent turns of one side say is one content: Gemini wants the sides to alternate."""

    def __init__(self, ask: Ask, model: str, drop: Callable[[str], None]) -> None:
        self._turns = ask.turns
        self._drop = drop
        known = version(model)
        self._strict = known is not None and known >= (3, 0)
        # Before version 3, a function's answer holds no pictures; they stand beside it.
        self._pictures_inside = self._strict
        calls = (part for turn in ask.turns for part in turn.parts if isinstance(part, ToolCall))
        self._calls = {call.id: (order, call.name) for order, call in enumerate(calls)}

    def written(self) -> tuple[list[Json], list[Json]]:
        """The parts of the system's instruction, and the contents."""
        system: list[Json] = []
        contents: list[tuple[str, list[_Unit]]] = []
        for at, turn in enumerate(self._turns):
            if turn.name is not None:
                self._drop(f"turns[{at}].name")
            units = [
                (self._order(part), self._part(part, f"turns[{at}].parts[{n}]")) for n, part in enumerate(turn.parts)
            ]
            if turn.role in ("system", "developer") and not contents:
                system += chain.from_iterable(parts for _, parts in units)
                continue
            if turn.role in ("system", "developer"):
                # There is one instruction, at the beginning; what comes later keeps its place, not its rank.
                self._drop(f"turns[{at}].role")
            role = "model" if turn.role == "assistant" else "user"
            if units and contents and contents[-1][0] == role:
                contents[-1][1].extend(units)
            elif units:
                contents.append((role, units))
        if not contents and system:
            return [], [{"role": "user", "parts": system}]
        return system, [{"role": role, "parts": self._whole(units)} for role, units in contents]

    def _whole(self, units: list[_Unit]) -> list[Json]:
        # Gemini matches answers without an id by their order, so answers stand in the order of their calls.
        ordered = iter(sorted((unit for unit in units if unit[0] is not None), key=lambda unit: unit[0] or 0))
        parts = list(chain.from_iterable((unit if unit[0] is None else next(ordered))[1] for unit in units))
        calls = [part for part in parts if "functionCall" in part]
        if self._strict and calls and "thoughtSignature" not in calls[0]:
            calls[0]["thoughtSignature"] = _UNSIGNED
        return parts

    def _order(self, part: Part) -> int | None:
        """Where an answer without an id of Gemini's own stands among the calls."""
        if not isinstance(part, ToolResult) or not is_made(part.id):
            return None
        return self._calls.get(part.id, (len(self._calls), None))[0]

    def _part(self, part: Part, field: str) -> list[Json]:
        own = part.extra.get(NAME, {}) if not isinstance(part, Refusal | Foreign) else {}
        if isinstance(part, Text | Image | File | ToolCall | ToolResult) and part.cache is not None:
            self._drop(f"{field}.cache")
        match part:
            case Text(text=text) | Refusal(text=text):
                return [{"text": text, **own}]
            case Thinking():
                return self._thought(part, own, field)
            case Image() | Audio() | File():
                return [{**self._media(part, field), **own}]
            case ToolCall():
                return [{**self._call(part, field), **own}]
            case ToolResult():
                return self._result(part, own, field)
            case Foreign(dialect=dialect, raw=raw):
                if dialect != NAME:
                    raise Unsayable(f"Gemini has no word for a part of {dialect}'s own.", field=field)
                return [raw]

    def _thought(self, part: Thinking, own: Json, field: str) -> list[Json]:
        signature = unmarked(part.signature)
        if part.sealed is not None or (part.signature is not None and signature is None):
            # Another vendor's seal opens nothing here.
            self._drop(f"{field}.{'sealed' if part.sealed is not None else 'signature'}")
        signed = {"thoughtSignature": signature} if signature is not None else {}
        if part.text:
            return [{"text": part.text, "thought": True, **signed, **own}]
        return [{"text": "", **signed, **own}] if signed else []

    def _media(self, part: Image | Audio | File, field: str) -> Json:
        if isinstance(part, Image) and part.detail not in (None, "auto"):
            self._drop(f"{field}.detail")
        if isinstance(part, File):
            if part.name is not None:
                self._drop(f"{field}.name")
            if part.text is not None:
                return {"text": part.text}
        if part.data is not None:
            default = "application/pdf" if isinstance(part, File) else "image/jpeg"
            return {"inlineData": {"mimeType": part.media_type or default, "data": part.data}}
        if part.url is not None:
            kind = part.media_type or _KINDS.get(part.url.partition("?")[0].rpartition(".")[2].lower())
            return {"fileData": {"fileUri": part.url} | ({"mimeType": kind} if kind else {})}
        raise Unsayable(
            "Gemini can't read a file that another provider holds.",
            field=field,
            hint="Send the file itself, or its URL.",
        )

    def _call(self, call: ToolCall, field: str) -> Json:
        written: Json = {} if is_made(call.id) else {"id": call.id}
        written |= {"name": call.name, "args": self._arguments(call.arguments, field)}
        signed = {"thoughtSignature": call.signature} if call.signature is not None else {}
        return {"functionCall": written, **signed}

    def _arguments(self, text: str, field: str) -> msgspec.Raw:
        raw = as_object(text or "{}")
        if raw is None:
            raise Unsayable("Gemini takes the arguments of a call as a JSON object only.", field=f"{field}.arguments")
        return raw

    def _result(self, part: ToolResult, own: Json, field: str) -> list[Json]:
        name = part.name or self._calls.get(part.id, (0, None))[1]
        if name is None:
            raise Unsayable("Gemini must be told which function this is the result of.", field=f"{field}.id")
        texts = [one.text for one in part.parts if isinstance(one, Text)]
        others = [(n, one) for n, one in enumerate(part.parts) if not isinstance(one, Text)]
        media = [self._media(one, f"{field}.parts[{n}]") for n, one in others]
        # A document in plain words is said with the other words.
        texts += [one["text"] for one in media if "text" in one]
        media = [one for one in media if "text" not in one]
        said: Json = {"name": name, "response": _answer("\n".join(texts), part.failed)}
        if part.id and not is_made(part.id):
            said["id"] = part.id
        if media and self._pictures_inside:
            said["parts"] = media
            media = []
        return [{"functionResponse": said, **own}, *media]


def _answer(text: str, failed: bool) -> Json | msgspec.Raw:
    raw = as_object(text)
    if failed:
        return {"error": text if raw is None else raw}
    return {"output": text} if raw is None else raw


def as_object(text: str) -> msgspec.Raw | None:
    """The text itself, when it is a JSON object; else None."""
    try:
        _OBJECT.decode(text)
    except MALFORMED:
        return None
    return msgspec.Raw(text.encode())
