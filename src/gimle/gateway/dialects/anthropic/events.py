"""Streams: a provider's events into deltas, and deltas into events for a caller."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gimle.foundation.errors import UpstreamError
from gimle.gateway.dialects.anthropic import blocks, replies
from gimle.gateway.dialects.anthropic.passing import event_of, merged
from gimle.gateway.dialects.anthropic.replies import StopDetails, ToldUsage
from gimle.gateway.dialects.anthropic.shapes import NAME, Misshapen
from gimle.gateway.neutral import (
    Added,
    Began,
    Closed,
    Delta,
    Finished,
    Foreign,
    Json,
    Opened,
    Refusal,
    Signed,
    Text,
    Thinking,
    ToolCall,
    Usage,
    Used,
)
from gimle.gateway.wire import MALFORMED, NULL

# -- what a provider streams


class _Begun(msgspec.Struct, frozen=True):
    id: str = ""
    model: str = ""
    usage: msgspec.Raw = NULL


class _Piece(msgspec.Struct, frozen=True):
    type: str = ""
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    signature: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    index: int = 0
    message: _Begun | None = None
    content_block: msgspec.Raw = NULL
    delta: _Piece = _Piece()
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


_EVENT = msgspec.json.Decoder(_Event)


class Reader:
    """Reads one stream: the data of an event in, deltas out. Raises `UpstreamError`."""

    def __init__(self) -> None:
        self._told = ToldUsage()
        # By the vendor's number of a block: our number of the part.
        self._parts: dict[int, int] = {}
        # What only this dialect knows is told when it is whole.
        self._foreign: dict[int, tuple[Json, list[str]]] = {}
        # By the vendor's number, the calls whose arguments have not begun.
        self._bare: dict[int, int] = {}
        self._count = 0

    def __call__(self, data: bytes) -> Sequence[Delta]:
        """What one event says. An event of a kind that nobody knows says nothing."""
        return list(self._deltas(event_of(_EVENT, data)))

    def _deltas(self, event: _Event) -> Iterator[Delta]:
        match event.type:
            case "message_start":
                begun = event.message or _Begun()
                self._told = merged(self._told, begun.usage)
                yield Opened(id=begun.id, model=begun.model, usage=replies.usage_of(self._told))
            case "content_block_start":
                yield from self._begun(event.index, event.content_block)
            case "content_block_delta":
                yield from self._more(event.index, event.delta)
            case "content_block_stop":
                yield from self._ended(event.index)
            case "message_delta":
                yield from self._finished(event)
            case "message_stop":
                yield Closed()

    def _begun(self, index: int, raw: msgspec.Raw) -> Iterator[Delta]:
        try:
            part = blocks.read(raw, "content_block")
        except Misshapen as wrong:
            raise UpstreamError(f"The provider's stream holds a block that is none: {wrong}") from None
        if isinstance(part, Foreign):
            self._foreign[index] = part.raw, []
            return
        at = self._parts[index] = self._next()
        match part:
            case Text(text=text):
                yield Began(part=msgspec.structs.replace(part, text=""), at=at)
            case Thinking(text=text, signature=signature):
                yield Began(part=msgspec.structs.replace(part, text="", signature=None), at=at)
                if signature:
                    yield Signed(signature=signature, at=at)
            case ToolCall(arguments=text):
                yield Began(part=msgspec.structs.replace(part, arguments=""), at=at)
                # An empty object stands for arguments that are yet to come; some servers tell them here already.
                text = "" if text.strip("{} \n") == "" else text
                if not text:
                    self._bare[index] = at
            case _:
                raise UpstreamError("The provider's stream holds a block that no answer has.")
        if text:
            yield Added(text=text, at=at)

    def _more(self, index: int, piece: _Piece) -> Iterator[Delta]:
        if index in self._foreign:
            self._foreign[index][1].append(piece.partial_json)
            return
        if index not in self._parts:
            raise UpstreamError("The provider's stream goes on with a block that it has not begun.")
        at = self._parts[index]
        if text := piece.text or piece.thinking or piece.partial_json:
            self._bare.pop(index, None)
            yield Added(text=text, at=at)
        if piece.signature:
            yield Signed(signature=piece.signature, at=at)

    def _ended(self, index: int) -> Iterator[Delta]:
        if index in self._bare:
            # The vendor streams nothing for a call without arguments; other formats need an object there, too.
            yield Added(text="{}", at=self._bare.pop(index))
        held = self._foreign.pop(index, None)
        if held is None:
            return
        raw, pieces = held
        if told := "".join(pieces):
            try:
                raw = {**raw, "input": msgspec.json.decode(told)}
            except MALFORMED:
                raise UpstreamError("The provider's stream holds a call of a tool that is not JSON.") from None
        yield Began(part=Foreign(dialect=NAME, raw=raw), at=self._next())

    def _finished(self, event: _Event) -> Iterator[Delta]:
        told = event.delta
        if told.stop_details and told.stop_details.explanation:
            at = self._next()
            yield Began(part=Refusal(text=""), at=at)
            yield Added(text=told.stop_details.explanation, at=at)
        if told.stop_reason:
            yield Finished(finish=replies.finish_of(told.stop_reason), stop_sequence=told.stop_sequence)
        self._told = merged(self._told, event.usage)
        usage = replies.usage_of(self._told)
        if usage is not None:
            yield Used(usage=usage)

    def _next(self) -> int:
        self._count += 1
        return self._count - 1


# -- what a caller gets

_PIECES: dict[type, tuple[str, str]] = {
    Text: ("text_delta", "text"),
    Thinking: ("thinking_delta", "thinking"),
    ToolCall: ("input_json_delta", "partial_json"),
}


class Writer:
    """Writes one stream: deltas in, the bytes of whole events out. There is one choice in this format, the first.

    A block ends when the next begins. Should a dialect mix its parts, pieces of an earlier block still come under its
    number, by which readers put them together.
    """

    def __init__(self, show_usage: bool) -> None:
        # Usage is part of the format, asked for or not.
        self._blocks: dict[int, tuple[type, int]] = {}
        self._open: int | None = None
        self._usage: Usage | None = None
        self._finished = Finished(finish="stop")
        self._refusal: list[str] = []

    def __call__(self, delta: Delta) -> bytes:
        """The events of one delta; often one, sometimes none."""
        match delta:
            case Opened():
                return self._opened(delta)
            case Began(part=part, at=at, choice=0):
                return self._begun(part, at)
            case Added(text=text, at=at, choice=0):
                return self._more(text, at)
            case Signed(signature=signature, at=at, choice=0):
                return self._signed(signature, at)
            case Finished(choice=0):
                self._finished = delta
                return self._stopped()
            case Used(usage=usage):
                self._usage = usage
            case Closed():
                return self._closed()
        return b""

    def _opened(self, opened: Opened) -> bytes:
        self._usage = opened.usage
        message: Json = {
            "id": opened.id,
            "type": "message",
            "role": "assistant",
            "model": opened.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": replies.written_usage(opened.usage or Usage()),
        }
        return _event("message_start", message=message)

    def _begun(self, part: Text | Thinking | ToolCall | Refusal | Foreign, at: int) -> bytes:
        block = _shell(part)
        if block is None:
            self._blocks[at] = type(part), -1
            return b""
        ended = self._stopped()
        index = sum(number >= 0 for _, number in self._blocks.values())
        self._blocks[at] = type(part), index
        self._open = index
        return ended + _event("content_block_start", index=index, content_block=block)

    def _more(self, text: str, at: int) -> bytes:
        kind, index = self._blocks.get(at, (Text, -1))
        if kind is Refusal:
            self._refusal.append(text)
        if index < 0 or kind not in _PIECES:
            return b""
        type_, name = _PIECES[kind]
        return _event("content_block_delta", index=index, delta={"type": type_, name: text})

    def _signed(self, signature: str, at: int) -> bytes:
        kind, index = self._blocks.get(at, (Text, -1))
        if kind is not Thinking:
            return b""
        return _event("content_block_delta", index=index, delta={"type": "signature_delta", "signature": signature})

    def _stopped(self) -> bytes:
        if self._open is None:
            return b""
        index, self._open = self._open, None
        return _event("content_block_stop", index=index)

    def _closed(self) -> bytes:
        ending = replies.ending(self._finished.finish, self._finished.stop_sequence, "".join(self._refusal))
        usage = replies.written_usage(self._usage or Usage())
        return self._stopped() + _event("message_delta", delta=ending, usage=usage) + _event("message_stop")


def _shell(part: Text | Thinking | ToolCall | Refusal | Foreign) -> Json | None:
    """How a block begins; None for what is no block in this format."""
    match part:
        case ToolCall():
            return blocks.told_call(part, {})
        case Refusal():
            return None
        case Foreign(dialect=dialect) if dialect != NAME:
            return None
    return blocks.write(part, "content")


def _event(type_: str, **said: Any) -> bytes:
    return b"event: " + type_.encode() + b"\ndata: " + msgspec.json.encode({"type": type_, **said}) + b"\n\n"
