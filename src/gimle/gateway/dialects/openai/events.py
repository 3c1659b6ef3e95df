"""Streams: a provider's chunks into deltas, and deltas into chunks for a caller."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gimle.gateway.dialects.openai import replies
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
    Signed,
    Text,
    Thinking,
    ToolCall,
    Usage,
    Used,
)
from gimle.gateway.openai_wire import DONE, Answer, event, usage_in
from gimle.gateway.wire import NULL

# -- what a provider streams


class _CallPiece(msgspec.Struct, frozen=True):
    index: int = 0
    id: str | None = None
    function: replies.Function = replies.Function()
    extra_content: dict[str, Any] | None = None


class _Piece(msgspec.Struct, frozen=True):
    content: replies.Content = None
    refusal: str | None = None
    tool_calls: list[_CallPiece] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[replies.Detail] | None = None


class _Choice(msgspec.Struct, frozen=True):
    index: int = 0
    delta: _Piece | None = None
    finish_reason: str | None = None
    logprobs: replies.ToldLogprobs | None = None


class _Chunk(Answer, frozen=True):
    choices: list[_Choice] = []
    id: str = ""
    model: str = ""
    created: int | float = 0
    usage: msgspec.Raw = NULL


_CHUNK = msgspec.json.Decoder(_Chunk)


class Reader:
    """Reads one stream: the data of an event in, deltas out. Raises `UpstreamError`."""

    def __init__(self) -> None:
        self._opened = False
        self._choices: dict[int, _Parts] = {}

    def __call__(self, data: bytes) -> Sequence[Delta]:
        """What one event says."""
        if data == DONE:
            return [Closed()]
        return list(self._deltas(event(data, _CHUNK, "a chat chunk")))

    def _deltas(self, chunk: _Chunk) -> Iterator[Delta]:
        if not self._opened and (chunk.id or chunk.choices):
            # Azure begins with what its filter says of the prompt, without the answer's id and model.
            self._opened = True
            yield Opened(id=chunk.id, model=chunk.model, created=int(chunk.created))
        for choice in chunk.choices:
            parts = self._choices.setdefault(choice.index, _Parts(choice.index))
            yield from parts.read(choice.delta or _Piece(), replies.logprobs_of(choice.logprobs))
            if choice.finish_reason:
                yield Finished(finish=replies.finish_of(choice.finish_reason, calls=parts.called), choice=choice.index)
        usage = usage_in(chunk.usage)
        if usage is not None:
            yield Used(usage=usage)


class _Parts:
    """The parts of one choice. The format has no borders between them: a piece of another kind begins a new one."""

    def __init__(self, choice: int) -> None:
        self._choice = choice
        self._count = 0
        self._open: tuple[type, int] | None = None
        # By the server's number: the id of a call, and our number of its part.
        self._calls: dict[int, tuple[str | None, int]] = {}

    @property
    def called(self) -> bool:
        """Whether a tool was called."""
        return bool(self._calls)

    def read(self, piece: _Piece, logprobs: tuple[Logprob, ...] | None) -> Iterator[Delta]:
        for detail in piece.reasoning_details or ():
            yield from self._thought(detail)
        if not piece.reasoning_details:
            yield from self._said(Thinking(), piece.reasoning_content or piece.reasoning or "")
        if isinstance(piece.content, list):
            for part in replies.said_in(piece.content):
                yield from self._said(msgspec.structs.replace(part, text=""), part.text)
        elif piece.content or logprobs:
            yield from self._said(Text(text=""), piece.content or "", logprobs)
        yield from self._said(Refusal(text=""), piece.refusal or "")
        for call in piece.tool_calls or ():
            yield from self._called(call)

    def _said(
        self, shell: Text | Thinking | Refusal, text: str, logprobs: tuple[Logprob, ...] | None = None
    ) -> Iterator[Delta]:
        if not text and not logprobs:
            return
        if self._open is None or self._open[0] is not type(shell):
            yield self._begin(shell)
        assert self._open is not None
        yield Added(text=text, at=self._open[1], choice=self._choice, logprobs=logprobs)

    def _thought(self, detail: replies.Detail) -> Iterator[Delta]:
        thought = replies.thought_of(detail)
        if thought.sealed is not None:
            yield self._begin(thought)
            self._open = None
            return
        yield from self._said(Thinking(), thought.text)
        if thought.signature is not None:
            if self._open is None or self._open[0] is not Thinking:
                yield self._begin(Thinking())
            assert self._open is not None
            yield Signed(signature=thought.signature, at=self._open[1], choice=self._choice)
            self._open = None

    def _called(self, piece: _CallPiece) -> Iterator[Delta]:
        id_, at = self._calls.get(piece.index, (None, -1))
        # Some servers give all calls one index: there an id of its own and a name begin the next.
        if at < 0 or (piece.id and piece.function.name and piece.id != id_):
            name, signature = piece.function.name or "", replies.signature_of(piece.extra_content)
            begun = self._begin(ToolCall(id=piece.id or "", name=name, signature=signature))
            at = begun.at
            self._calls[piece.index] = piece.id, at
            yield begun
        if piece.function.arguments:
            yield Added(text=piece.function.arguments, at=at, choice=self._choice)

    def _begin(self, part: Text | Thinking | ToolCall | Refusal) -> Began:
        at = self._count
        self._count += 1
        self._open = type(part), at
        return Began(part=part, at=at, choice=self._choice)


# -- what a caller gets


class Writer:
    """Writes one stream: deltas in, the bytes of whole events out."""

    def __init__(self, show_usage: bool) -> None:
        self._show_usage = show_usage
        self._head: Json = {}
        self._usage: Usage | None = None
        self._said: set[int] = set()
        self._kinds: dict[tuple[int, int], tuple[type, int]] = {}

    def __call__(self, delta: Delta) -> bytes:
        """The events of one delta; often one, sometimes none."""
        match delta:
            case Opened(id=id_, model=model, created=created):
                self._head = {"id": id_, "object": "chat.completion.chunk", "created": created, "model": model}
                return b""
            case Began(part=part, at=at, choice=choice):
                return self._begun(part, at, choice)
            case Added(text=text, at=at, choice=choice, logprobs=logprobs):
                return self._chunk(choice, self._more(text, at, choice), logprobs=logprobs)
            case Signed(signature=signature, at=at, choice=choice):
                return self._signed(signature, at, choice)
            case Finished(finish=finish, choice=choice):
                return self._chunk(choice, {}, finish=finish)
            case Used(usage=usage):
                self._usage = usage
                return b""
            case Closed():
                return self._closed()

    def _begun(self, part: Text | Thinking | ToolCall | Refusal | Foreign, at: int, choice: int) -> bytes:
        number = sum(1 for (of, _), (kind, _) in self._kinds.items() if of == choice and kind is type(part))
        self._kinds[choice, at] = type(part), number
        if isinstance(part, ToolCall):
            return self._chunk(choice, {"tool_calls": [{"index": number, **replies.written_call(part)}]})
        if isinstance(part, Thinking) and part.sealed is not None:
            return self._chunk(choice, {"reasoning_details": [replies.written_thought(part, number)]})
        return b""

    def _more(self, text: str, at: int, choice: int) -> Json:
        kind, number = self._kinds.get((choice, at), (Text, 0))
        if kind is ToolCall:
            return {"tool_calls": [{"index": number, "function": {"arguments": text}}]}
        if kind is Thinking:
            details = [replies.written_thought(Thinking(text=text), number)]
            return {"reasoning_content": text, "reasoning_details": details}
        return {"refusal" if kind is Refusal else "content": text}

    def _signed(self, signature: str, at: int, choice: int) -> bytes:
        kind, number = self._kinds.get((choice, at), (Text, 0))
        if kind is Thinking:
            detail = {"type": "reasoning.text", "signature": signature, "index": number}
            return self._chunk(choice, {"reasoning_details": [detail]})
        if kind is ToolCall:
            call = {"index": number, "extra_content": replies.written_signature(signature)}
            return self._chunk(choice, {"tool_calls": [call]})
        return b""

    def _chunk(
        self, choice: int, delta: Json, finish: Finish | None = None, logprobs: tuple[Logprob, ...] | None = None
    ) -> bytes:
        opening = b""
        if choice not in self._said:
            self._said.add(choice)
            opening = self._chunk(choice, {"role": "assistant", "content": "", "refusal": None})
        told = None if logprobs is None else replies.written_logprobs(logprobs)
        reason = None if finish is None else replies.reason_of(finish, refused=self._refused(choice))
        said = {"index": choice, "delta": delta, "logprobs": told, "finish_reason": reason}
        extra = {"usage": None} if self._show_usage else {}
        return opening + _event({**self._head, "choices": [said], **extra})

    def _refused(self, choice: int) -> bool:
        return any(of == choice and kind is Refusal for (of, _), (kind, _) in self._kinds.items())

    def _closed(self) -> bytes:
        usage = b""
        if self._show_usage and self._usage is not None:
            usage = _event({**self._head, "choices": [], "usage": replies.written_usage(self._usage)})
        return usage + b"data: [DONE]\n\n"


def _event(body: Json) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"
