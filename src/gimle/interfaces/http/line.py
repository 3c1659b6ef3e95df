"""One connection to a caller: bytes go out only as fast as they are taken, and one clock tells what is late.

The clock is a single timer that is moved only when it rings: to set one for each request and cancel it again would cost
more than to parse the request.
"""

import asyncio
import math
from typing import cast


class Line(asyncio.Protocol):
    """A transport with back-pressure. `lost` is true once the caller can be reached no more."""

    # So long may a caller take nothing of what was written for him.
    stalled_seconds: float = 60.0

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.lost = False
        self.secure = False
        self.peer: tuple[str, int] | None = None
        self._transport: asyncio.Transport | None = None
        # Set while the caller reads slower than we write: who writes shall wait for it.
        self.drained: asyncio.Future[None] | None = None
        self._held = False
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None

    # -- bytes

    @property
    def open(self) -> bool:
        """Whether what is written may still arrive."""
        return self._transport is not None and not self.lost and not self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; `drained` says when it has room again."""
        transport = self._transport
        if transport is not None and not self.lost and not transport.is_closing():
            transport.write(data)

    async def room(self) -> None:
        """Wait until there is room for more. Whoever takes nothing in all that time is cut off."""
        if self.drained is not None:
            self.expect(self.stalled_seconds)
            await self.drained
            self.expect_nothing()

    def close(self) -> None:
        """Close when all that was written has gone out."""
        if self._transport is not None:
            self._transport.close()

    def hold(self) -> None:
        """Read no more for now: the kernel makes the caller wait."""
        if not self._held and self.open:
            assert self._transport is not None
            self._held = True
            self._transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        if self._held and self.open:
            assert self._transport is not None
            self._held = False
            self._transport.resume_reading()

    # -- time

    def expect(self, seconds: float) -> None:
        """`late` will be called after so many seconds, unless something else is expected by then."""
        self._due = self.loop.time() + seconds
        if self._timer is None or self._due < self._timer.when():
            self._set_timer()

    def expect_nothing(self) -> None:
        """Nothing is awaited of the caller."""
        self._due = math.inf

    def late(self) -> None:
        """What was expected has not come."""
        self.close()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._due <= self.loop.time():
            self._due = math.inf
            if self.drained is None or self._transport is None:
                self.late()
            else:
                # To close would wait for him to take the rest.
                self._transport.abort()
        elif self._due < math.inf:
            self._set_timer()

    # -- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        # uvloop's transports do all that asyncio's do, and are none of its classes.
        self._transport = cast("asyncio.Transport", transport)
        self.secure = transport.get_extra_info("sslcontext") is not None
        host, port, *_ = transport.get_extra_info("peername") or (None, 0)
        self.peer = (host, port) if host else None

    def connection_lost(self, error: Exception | None) -> None:
        """The caller has left, or we have closed."""
        self.lost = True
        self._due = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.resume_writing()

    def pause_writing(self) -> None:
        """The transport is full."""
        self.drained = self.loop.create_future()

    def resume_writing(self) -> None:
        """The transport takes more."""
        if self.drained is not None and not self.drained.done():
            self.drained.set_result(None)
        self.drained = None
