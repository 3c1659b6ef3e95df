"""A stream that breaks off goes on at another model, which is given what the caller has as the beginning of its answer.

    what was delivered ──read back──> the text so far ──> another model ──> what it adds, spliced on ──> the caller

Only plain text can be continued, and only by models that are known to go on with a begun answer. While a stream is
sound this costs next to nothing: what was delivered is kept, and read when it breaks off or when much has gathered.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from gimle.foundation import logs
from gimle.foundation.errors import GimleError, UpstreamError, UpstreamTimeout
from gimle.gateway import counting
from gimle.gateway.lanes import Call
from gimle.gateway.neutral import Added, Ask, Began, Closed, Delta, Finished, Json, Text, Thinking, Turn, Usage, Used
from gimle.gateway.splice import Splice
from gimle.gateway.streams import Events, data_of
from gimle.gateway.types import Attempt, ChatStream, Provider
from gimle.selection.types import Model

log = logs.get("gateway")
Count = Callable[[str], int]

# What may gather before it is read, in bytes, and the longest answer that is continued, in characters.
_GATHERED = 64 * 1024
_LONGEST = 512 * 1024


class Said:
    """What a caller has of an answer, read back from the events that were delivered."""

    def __init__(self, calling: Call) -> None:
        self._calling = calling
        self._read = calling.chat.read_events()
        self._events = Events()
        self._gathered: list[bytes] = []
        self._size = 0
        # All deltas but the pieces of the text under way, whose number is `_at`; None while it is no text.
        self._deltas: list[Delta] = []
        self._pieces: list[str] = []
        self._at: int | None = None
        self._text: list[str] = []
        self._length = 0
        self._over = False
        # What it has cost.
        self.usage = Usage()

    def note(self, piece: bytes) -> None:
        """The caller has got this."""
        self._gathered.append(piece)
        self._size += len(piece)
        if self._size > _GATHERED:
            self._digest()

    @property
    def text(self) -> str:
        """All that it says until now."""
        self._digest()
        return "".join(self._text)

    @property
    def can_go_on(self) -> bool:
        """Whether it is a text that has not come to its end."""
        self._digest()
        return self._at is not None and not self._over

    def asked(self, count: Count) -> Ask:
        """The request to who goes on with it. `count` gives the tokens of a text."""
        ask, text = self._calling.ask, self.text
        room = None if ask.max_tokens is None else max(1, ask.max_tokens - count(text))
        # A blank at the end of a begun answer is refused by some vendors, and makes models stumble.
        return replace(ask, turns=_begun(ask.turns, text.rstrip()), max_tokens=room)

    def seam(self) -> "Seam":
        """What writes a continuation behind it."""
        assert self._at is not None
        write = self._calling.chat.write_events(self._calling.prompt.include_usage)
        for delta in (*self._deltas, *self._said()):
            write(delta)
        return Seam(write, self._at, self.text, self.usage)

    def _digest(self) -> None:
        told, self._gathered, self._size = b"".join(self._gathered), [], 0
        try:
            for event in self._events.feed(told):
                if data := data_of(event):
                    for delta in self._read(data):
                        self._take(delta)
        except UpstreamError:
            # It passed as it came, and is not what we know of its dialect.
            self._over = True

    def _take(self, delta: Delta) -> None:
        match delta:
            case Began(part=part, at=at):
                self._deltas += [*self._said(), delta]
                self._pieces = []
                self._at = at if isinstance(part, Text) else None
            case Added(text=text, at=at) if at == self._at:
                self._pieces.append(text)
                self._text.append(text)
                self._length += len(text)
                self._over = self._over or self._length > _LONGEST
            case Finished() | Closed():
                self._over = True
            case _:
                self._deltas.append(delta)

    def _said(self) -> Iterator[Delta]:
        """The text under way as one piece, and as many empty ones as it came in: some formats number their events."""
        if self._at is not None and self._pieces:
            yield Added(text="".join(self._pieces), at=self._at)
            yield from [Added(text="", at=self._at)] * (len(self._pieces) - 1)


def _begun(turns: tuple[Turn, ...], text: str) -> tuple[Turn, ...]:
    """A conversation that ends with a begun answer; perhaps the caller has begun it himself."""
    if not text:
        return turns
    last = turns[-1]
    own = last.parts[-1] if last.parts else None
    if last.role == "assistant" and isinstance(own, Text):
        return (*turns[:-1], replace(last, parts=(*last.parts[:-1], replace(own, text=own.text + text))))
    return (*turns, Turn(role="assistant", parts=(Text(text=text),)))


class Seam:
    """Writes what another model adds, as more of the same text: deltas in, events in the caller's dialect out."""

    def __init__(self, write: Callable[[Delta], bytes], at: int, text: str, before: Usage) -> None:
        self._write = write
        self._at = at
        self._before = before
        self._splice = Splice(text)
        self._texts: set[int] = set()

    def __call__(self, delta: Delta) -> bytes:
        """The events of one delta. Raises `UpstreamError` for what is no text."""
        match delta:
            case Began(part=part, at=at):
                self._begin(part, at)
            case Added(text=text, at=at) if at in self._texts:
                return self._added(self._splice.feed(text))
            case Finished():
                return self._added(self._splice.rest()) + self._write(replace(delta, choice=0))
            case Used(usage=usage):
                return self._write(Used(usage=plus(self._before, usage)))
            case Closed():
                return self._write(delta)
        # How it opens is known, and what it thought stays with it.
        return b""

    def _begin(self, part: object, at: int) -> None:
        if isinstance(part, Text):
            self._texts.add(at)
        elif not isinstance(part, Thinking):
            raise UpstreamError("The model does not go on with the text.")

    def _added(self, text: str) -> bytes:
        return self._write(Added(text=text, at=self._at)) if text else b""


