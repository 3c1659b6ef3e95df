"""Parts of a content in our form: the same for what callers send and what models answer."""

import msgspec

from gimle.gateway.dialects.gemini.shapes import (
    ANY,
    NAME,
    PART,
    PART_FIELDS,
    Blob,
    Call,
    FileData,
    Part,
    Piece,
    Response,
    made_id,
    marked,
)
from gimle.gateway.neutral import Audio, Extra, File, Foreign, Image, Json, Text, Thinking, ToolCall, ToolResult
from gimle.gateway.neutral import Part as Neutral
from gimle.gateway.wire import NULL

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_part(raw: bytes, *place: object) -> Neutral:
    """A part in our form. `place` tells calls without an id apart. Raises what msgspec raises when it is none."""
    part = PART.decode(raw)
    if part.function_call is not None:
        return tool_call(part.function_call, part.thought_signature, _extra(raw), *place)
    if part.function_response is not None:
        return _tool_result(part.function_response, _extra(raw))
    if part.inline_data is not None:
        return _inline(part.inline_data, _extra(raw))
    if part.file_data is not None:
        return _elsewhere(part.file_data, _extra(raw))
    if part.text is not None or part.thought_signature is not None:
        return _words(part, raw)
    return Foreign(dialect=NAME, raw=ANY.decode(raw))


def tool_call(call: Call, signature: str | None, extra: Extra, *place: object) -> ToolCall:
    """A call, with the JSON text of its arguments as it came."""
    arguments = "{}" if call.args == NULL else bytes(call.args).decode()
    id_ = call.id or made_id(*place, call.name, arguments)
    return ToolCall(id=id_, name=call.name, arguments=arguments, signature=signature, extra=extra)


def _words(part: Part, raw: bytes) -> Neutral:
    text = part.text or ""
    # What is signed and says nothing belongs to no text: it is the end of a thought that nobody may see.
    if part.thought or not text:
        return Thinking(text=text, signature=marked(part.thought_signature), extra=_extra(raw))
    signed = {"thoughtSignature": part.thought_signature} if part.thought_signature is not None else {}
    rest = _extra(raw).get(NAME, {})
    return Text(text=text, extra={NAME: {**signed, **rest}} if signed or rest else {})


def _tool_result(response: Response, extra: Extra) -> ToolResult:
    text, failed = _said(bytes(response.response))
    said = (Text(text=text),) if text else ()
    # The part's own word for this: `output` and `error` are the keys that Google names for a function's answer.
    return ToolResult(
        id=response.id or "",
        name=response.name,
        parts=(*said, *map(_piece, response.parts)),
        failed=failed,
        extra=extra,
    )


def _said(raw: bytes) -> tuple[str, bool]:
    """What a function's answer says, and whether it failed."""
    if raw == b"null":
        return "", False
    fields = _FIELDS.decode(raw)
    if len(fields) == 1 and ("output" in fields or "error" in fields):
        ((key, value),) = fields.items()
        said = ANY.decode(value)
        return said if isinstance(said, str) else bytes(value).decode(), key == "error"
    return raw.decode(), False


def _piece(piece: Piece) -> Text | Image | File:
    if piece.inline_data is not None:
        found = _inline(piece.inline_data, {})
        # Sound, too, is a document here: what a tool gives back is text, a picture or a file.
        return File(data=found.data, media_type=found.media_type) if isinstance(found, Audio) else found
    if piece.file_data is not None:
        return _elsewhere(piece.file_data, {})
    raise msgspec.ValidationError("Expected `inlineData` or `fileData`")


def _inline(blob: Blob, extra: Extra) -> Image | Audio | File:
    match blob.mime_type.partition("/")[0]:
        case "image":
            return Image(data=blob.data, media_type=blob.mime_type, extra=extra)
        case "audio":
            return Audio(data=blob.data, media_type=blob.mime_type, extra=extra)
    return File(data=blob.data, media_type=blob.mime_type, extra=extra)


def _elsewhere(file: FileData, extra: Extra) -> Image | File:
    if file.mime_type is not None and file.mime_type.startswith("image/"):
        return Image(url=file.file_uri, media_type=file.mime_type, extra=extra)
    return File(url=file.file_uri, media_type=file.mime_type, extra=extra)


def _extra(raw: bytes) -> Extra:
    rest: Json = {name: ANY.decode(value) for name, value in _FIELDS.decode(raw).items() if name not in PART_FIELDS}
    return {NAME: rest} if rest else {}
