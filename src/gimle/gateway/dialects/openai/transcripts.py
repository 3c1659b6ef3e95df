"""Transcripts of speech, which pass as they come: what of them the gateway has to know."""

from collections.abc import Callable

import msgspec

from gimle.gateway.neutral import Usage
from gimle.gateway.openai_wire import DONE, Answer, event
from gimle.gateway.types import Event
from gimle.gateway.wire import MALFORMED, NULL, Count, lenient


class _Told(msgspec.Struct, frozen=True):
    """Usage in tokens; a model that counts the seconds of speech tells none."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None


class _Whole(msgspec.Struct, frozen=True):
    usage: msgspec.Raw = NULL


class _Piece(Answer, frozen=True):
    type: str = ""
    usage: msgspec.Raw = NULL


_TOLD = msgspec.json.Decoder(_Told | None, strict=False)
_WHOLE = msgspec.json.Decoder(_Whole)
_PIECE = msgspec.json.Decoder(_Piece)


def read_usage(body: bytes) -> Usage | None:
    """The usage of a transcript, if it tells it; as plain text or subtitles it does not."""
    try:
        return _usage(_WHOLE.decode(body).usage)
    except MALFORMED:
        return None


def watch() -> Callable[[bytes], Event]:
    """A stream that passes needs no memory."""
    return _seen


def _seen(data: bytes) -> Event:
    """One event of a stream. Raises `UpstreamError` when it is malformed or tells of an error."""
    if data == DONE:
        return Event(done=True)
    piece = event(data, _PIECE, "one of a transcript")
    ended = piece.type == "transcript.text.done"
    return Event(opened=(0,), closed=(0,) if ended else (), content=len(data), usage=_usage(piece.usage))


def _usage(raw: msgspec.Raw) -> Usage | None:
    told = lenient(raw, _TOLD)
    if told is None or told.input_tokens is None:
        return None
    return Usage(uncached=max(0, told.input_tokens), output=max(0, told.output_tokens or 0))