class Unbroken:
    """A stream to a caller, `stream`, over the parts in which it comes.

    `targets` can go on with it. `go_on` asks them in their order, and gives the next part as it comes through a seam
    of what was said, or None.
    """

    def __init__(
        self,
        first: ChatStream,
        calling: Call,
        targets: Sequence[Model],
        counter: Callable[[str], Count],
        go_on: Callable[[Ask, Said, Attempt, Sequence[Model]], Awaitable[ChatStream | None]],
    ) -> None:
        self._calling = calling
        self._targets = list(targets)
        self._counter = counter
        self._go_on = go_on
        self._part = first
        self._first = first.attempt
        self._ask: Ask | None = None
        self._told = 0
        self._before = Usage()
        self.stream = ChatStream(self._events(), self._close, self._usage, first.attempt, first.upstream_seconds)
        self.stream.dropped, self.stream.told, self.stream.notice = first.dropped, first.told, first.notice

    async def _events(self) -> AsyncGenerator[bytes, None]:
        said = Said(self._calling)
        while True:
            try:
                async for piece in self._part:
                    said.note(piece)
                    yield piece
                return
            except GimleError as cut:
                if not await self._continued(said, cut):
                    raise
            # A comment is no event: it changes nothing for the caller, and tells who looks.
            yield f": continued by {self.stream.provider}/{self.stream.model}\n\n".encode()

    async def _continued(self, said: Said, cut: GimleError) -> bool:
        since = self._part.attempt
        # Its end must be known before another is asked: its breaker counts it.
        await self._part.close()
        if not said.can_go_on:
            return False
        count = self._counter(since.target.id)
        said.usage = plus(self._before, self._cost(said, since, count))
        self._ask = said.asked(count)
        self._pass_by(since.target, cut)
        part = await self._go_on(self._ask, said, since, self._targets)
        if part is None:
            return False
        self._part, self._before, self._told = part, said.usage, len(said.text)
        self.stream.follow(part.attempt)
        part.attempt.meters.continuations.inc()
        log.info("stream_continued", cut=since.target.id, by=part.attempt.target.id, error=cut.code)
        return True

    def _pass_by(self, failed: Model, cut: GimleError) -> None:
        """Who broke off is asked after the others, and who let the time run out not once more."""
        if failed in self._targets:
            self._targets.remove(failed)
            self._targets += [] if isinstance(cut, UpstreamTimeout) else [failed]

    def _cost(self, said: Said, since: Attempt, count: Count) -> Usage:
        """What the part that was cut has used: as far as it told, and for the rest as an estimate, which is counted."""
        told = self._part.usage
        written = count(said.text[self._told :])
        if told is None:
            usage = Usage(uncached=counting.tokens(self._ask or self._calling.ask, count), output=written, exact=False)
            since.meters.use(usage)
            return usage
        more = max(0, written - told.output)
        since.meters.use(Usage(output=more, exact=False))
        return replace(told, output=told.output + more, exact=False)

    def _usage(self) -> Usage | None:
        told = self._part.usage
        return told if self._part.attempt is self._first else plus(self._before, told or Usage(exact=False))

    async def _close(self) -> None:
        await self._part.close()


def able(targets: Sequence[Model]) -> tuple[Model, ...]:
    """Those that go on with a begun answer."""
    return tuple(target for target in targets if target.continues_assistant)


def marked(body: bytes, provider: Provider) -> bytes:
    """A request with what the provider wants to be told about an answer that has begun."""
    if not (provider.continue_message or provider.continue_request):
        return body
    fields: Json = {**msgspec.json.decode(body), **provider.continue_request}
    if messages := fields.get("messages"):
        fields["messages"] = [*messages[:-1], {**messages[-1], **provider.continue_message}]
    return msgspec.json.encode(fields)


def plus(one: Usage, other: Usage) -> Usage:
    """What two attempts have used."""
    return Usage(
        uncached=one.uncached + other.uncached,
        cache_read=one.cache_read + other.cache_read,
        cache_write=one.cache_write + other.cache_write,
        output=one.output + other.output,
        reasoning=one.reasoning + other.reasoning,
        exact=one.exact and other.exact,
    )
