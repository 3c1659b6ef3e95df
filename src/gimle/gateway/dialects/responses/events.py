"""A stream for a caller: another dialect's deltas written as this format's events.

Each event is numbered and says which item, and which part of it, it is about. An item is told as it begins, as it
grows and, whole, as it ends; the last event holds the whole response once more.
"""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from gimle.gateway.dialects.responses.fields import NAME, own, write_logprobs
from gimle.gateway.dialects.responses.parts import write_said
from gimle.gateway.dialects.responses.replies import call, ended, message, own_id, response_of
from gimle.gateway.dialects.responses.thoughts import write_thought
from gimle.gateway.neutral import (
    Added,
    Began,
    Closed,
    Delta,
    Finish,
    Finished,
    Foreign,
    Json,
    Logprob,
    Opened,
    Refusal,
    Reply,
    Signed,
    Text,
    Thinking,
    ToolCall,
    Usage,
    Used,
)


def write_events(_show_usage: bool) -> Callable[[Delta], bytes]:
    """Begins to write a stream. This format always tells its usage."""
    stream = _Stream()

    def write(delta: Delta) -> bytes:
        return b"".join(stream.events(delta))

    return write


class _Part:
    """A part under way: what it is, where it stands, and what has come of it."""

    def __init__(self, part: Text | Refusal | Thinking | ToolCall, place: Json, id_: str) -> None:
        self.part = part
        self.place = place
        self.id = id_
        self.pieces: list[str] = []
        self.logprobs: list[Logprob] = []
        self.signature: str | None = None
        self.open = True

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class _Stream:
    """The state of one stream. Only the first choice is told: a caller of this format can't ask for more."""

    def __init__(self) -> None:
        self._number = 0
        self._opened = Opened(id="", model="")
        self._output: list[Json] = []
        self._parts: dict[int, _Part] = {}
        self._message: int | None = None
        self._finish: Finish = "stop"
        self._usage: Usage | None = None

    def events(self, delta: Delta) -> Iterable[bytes]:
        match delta:
            case Opened():
                self._opened = delta
                self._usage = delta.usage
                yield self._lifecycle("response.created", None)
                yield self._lifecycle("response.in_progress", None)
            case Began(choice=0):
                yield from self._begin(delta)
            case Added(choice=0):
                yield from self._add(delta)
            case Signed(choice=0):
                if delta.at in self._parts:
                    self._parts[delta.at].signature = delta.signature
            case Finished(choice=0):
                self._finish = delta.finish
                yield from self._end_all()
            case Used():
                self._usage = delta.usage
            case Closed():
                yield from self._end_all()
                status = response_of(self._reply(), self._finish, [])["status"]
                yield self._lifecycle(f"response.{status}", self._finish)
            case _:
                return

    # -- parts

    def _begin(self, began: Began) -> Iterable[bytes]:
        # Calls stay open to the end, since some vendors mix several; all else has ended when the next begins.
        yield from self._end([part for part in self._parts.values() if not isinstance(part.part, ToolCall)])
        match began.part:
            case Text() | Refusal():
                yield from self._begin_said(began.part, began.at)
            case Thinking():
                yield from self._begin_item(began.part, began.at, "rs")
            case ToolCall():
                yield from self._begin_item(began.part, began.at, "fc")
            case Foreign(dialect=dialect, raw=raw) if dialect == NAME:
                yield from self._end_message()
                yield self._item("response.output_item.added", raw)
                self._output.append(raw)
                yield self._item("response.output_item.done", raw, len(self._output) - 1)

    def _begin_said(self, part: Text | Refusal, at: int) -> Iterable[bytes]:
        if self._message is None:
            item = message(self._id("msg"), "in_progress")
            yield self._item("response.output_item.added", item)
            self._message = len(self._output)
            self._output.append(item)
        item = self._output[self._message]
        place = {"item_id": item["id"], "output_index": self._message, "content_index": len(item["content"])}
        self._parts[at] = _Part(part, place, item["id"])
        item["content"].append(_said(part, "", []))
        yield self._event("response.content_part.added", part=_said(part, "", []), **place)

    def _begin_item(self, part: Thinking | ToolCall, at: int, prefix: str) -> Iterable[bytes]:
        yield from self._end_message()
        id_ = str(own(part.extra).get("id") or self._id(prefix))
        item = write_thought(Thinking(), id_) if isinstance(part, Thinking) else call(part, id_, "in_progress")
        self._parts[at] = _Part(part, {"item_id": id_, "output_index": len(self._output)}, id_)
        yield self._item("response.output_item.added", item)
        self._output.append(item)

    def _add(self, added: Added) -> Iterable[bytes]:
        part = self._parts.get(added.at)
        if part is None:
            return
        if not part.open:
            # It was taken for ended: what comes late begins anew.
            yield from self._begin(Began(part=part.part, at=added.at))
            part = self._parts[added.at]
        first = not part.pieces
        part.pieces.append(added.text)
        match part.part:
            case Text():
                part.logprobs += added.logprobs or ()
                told = write_logprobs(added.logprobs)
                yield self._event("response.output_text.delta", delta=added.text, logprobs=told, **part.place)
            case Refusal():
                yield self._event("response.refusal.delta", delta=added.text, **part.place)
            case ToolCall():
                yield self._event("response.function_call_arguments.delta", delta=added.text, **part.place)
            case Thinking():
                if first:
                    empty = _summary("")
                    yield self._event(
                        "response.reasoning_summary_part.added", part=empty, summary_index=0, **part.place
                    )
                kind = "response.reasoning_summary_text.delta"
                yield self._event(kind, delta=added.text, summary_index=0, **part.place)

    # -- ends

    def _end_all(self) -> Iterable[bytes]:
        yield from self._end(self._parts.values())
        yield from self._end_message()

    def _end(self, parts: Iterable[_Part]) -> Iterable[bytes]:
        for part in parts:
            if part.open:
                part.open = False
                yield from self._end_part(part)

    def _end_part(self, part: _Part) -> Iterable[bytes]:
        text, place = part.text, part.place
        match part.part:
            case Text():
                told = write_logprobs(part.logprobs)
                yield self._event("response.output_text.done", text=text, logprobs=told, **place)
                yield from self._end_said(part, text)
            case Refusal():
                yield self._event("response.refusal.done", refusal=text, **place)
                yield from self._end_said(part, text)
            case ToolCall():
                name = part.part.name
                whole = msgspec.structs.replace(
                    part.part, arguments=text, signature=part.signature or part.part.signature
                )
                yield self._event("response.function_call_arguments.done", arguments=text, name=name, **place)
                yield from self._end_item(place["output_index"], call(whole, part.id, "completed"))
            case Thinking():
                signature = part.signature or part.part.signature
                thought = msgspec.structs.replace(part.part, text=text, signature=signature)
                if text:
                    yield self._event("response.reasoning_summary_text.done", text=text, summary_index=0, **place)
                    whole_part = _summary(text)
                    yield self._event("response.reasoning_summary_part.done", part=whole_part, summary_index=0, **place)
                yield from self._end_item(place["output_index"], write_thought(thought, part.id))

    def _end_said(self, part: _Part, text: str) -> Iterable[bytes]:
        said = _said(part.part, text, part.logprobs)
        self._output[part.place["output_index"]]["content"][part.place["content_index"]] = said
        yield self._event("response.content_part.done", part=said, **part.place)

    def _end_message(self) -> Iterable[bytes]:
        if self._message is not None:
            at, self._message = self._message, None
            yield from self._end_item(at, {**self._output[at], "status": "completed"})

    def _end_item(self, at: int, item: Json) -> Iterable[bytes]:
        if at == len(self._output) - 1:
            item = ended(item, self._finish)
        self._output[at] = item
        yield self._item("response.output_item.done", item, at)

    # -- events

    def _id(self, prefix: str) -> str:
        return own_id(prefix, self._opened.id, len(self._output))

    def _item(self, kind: str, item: Json, at: int | None = None) -> bytes:
        return self._event(kind, output_index=len(self._output) if at is None else at, item=item)

    def _reply(self) -> Reply:
        opened = self._opened
        return Reply(id=opened.id, model=opened.model, choices=(), usage=self._usage, created=opened.created)

    def _lifecycle(self, kind: str, finish: Finish | None) -> bytes:
        response = response_of(self._reply(), finish, self._output)
        return self._event(kind, response=response if finish else {**response, "usage": None})

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        body = msgspec.json.encode({"type": kind, "sequence_number": number, **fields})
        return b"event: " + kind.encode("ascii") + b"\ndata: " + body + b"\n\n"


def _said(part: Any, text: str, logprobs: list[Logprob]) -> Json:
    said = write_said(msgspec.structs.replace(part, text=text))
    return {**said, "logprobs": write_logprobs(logprobs)} if isinstance(part, Text) else said


def _summary(text: str) -> Json:
    return {"type": "summary_text", "text": text}
