"""The Python client: Gimle's HTTP interface as calls.

    from gimle.client import Client

    with Client("http://127.0.0.1:8080", key="gk_…") as gimle:
        items = gimle.upload({"handbook.pdf": Path("handbook.pdf")})
        job = gimle.finished(items[0]["job"])
        answer = gimle.ask("How long is the warranty?")
        print(answer["text"], answer["citations"])

It needs httpx and nothing else of Gimle, so that it installs light. What comes back is the server's JSON as it stands
(`/openapi.json` describes each shape): a client that is older than its server loses no field. For chat completions and
embeddings the official `openai` SDK works with `base_url=".../v1"`; `chat` here is for streaming without it.
"""

import ipaddress
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import httpx

Json = dict[str, Any]

# A model may think for minutes before its first byte; a server that is there at all answers a connection at once.
_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
_BROKEN = "`gimle doctor` says whether it runs."
_FINAL = frozenset({"done", "failed", "cancelled"})


class ClientError(Exception):
    """A call did not give an answer. `hint` says what to do, where something can be done."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message)


class Unreachable(ClientError):
    """Nothing answers at the address, or the connection broke."""


class Refused(ClientError):
    """The server answered with an error: `status` is HTTP's, `code` and `field` are Gimle's."""

    def __init__(self, status: int, error: Json) -> None:
        super().__init__(str(error.get("message") or f"The server answered {status}."), hint=error.get("hint"))
        self.status = status
        self.code = str(error.get("code") or "unknown")
        self.field: str | None = error.get("field") or error.get("param")
        self.request_id: str | None = error.get("request_id")


class Event(NamedTuple):
    """One server-sent event: its name (`message` where the server gave none) and its data as it came."""

    name: str
    data: str

    def json(self) -> Json:
        """The data, decoded."""
        decoded: Json = json.loads(self.data)
        return decoded


class Client:
    """One server, one key, one pool of connections. Use it as a context manager, or call `close`."""

    def __init__(self, url: str, key: str | None = None) -> None:
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ClientError("The API key has characters that no key has.", hint="Copy it whole: gk_…")
        self.url = url.rstrip("/")
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=_TIMEOUT,
                # A proxy from the environment must not stand between us and our own machine.
                trust_env=not _is_loopback(self.url),
            )
        except (httpx.InvalidURL, ValueError) as wrong:
            raise ClientError(f"{url} is not a web address: {wrong}.") from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The server itself

    def health(self) -> Json:
        """The state of the server and of each part; also when it is unhealthy (503)."""
        return self._object("GET", "/health", accept=(200, 503))

    def ready(self) -> bool:
        """Whether the server takes requests now."""
        with _on_the_wire(self.url):
            return self._http.get("/health/ready").status_code == 200

    def models(self) -> Iterator[Json]:
        """Every model that the server knows."""
        return self._items("/api/v1/models")

    # Knowledge

    def collections(self) -> Iterator[Json]:
        """Every collection of the key's tenant."""
        return self._items("/api/v1/knowledge/collections")

    def create_collection(self, name: str) -> Json:
        """Create a collection."""
        return self._object("POST", "/api/v1/knowledge/collections", json={"name": name})

    def delete_collection(self, name: str) -> None:
        """Delete a collection with all its documents."""
        self._send("DELETE", f"/api/v1/knowledge/collections/{_segment(name)}")

    def upload(self, files: Mapping[str, Path | bytes], collection: str = "default") -> list[Json]:
        """Send documents, by name. Each gives an item `{name, document, job, error}`; the jobs read them afterwards.

        A single file that the server refuses raises `Refused`; of several, each refused one has its `error` set.
        """
        with ExitStack() as opened:
            parts = [
                ("file", (name, opened.enter_context(content.open("rb")) if isinstance(content, Path) else content))
                for name, content in files.items()
            ]
            reply = self._object("POST", "/api/v1/knowledge/documents", data={"collection": collection}, files=parts)
        items: list[Json] = reply["items"]
        return items

    def documents(self, collection: str = "default") -> Iterator[Json]:
        """Every document of a collection."""
        return self._items("/api/v1/knowledge/documents", collection=collection)

    def document(self, document: str) -> Json:
        """One document by its id."""
        return self._object("GET", f"/api/v1/knowledge/documents/{_segment(document)}")

    def delete_document(self, document: str) -> None:
        """Delete a document."""
        self._send("DELETE", f"/api/v1/knowledge/documents/{_segment(document)}")

    def search(self, query: str, collection: str = "default", *, top_k: int = 6, mode: str = "hybrid") -> Json:
        """The passages that fit best: `{passages, notice}`. `mode` is hybrid, lexical or dense."""
        wanted = {"query": query, "collection": collection, "top_k": top_k, "mode": mode}
        return self._object("POST", "/api/v1/knowledge/search", json=wanted)

    def ask(
        self,
        question: str,
        collection: str = "default",
        *,
        top_k: int | None = None,
        model: str | None = None,
    ) -> Json:
        """An answer from the documents with its citations, or `answered: false`."""
        return self._object("POST", "/api/v1/knowledge/ask", json=_question(question, collection, top_k, model))

    def ask_stream(
        self,
        question: str,
        collection: str = "default",
        *,
        top_k: int | None = None,
        model: str | None = None,
        history: tuple[Json, ...] = (),
    ) -> Iterator[Event]:
        """The same, as it is written: events `progress` {text}, `notice`, then `done` with the answer, or `error`."""
        wanted = _question(question, collection, top_k, model) | {"history": list(history), "stream": True}
        return self._events("POST", "/api/v1/knowledge/ask", json=wanted)

    def chat_stream(self, messages: list[Json], model: str = "auto") -> Iterator[str]:
        """The text of a chat completion, piece by piece, in the OpenAI dialect and without documents."""
        wanted = {"model": model, "messages": messages, "stream": True}
        for event in self._events("POST", "/v1/chat/completions", json=wanted):
            if event.data == "[DONE]":
                return
            chunk = event.json()
            if "error" in chunk:
                raise Refused(502, chunk["error"])
            for choice in chunk.get("choices", []):
                if text := choice.get("delta", {}).get("content"):
                    yield text

    # Jobs

    def jobs(self, status: str | None = None) -> Iterator[Json]:
        """Every job of the key's tenant, newest first; `status` keeps one kind."""
        return self._items("/api/v1/jobs", **({"status": status} if status else {}))

    def job(self, job: str) -> Json:
        """One job by its id."""
        return self._object("GET", f"/api/v1/jobs/{_segment(job)}")

    def watch(self, job: str) -> Iterator[Json]:
        """A job each time that it moved, until it has ended; the last one is final."""
        current = self.job(job)
        yield current
        while current["status"] not in _FINAL:
            for event in self._events("GET", f"/api/v1/jobs/{_segment(job)}/events"):
                current = event.json()
                yield current
            if current["status"] not in _FINAL:  # The stream ended before the job did: the server is restarting.
                current = self.job(job)
                yield current

    def finished(self, job: str) -> Json:
        """Wait until a job has ended, and give it back."""
        *_, last = self.watch(job)
        return last

    def cancel_job(self, job: str) -> Json:
        """Stop a job."""
        return self._object("POST", f"/api/v1/jobs/{_segment(job)}/cancel")

    def retry_job(self, job: str) -> Json:
        """Run a failed job again."""
        return self._object("POST", f"/api/v1/jobs/{_segment(job)}/retry")

    def discard_job(self, job: str) -> None:
        """Remove a job that failed."""
        self._send("POST", f"/api/v1/jobs/{_segment(job)}/discard")

    # Selection

    def choose(self, question: Json) -> Json:
        """Who would be tried for a call like this, and why; nothing is sent."""
        return self._object("POST", "/api/v1/selection/choose", json=question)

    def decision(self, decision: str) -> Json:
        """One decision with all its reasons, and what came of it."""
        return self._object("GET", f"/api/v1/selection/decisions/{_segment(decision)}")

    def decisions(self) -> Iterator[Json]:
        """Every decision that is kept, the newest first."""
        return self._items("/api/v1/selection/decisions")

    # Tenants and keys

    def tenants(self) -> Iterator[Json]:
        """Every tenant."""
        return self._items("/api/v1/tenants")

    def create_tenant(self, name: str) -> Json:
        """Create a tenant."""
        return self._object("POST", "/api/v1/tenants", json={"name": name})

    def keys(self, tenant: str | None = None) -> Iterator[Json]:
        """The keys of a tenant (default: the own), without their secrets."""
        return self._items("/api/v1/keys", **_of(tenant))

    def create_key(self, name: str, *, admin: bool = False, tenant: str | None = None) -> Json:
        """Create a key; its `token` is in this answer and nowhere else."""
        return self._object("POST", "/api/v1/keys", json={"name": name, "admin": admin} | _of(tenant))

    def revoke_key(self, key: str, tenant: str | None = None) -> None:
        """End a key, at once and for good."""
        self._send("DELETE", f"/api/v1/keys/{_segment(key)}", params=_of(tenant))

    # The wire

    def _send(self, method: str, path: str, *, accept: tuple[int, ...] = (), **body: Any) -> httpx.Response:
        with _on_the_wire(self.url):
            reply = self._http.request(method, path, **body)
        if not (reply.is_success or reply.status_code in accept):
            raise _refusal(self.url, reply)
        return reply

    def _object(self, method: str, path: str, *, accept: tuple[int, ...] = (), **body: Any) -> Json:
        reply = self._send(method, path, accept=accept, **body)
        decoded = _decoded(reply)
        if decoded is None:
            raise _stranger(self.url)
        return decoded

    def _items(self, path: str, **wanted: str) -> Iterator[Json]:
        after: str | None = None
        while True:
            page = self._object("GET", path, params={"limit": "200", **wanted, **({"after": after} if after else {})})
            yield from page["items"]
            after = page.get("next")
            if after is None:
                return

    def _events(self, method: str, path: str, **body: Any) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream"}
        with _on_the_wire(self.url), self._http.stream(method, path, headers=headers, **body) as reply:
            if not reply.is_success:
                reply.read()
                raise _refusal(self.url, reply)
            yield from events(_lines(reply.iter_bytes()))


