"""The two lanes between a caller and a provider. Pure; what was fetched for a call is handed in.

Who speaks the provider's dialect gets the fast one: his own bytes pass, with only the model changed, and the provider's
bytes come back. All others go through the neutral form, and are told which hints the provider has no word for.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from gimle.foundation.errors import GimleError, Unavailable
from gimle.gateway import counting
from gimle.gateway.neutral import Ask, Image, Part, ToolResult, Usage, Written
from gimle.gateway.streams import Carrier, Relay, Translation
from gimle.gateway.types import Chat, ChatCall, Dialect, Prompt, Provider

# What a provider of a dialect speaks besides: OpenAI's older interface stands beside its newer one.
_BESIDE: Mapping[str, tuple[str, ...]] = {"openai": ("completions",)}


_P = TypeVar("_P", bound=Part)


class Lane(Protocol):
    """The way to one provider and back."""

    # Whether a provider's own words about the caller's fault are in the caller's dialect.
    same: bool

    def request(self, most: int | None = None) -> Written:
        """What is sent; with `most`, for an answer of so many tokens. Raises `Unsayable`, naming the neutral field."""
        ...

    def whole(self, body: bytes) -> tuple[bytes, Usage | None]:
        """A whole answer for the caller, and its usage. Raises `UpstreamError` when it is none."""
        ...

    def stream(self) -> Carrier:
        """What carries a streamed answer to the caller."""
        ...


class Fetched(msgspec.Struct, frozen=True):
    """A picture in base64."""

    media_type: str
    data: str


class Call:
    """A caller's request, with which lanes to any provider can be opened. Raises `InvalidRequest` when it is none."""

    def __init__(self, call: ChatCall, dialect: Dialect) -> None:
        self.call = call
        self.chat = chat_of(dialect)
        self.prompt: Prompt = self.chat.inspect(call)
        # Whether a provider was told to write less than the caller allows: then the answer is no example.
        self.shortened = False
        # What was fetched for providers that take no URLs, by URL: see `pictures`.
        self.fetched: dict[str, Fetched] = {}
        # What pictures in base64 really are, by their data, where the caller says otherwise.
        self.mislabelled: dict[str, str] = {}

    @cached_property
    def ask(self) -> Ask:
        """All that it says; read when the first provider needs it in other words."""
        return self.chat.read_request(self.call)

    def at_most(self, count: Callable[[str], int]) -> int:
        """The most tokens of its prompt. `count` gives no fewer of a text than its model does."""
        try:
            return counting.at_most(self.ask, count)
        except GimleError:
            # What we can't read, a provider of the same dialect may.
            return sum(len(bytes(raw)) for raw in self.call.body.values())

    @cached_property
    def fetching(self) -> asyncio.Lock:
        """Held by who fetches."""
        return asyncio.Lock()

    def told(self, ask: Ask, chat: Chat, provider: Provider) -> Ask:
        """A request as a provider is told it: with the pictures in the place of their URLs where it takes none."""
        fetched = self.fetched if needs_bytes(chat, provider) else {}
        if not fetched and not self.mislabelled:
            return ask
        return replace(ask, turns=tuple(replace(turn, parts=self._seen(turn.parts, fetched)) for turn in ask.turns))

    def _seen(self, parts: Iterable[_P], fetched: Mapping[str, Fetched]) -> tuple[_P, ...]:
        return tuple(self._developed(part, fetched) for part in parts)

    def _developed(self, part: _P, fetched: Mapping[str, Fetched]) -> _P:
        match part:
            case Image(url=str(url)) if (found := fetched.get(url)) is not None:
                return replace(part, url=None, data=found.data, media_type=found.media_type)
            case Image(data=str(data)) if (media_type := self.mislabelled.get(data)) is not None:
                return replace(part, media_type=media_type)
            case ToolResult(parts=parts):
                return replace(part, parts=self._seen(parts, fetched))
        return part

    def named(self, field: str) -> str:
        """A neutral field (`turns[2].parts[0]`) as the caller knows it (`messages[1].content[0]`)."""
        field = field.removeprefix("extra.")
        if field in self.chat.names:
            return self.chat.names[field]
        inside = field.startswith("turns[")
        known = next((place for place in _enclosing(field) if place in self._places), "") if inside else ""
        rest = ".".join(_own(part, self.chat.names) for part in field.removeprefix(known).split("."))
        return (self._places[known] if known else "") + rest

    @cached_property
    def _places(self) -> Mapping[str, str]:
        return self.chat.places(self.call)

    def lane(self, dialect: Dialect, dialect_name: str, model: str, provider: Provider) -> Lane:
        """The lane to a model at a provider."""
        if self.call.dialect in _BESIDE.get(dialect_name, ()):
            return _Passing(self, self.chat, model, provider)
        theirs = chat_of(dialect)
        same = dialect_name == self.call.dialect
        return _Passing(self, theirs, model, provider) if same else _Translated(self, theirs, model, provider)


