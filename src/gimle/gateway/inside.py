"""The engines that run inside Gimle, behind the same walk as any provider: never a network, never a key."""

import asyncio
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import msgspec

from gimle.foundation import ids, plugins
from gimle.foundation.config import Settings
from gimle.foundation.errors import ContextTooLong, InvalidRequest, Unavailable, Unsayable
from gimle.gateway.local.host import LOCAL, Host
from gimle.gateway.local.store import Store
from gimle.gateway.neutral import Added, Ask, Choice, Delta, Reply, Text, Turn, Usage, deltas
from gimle.gateway.tokens import Tokens
from gimle.gateway.types import Engine, Message, Vectors
from gimle.selection.types import Model

_WORD = re.compile(r"\s*\S+\s*$|\s*\S+|\s+$")
_PACKAGE = "gimle.gateway.engines"
# What the marks around a message cost beside its text.
_MESSAGE_TOKENS = 4
# No text has fewer tokens than a sixteenth of its characters: what is beyond that need not be counted.
_MOST_CHARACTERS_A_TOKEN = 16


class Engines:
    """All engines of this process, by the provider's name under which their models are offered.

    `local` has the models that are served by processes of their own; None where there are none.
    """

    def __init__(
        self, engines: Mapping[str, Engine], models: Sequence[Model], tokens: Tokens, local: Host | None = None
    ) -> None:
        self.models = tuple(models)
        self.local = local
        self._engines = engines
        self._tokens = tokens
        # One object for each, by whose identity what follows from it is kept.
        self._missing = {
            model: msgspec.structs.replace(model, unavailable="its weights are not installed") for model in models
        }
        # Local models as they were seen last: what was meant, the problem, and what is shown.
        self._seen: dict[str, tuple[Model, str | None, Model]] = {}

    @classmethod
    async def open(cls, settings: Settings, tokens: Tokens) -> Self:
        """Open each engine of the folder. What is not installed yet is found missing when it is asked for."""
        modules = {name: plugins.load(_PACKAGE, name) for name in plugins.names(_PACKAGE)}
        serving = {name: module.SERVING for name, module in modules.items() if "SERVING" in vars(module)}
        within = {name: module for name, module in modules.items() if name not in serving}
        engines: dict[str, Engine] = {name: await module.open(settings) for name, module in within.items()}
        models = [model for module in within.values() for model in module.MODELS]
        return cls(engines, models, tokens, Host(settings, serving, Store(settings)))

    async def close(self) -> None:
        """Close them all."""
        for engine in self._engines.values():
            await engine.close()
        if self.local is not None:
            await self.local.close()

    def seen(self, model: Model) -> Model:
        """A model as it is now: weights may have been installed since the start, or its server may keep dying."""
        if model.provider == LOCAL and self.local is not None:
            return self._as_it_is(model, self.local.problem(model.name))
        if model.dialect is not None or model.name in self._engines[model.provider].available:
            return model
        return self._missing[model]

    def _as_it_is(self, model: Model, problem: str | None) -> Model:
        """The same object as long as nothing changes, so that what follows from it can be kept."""
        known = self._seen.get(model.id)
        if known is None or known[0] is not model or known[1] != problem:
            known = self._seen[model.id] = (model, problem, msgspec.structs.replace(model, unavailable=problem))
        return known[2]

    async def chat(self, model: Model, ask: Ask) -> Reply:
        """What the engine says, cut at `max_tokens`.

        Raises `ContextTooLong` for more than its window holds, `Unsayable` for what is not text.
        """
        messages = [{"role": turn.role, "content": _plain(turn, at)} for at, turn in enumerate(ask.turns)]
        told = await asyncio.to_thread(self._told, model, messages)
        text = await self._engine(model).chat(messages)
        return await asyncio.to_thread(self._reply, model, told, text, ask.max_tokens)

    def _told(self, model: Model, messages: Sequence[Message]) -> int:
        texts = [str(said["content"]) for said in messages]
        tokens = sum(map(len, texts)) // _MOST_CHARACTERS_A_TOKEN
        if tokens <= model.context_window:
            tokens = sum(self._tokens.count(text, model.tokenizer) + _MESSAGE_TOKENS for text in texts)
        if tokens > model.context_window:
            raise ContextTooLong(
                f"The messages do not fit into the window of {model.id}, which is {model.context_window} tokens.",
                field="turns",
                hint="Shorten them, name a model with a larger window, or upload long texts as documents and ask with "
                "`gimle.collection`.",
            )
        return tokens

    def _reply(self, model: Model, told: int, text: str, max_tokens: int | None) -> Reply:
        whole = text
        if max_tokens is not None:
            text = self._tokens.cut(text, max_tokens, model.tokenizer)
        written = self._tokens.count(text, model.tokenizer)
        return Reply(
            id=ids.new("chatcmpl"),
            model=model.id,
            created=int(time.time()),
            choices=(Choice(parts=(Text(text=text),), finish="stop" if text == whole else "length"),),
            usage=Usage(uncached=told, output=written),
        )

    async def embed(self, model: Model, texts: Sequence[str], dimensions: int | None) -> tuple[Vectors, int]:
        """Vectors and a count of the tokens. Raises `InvalidRequest` when other dimensions are asked for."""
        if dimensions not in (None, model.dimensions):
            raise InvalidRequest(
                f"{model.id} gives vectors of {model.dimensions} dimensions, not of {dimensions}.",
                field="dimensions",
                hint="Leave `dimensions` out.",
            )
        vectors = await self._engine(model).embed(texts)
        return vectors, await asyncio.to_thread(self._counted, texts, model.tokenizer)

    def _counted(self, texts: Sequence[str], tokenizer: str | None) -> int:
        return sum(self._tokens.count(text, tokenizer) for text in texts)

    def _engine(self, model: Model) -> Engine:
        if self.seen(model).unavailable is not None:
            raise Unavailable(f"{model.id} can't serve now: its weights are not installed.", hint="Run `gimle setup`.")
        return self._engines[model.provider]


def _plain(turn: Turn, at: int) -> str:
    for part in turn.parts:
        if not isinstance(part, Text):
            raise Unsayable("This model reads text only.", field=f"turns[{at}].parts", hint="Send text.")
    return turn.text


def word_by_word(reply: Reply) -> Iterator[Delta]:
    """An answer as deltas of a word each, as a model would write it."""
    for delta in deltas(reply):
        if isinstance(delta, Added):
            for word in _WORD.findall(delta.text):
                yield msgspec.structs.replace(delta, text=word)
        else:
            yield delta
