"""OpenAI's surfaces: chat completions, embeddings, and models, a path that Anthropic's clients ask too."""

import base64
from functools import partial
from typing import Any

import msgspec
import numpy as np

from gimle.foundation.errors import InvalidRequest, ModelNotFound
from gimle.gateway.cache_keys import control
from gimle.interfaces.http import anthropic, grounded
from gimle.interfaces.http.exchange import JSON, Exchange
from gimle.interfaces.http.surface import (
    GimleFields,
    Route,
    Shape,
    Surface,
    decoded,
    dropped,
    field,
    purpose,
    served,
    unheeded,
)
from gimle.selection.types import Model
from gimle.trust.types import Principal

_MOST_INPUTS = 2048


class EmbeddingsRequest(msgspec.Struct, frozen=True):
    """A request for vectors."""

    input: str | list[str | int | list[int]]
    model: str
    encoding_format: str = "float"
    dimensions: int | None = None
    user: msgspec.Raw = msgspec.Raw(b"null")
    gimle: GimleFields = GimleFields()


_EMBEDDINGS_REQUEST = msgspec.json.Decoder(EmbeddingsRequest)
_STREAM_OPTIONS = msgspec.json.Decoder(grounded.StreamOptions | None)


class Chats(Surface):
    """Chat completions, from a model or from the documents of a collection."""

    def routes(self) -> tuple[Route, ...]:
        """What it answers."""
        return (Route("POST", "/v1/chat/completions", self.complete),)

    async def complete(self, exchange: Exchange, principal: Principal, _: str) -> None:
        """Answer a chat."""
        call, ours = await self.call(exchange, "openai")
        exchange.attend()
        if ours.collection is None:
            await self.relay(exchange, principal, call)
        else:
            options = field(call.body, "stream_options", _STREAM_OPTIONS)
            pieces = partial(grounded.chunks, include_usage=bool(options and options.include_usage))
            await self.answer(exchange, principal, call, ours, Shape(grounded.completion, pieces))


class Vectors(Surface):
    """Embeddings."""

    def routes(self) -> tuple[Route, ...]:
        """What it answers."""
        return (Route("POST", "/v1/embeddings", self.embed),)

    async def embed(self, exchange: Exchange, principal: Principal, _: str) -> None:
        """Make vectors."""
        asked = decoded(await exchange.body(), _EMBEDDINGS_REQUEST)
        cache = control("", asked.gimle.cache)
        texts = _texts(asked)
        exchange.attend()
        what = purpose(exchange, asked.gimle, asked.user)
        embedded = await self.gateway.embed(principal, asked.model, texts, dimensions=asked.dimensions, purpose=what)
        data = [
            {"object": "embedding", "index": index, "embedding": _vector(vector, asked.encoding_format)}
            for index, vector in enumerate(embedded.vectors)
        ]
        model = f"{embedded.provider}/{embedded.model}"
        usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
        body = {"object": "list", "data": data, "model": model, "usage": usage}
        headers = [*served(exchange, embedded), *dropped(unheeded(cache, explain=asked.gimle.explain))]
        await exchange.reply(200, msgspec.json.encode(body), [JSON, *headers])


class Models(Surface):
    """The models that can be named."""

    def routes(self) -> tuple[Route, ...]:
        """What it answers."""
        return (Route("GET", "/v1/models", self.list), Route("GET", "/v1/models/{model}", self.show))

    async def list(self, exchange: Exchange, principal: Principal, _: str) -> None:
        """All that can serve now."""
        able = [model for model in self.gateway.models(principal) if model.unavailable is None]
        # A model that serves for two kinds is one model.
        models = list({model.id: model for model in able}.values())
        if exchange.dialect == "anthropic":
            await exchange.reply(200, anthropic.models(models))
        else:
            listed = {"object": "list", "data": [_as_openai(model) for model in models]}
            await exchange.reply(200, msgspec.json.encode(listed))

    async def show(self, exchange: Exchange, principal: Principal, name: str) -> None:
        """One of them."""
        for model in self.gateway.models(principal):
            if name in (model.id, model.name):
                shown = anthropic.as_anthropic if exchange.dialect == "anthropic" else _as_openai
                await exchange.reply(200, msgspec.json.encode(shown(model)))
                return
        raise ModelNotFound(
            f"There is no model {name!r}.", field="model", hint="GET /v1/models lists those that there are."
        )


def _texts(asked: EmbeddingsRequest) -> list[str]:
    """The texts to embed. Raises `InvalidRequest` for what can't be."""
    given = [asked.input] if isinstance(asked.input, str) else asked.input
    if asked.encoding_format not in ("float", "base64"):
        raise InvalidRequest("The encoding is `float` or `base64`.", field="encoding_format")
    if not 0 < len(given) <= _MOST_INPUTS:
        raise InvalidRequest(f"`input` holds 1 to {_MOST_INPUTS} texts, not {len(given)}.", field="input")
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given):
        raise InvalidRequest(
            "Arrays of token numbers can't be embedded: they mean something to one tokenizer only.",
            field="input",
            hint="Send text: a string, or a list of strings.",
        )
    for index, text in enumerate(texts):
        if not text.strip():
            raise InvalidRequest("An empty text has no meaning to embed.", field=f"input[{index}]")
    return texts


def _vector(vector: np.ndarray[Any, np.dtype[np.float32]], encoding: str) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    numbers: list[float] = vector.tolist()
    return numbers


def _as_openai(model: Model) -> dict[str, str | int]:
    return {"id": model.id, "object": "model", "created": 0, "owned_by": model.provider}
