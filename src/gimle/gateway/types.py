"""The nouns of the gateway: calls, replies, providers, dialects."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from gimle.foundation.errors import GimleError
from gimle.selection.types import Kind, Model

Vectors = npt.NDArray[np.float32]
Message = dict[str, Any]
Headers = tuple[tuple[str, str], ...]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one call. `cached_tokens` are part of `input_tokens`. `exact` is False when they were estimated."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    exact: bool = True


class ChatCall(msgspec.Struct, frozen=True, kw_only=True):
    """A chat request as it came: each top-level field of the body as its own bytes, without the field `gimle`."""

    body: dict[str, msgspec.Raw]
    model: str
    stream: bool = False
    request_id: str = ""
    dialect: str = "openai"


class Attempt(msgspec.Struct, frozen=True):
    """One try at one target: its number in the call, and the moment on the loop's clock when the call must end."""

    target: Model
    number: int
    deadline: float


class ChatReply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer in the caller's dialect. `status` is 4xx when the provider itself refused the caller's request."""

    status: int
    body: bytes
    model: str
    provider: str
    attempts: int = 1
    usage: Usage | None = None
    upstream_seconds: float = 0.0


class ChatStream:
    """Server-sent events in the caller's dialect: iterate it, and `close` it whatever happens.

    It begins when the first content has come, so a fault until then was met by another target. A fault after that is
    raised from the iteration. Closing cancels the provider's work. `usage` is known after the end.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        close: Callable[[], Awaitable[None]],
        usage: Callable[[], Usage | None],
        attempt: Attempt,
        upstream_seconds: float = 0.0,
    ) -> None:
        self.model = attempt.target.name
        self.provider = attempt.target.provider
        self.attempts = attempt.number
        self.upstream_seconds = upstream_seconds
        self._events = events
        self._close = close
        self._usage = usage

    @property
    def usage(self) -> Usage | None:
        """What the stream has told of its usage so far."""
        return self._usage()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._events

    async def close(self) -> None:
        """End the stream, and the provider's work with it. May be called twice, and before the first iteration."""
        await self._events.aclose()
        await self._close()


class Embedded(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors, shape (texts, dimensions), and what they cost."""

    vectors: Vectors
    model: str
    provider: str
    tokens: int


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The text of one answer, for the rooms above."""

    text: str
    model: str
    provider: str
    usage: Usage


class ProviderModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model as its provider offers it. Sizes in tokens."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
    kind: Kind = "chat"
    context_window: Annotated[int, msgspec.Meta(gt=0)] = 8192
    max_output: Annotated[int, msgspec.Meta(gt=0)] | None = None
    capabilities: tuple[str, ...] = ("tools", "json_schema")
    dimensions: Annotated[int, msgspec.Meta(gt=0)] | None = None
    tokenizer: str | None = None
    languages: tuple[str, ...] = ()


class Provider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where models are served, and in which dialect; the schema of `gateway/providers/*.toml`.

    The key is read from the environment variable or the file that is named here; it is never stored. With
    `any_model`, names that are not listed are passed on to the provider too. `source` is set by Gimle.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    base_url: str
    dialect: str = "openai"
    api_key_env: str | None = None
    api_key_file: str | None = None
    headers: dict[str, str] = {}
    local: bool = False
    any_model: bool = False
    # Whether it tells the usage of a stream when asked, and under which name it takes the limit on its answer.
    stream_usage: bool = True
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    models: tuple[ProviderModel, ...] = ()
    source: Literal["packaged", "file", "settings", "database"] = "packaged"
    id: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class ProviderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe of a provider found. `models` is how many it lists, `latency_ms` how long that took."""

    name: str
    available: bool
    checked_at: datetime
    reason: str | None = None
    latency_ms: float | None = None
    models: int | None = None


class Fault(msgspec.Struct, frozen=True):
    """Why an attempt failed.

    `again` says whether the same target may be asked once more, not before `after` seconds. `passable` says that the
    fault is the caller's, and that the provider's own words about it may go to the caller as they are.
    """

    error: GimleError
    again: bool = False
    after: float = 0.0
    passable: bool = False


class Engine(Protocol):
    """An engine inside Gimle; a module in `gateway/engines/` opens it. `available` names the models that serve now."""

    @property
    def available(self) -> frozenset[str]:
        """The names of the models that can serve now."""
        ...

    async def chat(self, messages: list[Message], max_tokens: int | None) -> tuple[str, Usage]:
        """The answer to a conversation, in text, of at most about `max_tokens`."""
        ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors, float32 (texts, dimensions)."""
        ...

    async def close(self) -> None:
        """Give back memory and threads."""
        ...


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """As much of a chat request as the gateway itself needs to know. `tokens` is a rough count of the messages."""

    max_tokens: int | None = None
    include_usage: bool = False
    capabilities: frozenset[str] = frozenset()
    tokens: int = 0


class Event(msgspec.Struct, frozen=True):
    """What one event of a provider's stream means: which choices it opens and which it finishes, and what it tells."""

    opened: tuple[int, ...] = ()
    closed: tuple[int, ...] = ()
    content: bool = False
    done: bool = False
    usage: Usage | None = None
    # Nothing but usage: a caller who did not ask for it does not see it.
    usage_only: bool = False


class Spoken(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine inside Gimle has said, to be written in a dialect. `created` is in Unix seconds."""

    id: str
    model: str
    created: int
    text: str
    usage: Usage
    finish: Literal["stop", "length"] = "stop"


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """A wire format, as pure functions. A module in `gateway/dialects/` holds one as `DIALECT`.

    Those that read what a provider has sent raise `UpstreamError` when it is malformed or tells of an error.
    """

    chat_path: str
    embeddings_path: str
    models_path: str
    # The headers that carry a key.
    key_headers: Callable[[str], Headers]
    # Checks the known fields of a caller's request. Raises `InvalidRequest`, which names the field.
    read_chat: Callable[[ChatCall], Prompt]
    # The messages of a checked request, each content as plain text: for engines inside Gimle.
    read_messages: Callable[[ChatCall], list[Message]]
    # The caller's own bytes, with the model patched, and usage asked for where it streams and the provider can.
    write_chat: Callable[[ChatCall, str, Provider], bytes]
    # A request of our own: (provider, messages, max_tokens, JSON schema or None).
    compose_chat: Callable[[Provider, Sequence[Message], int, Mapping[str, Any] | None], ChatCall]
    # Checks a whole answer; its usage, if it tells it.
    read_reply: Callable[[bytes], Usage | None]
    # The text of a whole answer.
    read_text: Callable[[bytes], str]
    # One event of a stream, from the bytes of its `data` lines.
    read_event: Callable[[bytes], Event]
    # (status, headers, body) of an answer that is no success.
    read_fault: Callable[[int, Mapping[str, str], bytes], Fault]
    # Takes the model, the texts, and the dimensions where other than its own are asked for.
    write_embeddings: Callable[[str, Sequence[str], int | None], bytes]
    # (body, count): the vectors in the order of the texts, and the tokens if it tells them.
    read_embeddings: Callable[[bytes, int], tuple[Vectors, int | None]]
    # How many models a provider lists.
    read_models: Callable[[bytes], int]
    # What an engine inside Gimle has said, whole or as events (the flag asks for usage at their end).
    write_reply: Callable[[Spoken], bytes]
    write_events: Callable[[Spoken, bool], Iterator[bytes]]
