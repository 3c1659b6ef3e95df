"""Anthropic's messages, both directions. Pure."""

from gimle.gateway.dialects.anthropic import asks, events, passing, replies, requests
from gimle.gateway.dialects.anthropic.faults import read_fault
from gimle.gateway.types import Chat, Counting, Dialect, Headers
from gimle.gateway.wire import models_in

# The version of the interface that this module speaks. The vendor has had no other since.
VERSION = "2023-06-01"


def key_headers(key: str) -> Headers:
    """The headers that carry a key, and the version without which the vendor answers nobody."""
    return (("x-api-key", key), ("anthropic-version", VERSION))


DIALECT = Dialect(
    key_headers=key_headers,
    models_path="/models",
    read_models=models_in("data"),
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
        shorten=passing.shorten,
        write_request=requests.write_request,
        read_usage=replies.read_usage,
        watch=passing.watch,
        read_reply=replies.read_reply,
        read_events=events.Reader,
        counting=Counting(path=passing.COUNT_PATH, write=passing.write_count, read=passing.read_count),
    ),
)
