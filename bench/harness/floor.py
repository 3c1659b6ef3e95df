"""The least that a Python gateway can do: the floor beside which Gimle's own cost is told.

    python bench/harness/floor.py PORT UPSTREAM_PORT

A bare protocol on each side, without tasks, errors, limits or time-outs: the body is decoded, its model replaced, and
sent on over a kept connection; the answer's usage is read, and the answer sent back. It trusts everybody.
"""

import asyncio
import sys
from typing import cast

import msgspec
import uvloop

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: mock\r\nauthorization: Bearer up\r\ncontent-length: %d\r\n\r\n"
_MODEL = msgspec.Raw(b'"gpt-4o-mini"')


class _Usage(msgspec.Struct):
    total_tokens: int


class _Answer(msgspec.Struct):
    usage: _Usage


_ANSWER = msgspec.json.Decoder(_Answer)


class Side(asyncio.Protocol):
    """Takes messages with a length apart."""

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def taken(self, data: bytes) -> bytes | None:
        """The body of a message, once it is whole."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end >= 0:
            length = self._buffer[:end].lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            if len(self._buffer) >= end + 4 + int(length):
                message, self._buffer = self._buffer, b""
                return message[end + 4 :]
        return None


class Server(Side):
    """Towards the caller; it takes a kept connection to the provider for each request."""

    idle: "list[Client]" = []
    total = 0

    def data_received(self, data: bytes) -> None:
        """Send a request on."""
        body = self.taken(data)
        if body is None:
            return
        fields = _FIELDS.decode(body)
        fields["model"] = _MODEL
        self._client = self.idle.pop()
        self._client.ask(msgspec.json.encode(fields), self)

    def answer(self, body: bytes) -> None:
        """Send an answer back."""
        Server.total += _ANSWER.decode(body).usage.total_tokens
        self.idle.append(self._client)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head % len(body) + body)


class Client(Side):
    """Towards the provider."""

    def ask(self, body: bytes, server: Server) -> None:
        """Send a request whose answer this server waits for."""
        self._server = server
        self.transport.write(_HEAD % len(body) + body)

    def data_received(self, data: bytes) -> None:
        """Hand the answer back."""
        body = self.taken(data)
        if body is not None:
            self._server.answer(body)


async def _serve(port: int, upstream: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", port, backlog=2048)
    for _ in range(128):
        _, client = await loop.create_connection(Client, "127.0.0.1", upstream)
        Server.idle.append(client)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
