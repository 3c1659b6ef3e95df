"""Anthropic's messages, both directions. Pure."""

import msgspec

from gimle.foundation.errors import UpstreamError
from gimle.gateway.dialects.anthropic import asks, events, passing, replies, requests
from gimle.gateway.dialects.anthropic.faults import read_fault
from gimle.gateway.dialects.anthropic.shapes import MALFORMED
from gimle.gateway.types import Chat, Counting, Dialect, Headers

# The version of the interface that this module speaks. The vendor has had no other since.
VERSION = "2023-06-01"


class _ModelList(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]


_MODELS = msgspec.json.Decoder(_ModelList)


def key_headers(key: str) -> Headers:
    """The headers that carry a key, and the version without which the vendor answers nobody."""
    return (("x-api-key", key), ("anthropic-version", VERSION))


def read_models(body: bytes) -> int:
    """How many models a provider lists. Raises `UpstreamError`."""
    try:
        return len(_MODELS.decode(body).data)
    except MALFORMED:
        raise UpstreamError("The provider's answer is not a list of models.") from None


DIALECT = Dialect(
    key_headers=key_headers,
    models_path="/models",
    read_models=read_models,
    read_fault=read_fault,
    chat=Chat(
        names=asks.NAMES,
        places=asks.places,
        inspect=passing.inspect,
        read_request=asks.read_request,
        write_reply=replies.write_reply,
        write_events=events.Writer,
        path=lambda model, stream: requests.PATH,
        patch=passing.patch,
        write_request=requests.write_request,
        read_usage=replies.read_usage,
        watch=passing.watch,
        read_reply=replies.read_reply,
        read_events=events.Reader,
        counting=Counting(path=passing.COUNT_PATH, write=passing.write_count, read=passing.read_count),
    ),
)
