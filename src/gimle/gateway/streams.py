"""A provider's stream on its way to the caller, as it came or in another dialect: nothing that is cut passes for whole.

Pure: pieces of bytes go in, whole events come out. A piece may end anywhere, inside a character or a line ending.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from gimle.foundation.errors import UpstreamError
from gimle.gateway.neutral import Added, Began, Closed, Delta, Finished, Foreign, Opened, Signed, ToolCall, Usage, Used
from gimle.gateway.types import Event

# Two line endings end an event. The groups are atomic, so that one CR LF is never taken for two endings.
_BORDER = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE = re.compile(rb"\r\n|\n|\r")
_LONGEST_BORDER = 4
# A larger event, or as much without any content, is no stream that anyone waits for.
LARGEST_EVENT = 16 * 1024 * 1024


class _Course:
    """How far a stream has come on its way from the provider to the caller.

    `begun` is true once there is content; until then another target can take over unseen. `over` is true once the
    provider has said that it is done; `usage` is what it told, and `said` how many bytes of an answer have come, about;
    `fault` is what is wrong with its next event.
    """

    def __init__(self) -> None:
        self.begun = False
        self.over = False
        self.usage: Usage | None = None
        self.said = 0
        self.fault: UpstreamError | None = None
        self._events = Events()
        # The choices of the answer that have begun, and those that are complete.
        self._opened: set[int] = set()
        self._closed: set[int] = set()

    def feed(self, piece: bytes) -> bytes:
        """What the caller may see of this piece, in whole events, up to one that is malformed or tells an error."""
        seen: list[bytes] = []
        try:
            for event in self._events.feed(piece):
                seen.append(self._carry(event))
                if self.over:
                    break
        except UpstreamError as fault:
            self.fault = fault
        if self.over:
            # What follows the provider's own end is not part of the answer.
            self._events.clear()
        return seen[0] if len(seen) == 1 else b"".join(seen)

    def _carry(self, raw: bytes) -> bytes:
        """What the caller sees of one event: each of the two ways has its own. Raises `UpstreamError`."""
        raise NotImplementedError

    def _must_be_whole(self) -> None:
        """Raise `UpstreamError` unless all has come: a dialect without an end has come to it when all choices have."""
        if not self.over and (not self._opened or not self._opened <= self._closed):
            raise UpstreamError("The provider's stream ended before its answer was complete.")


class Relay(_Course):
    """A stream that passes as it came, in the dialect that both sides speak."""

    def __init__(self, watch: Callable[[bytes], Event], *, show_usage: bool) -> None:
        super().__init__()
        self._watch = watch
        self._show_usage = show_usage

    def end(self) -> bytes:
        """What is left when the provider has hung up. Raises `UpstreamError` when that was before the proper end."""
        rest = self._carry(self._events.rest())
        self._must_be_whole()
        return rest

    def _carry(self, raw: bytes) -> bytes:
        data = data_of(raw)
        if not data:
            return raw
        event = self._watch(data)
        self._opened.update(event.opened)
        if event.closed:
            self._closed.update(event.closed)
        self.said += event.content
        self.begun = self.begun or event.content > 0 or bool(event.closed) or event.done
        self.over = event.done
        self.usage = event.usage or self.usage
        return raw if self._show_usage or not event.usage_only else b""


class Translation(_Course):
    """A stream that is read in one dialect and written in another."""

    def __init__(self, read: Callable[[bytes], Sequence[Delta]], write: Callable[[Delta], bytes]) -> None:
        super().__init__()
        self._read = read
        self._write = write

    def end(self) -> bytes:
        """What is left when the provider has hung up. Raises `UpstreamError` when that was before the proper end."""
        rest = self._carry(self._events.rest())
        self._must_be_whole()
        if self.over:
            return rest
        # The caller's dialect may have words for an end that the provider's has not.
        self.over = True
        return rest + self._write(Closed())

    def _carry(self, raw: bytes) -> bytes:
        data = data_of(raw)
        if not data:
            return b""
        written = []
        for delta in self._read(data):
            self._note(delta)
            written.append(self._write(delta))
        return b"".join(written)

    def _note(self, delta: Delta) -> None:
        # What comes most often comes first.
        match delta:
            case Added(choice=choice, text=text):
                self._opened.add(choice)
                self.said += len(text.encode())
                self.begun = self.begun or bool(text)
            case Opened(usage=usage):
                self.usage = usage or self.usage
            case Began(choice=choice, part=part):
                self._opened.add(choice)
                self.begun = self.begun or isinstance(part, ToolCall | Foreign)
            case Signed():
                self.begun = True
            case Finished(choice=choice):
                self._opened.add(choice)
                self._closed.add(choice)
                self.begun = True
            case Used(usage=usage):
                self.usage = usage
            case Closed():
                self.begun = self.over = True


Carrier = Relay | Translation


class Events:
    """Takes a stream of bytes apart into whole events, each with the border that ends it."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        # Nearly all providers end lines with LF alone, and looking for that is ten times as fast.
        self._find = _lf_border

    def feed(self, piece: bytes) -> Iterable[bytes]:
        """The whole events that end in this piece. Raises `UpstreamError` when one grows without end."""
        if b"\r" in piece:
            self._find = _any_border
        elif not self._buffer and piece.endswith(b"\n\n") and piece.find(b"\n\n") == len(piece) - 2:
            # Most pieces are one event.
            return (piece,)
        return self._found(piece)

    def _found(self, piece: bytes) -> Iterator[bytes]:
        # Of the others most hold whole events and nothing else, and need not be gathered.
        source: bytes | bytearray = piece
        if self._buffer:
            self._buffer += piece
            source = self._buffer
        start = 0
        try:
            while end := self._find(source, max(start, self._searched)):
                event = bytes(source[start:end])
                start = end
                yield event
        finally:
            if source is piece:
                self._buffer += piece[start:]
            else:
                del self._buffer[:start]
            self._searched = max(0, len(self._buffer) - _LONGEST_BORDER)
        if len(self._buffer) > LARGEST_EVENT:
            raise UpstreamError(f"The provider's stream holds an event of more than {LARGEST_EVENT:,} bytes.")

    def rest(self) -> bytes:
        """What has come of an event without an end."""
        rest = bytes(self._buffer)
        self.clear()
        return rest

    def clear(self) -> None:
        """Forget what is left."""
        self._buffer.clear()


def _lf_border(buffer: bytes | bytearray, start: int) -> int:
    """Where the next event ends; 0 when its end has not come yet."""
    at = buffer.find(b"\n\n", start)
    return at + 2 if at >= 0 else 0


def _any_border(buffer: bytes | bytearray, start: int) -> int:
    border = _BORDER.search(buffer, start)
    return border.end() if border else 0


def data_of(raw: bytes) -> bytes:
    """The joined `data` lines of an event; empty for a comment."""
    if raw.startswith(b"data: ") and raw.endswith(b"\n\n") and raw.find(b"\n") == len(raw) - 2:
        return raw[6:-2]
    lines = (line for line in _LINE.split(raw) if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)
