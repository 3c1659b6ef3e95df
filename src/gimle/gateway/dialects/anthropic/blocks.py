"""Blocks of content, both directions: a message of either side is made of them, and so is the result of a tool."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from gimle.foundation.errors import Unsayable
from gimle.gateway.dialects.anthropic.shapes import NAME, Misshapen, decode, mark, marked, own, rest, value
from gimle.gateway.neutral import File, Foreign, Image, Json, Part, Refusal, Text, Thinking, ToolCall, ToolResult
from gimle.gateway.wire import MALFORMED, NULL

# Under these names a part keeps the whole block from which it was read, and ours is the place of others' signatures.
_BLOCK = "block"
_OURS = "gimle"
_PDF = "application/pdf"
_NOT_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")


# -- out of the vendor's form


class _Kind(msgspec.Struct, frozen=True):
    type: str


class _Text(msgspec.Struct, frozen=True):
    text: str
    cache_control: Json | None = None


class _Source(msgspec.Struct, frozen=True):
    type: str
    data: str | None = None
    media_type: str | None = None
    url: str | None = None
    file_id: str | None = None
    content: msgspec.Raw = NULL


class _Image(msgspec.Struct, frozen=True):
    source: _Source
    cache_control: Json | None = None


class _Document(msgspec.Struct, frozen=True):
    source: _Source
    title: str | None = None
    cache_control: Json | None = None


class _Found(msgspec.Struct, frozen=True):
    """A search result that the caller brings."""

    source: str
    title: str
    content: list[_Text]
    cache_control: Json | None = None


class _Thinking(msgspec.Struct, frozen=True):
    thinking: str
    signature: str | None = None


class _Sealed(msgspec.Struct, frozen=True):
    data: str


class _Ours(msgspec.Struct, frozen=True):
    signature: str | None = None


class _ToolUse(msgspec.Struct, frozen=True):
    id: str
    name: str
    input: dict[str, msgspec.Raw]
    cache_control: Json | None = None
    gimle: _Ours | None = None


class _Input(msgspec.Struct, frozen=True):
    input: msgspec.Raw


class _ToolResult(msgspec.Struct, frozen=True):
    tool_use_id: str
    content: str | list[msgspec.Raw] | None = None
    is_error: bool | None = None
    cache_control: Json | None = None


_KIND = msgspec.json.Decoder(_Kind)
_TEXT = msgspec.json.Decoder(_Text)
_IMAGE = msgspec.json.Decoder(_Image)
_DOCUMENT = msgspec.json.Decoder(_Document)
_FOUND = msgspec.json.Decoder(_Found)
_THINKING = msgspec.json.Decoder(_Thinking)
_SEALED = msgspec.json.Decoder(_Sealed)
_TOOL_USE = msgspec.json.Decoder(_ToolUse)
_CONTENT = msgspec.json.Decoder(str | list[msgspec.Raw])
_INPUT = msgspec.json.Decoder(_Input)
_TOOL_RESULT = msgspec.json.Decoder(_ToolResult)


def kind(raw: msgspec.Raw, at: str) -> str:
    """The type of a block. Raises `Misshapen`."""
    return decode(_KIND, raw, at).type


def read(raw: msgspec.Raw, at: str) -> Part:
    """The part that a block is; one which no other dialect has is kept as it came. Raises `Misshapen`."""
    reader = _READERS.get(kind(raw, at), _foreign)
    return reader(raw, at)


def _foreign(raw: msgspec.Raw, at: str) -> Foreign:
    return Foreign(dialect=NAME, raw=value(raw, at))


def _text(raw: msgspec.Raw, at: str) -> Text:
    told = decode(_TEXT, raw, at)
    return Text(text=told.text, cache=mark(told.cache_control), extra=own(rest(raw, _Text, at)))


def _image(raw: msgspec.Raw, at: str) -> Part:
    told = decode(_IMAGE, raw, at)
    extra, cache = own(rest(raw, _Image, at)), mark(told.cache_control)
    match told.source:
        case _Source(type="base64", data=str(data), media_type=media_type):
            return Image(data=data, media_type=media_type, cache=cache, extra=extra)
        case _Source(type="url", url=str(url)):
            return Image(url=url, cache=cache, extra=extra)
        case _Source(type="base64" | "url"):
            raise Misshapen("The source is not complete", f"{at}.source")
    # A file that the vendor holds.
    return _foreign(raw, at)


def _document(raw: msgspec.Raw, at: str) -> Part:
    told = decode(_DOCUMENT, raw, at)
    shell = File(name=told.title, cache=mark(told.cache_control), extra=own(rest(raw, _Document, at)))
    match told.source:
        case _Source(type="base64", data=str(data), media_type=media_type):
            return msgspec.structs.replace(shell, data=data, media_type=media_type)
        case _Source(type="text", data=str(data), media_type=media_type):
            return msgspec.structs.replace(shell, text=data, media_type=media_type)
        case _Source(type="url", url=str(url)):
            return msgspec.structs.replace(shell, url=url)
        case _Source(type="file", file_id=str(id_)):
            return msgspec.structs.replace(shell, id=id_)
        case _Source(type="content", content=content) if (text := _words(content, f"{at}.source.content")) is not None:
            return msgspec.structs.replace(shell, text=text, extra=own({_BLOCK: value(raw, at)}))
        case _Source(type="base64" | "text" | "url" | "file"):
            raise Misshapen("The source is not complete", f"{at}.source")
    return _foreign(raw, at)


def _words(raw: msgspec.Raw, at: str) -> str | None:
    """The words of a document that is made of blocks; None when there is more in it than words."""
    told = decode(_CONTENT, raw, at)
    if isinstance(told, str):
        return told
    parts = [read(block, f"{at}[{n}]") for n, block in enumerate(told)]
    words = [part.text for part in parts if isinstance(part, Text)]
    return "\n".join(words) if len(words) == len(parts) else None


def _found(raw: msgspec.Raw, at: str) -> Text:
    """Others have no such block: to them it is its words."""
    told = decode(_FOUND, raw, at)
    words = "\n".join(part.text for part in told.content)
    return Text(text=f"{told.title}\n{told.source}\n\n{words}", extra=own({_BLOCK: value(raw, at)}))


def _thinking(raw: msgspec.Raw, at: str) -> Thinking:
    told = decode(_THINKING, raw, at)
    return Thinking(text=told.thinking, signature=told.signature or None)


def _sealed(raw: msgspec.Raw, at: str) -> Thinking:
    return Thinking(sealed=decode(_SEALED, raw, at).data)


def _tool_use(raw: msgspec.Raw, at: str) -> ToolCall:
    told = decode(_TOOL_USE, raw, at)
    return ToolCall(
        id=told.id,
        name=told.name,
        arguments=bytes(decode(_INPUT, raw, at).input).decode(),
        signature=told.gimle.signature if told.gimle else None,
        cache=mark(told.cache_control),
        extra=own(rest(raw, _ToolUse, at)),
    )


def _tool_result(raw: msgspec.Raw, at: str) -> Part:
    told = decode(_TOOL_RESULT, raw, at)
    parts: Sequence[Part] = ()
    if isinstance(told.content, str):
        parts = (Text(text=told.content),)
    elif told.content is not None:
        parts = tuple(read(block, f"{at}.content[{n}]") for n, block in enumerate(told.content))
    held = tuple(part for part in parts if isinstance(part, Text | Image | File))
    if len(held) < len(parts):
        # It holds something which only the vendor knows.
        return _foreign(raw, at)
    cache, extra = mark(told.cache_control), own(rest(raw, _ToolResult, at))
    return ToolResult(id=told.tool_use_id, parts=held, failed=bool(told.is_error), cache=cache, extra=extra)


_READERS: Mapping[str, Callable[[msgspec.Raw, str], Part]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _found,
    "thinking": _thinking,
    "redacted_thinking": _sealed,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
}


# -- into the vendor's form


def write(part: Part, field: str) -> Json:
    """The block of a part. Raises `Unsayable`, which names `field`."""
    match part:
        case Text(extra={"anthropic": {"block": dict(block)}}) | File(extra={"anthropic": {"block": dict(block)}}):
            return block
        case Text() | Image() | File():
            return {**_shown(part, field), **part.extra.get(NAME, {}), **marked(part.cache)}
        case Thinking(sealed=str(data)):
            return {"type": "redacted_thinking", "data": data}
        case Thinking(text=text, signature=signature):
            return {"type": "thinking", "thinking": text, "signature": signature or ""}
        case ToolCall():
            return _written_call(part, field)
        case ToolResult():
            return _written_result(part, field)
        case Refusal(text=text):
            return {"type": "text", "text": text}
        case Foreign(dialect="anthropic", raw=raw):
            return raw
    raise Unsayable("Anthropic's format has no such kind of part.", field=field)


def _shown(part: Text | Image | File, field: str) -> Json:
    match part:
        case Text(text=text):
            return {"type": "text", "text": text}
        case Image():
            return {"type": "image", "source": _image_source(part, field)}
        case File(name=name):
            title = {"title": name} if name else {}
            return {"type": "document", "source": _file_source(part, field), **title}


def tool_id(id_: str) -> str:
    """An id of a call in the letters that the vendor takes."""
    return _NOT_IN_ID.sub("_", id_) or "_"


def told_call(call: ToolCall, arguments: Any) -> Json:
    """A call for a caller. A signature that is not the vendor's own stands in an object of ours."""
    ours = {_OURS: {"signature": call.signature}} if call.signature is not None else {}
    said = {"type": "tool_use", "id": tool_id(call.id), "name": call.name, "input": arguments}
    return {**said, **call.extra.get(NAME, {}), **ours}


