"""The nouns of selection."""

from typing import Literal

import msgspec

Kind = Literal["chat", "embedding", "rerank", "transcription"]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one provider, with the facts by which it is chosen.

    `context_window` and `max_output` are in tokens. `dialect` is None for an engine inside Gimle. `unavailable` says
    why the model can't serve now (a missing key, missing weights); None when it can. `version` tells vectors apart
    that must not be compared with each other. `listed` is False for a name that only the caller knows. `price` is where
    the price list has it (`provider/model`). `continues_assistant`: it goes on with an answer that has begun.
    """

    provider: str
    name: str
    kind: Kind = "chat"
    context_window: int = 8192
    max_output: int | None = None
    local: bool = False
    dialect: str | None = None
    capabilities: frozenset[str] = frozenset()
    dimensions: int | None = None
    languages: tuple[str, ...] = ()
    version: str = ""
    tokenizer: str | None = None
    unavailable: str | None = None
    parameters: int | None = None
    price: str | None = None
    continues_assistant: bool = False
    listed: bool = True

    @property
    def id(self) -> str:
        """`provider/name`, the name under which callers ask for exactly this one."""
        return f"{self.provider}/{self.name}"


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a call asks of its model: the kind, capabilities such as `tools`, and the tokens that must fit."""

    kind: Kind = "chat"
    capabilities: frozenset[str] = frozenset()
    tokens: int = 0


class Choice(msgspec.Struct, frozen=True):
    """The models to try, best first, and for each model that was considered (by id) why it stands where it does."""

    ordered: tuple[Model, ...]
    reasons: dict[str, str]
