"""Gemini's stream: an answer in pieces, with no event for the end. Complete is what has a finishReason."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gimle.foundation.errors import UpstreamError
from gimle.gateway.dialects.gemini.replies import (
    Answer,
    Candidate,
    finish_of,
    logprobs_of,
    read_answer,
    read_parts,
    written_finish,
    written_logprobs,
    written_part,
    written_usage,
)
from gimle.gateway.dialects.gemini.shapes import unmarked
from gimle.gateway.neutral import (
    Added,
    Began,
    Closed,
    Delta,
    Finished,
    Foreign,
    Json,
    Logprob,
    Opened,
    Part,
    Refusal,
    Signed,
    Text,
    Thinking,
    ToolCall,
    Usage,
    Used,
)
from gimle.gateway.types import Event

# -- a stream that passes as it came


def watch() -> Callable[[bytes], Event]:
    """Looks at one event after the other."""
    return _seen


def _seen(data: bytes) -> Event:
    answer = read_answer(data)
    for candidate in answer.candidates:
        finish_of(candidate, calls=False)
    finished = tuple(candidate.index for candidate in answer.candidates if candidate.finish_reason)
    # A blocked prompt is answered, and completely: with nothing.
    alone = (0,) if answer.blocked and not answer.candidates else ()
    return Event(
        opened=tuple(candidate.index for candidate in answer.candidates) or alone,
        closed=finished or alone,
        content=len(data) if any(_says(candidate) for candidate in answer.candidates) else 0,
        usage=answer.usage,
    )


def _says(candidate: Candidate) -> bool:
    if candidate.content is None:
        return False
    return any(not isinstance(part, Text | Thinking) or part.text for part in read_parts(candidate, ""))


# -- a stream that is read


def read_events() -> Callable[[bytes], Sequence[Delta]]:
    """Reads one event after the other."""
    return _Reader().read


class _Told:
    """How far one candidate has come."""

    def __init__(self) -> None:
        self.at = -1
        self.open: type[Part] | None = None
        self.calls = False
        self.finished = False
        self.parts = 0


class _Reader:
    def __init__(self) -> None:
        self._id = ""
        self._told: dict[int, _Told] = {}
        self._usage: Usage | None = None

    def read(self, data: bytes) -> Sequence[Delta]:
        answer = read_answer(data)
        deltas = self._opened(answer)
        for candidate in answer.candidates:
            deltas += self._candidate(candidate)
        if answer.blocked and not answer.candidates and not self._told:
            self._told[0] = _Told()
            deltas.append(Finished(finish="filter"))
        usage = answer.usage
        if usage is not None and usage != self._usage:
            self._usage = usage
            deltas.append(Used(usage=usage))
        return deltas

    def _opened(self, answer: Answer) -> list[Delta]:
        if self._id:
            return []
        self._id = answer.response_id or "gemini"
        return [Opened(id=self._id, model=answer.model_version)]

    def _candidate(self, candidate: Candidate) -> list[Delta]:
        told = self._told.setdefault(candidate.index, _Told())
        deltas: list[Delta] = []
        logprobs = logprobs_of(candidate)
        parts = read_parts(candidate, self._id, told.parts)
        told.parts += len(parts)
        for part in parts:
            if told.finished and not (isinstance(part, Text | Thinking) and not part.text):
                raise UpstreamError("The provider's stream goes on after its end.")
            if not told.finished:
                deltas += _piece(part, told, candidate.index, logprobs)
                logprobs = None if isinstance(part, Text) else logprobs
        finish = finish_of(candidate, calls=told.calls)
        if finish is not None and not told.finished:
            told.finished = True
            deltas.append(Finished(finish=finish, choice=candidate.index))
        return deltas


def _piece(part: Part, told: _Told, choice: int, logprobs: tuple[Logprob, ...] | None) -> list[Delta]:
    match part:
        case ToolCall(arguments=arguments):
            told.calls = True
            begun = _began(msgspec.structs.replace(part, arguments=""), told, choice)
            return [begun, *([Added(text=arguments, at=told.at, choice=choice)] if arguments else [])]
        case Text(text=text):
            begun_text = [] if told.open is Text else [_began(Text(text=""), told, choice)]
            return [*begun_text, Added(text=text, at=told.at, choice=choice, logprobs=logprobs)]
        case Thinking(text=text, signature=signature):
            begun_thought = [] if told.open is Thinking else [_began(Thinking(), told, choice)]
            said = [Added(text=text, at=told.at, choice=choice)] if text else []
            signed = [Signed(signature=signature, at=told.at, choice=choice)] if signature is not None else []
            if not said and not signed:
                # An empty text opens nothing.
                told.at, told.open = (told.at - 1, None) if begun_thought else (told.at, told.open)
                return []
            # What is signed is whole.
            told.open = None if signed else told.open
            return [*begun_thought, *said, *signed]
        case Foreign():
            return [_began(part, told, choice)]
    return []


def _began(part: Text | Thinking | ToolCall | Foreign, told: _Told, choice: int) -> Began:
    told.at += 1
    told.open = type(part)
    return Began(part=part, at=told.at, choice=choice)


# -- a stream that is written


def write_events(show_usage: bool) -> Callable[[Delta], bytes]:
    """Writes one delta after the other. Gemini tells usage in any case."""
    return _Writer().write


class _Writer:
    """Text goes out as it comes. A call is said whole, and the end with the usage, so both wait."""

    def __init__(self) -> None:
        self._head: Json = {}
        self._parts: dict[tuple[int, int], Part] = {}
        self._calls: dict[int, list[tuple[int, ToolCall]]] = {}
        self._ends: list[Json] = []
        self._usage: Usage | None = None

    def write(self, delta: Delta) -> bytes:
        match delta:
            case Opened(id=id_, model=model, usage=usage):
                self._head = {"modelVersion": model, "responseId": id_}
                self._usage = usage
            case Began(part=part, at=at, choice=choice):
                return self._began(part, at, choice)
            case Added():
                return self._added(delta)
            case Signed(signature=signature, at=at, choice=choice):
                return self._signed(signature, at, choice)
            case Finished():
                return self._finished(delta)
            case Used(usage=usage):
                self._usage = usage
            case Closed():
                return self._closed()
        return b""

    def _began(self, part: Part, at: int, choice: int) -> bytes:
        self._parts[choice, at] = part
        if isinstance(part, Foreign):
            return self._chunk(choice, part)
        return b""

    def _added(self, delta: Added) -> bytes:
        key = (delta.choice, delta.at)
        part = self._parts.get(key, Text(text=""))
        match part:
            case ToolCall(arguments=arguments):
                self._parts[key] = msgspec.structs.replace(part, arguments=arguments + delta.text)
                return b""
            case Text() | Refusal() | Thinking():
                return self._chunk(delta.choice, msgspec.structs.replace(part, text=delta.text), delta.logprobs)
        return b""

    def _signed(self, signature: str, at: int, choice: int) -> bytes:
        part = self._parts.get((choice, at))
        if isinstance(part, ToolCall):
            self._parts[choice, at] = msgspec.structs.replace(part, signature=signature)
        if isinstance(part, Thinking) and unmarked(signature) is not None:
            return self._chunk(choice, Thinking(signature=signature))
        return b""

    def _finished(self, delta: Finished) -> bytes:
        own = [(at, part) for (choice, at), part in self._parts.items() if choice == delta.choice]
        calls = [part for _, part in sorted(own, key=lambda one: one[0]) if isinstance(part, ToolCall)]
        self._ends.append({"index": delta.choice, **written_finish(delta.finish, calls)})
        return b"".join(self._chunk(delta.choice, call) for call in calls)

    def _closed(self) -> bytes:
        usage = {"usageMetadata": written_usage(self._usage)} if self._usage is not None else {}
        empty: Json = {"content": {"parts": [{"text": ""}], "role": "model"}}
        return _event({"candidates": [{**empty, **end} for end in self._ends], **usage, **self._head})

    def _chunk(self, choice: int, part: Part, logprobs: tuple[Logprob, ...] | None = None) -> bytes:
        written = written_part(part)
        if written is None:
            return b""
        candidate: Json = {"content": {"parts": [written], "role": "model"}, "index": choice}
        if logprobs is not None:
            candidate["logprobsResult"] = written_logprobs(logprobs)
        return _event({"candidates": [candidate], **self._head})


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\r\n\r\n"