def _written_call(call: ToolCall, field: str) -> Json:
    said = {"type": "tool_use", "id": tool_id(call.id), "name": call.name, "input": arguments_of(call, field)}
    return {**said, **call.extra.get(NAME, {}), **marked(call.cache)}


def arguments_of(call: ToolCall, field: str) -> msgspec.Raw:
    """A call's arguments, in the very words of the model. Raises `Unsayable` when they are not a JSON object."""
    if not call.arguments.strip():
        return msgspec.Raw(b"{}")
    raw = call.arguments.encode()
    try:
        # Decoded to the bottom, since what is passed on undecoded must be valid.
        if isinstance(msgspec.json.decode(raw), dict):
            return msgspec.Raw(raw)
    except MALFORMED:
        pass
    raise Unsayable("Anthropic's format holds calls of tools whose arguments are a JSON object only.", field=field)


def _written_result(result: ToolResult, field: str) -> Json:
    content: Any = [write(part, f"{field}.parts[{n}]") for n, part in enumerate(result.parts)]
    if len(content) == 1 and content[0].keys() == {"type", "text"}:
        content = content[0]["text"]
    said: Json = {"type": "tool_result", "tool_use_id": tool_id(result.id)}
    if content:
        said["content"] = content
    if result.failed:
        said["is_error"] = True
    return {**said, **result.extra.get(NAME, {}), **marked(result.cache)}


def _image_source(image: Image, field: str) -> Json:
    if image.data is not None:
        return {"type": "base64", "media_type": image.media_type or "image/png", "data": image.data}
    if image.url is not None:
        return {"type": "url", "url": image.url}
    raise Unsayable("This picture has neither a URL nor data.", field=field)


def _file_source(file: File, field: str) -> Json:
    match file:
        case File(text=str(text)):
            return {"type": "text", "media_type": "text/plain", "data": text}
        case File(data=str(data), media_type=media_type) if (media_type or _PDF) == _PDF:
            return {"type": "base64", "media_type": _PDF, "data": data}
        case File(data=str(data), media_type=str(media_type)) if media_type.startswith("text/"):
            return {"type": "text", "media_type": "text/plain", "data": _plain(data, field)}
        case File(url=str(url)):
            return {"type": "url", "url": url}
        case File(id=str(id_)) if id_.startswith("file_"):
            return {"type": "file", "file_id": id_}
        case File(id=str()):
            raise Unsayable("Anthropic does not hold this file.", field=field)
    raise Unsayable(f"Anthropic's format takes PDF and plain text, not {file.media_type}.", field=field)


def _plain(data: str, field: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Unsayable("This file is not text in base64.", field=field) from None
