"""A provider's stream: looked at as it passes, or read into deltas for a caller of another dialect."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from gimle.foundation.errors import UpstreamError
from gimle.gateway.dialects.responses.fields import NAME, TokenLogprob, read_logprobs
from gimle.gateway.dialects.responses.replies import Head, ToldError, check, finish, read_call, told_error, usage_in
from gimle.gateway.dialects.responses.thoughts import sealed
from gimle.gateway.neutral import (
    Added,
    Began,
    Closed,
    Delta,
    Finished,
    Foreign,
    Json,
    Opened,
    Part,
    Refusal,
    Signed,
    Text,
    Thinking,
    ToolCall,
    Used,
)
from gimle.gateway.openai_wire import DONE
from gimle.gateway.types import Event
from gimle.gateway.wire import MALFORMED

T = TypeVar("T")
_ENDS = ("response.completed", "response.incomplete")
_BEGINS = ("response.created", "response.queued", "response.in_progress")
_FAILS = ("response.failed", "response.cancelled", "error")
# These announce what is still empty.
_NO_CONTENT = (
    *_BEGINS,
    "response.output_item.added",
    "response.content_part.added",
    "response.reasoning_summary_part.added",
    "keepalive",
    "ping",
)


class _Seen(msgspec.Struct, frozen=True):
    """As much of an event as must be known of one that passes."""

    type: str
    response: Head | None = None
    error: ToldError | None = None
    message: str | None = None
    code: str | int | None = None


class _Told(_Seen, frozen=True):
    """An event of which all is wanted."""

    item: dict[str, Any] | None = None
    part: dict[str, Any] | None = None
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    delta: str = ""
    text: str = ""
    refusal: str = ""
    arguments: str = ""
    logprobs: list[TokenLogprob] | None = None


class _Broken(msgspec.Struct, frozen=True):
    """An error as other interfaces of OpenAI tell it, in an event without a type."""

    error: ToldError


_SEEN = msgspec.json.Decoder(_Seen)
_TOLD = msgspec.json.Decoder(_Told)
_BROKEN = msgspec.json.Decoder(_Broken)


def watch() -> Callable[[bytes], Event]:
    """Begins to look at a stream that passes as it came."""
    return _look


def _look(data: bytes) -> Event:
    if data == DONE:
        return Event()
    seen = _decoded(data, _SEEN)
    _check(seen)
    done = seen.type in _ENDS
    return Event(
        opened=(0,) if seen.type == "response.created" else (),
        closed=(0,) if done else (),
        content=0 if seen.type in _NO_CONTENT else len(data),
        done=done,
        usage=usage_in(seen.response.usage) if done and seen.response else None,
    )


def _decoded(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(data)
    except MALFORMED:
        pass
    try:
        error = _BROKEN.decode(data).error
    except MALFORMED:
        raise UpstreamError("The provider's stream holds an event that is none of a response.") from None
    raise told_error(error)


def _check(seen: _Seen) -> None:
    """Raise `UpstreamError` for an event that tells of a failure."""
    if seen.type in _FAILS:
        told = seen.error or (seen.response.error if seen.response else None)
        raise told_error(told or ToldError(message=seen.message, code=str(seen.code) if seen.code else None))
    if seen.response is not None:
        check(seen.response)


def read_events() -> Callable[[bytes], Sequence[Delta]]:
    """Begins to read a stream. Raises `UpstreamError` when an event is malformed or tells of an error."""
    return _Reading().read


class _Reading:
    """What has been told so far: which part stands where, and how much of each has come."""

    def __init__(self) -> None:
        self._opened = False
        self._over = False
        self._count = 0
        self._at: dict[tuple[int, int | str], int] = {}
        self._parts: list[Part] = []
        self._begun_text: set[int] = set()
        self._readers: dict[str, Callable[[_Told], Iterator[Delta]]] = {
            "response.output_item.added": self._item_added,
            "response.output_item.done": self._item_done,
            "response.output_text.delta": self._text,
            "response.output_text.done": self._text_done,
            "response.refusal.delta": self._refusal,
            "response.refusal.done": self._refusal_done,
            "response.function_call_arguments.delta": self._arguments,
            "response.function_call_arguments.done": self._arguments_done,
            "response.reasoning_summary_part.added": self._summary_part,
            "response.reasoning_summary_text.delta": self._thought,
            "response.reasoning_text.delta": self._thought,
        }

    def read(self, data: bytes) -> Sequence[Delta]:
        if data == DONE or self._over:
            return ()
        told: _Told = _decoded(data, _TOLD)
        _check(told)
        try:
            return list(self._deltas(told))
        except MALFORMED:
            raise UpstreamError(f"The provider's stream holds a malformed event: {told.type[:64]}.") from None

    def _deltas(self, told: _Told) -> Iterator[Delta]:
        if told.response is not None and not self._opened:
            self._opened = True
            head = told.response
            yield Opened(id=head.id, model=head.model, created=int(head.created_at))
        if told.type in _ENDS:
            yield from self._end(told.response or Head())
        elif (reader := self._readers.get(told.type)) is not None:
            yield from reader(told)

    def _end(self, head: Head) -> Iterator[Delta]:
        self._over = True
        yield Finished(finish=finish(head, self._parts))
        if (used := usage_in(head.usage)) is not None:
            yield Used(usage=used)
        yield Closed()

    # -- parts. A part is known by its item, and by its place in it or by what it is.

    def _begin(
        self, key: tuple[int, int | str], part: Text | Refusal | Thinking | ToolCall | Foreign
    ) -> Iterator[Delta]:
        self._at[key] = len(self._parts)
        self._parts.append(part)
        yield Began(part=part, at=self._at[key])

    def _grow(
        self, key: tuple[int, int | str], part: Text | Refusal | Thinking, text: str, told: _Told | None = None
    ) -> Iterator[Delta]:
        """More of a part, which begins with it where nobody has announced it."""
        if not text:
            return
        if key not in self._at:
            yield from self._begin(key, part)
        at = self._at[key]
        self._begun_text.add(at)
        yield Added(text=text, at=at, logprobs=read_logprobs(told.logprobs) if told else None)

    def _item_added(self, told: _Told) -> Iterator[Delta]:
        item = told.item or {}
        if item.get("type") == "function_call":
            yield from self._begin_call(told.output_index, item)

    def _begin_call(self, index: int, item: Json) -> Iterator[Delta]:
        call = read_call(item)
        shell = msgspec.structs.replace(call, arguments="")
        yield from self._begin((index, "call"), shell)

    def _item_done(self, told: _Told) -> Iterator[Delta]:
        item, index = told.item or {}, told.output_index
        match item.get("type"):
            case "function_call":
                if (index, "call") not in self._at:
                    yield from self._begin_call(index, item)
                yield from self._whole_arguments(index, read_call(item).arguments)
            case "reasoning":
                yield from self._thought_done(index, item)
            case "message":
                yield from self._message_done(index, msgspec.convert(item, _Message).content)
            case None:
                return
            case _:
                yield from self._begin((index, "foreign"), Foreign(dialect=NAME, raw=item))

    def _message_done(self, index: int, content: "list[_Content]") -> Iterator[Delta]:
        """Whatever of a message has not come in pieces comes now."""
        for place, part in enumerate(content):
            if (index, place) not in self._at and part.type == "output_text":
                yield from self._grow((index, place), Text(text=""), part.text)
            elif (index, place) not in self._at and part.type == "refusal":
                yield from self._grow((index, place), Refusal(text=""), part.refusal)

    def _text(self, told: _Told) -> Iterator[Delta]:
        return self._grow((told.output_index, told.content_index), Text(text=""), told.delta, told)

    def _text_done(self, told: _Told) -> Iterator[Delta]:
        key = (told.output_index, told.content_index)
        return iter(()) if key in self._at else self._grow(key, Text(text=""), told.text, told)

    def _refusal(self, told: _Told) -> Iterator[Delta]:
        return self._grow((told.output_index, told.content_index), Refusal(text=""), told.delta)

    def _refusal_done(self, told: _Told) -> Iterator[Delta]:
        key = (told.output_index, told.content_index)
        return iter(()) if key in self._at else self._grow(key, Refusal(text=""), told.refusal)

    def _arguments(self, told: _Told) -> Iterator[Delta]:
        at = self._at.get((told.output_index, "call"))
        if at is None:
            raise UpstreamError("The provider's stream holds arguments of a call that never began.")
        if told.delta:
            self._begun_text.add(at)
            yield Added(text=told.delta, at=at)

    def _arguments_done(self, told: _Told) -> Iterator[Delta]:
        return self._whole_arguments(told.output_index, told.arguments)

    def _whole_arguments(self, index: int, arguments: str) -> Iterator[Delta]:
        at = self._at.get((index, "call"))
        if at is not None and at not in self._begun_text and arguments:
            self._begun_text.add(at)
            yield Added(text=arguments, at=at)

    # -- thoughts

    def _summary_part(self, told: _Told) -> Iterator[Delta]:
        at = self._at.get((told.output_index, "thought"))
        if at is not None and told.summary_index > 0:
            yield Added(text="\n\n", at=at)

    def _thought(self, told: _Told) -> Iterator[Delta]:
        return self._grow((told.output_index, "thought"), Thinking(), told.delta)

    def _thought_done(self, index: int, item: Json) -> Iterator[Delta]:
        seal, at = sealed(item), self._at.get((index, "thought"))
        if at is None and seal is not None:
            yield from self._begin((index, "thought"), Thinking(sealed=seal))
        elif at is not None and seal is not None:
            yield Signed(signature=seal, at=at)


class _Content(msgspec.Struct, frozen=True):
    type: str
    text: str = ""
    refusal: str = ""


class _Message(msgspec.Struct, frozen=True):
    content: list[_Content] = []
