"""A provider's stream on its way to the caller: bytes pass as they came, and nothing that is cut passes for whole.

Pure: pieces of bytes go in, whole events come out. A piece may end anywhere, inside a character or a line ending.
"""

import re
from collections.abc import Callable

from gimle.foundation.errors import UpstreamError
from gimle.gateway.types import Event, Usage

# Two line endings end an event. The groups are atomic, so that one CR LF is never taken for two endings.
_BORDER = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE = re.compile(rb"\r\n|\n|\r")
_LONGEST_BORDER = 4
# A larger event, or as much without any content, is no stream that anyone waits for.
LARGEST_EVENT = 16 * 1024 * 1024


class Relay:
    """Takes a provider's stream apart into events, reads what Gimle must know, and gives back what the caller may see.

    `begun` is true once there is content; until then another target can take over unseen. `over` is true once the
    provider has said that it is done; `usage` is what it told; `fault` is what is wrong with its next event.
    """

    def __init__(self, read_event: Callable[[bytes], Event], *, show_usage: bool) -> None:
        self.begun = False
        self.over = False
        self.usage: Usage | None = None
        self.fault: UpstreamError | None = None
        self._read_event = read_event
        self._show_usage = show_usage
        self._buffer = bytearray()
        self._searched = 0
        self._opened: set[int] = set()
        self._closed: set[int] = set()

    def feed(self, piece: bytes) -> bytes:
        """The whole events that end in this piece, up to one that is malformed or tells an error: see `fault`."""
        self._buffer += piece
        seen: list[bytes] = []
        start = 0
        # Nearly all providers end lines with LF alone, and looking for that is ten times as fast.
        find = _lf_border if b"\r" not in self._buffer else _any_border
        while not (self.over or self.fault) and (end := find(self._buffer, max(start, self._searched))):
            event = bytes(self._buffer[start:end])
            start = end
            try:
                if self._read(event):
                    seen.append(event)
            except UpstreamError as fault:
                self.fault = fault
        # What follows the provider's own end is not part of the answer.
        del self._buffer[: len(self._buffer) if self.over else start]
        self._searched = max(0, len(self._buffer) - _LONGEST_BORDER)
        if len(self._buffer) > LARGEST_EVENT:
            self.fault = UpstreamError(f"The provider's stream holds an event of more than {LARGEST_EVENT:,} bytes.")
        return b"".join(seen)

    def end(self) -> bytes:
        """What is left when the provider has hung up. Raises `UpstreamError` when that was before the proper end."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        if rest.strip() and not self.over:
            rest = rest if self._read(rest) else b""
        whole = self.over or (bool(self._opened) and self._opened <= self._closed)
        if not whole:
            raise UpstreamError("The provider's stream ended before its answer was complete.")
        return rest

    def _read(self, raw: bytes) -> bool:
        """Take in one event; whether the caller may see it."""
        data = _data(raw)
        if not data:
            return True
        event = self._read_event(data)
        self._opened.update(event.opened)
        self._closed.update(event.closed)
        self.begun = self.begun or event.content or event.done
        self.over = event.done
        self.usage = event.usage or self.usage
        return self._show_usage or not event.usage_only


def _lf_border(buffer: bytearray, start: int) -> int:
    """Where the next event ends; 0 when its end has not come yet."""
    at = buffer.find(b"\n\n", start)
    return at + 2 if at >= 0 else 0


def _any_border(buffer: bytearray, start: int) -> int:
    border = _BORDER.search(buffer, start)
    return border.end() if border else 0


def _data(raw: bytes) -> bytes:
    """The joined `data` lines of an event; empty for a comment."""
    if raw.startswith(b"data: ") and raw.endswith(b"\n\n") and raw.find(b"\n") == len(raw) - 2:
        return raw[6:-2]
    lines = (line for line in _LINE.split(raw) if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)
