"""Uploaded files in requests that name them: each `file_id` of ours becomes the file itself, in the caller's dialect.

Only what has the shape of our own ids is looked up; what a vendor holds under an id of his own stays as it is.
"""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from gimle.foundation import ids
from gimle.foundation.errors import FileNotKnown, PayloadTooLarge
from gimle.gateway.files import Files, Uploaded
from gimle.gateway.types import ChatCall
from gimle.trust.types import Principal

Json = dict[str, Any]
# Where the conversation stands, in one dialect or the other.
_FIELDS = ("messages", "input")
_OURS = b'"file_'
# Of all files of a request together, in bytes.
_MOST_BYTES = 64 * 1024 * 1024


async def attached(files: Files, principal: Principal, call: ChatCall) -> ChatCall:
    """The call with its files. Raises `FileNotKnown`, which names the field, or `PayloadTooLarge`."""
    named = [name for name in _FIELDS if name in call.body and _OURS in bytes(call.body[name])]
    if not named:
        return call
    found = {name: await _with_files(files, principal.tenant, call.body[name], name) for name in named}
    return replace(call, body={**call.body, **found})


async def _with_files(files: Files, tenant: str, raw: msgspec.Raw, name: str) -> msgspec.Raw:
    try:
        told = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        # Whoever reads it as a request says what is wrong with it.
        return raw
    named = list(_named(told, name))
    known: dict[str, tuple[Uploaded, bytes]] = {}
    for field, part, place, id_ in named:
        if id_ not in known:
            try:
                known[id_] = await files.content(tenant, id_)
            except FileNotKnown as unknown:
                unknown.field = field
                raise
        _put(part, place, *known[id_])
        if sum(len(data) for _, data in known.values()) > _MOST_BYTES:
            raise PayloadTooLarge(f"The files of a request may have {_MOST_BYTES / 1e6:.0f} MB together.", field=field)
    return msgspec.Raw(msgspec.json.encode(told)) if named else raw


def _named(told: Any, name: str) -> Iterator[tuple[str, Json, str, str]]:
    """Of each part that names a file of ours: its field, itself, where in it the file is named, and the id."""
    left: list[tuple[str, Any]] = [(name, told)]
    while left:
        field, value = left.pop()
        if isinstance(value, list):
            left += [(f"{field}[{at}]", value[at]) for at in range(len(value) - 1, -1, -1)]
        elif isinstance(value, dict):
            for place, inner in (("source", value.get("source")), ("file", value.get("file")), ("file_id", value)):
                id_ = inner.get("file_id") if isinstance(inner, dict) else None
                if isinstance(id_, str) and ids.is_id(id_, "file"):
                    yield field, value, place, id_
                    break
            left += [(f"{field}.{key}", value[key]) for key in ("content", "output") if key in value]


def _put(part: Json, place: str, file: Uploaded, data: bytes) -> None:
    """Put a file in the place of its id. A picture is one, whatever kind of part named it."""
    base64 = b64encode(data).decode("ascii")
    url, picture = f"data:{file.media_type};base64,{base64}", file.media_type.startswith("image/")
    del part[place]
    if place == "source":
        part["type"] = "image" if picture else "document"
        part["source"] = {"type": "base64", "media_type": file.media_type, "data": base64}
        if file.media_type == "text/plain":
            part["source"] = {"type": "text", "media_type": "text/plain", "data": data.decode("utf-8")}
    elif place == "file":
        shown = {"type": "image_url", "image_url": {"url": url}}
        part |= shown if picture else {"type": "file", "file": {"filename": file.name, "file_data": url}}
    else:
        shown = {"type": "input_image", "image_url": url}
        part |= shown if picture else {"type": "input_file", "filename": file.name, "file_data": url}
