"""The parts of messages and of tools' results: text, images, files, refusals."""

import base64
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from gimle.foundation.errors import InvalidRequest, Unsayable
from gimle.gateway.dialects.responses.fields import NAME, checked, data_url, kept, own, rest, split_data_url
from gimle.gateway.neutral import Audio, File, Foreign, Image, Json, Part, Refusal, Text

BREAKPOINT = "prompt_cache_breakpoint"


class _Text(msgspec.Struct, frozen=True):
    text: str


class _Refusal(msgspec.Struct, frozen=True):
    refusal: str


class _Image(msgspec.Struct, frozen=True):
    image_url: str | None = None
    detail: str | None = None


class _File(msgspec.Struct, frozen=True):
    file_data: str | None = None
    file_url: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _Sound(msgspec.Struct, frozen=True):
    data: str
    format: Literal["wav", "mp3"]


class _Audio(msgspec.Struct, frozen=True):
    input_audio: _Sound


_SOUNDS = {"wav": "audio/wav", "mp3": "audio/mpeg"}


# -- reading


def read_parts(content: str | list[Any], where: str) -> tuple[Part, ...]:
    """The content of a message or a result. Raises `InvalidRequest`."""
    if isinstance(content, str):
        return (Text(text=content),)
    parts = tuple(read_part(checked(raw, dict, f"{where}[{n}]"), f"{where}[{n}]") for n, raw in enumerate(content))
    return parts or (Text(text=""),)


def read_part(raw: Json, where: str) -> Part:
    """One part, that of a caller or of a provider. What only this dialect knows stays as it is."""
    kind = raw.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest(f"{where}: a part has a type.", field=where, hint='Send {"type": "input_text", …}.')
    read = _READERS.get(kind)
    return Foreign(dialect=NAME, raw=raw) if read is None else read(raw, where)


def _text(raw: Json, where: str) -> Part:
    text = checked(raw, _Text, where).text
    more = {name: value for name, value in rest(raw, "type", "text").items() if value not in (None, [])}
    return Text(text=text, cache={} if more.get(BREAKPOINT) else None, extra=kept(more))


def _refusal(raw: Json, where: str) -> Part:
    return Refusal(text=checked(raw, _Refusal, where).refusal)


def _image(raw: Json, where: str) -> Part:
    image = checked(raw, _Image, where)
    if image.image_url is None:
        return Foreign(dialect=NAME, raw=raw)
    more = rest(raw, "type", "image_url", "detail", "file_id")
    cache: Json | None = {} if more.get(BREAKPOINT) else None
    if (inline := split_data_url(image.image_url)) is not None:
        media_type, data = inline
        return Image(data=data, media_type=media_type, detail=image.detail, cache=cache, extra=kept(more))
    return Image(url=image.image_url, detail=image.detail, cache=cache, extra=kept(more))


def _file(raw: Json, where: str) -> Part:
    file = checked(raw, _File, where)
    data, media_type = file.file_data, None
    if data is not None:
        media_type, data = split_data_url(data) or ("application/pdf", data)
    elif file.file_url is None and file.file_id is None:
        raise InvalidRequest(f"{where}: a file has data, a URL or an id.", field=where)
    more = rest(raw, "type", "file_data", "file_url", "file_id", "filename")
    return File(
        data=data,
        url=file.file_url,
        id=file.file_id,
        name=file.filename,
        media_type=media_type,
        cache={} if more.get(BREAKPOINT) else None,
        extra=kept(more),
    )


def _audio(raw: Json, where: str) -> Part:
    sound = checked(raw, _Audio, where).input_audio
    return Audio(data=sound.data, media_type=_SOUNDS[sound.format], extra=kept(rest(raw, "type", "input_audio")))


_READERS: dict[str, Callable[[Json, str], Part]] = {
    "input_text": _text,
    "output_text": _text,
    "text": _text,
    "refusal": _refusal,
    "input_image": _image,
    "input_file": _file,
    "input_audio": _audio,
}


# -- writing


def write_content(parts: Sequence[Part], where: str) -> str | list[Json]:
    """The content of a message or a result: plain words as they are, all else in parts. Raises `Unsayable`."""
    if len(parts) == 1 and isinstance(parts[0], Text) and not own(parts[0].extra):
        return parts[0].text
    return [_written(part, f"{where}.parts[{number}]") for number, part in enumerate(parts)]


def _written(part: Part, where: str) -> Json:
    match part:
        case Text():
            return {"type": "input_text", "text": part.text, **own(part.extra)}
        case Image():
            url = part.url if part.data is None else data_url(part.data, part.media_type or "image/png")
            return {"type": "input_image", "image_url": url, "detail": part.detail or "auto", **own(part.extra)}
        case File():
            return {"type": "input_file", **_file_fields(part), **own(part.extra)}
        case Foreign(dialect=dialect, raw=raw) if dialect == NAME:
            return raw
        case _:
            raise Unsayable("OpenAI's responses can't take such a part here.", field=where)


def _file_fields(file: File) -> Json:
    fields: Json = {"filename": file.name, "file_url": file.url, "file_id": file.id}
    if file.text is not None:
        # The format knows files as data only.
        data = base64.b64encode(file.text.encode()).decode("ascii")
        fields |= {"file_data": data_url(data, "text/plain"), "filename": file.name or "document.txt"}
    elif file.data is not None:
        data = data_url(file.data, file.media_type or "application/pdf")
        fields |= {"file_data": data, "filename": file.name or "document"}
    return {name: value for name, value in fields.items() if value is not None}


def write_said(part: Text | Refusal) -> Json:
    """What the model has said, as a part of its message."""
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.text}
    return {"type": "output_text", "text": part.text, "annotations": [], **rest(own(part.extra), "item")}
