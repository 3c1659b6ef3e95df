"""What stands before ASGI: uvicorn's protocol, with limits on the head of a request and errors in our shape.

uvicorn waits for ever for the rest of a head that has begun, and takes one of any size.
"""

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as HttpTools

from gimle.foundation import ids
from gimle.interfaces.http import problems
from gimle.interfaces.http.problems import Problem

# More than any client sends; nginx's default for all of a head is 32 kB, llhttp's 80 kB.
HEAD_BYTES = 64 * 1024


class Wire(HttpTools):
    """One connection."""

    head_seconds: float = 15.0

    _head_taken = 0
    _in_head = False
    _begun = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock: a connection that sends nothing is closed like one that stops halfway."""
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count and time what comes before the body."""
        idle = not self._begun or self.cycle.response_complete
        if idle and self._head_timer is None:
            self._watch_head()
        if self._in_head or idle:
            self._head_taken += len(data)
            # A first piece may hold a whole head and much of a body; only a head that goes on counts.
        super().data_received(data)
        if self._in_head and self._head_taken > HEAD_BYTES and not self.transport.is_closing():
            self._refuse(
                problems.of_status(431, "The head of the request is too large.", hint=f"Stay under {HEAD_BYTES} bytes.")
            )

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole: from here the exchange counts and times."""
        self._in_head = False
        self._begun = True
        self._head_taken = 0
        self._stop_watching()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets our error shape too."""
        self._refuse(Problem(status=400, code="invalid_request", message=msg, hint="Send HTTP/1.1."))

    def _watch_head(self) -> None:
        self._head_taken = 0
        self._head_timer = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _stop_watching(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._head_taken == 0:
            self.transport.close()
            return
        self._refuse(
            problems.of_status(
                408, "The head of the request did not arrive in time.", hint=f"Within {self.head_seconds:g} s."
            )
        )

    def _refuse(self, problem: Problem) -> None:
        self._stop_watching()
        request_id = ids.new("req")
        body = problems.render(problem, "gimle", request_id)
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %s\r\n"
            b"x-content-type-options: nosniff\r\nconnection: close\r\n\r\n%s"
            % (problem.status, HTTPStatus(problem.status).phrase.encode(), len(body), request_id.encode(), body)
        )
        self.transport.close()
