"""A model provider that costs next to nothing: fixed answers, on a bare protocol.

    python bench/harness/mock.py PORT

The text of a request says how it is answered, so that one address serves every measurement through any gateway:
`[[wait=60]]` delays the answer by 60 ms, `[[gap=10]]` puts 10 ms between the fifty chunks of a stream.
"""

import asyncio
import json
import re
import sys
from typing import cast

import uvloop

CHUNKS = 50
_WAIT = re.compile(rb"\[\[wait=(\d+)\]\]")
_GAP = re.compile(rb"\[\[gap=(\d+)\]\]")
_IDENTITY = {"id": "chatcmpl-BqVxK3mDkQ9aZb7Yw2Lr5TnE8uHs1", "created": 1763600000, "model": "gpt-4o-mini-2024-07-18"}


def _whole() -> bytes:
    message = {"role": "assistant", "content": "The capital of France is Paris.", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 24, "completion_tokens": 8, "total_tokens": 32}
    body = json.dumps({**_IDENTITY, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    data = json.dumps({**_IDENTITY, "object": "chat.completion.chunk", "choices": [choice]}).encode()
    return _chunk(b"data: %s\n\n" % data)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


ANSWER = _whole()
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST = _event({"role": "assistant", "content": "Well"})
NEXT = _event({"content": " token"})
LAST = _event({}, "stop") + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Provider(asyncio.Protocol):
    """Answers requests that it trusts to be sound."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            stop = end + 4 + int(length or 0)
            if len(self._buffer) < stop:
                return
            body, self._buffer = self._buffer[end + 4 : stop], self._buffer[stop:]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        answer = self._stream if b'"stream":true' in body or b'"stream": true' in body else self._whole
        wait = _WAIT.search(body)
        if wait:
            self._loop.call_later(int(wait[1]) / 1000, answer, body)
        else:
            answer(body)

    def _whole(self, _: bytes) -> None:
        self._transport.write(ANSWER)

    def _stream(self, body: bytes) -> None:
        gap = _GAP.search(body)
        if gap is None:
            self._transport.write(STREAM + FIRST + NEXT * (CHUNKS - 2) + LAST)
        else:
            self._transport.write(STREAM + FIRST)
            self._loop.call_later(int(gap[1]) / 1000, self._more, CHUNKS - 2, int(gap[1]) / 1000)

    def _more(self, left: int, gap: float) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(NEXT if left else LAST)
        if left:
            self._loop.call_later(gap, self._more, left - 1, gap)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", port, backlog=2048)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