def events(lines: Iterator[str]) -> Iterator[Event]:
    """The server-sent events in a stream of lines, without comments. An event that breaks off is not given out."""
    name, data = "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield Event(name, "\n".join(data))
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """The lines in a stream of bytes. (httpx's own also end at U+2028 and the like, which may stand in a text.)"""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode()


@contextmanager
def _on_the_wire(url: str) -> Iterator[None]:
    """Tell what went wrong below HTTP in the caller's words."""
    try:
        yield
    except httpx.InvalidURL as wrong:
        raise ClientError(f"{url} is not a web address: {wrong}.") from None
    except httpx.UnsupportedProtocol:
        raise ClientError(f"{url} is not a web address.", hint="It begins with http:// or https://.") from None
    except (httpx.ConnectError, httpx.ConnectTimeout):
        raise Unreachable(f"Nothing answers at {url}.", hint="Start it with `gimle up`.") from None
    except httpx.TimeoutException:
        raise ClientError(f"{url} took more than {_TIMEOUT.read:.0f} s to answer.") from None
    except httpx.RemoteProtocolError as wrong:
        raise Unreachable(f"The connection to {url} broke: {wrong}.", hint=_BROKEN) from None
    except httpx.TransportError:
        raise Unreachable(f"The connection to {url} broke.", hint=_BROKEN) from None


def _question(question: str, collection: str, top_k: int | None, model: str | None) -> Json:
    """The body of an ask: what is not given is left to the server's settings."""
    wanted: Json = {"question": question, "collection": collection, "top_k": top_k, "model": model}
    return {name: value for name, value in wanted.items() if value is not None}


def _of(tenant: str | None) -> dict[str, str]:
    return {"tenant": tenant} if tenant else {}


def _refusal(url: str, reply: httpx.Response) -> ClientError:
    decoded = _decoded(reply)
    error = decoded.get("error") if decoded else None
    return Refused(reply.status_code, error) if isinstance(error, dict) else _stranger(url)


def _decoded(reply: httpx.Response) -> Json | None:
    try:
        decoded = reply.json()
    except ValueError:
        return None
    return decoded if isinstance(decoded, dict) else None


def _stranger(url: str) -> ClientError:
    return ClientError(
        f"Something answers at {url}, but it doesn't speak as Gimle does.",
        hint="Another program may hold the port: give `gimle up` another one with --port.",
    )


def _segment(name: str) -> str:
    """A name as one segment of a path, whatever is in it. An empty one would be the path of the list of all."""
    if not name:
        raise ClientError("No id was given.")
    return quote(name, safe="")


def _is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
