"""The shapes of generateContent's JSON, as published, and the marks by which our form holds what only Gemini says."""

import hashlib
import re
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from gimle.gateway.wire import NULL

NAME = "gemini"

# A call without an id gets one of this form, which is the same whenever the same call is read.
_MADE = "call_gm"
_MADE_FORM = re.compile(rf"^{_MADE}[0-9a-f]{{16}}$")
# Other vendors sign thoughts too, and none can check another's: the mark says whose a signature is.
_SIGNED = "gemini:"
_UNDERSCORE = re.compile(r"_([a-z0-9])")
_VERSION = re.compile(r"^gemini-(\d+)(?:\.(\d+))?")


class Blob(msgspec.Struct, frozen=True, rename="camel"):
    """Bytes inside the JSON, as base64."""

    mime_type: str
    data: str


class FileData(msgspec.Struct, frozen=True, rename="camel"):
    """Bytes that lie elsewhere."""

    file_uri: str
    mime_type: str | None = None


class Call(msgspec.Struct, frozen=True, rename="camel"):
    """The model calls a function; `args` stays the JSON text that it wrote."""

    name: str
    args: msgspec.Raw = NULL
    id: str | None = None


class Piece(msgspec.Struct, frozen=True, rename="camel"):
    """A picture or a document inside what a function gave back."""

    inline_data: Blob | None = None
    file_data: FileData | None = None


class Response(msgspec.Struct, frozen=True, rename="camel"):
    """What a function gave back."""

    name: str
    response: msgspec.Raw = NULL
    id: str | None = None
    parts: tuple[Piece, ...] = ()


class Part(msgspec.Struct, frozen=True, rename="camel"):
    """One part of a content. At most one of the kinds is there; what is none of them is foreign to other dialects."""

    text: str | None = None
    thought: bool = False
    thought_signature: str | None = None
    inline_data: Blob | None = None
    file_data: FileData | None = None
    function_call: Call | None = None
    function_response: Response | None = None


class Content(msgspec.Struct, frozen=True):
    """A message of the model's."""

    parts: tuple[msgspec.Raw, ...] = ()


PART_FIELDS = frozenset(
    ("text", "thought", "thoughtSignature", "inlineData", "fileData", "functionCall", "functionResponse")
)
PART = msgspec.json.Decoder(Part)
ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def camel(name: str) -> str:
    """A field's name as Google's JSON spells it; its documentation writes `inline_data`, too."""
    return _UNDERSCORE.sub(lambda found: found[1].upper(), name)


def made_id(*of: object) -> str:
    """An id for a call that has none, the same for the same call in the same place."""
    return _MADE + hashlib.blake2s("\0".join(map(str, of)).encode(), digest_size=8).hexdigest()


def is_made(id_: str) -> bool:
    """Whether an id is one of ours, which the provider has never seen."""
    return _MADE_FORM.match(id_) is not None


def marked(signature: str | None) -> str | None:
    """A signature of Gemini's, as our form holds it."""
    return None if signature is None else _SIGNED + signature


def unmarked(signature: str | None) -> str | None:
    """A signature as Gemini wrote it; None for one of another vendor's."""
    return signature.removeprefix(_SIGNED) if signature is not None and signature.startswith(_SIGNED) else None


def version(model: str) -> tuple[int, int] | None:
    """The version in a model's name; None for other families. An alias (gemini-flash-latest) counts as the newest."""
    name = model.removeprefix("models/")
    found = _VERSION.match(name)
    if found:
        return int(found[1]), int(found[2] or 0)
    return (99, 0) if name.startswith("gemini-") else None


def path(model: str, verb: Literal["generateContent", "streamGenerateContent", "batchEmbedContents"]) -> str:
    """Where a verb of a model is called, below the base URL."""
    folder, slash, name = model.rpartition("/")
    if not slash or folder not in ("models", "tunedModels"):
        folder, name = "models", model
    return f"/{folder}/{quote(name, safe='')}:{verb}"
