"""The nouns of the gateway: calls, replies, providers, dialects."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Protocol, Self

import msgspec
import numpy as np
import numpy.typing as npt

from gimle.foundation.errors import GimleError
from gimle.gateway.breaker import Ticket
from gimle.gateway.cache_keys import ALL, Control
from gimle.gateway.metrics import Meters
from gimle.gateway.neutral import Ask, Delta, Reply, Usage, Written
from gimle.gateway.notices import Notice
from gimle.gateway.tab import Slip
from gimle.selection.board import Flight
from gimle.selection.types import Kind, Model, Need

Vectors = npt.NDArray[np.float32]
Message = dict[str, Any]
Headers = tuple[tuple[str, str], ...]
# Takes whole events in the moment when they come; whether more can be taken at once.
Take = Callable[[bytes], bool]
Way = Callable[[AsyncGenerator[bytes, None]], AsyncGenerator[bytes, None]]


class Purpose(msgspec.Struct, frozen=True, kw_only=True):
    """For whom and what a call is made, as far as its caller says; `language` is the one in which he is told why.

    `policy` is the one by which its model is chosen, and `explain` says that the answer shall hold the reasons.
    `request` is its id, and `started` when it came, on the clock of `time.perf_counter`.
    """

    user: str = ""
    case: str = ""
    workflow: str = ""
    priority: str = "default"
    language: str = "en"
    policy: str = ""
    explain: bool = False
    request: str = ""
    started: float | None = None


class ChatCall(msgspec.Struct, frozen=True, kw_only=True):
    """A chat request as it came: each top-level field of the body as its own bytes, without the field `gimle`.

    `headers` are those of the caller that a provider of the same dialect understands (Anthropic's betas); no others
    go upstream.
    """

    body: dict[str, msgspec.Raw]
    model: str
    stream: bool = False
    dialect: str = "openai"
    headers: Headers = ()
    purpose: Purpose = Purpose()
    cache: Control = ALL


class Attempt(msgspec.Struct, frozen=True):
    """One try at one target: its number in the call, and the moment on the loop's clock when the call must end.

    `ticket` takes what became of it, for the target's breaker, `slip` for the ledger, and `flight` for selection;
    `meters` count it.
    """

    target: Model
    number: int
    deadline: float
    ticket: Ticket
    meters: Meters
    slip: Slip
    flight: Flight

    def settle(
        self, usage: Usage | None, seconds: float, first_seconds: float = 0.0, *, said: int | None = None
    ) -> None:
        """It was answered whole: count that, enter what it cost, and remember how fast it was.

        `usage` None: the provider did not tell. Then it follows from the bytes of the answer (`said`); where these are
        not known, or not enough, it is the most that was expected.
        """
        if usage is None and said is not None:
            usage = self.slip.guess(said)
        self.meters.settle(usage, seconds, first_seconds)
        self.slip.settle("done", usage, first_seconds or None)
        tokens, written = (usage.input_tokens, usage.output_tokens) if usage is not None else (0, 0)
        self.flight.answered(time.time(), tokens, (first_seconds or seconds, seconds), written)


class ChatReply(msgspec.Struct, kw_only=True):
    """A whole answer in the caller's dialect. `status` is 4xx when the provider itself refused the caller's request."""

    status: int
    body: bytes
    model: str
    provider: str
    attempts: int = 1
    usage: Usage | None = None
    upstream_seconds: float = 0.0
    dropped: tuple[str, ...] = ()
    # What the head of the answer tells besides: limits and costs.
    told: Headers = ()
    notice: Notice | None = None


class ChatStream:
    """Server-sent events in the caller's dialect: iterate it, and `close` it whatever happens.

    It begins when the first content has come, so a fault until then was met by another target. A fault after that is
    raised from the iteration. Closing cancels the provider's work. `usage` is known after the end. One that is played
    again comes from no attempt: whoever makes it says whose answer it is.
    """

    attempt: Attempt
    model: str
    provider: str
    attempts: int = 0
    # Has events go straight to who takes them, from the next iteration on; None where they must go another way.
    straight: Callable[[Take], None] | None = None

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        close: Callable[[], Awaitable[None]],
        usage: Callable[[], Usage | None],
        attempt: Attempt | None = None,
        upstream_seconds: float = 0.0,
    ) -> None:
        if attempt is not None:
            self.follow(attempt)
        self.upstream_seconds = upstream_seconds
        # The hints for which the provider has no word: neutral names.
        self.dropped: tuple[str, ...] = ()
        # See `ChatReply`.
        self.told: Headers = ()
        self.notice: Notice | None = None
        self._events = events
        self._close = close
        self._usage = usage

    @classmethod
    def ready(
        cls,
        events: Iterable[bytes],
        usage: Usage | None,
        attempt: Attempt | None = None,
        upstream_seconds: float = 0.0,
    ) -> Self:
        """A stream of what is there already."""
        return cls(_each(events), _nothing, lambda: usage, attempt, upstream_seconds)

    def follow(self, attempt: Attempt) -> None:
        """From now on it comes from this attempt."""
        self.attempt = attempt
        self.model, self.provider, self.attempts = attempt.target.name, attempt.target.provider, attempt.number

    def through(self, way: Way, closed: Callable[[], None]) -> None:
        """From now on the events go through `way`; `closed` is called when the stream is closed."""
        self._events, close = way(self._events), self._close
        self.straight = None

        async def both() -> None:
            try:
                await close()
            finally:
                closed()

        self._close = both

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


async def _each(events: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    for event in events:
        yield event


async def _nothing() -> None:
    return


class Embedded(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors, shape (texts, dimensions), and what they cost."""

    vectors: Vectors
    model: str
    provider: str
    tokens: int
    attempts: int = 1
    upstream_seconds: float = 0.0
    # See `ChatReply`.
    told: Headers = ()


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The text of one answer, for the rooms above."""

    text: str
    model: str
    provider: str
    usage: Usage
    notice: Notice | None = None


class TokenPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a provider asks, in USD for a million tokens of a class, and for one `request`; from a day on (UTC).

    Tokens from and into the provider's cache cost as `input` where nothing else is said, thoughts as `output`.
    """

    input: Decimal
    output: Decimal = Decimal()
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    request: Decimal = Decimal()
    since: date | None = None


class ProviderModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model as its provider offers it. Sizes in tokens."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
    kind: Kind = "chat"
    # How much it reads and writes together.
    context_window: Annotated[int, msgspec.Meta(gt=0)] = 8192
    # How long its answers may be.
    max_output: Annotated[int, msgspec.Meta(gt=0)] | None = None
    # Of `tools`, `json_schema`, `vision` and `reasoning`.
    capabilities: tuple[str, ...] = ("tools", "json_schema")
    # Of its vectors.
    dimensions: Annotated[int, msgspec.Meta(gt=0)] | None = None
    # By which its tokens can be counted exactly, as tiktoken calls it (`o200k_base`).
    tokenizer: str | None = None
    # Those that an embedding model understands, as `en`; none: nobody knows.
    languages: tuple[str, ...] = ()
    # What it costs where the price list does not know it or you pay less; the last that has begun counts.
    price: tuple[TokenPrice, ...] = ()
    # How many parameters it has, where that is public.
    parameters: Annotated[int, msgspec.Meta(gt=0)] | None = None
    # Under which name it is in the price list (`openai/gpt-5`), where that is not its own.
    price_ref: str | None = None
    # As the provider's, where this model differs.
    continues_assistant: bool | None = None


class Provider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where models are served, and in which dialect; the schema of `gateway/providers/*.toml`.

    The key is read where it is named here; it is never stored. `source` is set by Gimle.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    base_url: str
    # `openai`, `responses`, `anthropic`, `gemini`, `cohere` or `completions`.
    dialect: str = "openai"
    # The environment variable that holds the key, or else the file in <data>/secrets.
    api_key_env: str | None = None
    api_key_file: str | None = None
    # The header that carries the key alone, where that is not the dialect's own.
    key_header: str | None = None
    # Sent with each request.
    headers: dict[str, str] = {}
    # What stands in each address: after the base URL, with {model} in it, and behind the question mark.
    model_path: str = ""
    query: dict[str, str] = {}
    # One that is not is known and not used.
    enabled: bool = True
    # It is another Gimle node: the file in <data>/secrets with the secret by which it signs what it says of its models.
    node_secret_file: str | None = None
    # Whether its list of models is asked for now and then, to know that it is there and how far away.
    probe: bool = True
    # Whether it stands in your own network: what it is sent does not leave the house.
    local: bool = False
    # Whether names of models that are not listed here are passed on to it too.
    any_model: bool = False
    # Whether it tells the usage of a stream when asked.
    stream_usage: bool = True
    # Under which name it takes the limit on its answer.
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    # Whether it wants the thoughts before a tool call back, as `reasoning_content`; others refuse that field.
    takes_thoughts: bool = False
    # Whether it is known to go on with an answer that ends the conversation, and what the message and the request must
    # hold for that.
    continues_assistant: bool = False
    continue_message: dict[str, Any] = {}
    continue_request: dict[str, Any] = {}
    # Whether it fetches pictures by their URL itself. Unless it is told, it does as its dialect, and never where it is
    # local: it stands in our own network, where a caller's URL must not be followed unchecked.
    image_urls: bool | None = None
    # Whose published prices hold here (`openai`), where the address does not say it.
    price_ref: str | None = None
    # How long its first word may take, where that is not what `gateway.first_token_seconds` says.
    first_token_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    # Those that can be named, and their facts.
    models: tuple[ProviderModel, ...] = ()
    source: Literal["packaged", "file", "settings", "database"] = "packaged"
    id: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    def reasons(self, model: str) -> bool:
        """Whether a model may be told how much to think. Vendors refuse that where it does not; local servers don't."""
        listed = next((one for one in self.models if one.name == model), None)
        return self.local or listed is None or "reasoning" in listed.capabilities


class ProviderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe of a provider found. `models` is how many it lists, `latency_ms` how long that took."""

    name: str
    available: bool
    checked_at: datetime
    reason: str | None = None
    latency_ms: float | None = None
    models: int | None = None


class ProviderCredentials(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a provider's key is read: an environment variable, or a file in the folder for secrets. Never the key.

    `found` and `reason` are told, not taken.
    """

    api_key_env: str | None = None
    api_key_file: str | None = None
    found: bool | None = None
    reason: str | None = None


class Fault(msgspec.Struct, frozen=True):
    """Why an attempt failed.

    `again` says whether the same target may be asked once more, not before `after` seconds. `passable` says that the
    fault is the caller's, and that the provider's own words about it may go to the caller as they are. `status` is the
    HTTP status of a refusal, 0 where there was none.
    """

    error: GimleError
    again: bool = False
    after: float = 0.0
    passable: bool = False
    status: int = 0


class Engine(Protocol):
    """An engine inside Gimle; a module in `gateway/engines/` opens it. `available` names the models that serve now."""

    @property
    def available(self) -> frozenset[str]:
        """The names of the models that can serve now."""
        ...

    async def chat(self, messages: Sequence[Message]) -> str:
        """The answer to a conversation."""
        ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors, float32 (texts, dimensions)."""
        ...

    async def close(self) -> None:
        """Give back memory and threads."""
        ...


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """As much of a chat request as the gateway itself needs to know. `tokens` is a rough count of the messages.

    `plain` says that the answer is one text and nothing else (no tools, no JSON, one choice), so that another model
    may continue it. Each of the `choices` has at most `max_tokens`.
    """

    max_tokens: int | None = None
    choices: int = 1
    plain: bool = False
    include_usage: bool = False
    capabilities: frozenset[str] = frozenset()
    tokens: int = 0

    @property
    def need(self) -> Need:
        """What it asks of its model."""
        return Need(capabilities=self.capabilities, tokens=self.tokens)


class Event(msgspec.Struct, frozen=True):
    """What one event of a provider's stream means: which choices it opens and which it finishes, and what it tells.

    `content` is how many bytes of an answer it brings: about, and rather too many.
    """

    opened: tuple[int, ...] = ()
    closed: tuple[int, ...] = ()
    content: int = 0
    done: bool = False
    usage: Usage | None = None
    # Nothing but usage: a caller who did not ask for it does not see it.
    usage_only: bool = False


class Counting(msgspec.Struct, frozen=True):
    """How a provider is asked for the tokens of a request."""

    # Below the base URL.
    path: str
    # The caller's own bytes, with the model patched.
    write: Callable[[ChatCall, str], bytes]
    # How many. Raises `UpstreamError`.
    read: Callable[[bytes], int]


def _nowhere_else(_: ChatCall) -> Mapping[str, str]:
    return {}


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """Chat in a wire format, as pure functions: some for callers who speak it, some for providers who do.

    What reads a caller raises `InvalidRequest`, which names the field; what reads a provider raises `UpstreamError`
    when it is malformed or tells of an error.
    """

    # What this format calls a neutral field, where it calls it otherwise: {"turns": "messages"}.
    names: Mapping[str, str]

    # Where in a checked request a neutral place is, if its name alone does not tell: {"turns[0]": "system"}.
    places: Callable[[ChatCall], Mapping[str, str]] = _nowhere_else

    # -- callers. Checks the known fields of a request, and finds out as much as the gateway itself must know.
    inspect: Callable[[ChatCall], Prompt]
    # All that a checked request says.
    read_request: Callable[[ChatCall], Ask]
    write_reply: Callable[[Reply], bytes]
    # Begins to write a stream: the function takes one delta after the other and gives the bytes of whole events. The
    # flag says whether the caller asked for usage, where the format lets him choose.
    write_events: Callable[[bool], Callable[[Delta], bytes]]

    # -- providers. Where a request goes, below the base URL: (model, whether it streams).
    path: Callable[[str, bool], str]
    # The caller's own bytes, with the model patched, and usage asked for where it streams and the provider can.
    patch: Callable[[ChatCall, str, Provider], bytes]
    # The caller's call with another limit on its answer, in tokens.
    shorten: Callable[[ChatCall, int, Provider], ChatCall]
    # Another dialect's request. Raises `Unsayable`, which names the neutral field.
    write_request: Callable[[Ask, str, Provider], Written]
    # An answer that passes as it came: checked, and its usage if it tells it.
    read_usage: Callable[[bytes], Usage | None]
    # Begins to look at a stream that passes as it came: the function takes the data of one event after the other.
    watch: Callable[[], Callable[[bytes], Event]]
    # An answer to be written in another dialect.
    read_reply: Callable[[bytes], Reply]
    # Begins to read a stream that is written in another dialect: data of an event in, deltas out.
    read_events: Callable[[], Callable[[bytes], Sequence[Delta]]]
    # For providers who count tokens when they are asked.
    counting: Counting | None = None
    # Whether providers fetch pictures by their URL themselves.
    image_urls: bool = True


class Embeddings(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors in a wire format."""

    path: Callable[[str], str]
    # (model, texts, dimensions where other than its own are asked for).
    write: Callable[[str, Sequence[str], int | None], bytes]
    # (body, count): the vectors in the order of the texts, and the tokens if it tells them.
    read: Callable[[bytes, int], tuple[Vectors, int | None]]
    # How many texts one request may hold.
    batch: int = 512


class Ranked(msgspec.Struct, frozen=True):
    """A document's place among those that were given, from 0, and how well it fits, from 0 to 1."""

    index: int
    score: float


class Reranked(msgspec.Struct, frozen=True, kw_only=True):
    """Documents in their order, best first, and the tokens that it cost."""

    ranked: tuple[Ranked, ...]
    model: str
    provider: str
    tokens: int
    attempts: int = 1
    upstream_seconds: float = 0.0
    # See `ChatReply`.
    told: Headers = ()


class Rerank(msgspec.Struct, frozen=True, kw_only=True):
    """Ordering documents by how well they fit a query, in a wire format."""

    path: Callable[[str], str]
    # (model, query, documents, how many at most).
    write: Callable[[str, str, Sequence[str], int | None], bytes]
    # (body, count of the documents): best first, and the usage if it tells it.
    read: Callable[[bytes, int], tuple[tuple[Ranked, ...], Usage | None]]


class Transcription(msgspec.Struct, frozen=True, kw_only=True):
    """Speech to text as a form that passes: where it goes, and what of the answer the gateway has to know."""

    path: str
    read_usage: Callable[[bytes], Usage | None]
    watch: Callable[[], Callable[[bytes], Event]]


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """A wire format. A module in `gateway/dialects/` holds one as `DIALECT`; what it can't do is None."""

    # The headers that carry a key.
    key_headers: Callable[[str], Headers]
    models_path: str
    # How many models a provider lists.
    read_models: Callable[[bytes], int]
    # (status, headers, body) of an answer that is no success.
    read_fault: Callable[[int, Mapping[str, str], bytes], Fault]
    chat: Chat | None = None
    embeddings: Embeddings | None = None
    rerank: Rerank | None = None
    transcription: Transcription | None = None
