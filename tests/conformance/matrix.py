"""The payloads of the matrix: what callers of each dialect ask, and what each provider must be sent, and the way back.

`tests/fixtures/matrix/requests/*.json` say one thing in the words of every caller and of every provider; `pairs` tells
where it depends on both: `with` lays fields over what the provider is sent (null takes one away), `dropped` are the
hints left out, `refused` is the field that can't be said, all in the caller's names. `answers/*.json` do the same for
answers. They are written by hand from the vendors' references, and never by our code.
"""

from pathlib import Path
from typing import Any

import msgspec

from gimle.foundation import plugins
from gimle.gateway.lanes import Call, Lane
from gimle.gateway.types import ChatCall, Dialect, Provider

FIXTURES = Path(__file__).parents[1] / "fixtures" / "matrix"
CALLERS = ("openai", "anthropic", "responses")
PROVIDERS = ("openai", "anthropic", "gemini", "responses")
MODELS = {"openai": "gpt-4.1", "anthropic": "claude-opus-4-5", "gemini": "gemini-2.5-flash", "responses": "gpt-5"}
Tree = dict[str, Any]
Fields = dict[str, msgspec.Raw]


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for one caller before one provider."""

    fields: Tree = msgspec.field(name="with", default_factory=dict)
    dropped: tuple[str, ...] = ()
    refused: str | None = None


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that is asked; `callers` hold the fields as they stand in the file, byte by byte."""

    about: str
    callers: dict[str, Fields]
    providers: dict[str, Tree]
    pairs: dict[str, Pair] = {}
    models: dict[str, str] = {}

    def pair(self, caller: str, provider: str) -> Pair:
        """What is special about a pair."""
        return self.pairs.get(f"{caller}>{provider}", Pair())

    def model(self, provider: str) -> str:
        """The provider's model, since what can be said depends on it."""
        return self.models.get(provider, MODELS[provider])


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one provider answers: whole, and as the data of the events of a stream."""

    whole: msgspec.Raw
    stream: tuple[msgspec.Raw, ...]

    def events(self, provider: str) -> bytes:
        """The stream as its vendor frames it."""
        datas = [bytes(data) for data in self.stream]
        match provider:
            case "openai":
                return b"".join(b"data: " + data + b"\n\n" for data in [*datas, b"[DONE]"])
            case "gemini":
                return b"".join(b"data: " + data + b"\r\n\r\n" for data in datas)
        types = [msgspec.json.decode(data)["type"].encode() for data in datas]
        return b"".join(
            b"event: " + type_ + b"\ndata: " + data + b"\n\n" for type_, data in zip(types, datas, strict=True)
        )


class Answered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answer in the words of each provider, and what each caller reads; `pairs` are laid over that."""

    about: str
    providers: dict[str, Given]
    callers: dict[str, Tree]
    pairs: dict[str, Tree] = {}

    def expected(self, caller: str, provider: str) -> Tree:
        """What a caller reads when this provider has answered."""
        return laid_over(self.callers[caller], self.pairs.get(f"{caller}>{provider}", {}))


def laid_over(tree: Tree, fields: Tree) -> Tree:
    """A tree with other fields; those that are null are gone."""
    return {name: value for name, value in {**tree, **fields}.items() if value is not None}


REQUESTS = {
    path.stem: msgspec.json.decode(path.read_bytes(), type=Asked)
    for path in sorted((FIXTURES / "requests").glob("*.json"))
}
ANSWERS = {
    path.stem: msgspec.json.decode(path.read_bytes(), type=Answered)
    for path in sorted((FIXTURES / "answers").glob("*.json"))
}


def dialect(name: str) -> Dialect:
    """A dialect by its name."""
    found: Dialect = plugins.load("gimle.gateway.dialects", name).DIALECT
    return found


def call(caller: str, fields: Fields, *, stream: bool = False) -> ChatCall:
    """A request as its surface hands it over."""
    asked = {**fields, "model": msgspec.Raw(b'"any"'), **({"stream": msgspec.Raw(b"true")} if stream else {})}
    return ChatCall(body=asked, model="any", stream=stream, dialect=caller)


def lane(opened: Call, provider: str, model: str | None = None) -> Lane:
    """The way from a caller to a provider."""
    stands = Provider(name="acme", base_url="https://api.acme.example/v1", dialect=provider)
    return opened.lane(dialect(provider), provider, model or MODELS[provider], stands)