class _Passing:
    same = True

    def __init__(self, call: Call, theirs: Chat, model: str, provider: Provider) -> None:
        self._call, self._theirs, self._model, self._provider = call, theirs, model, provider

    def request(self, most: int | None = None) -> Written:
        call = self._call.call
        if self._call.fetched and needs_bytes(self._theirs, self._provider):
            return replace(_written(self._call, self._theirs, self._model, self._provider, most), headers=call.headers)
        if most is not None:
            self._call.shortened = True
            call = self._theirs.shorten(call, most, self._provider)
        body = self._theirs.patch(call, self._model, self._provider)
        return Written(path=self._theirs.path(self._model, call.stream), body=body, headers=call.headers)

    def whole(self, body: bytes) -> tuple[bytes, Usage | None]:
        return body, self._theirs.read_usage(body)

    def stream(self) -> Carrier:
        return Relay(self._theirs.watch(), show_usage=self._call.prompt.include_usage)


class _Translated:
    same = False

    def __init__(self, call: Call, theirs: Chat, model: str, provider: Provider) -> None:
        self._call, self._theirs, self._model, self._provider = call, theirs, model, provider

    def request(self, most: int | None = None) -> Written:
        return _written(self._call, self._theirs, self._model, self._provider, most)

    def whole(self, body: bytes) -> tuple[bytes, Usage | None]:
        reply = self._theirs.read_reply(body)
        return self._call.chat.write_reply(reply), reply.usage

    def stream(self) -> Carrier:
        return Translation(self._theirs.read_events(), self._call.chat.write_events(self._call.prompt.include_usage))


def needs_bytes(chat: Chat, provider: Provider) -> bool:
    """Whether a provider must be given pictures themselves, and not their URLs."""
    return not (chat.image_urls and not provider.local if provider.image_urls is None else provider.image_urls)


def chat_of(dialect: Dialect) -> Chat:
    """The chat of a dialect. Raises `Unavailable` when it has none."""
    if dialect.chat is None:
        raise Unavailable("This provider does not chat.", field="model")
    return dialect.chat


def _written(call: Call, theirs: Chat, model: str, provider: Provider, most: int | None) -> Written:
    """A request in a provider's words, with the hints that were left out in the names of the caller's dialect."""
    ask = call.told(call.ask, theirs, provider)
    if most is not None:
        ask = replace(ask, max_tokens=most)
        call.shortened = True
    written = theirs.write_request(ask, model, provider)
    return replace(written, dropped=tuple(map(call.named, written.dropped)))


def _enclosing(field: str) -> Iterator[str]:
    """A place and those that hold it, the innermost first."""
    while field:
        yield field
        field = field.rpartition(".")[0]


def _own(part: str, names: Mapping[str, str]) -> str:
    name, bracket, rest = part.partition("[")
    return names.get(name, name) + bracket + rest
