"""Stand-ins for the outside world, for our tests and for those of plugin authors.

`Upstream` is a provider with OpenAI's interface, written from the vendor's published schema and not from our own
dialect, and it can fail in all the ways in which providers fail. `python -m gimle.testing mock` runs one; there,
a model's name such as `status-500`, `stall` or `cut` says how it behaves. `ScriptedEngine` is an engine inside Gimle.
"""

import asyncio
import hashlib
import json
import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt

from gimle.gateway.types import Message

WORDS = ("The", " bees", " leave", " the", " hive", " in", " May", ".")


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """How the stand-in meets one request. The default is a sound answer, at once. Times in seconds.

    `chunks` repeats the words of a stream; `cut_after` closes the connection after so many events, `stall_after` stops
    there and keeps it open; `body` replaces the answer, `events` the events of a stream; `piece` is the size of the
    pieces in which a stream is written, 0 for an event at a time.
    """

    status: int = 200
    headers: dict[str, str] = {}
    body: bytes | None = None
    events: tuple[bytes, ...] | None = None
    head_delay: float = 0.0
    event_delay: float = 0.0
    chunks: int = 1
    cut_after: int | None = None
    stall_after: int | None = None
    piece: int = 0
    hang_up: bool = False
    usage: bool = True


class Received(msgspec.Struct, frozen=True):
    """A request as it came in: header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Upstream:
    """A provider on this machine: `async with Upstream() as upstream`, then `upstream.url` is its base address.

    `plan` holds the behaviours for the next requests, in order; when it is empty, `usual` serves. `received` records
    all requests; `open_streams` are the answers under way, `gone` counts callers who left before the end. `arrived`
    is set when a request has come, `left` when a caller has left; `sent` counts bytes.
    """

    def __init__(self, usual: Behaviour | None = None) -> None:
        self.usual = usual
        self.plan: deque[Behaviour] = deque()
        self.received: list[Received] = []
        self.connections = 0
        self.open_streams = 0
        self.gone = 0
        self.sent = 0
        self.arrived = asyncio.Event()
        self.left = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._answering: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def start(self, port: int = 0) -> None:
        """Listen on the loopback address; 0 takes any free port."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port)

    async def close(self) -> None:
        """Stop listening and cut all connections."""
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            await self._server.wait_closed()
        await asyncio.gather(*self._answering, return_exceptions=True)

    @property
    def url(self) -> str:
        """The base address, up to the version."""
        if self._server is None:
            raise RuntimeError("The stand-in has not been started.")
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    # -- the connection

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        begun: bytes | None = b""
        try:
            while begun is not None and (request := await _read(reader, begun)) is not None:
                self.received.append(request)
                self.arrived.set()
                begun = await self._answer(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._answering.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _answer(
        self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        """Answer one request. What has come of the next one by then; None when the connection is over.

        The caller's leaving ends the answer at once, as it should at any provider.
        """
        self.open_streams += 1
        stays = False
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(reader.read(1))
                answering = group.create_task(self._behave(request, writer))
                await asyncio.wait({listening, answering}, return_when=asyncio.FIRST_COMPLETED)
                if listening.done() and not listening.result():
                    answering.cancel()
                    raise ConnectionError("The caller left.")
                stays = await answering
                listening.cancel()
        except* ConnectionError:
            stays = False
            self.gone += 1
            self.left.set()
        finally:
            self.open_streams -= 1
        if not stays:
            return None
        return b"" if listening.cancelled() else listening.result()

    async def _behave(self, request: Received, writer: asyncio.StreamWriter) -> bool:
        behaviour = self.plan.popleft() if self.plan else self.usual or _by_name(request)
        await asyncio.sleep(behaviour.head_delay)
        if behaviour.hang_up:
            return False
        asked = _asked(request)
        if behaviour.status != 200 or behaviour.body is not None:
            await self._reply(writer, behaviour.status, behaviour.headers, _failure(behaviour))
        elif request.path.endswith("/models"):
            await self._reply(writer, 200, {}, _listing())
        elif request.path.endswith("/embeddings"):
            await self._reply(writer, 200, behaviour.headers, _embeddings(asked))
        elif request.path.endswith("/rerank"):
            await self._reply(writer, 200, behaviour.headers, _ranking(asked))
        elif request.path.endswith("/audio/transcriptions") and behaviour.events is None:
            await self._reply(writer, 200, behaviour.headers, _transcript())
        elif asked.get("stream") or behaviour.events is not None:
            return await self._stream(asked, behaviour, writer)
        else:
            await self._reply(writer, 200, behaviour.headers, _completion(asked))
        return True

    async def _stream(self, asked: dict[str, Any], behaviour: Behaviour, writer: asyncio.StreamWriter) -> bool:
        events = behaviour.events if behaviour.events is not None else _events(asked, behaviour)
        return await self._streamed(events, behaviour, writer)

    async def _streamed(self, events: Iterable[bytes], behaviour: Behaviour, writer: asyncio.StreamWriter) -> bool:
        """Write a stream; whether the connection stays."""
        await self._write(writer, _head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
        for number, event in enumerate(events):
            if number == behaviour.cut_after:
                writer.transport.abort()
                return False
            if number == behaviour.stall_after:
                await asyncio.Event().wait()
            step = behaviour.piece or len(event)
            for at in range(0, len(event), step):
                part = event[at : at + step]
                await self._write(writer, b"%x\r\n%s\r\n" % (len(part), part))
            await asyncio.sleep(behaviour.event_delay)
        await self._write(writer, b"0\r\n\r\n")
        return True

    async def _reply(self, writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: bytes) -> None:
        await self._write(writer, _whole(status, headers, body))

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        self.sent += len(data)
        await writer.drain()


async def _read(reader: asyncio.StreamReader, begun: bytes) -> Received | None:
    try:
        head = (begun + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body)


def _asked(request: Received) -> dict[str, Any]:
    try:
        asked = json.loads(request.body) if request.body else {}
    except ValueError:
        return {}
    return asked if isinstance(asked, dict) else {}


_NAMED = {
    "stall": Behaviour(stall_after=3),
    "cut": Behaviour(cut_after=3),
    "slow": Behaviour(head_delay=5.0),
    "late": Behaviour(head_delay=0.2),
    "empty": Behaviour(body=b""),
    "malformed": Behaviour(body=b'{"choices": ['),
    "long": Behaviour(chunks=100, event_delay=0.02),
}


def _by_name(request: Received) -> Behaviour:
    """The behaviour that a model's name asks for."""
    name = str(_asked(request).get("model", ""))
    kind, _, number = name.partition("-")
    if kind == "status" and number.isdigit():
        return Behaviour(status=int(number), headers={"retry-after": "1"} if number == "429" else {})
    return _NAMED.get(name, Behaviour())


# -- what OpenAI's schema says an answer looks like


def _completion(asked: dict[str, Any]) -> bytes:
    text = "".join(WORDS)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
        "logprobs": None,
        "finish_reason": "stop",
    }
    return json.dumps(
        {**_identity(asked, "chat.completion"), "choices": [choice], "usage": _usage(1)}, indent=2
    ).encode()


def _events(asked: dict[str, Any], behaviour: Behaviour) -> Iterator[bytes]:
    identity = _identity(asked, "chat.completion.chunk")
    wanted = behaviour.usage and bool((asked.get("stream_options") or {}).get("include_usage"))
    extra = {"usage": None} if wanted else {}

    def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: " + json.dumps({**identity, "choices": [choice], **extra}).encode() + b"\n\n"

    yield event({"role": "assistant", "content": "", "refusal": None})
    for _ in range(behaviour.chunks):
        yield from (event({"content": word}) for word in WORDS)
    yield event({}, "stop")
    if wanted:
        usage = {**identity, "choices": [], "usage": _usage(behaviour.chunks)}
        yield b"data: " + json.dumps(usage).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def _identity(asked: dict[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-BVaJ4kqQnXQ0lTz7eZkq",
        "object": kind,
        "created": 1748000000,
        "model": str(asked.get("model", "")),
        "service_tier": "default",
        "system_fingerprint": "fp_44709d6fcb",
    }


def _usage(chunks: int) -> dict[str, Any]:
    out = len(WORDS) * chunks
    return {
        "prompt_tokens": 11,
        "completion_tokens": out,
        "total_tokens": 11 + out,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _ranking(asked: dict[str, Any]) -> bytes:
    """By the words that a document shares with the query, in the shape that Cohere publishes."""
    words = set(str(asked["query"]).lower().split())
    shared = [len(words & set(str(text).lower().split())) / len(words) for text in asked["documents"]]
    order = sorted(range(len(shared)), key=lambda at: -shared[at])[: asked.get("top_n")]
    results = [{"index": at, "relevance_score": shared[at]} for at in order]
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return json.dumps({"id": "07734bd2", "results": results, "meta": meta}).encode()


def _embeddings(asked: dict[str, Any]) -> bytes:
    texts = asked.get("input", [])
    texts = [texts] if isinstance(texts, str) else texts
    size = int(asked.get("dimensions") or 8)
    data = [{"object": "embedding", "index": n, "embedding": vector(text, size)} for n, text in enumerate(texts)]
    usage = {"prompt_tokens": 3 * len(texts), "total_tokens": 3 * len(texts)}
    # Nothing promises that they come in order.
    return json.dumps({"object": "list", "data": data[::-1], "model": asked.get("model"), "usage": usage}).encode()


def vector(text: str, size: int = 8) -> list[float]:
    """A unit vector that depends on the text alone."""
    digest = hashlib.sha256(text.encode()).digest() * (size // 32 + 1)
    values = [byte - 127.5 for byte in digest[:size]]
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


def _transcript() -> bytes:
    details = {"text_tokens": 0, "audio_tokens": 14}
    usage = {
        "type": "tokens",
        "input_tokens": 14,
        "input_token_details": details,
        "output_tokens": 9,
        "total_tokens": 23,
    }
    return json.dumps({"text": "".join(WORDS), "usage": usage}).encode()


def _listing() -> bytes:
    models = [{"id": name, "object": "model", "created": 1748000000, "owned_by": "mock"} for name in ("mock", "mock-2")]
    return json.dumps({"object": "list", "data": models}).encode()


def _failure(behaviour: Behaviour) -> bytes:
    if behaviour.body is not None:
        return behaviour.body
    kinds = {401: "invalid_request_error", 404: "invalid_request_error", 429: "requests"}
    kind = kinds.get(behaviour.status, "invalid_request_error" if behaviour.status < 500 else "server_error")
    error = {"message": f"The mock answers {behaviour.status}.", "type": kind, "param": None, "code": None}
    return json.dumps({"error": error}).encode()


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Mock", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _whole(status: int, headers: dict[str, str], body: bytes) -> bytes:
    return _head(status, {"content-type": "application/json", "content-length": str(len(body)), **headers}) + body


class ScriptedEngine:
    """An engine that says what it is told to say, and whose vectors depend on the text alone."""

    def __init__(self, text: str = "".join(WORDS), available: frozenset[str] = frozenset()) -> None:
        self.text = text
        self.ready = available
        self.closed = False

    @property
    def available(self) -> frozenset[str]:
        """The models that serve now, as set."""
        return self.ready

    async def chat(self, _: Sequence[Message]) -> str:
        """The scripted text."""
        return self.text

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """One vector a text."""
        return np.asarray([vector(text) for text in texts], dtype=np.float32)

    async def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


async def _serve(port: int) -> None:
    async with Upstream() as upstream:
        await upstream.close()
        await upstream.start(port)
        sys.stdout.write(f"{upstream.url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1:2] != ["mock"]:
        sys.exit("usage: python -m gimle.testing mock [PORT]")
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(int(sys.argv[2]) if len(sys.argv) > 2 else 0))
