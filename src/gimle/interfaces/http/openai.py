"""The inference routes, in OpenAI's dialect and without a framework: chat, embeddings, models.

Only what Gimle itself needs of a request is decoded and checked here; every other byte goes to the gateway as it came.
"""

import base64
import re
import time
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from gimle.app import App
from gimle.foundation import telemetry
from gimle.foundation.errors import CollectionNotFound, InvalidRequest, ModelNotFound, NotFound
from gimle.foundation.lifecycle import Tasks
from gimle.gateway.types import ChatCall, ChatReply, ChatStream
from gimle.interfaces.http import grounded, problems
from gimle.interfaces.http.exchange import EVENT_STREAM, JSON, Exchange, Headers, decode_utf8
from gimle.knowledge.types import DEFAULT_COLLECTION
from gimle.selection.types import Model
from gimle.trust.types import Principal

T = TypeVar("T")
Fields = dict[str, msgspec.Raw]

_CHAT = "/v1/chat/completions"
_EMBEDDINGS = "/v1/embeddings"
_MODELS = "/v1/models"
_MODEL = _MODELS + "/{model}"
_METHODS = {_CHAT: "POST", _EMBEDDINGS: "POST", _MODELS: "GET", _MODEL: "GET"}
_HINT = f"The inference paths are POST {_CHAT}, POST {_EMBEDDINGS} and GET {_MODELS}."

_MOST_INPUTS = 2048
_HEADERS_NOT_YET = (b"x-gimle-case", b"x-gimle-workflow", b"x-gimle-priority", b"x-gimle-policy")
_NOT_YET = ("case", "workflow", "priority", "policy", "explain", "cache")


class GimleFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The object `gimle` of a request: our own fields, which no provider sees."""

    collection: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    case: str | None = None
    workflow: str | None = None
    priority: str | None = None
    policy: str | None = None
    explain: bool | None = None
    cache: bool | str | None = None


class EmbeddingsRequest(msgspec.Struct, frozen=True):
    """A request for vectors."""

    input: str | list[str | int | list[int]]
    model: str
    encoding_format: str = "float"
    dimensions: int | None = None


_NOTHING = GimleFields()
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_EMBEDDINGS_REQUEST = msgspec.json.Decoder(EmbeddingsRequest)
_TEXT = msgspec.json.Decoder(str | None)
_FLAG = msgspec.json.Decoder(bool | None)
_OURS = msgspec.json.Decoder(GimleFields | None)
_MESSAGES = msgspec.json.Decoder(Annotated[list[grounded.ChatMessage], msgspec.Meta(min_length=1)])
_STREAM_OPTIONS = msgspec.json.Decoder(grounded.StreamOptions | None)
_NULL = msgspec.Raw(b"null")


class Inference:
    """Answers the paths under `/v1`."""

    def __init__(self, app: App, tasks: Tasks) -> None:
        self._gateway = app.gateway
        self._answers = app.answers
        self._default_model = app.settings.gateway.default_model
        self._tasks = tasks

    async def __call__(self, exchange: Exchange, principal: Principal) -> None:
        """Answer one request. Raises our own errors; the edge renders them in OpenAI's shape."""
        path = exchange.path
        exchange.route = _MODEL if path.startswith(_MODELS + "/") else path if path in _METHODS else "other"
        wanted = _METHODS.get(exchange.route)
        if wanted is None:
            raise NotFound(f"There is no path {path}.", field="path", hint=_HINT)
        if exchange.method != wanted:
            await exchange.fail(problems.of_status(405, f"{path} takes {wanted} only.", hint=_HINT))
        elif path == _CHAT:
            await self._chat(exchange, principal)
        elif path == _EMBEDDINGS:
            await self._embed(exchange, principal)
        elif path == _MODELS:
            models = [_as_openai(model) for model in self._gateway.models(principal) if model.unavailable is None]
            await exchange.reply(200, msgspec.json.encode({"object": "list", "data": models}))
        else:
            await self._model(exchange, principal, path.removeprefix(_MODELS + "/"))

    # -- chat

    async def _chat(self, exchange: Exchange, principal: Principal) -> None:
        fields: Fields = _decoded(await exchange.body(), _FIELDS)
        ours = _field(fields, "gimle", _OURS) or _NOTHING
        fields.pop("gimle", None)
        call = ChatCall(
            body=fields,
            model=_field(fields, "model", _TEXT) or self._default_model,
            stream=bool(_field(fields, "stream", _FLAG)),
            request_id=exchange.request_id,
        )
        async with exchange.while_connected(self._tasks):
            if ours.collection is None:
                await self._relay(exchange, principal, call, _dropped(exchange, ours))
            else:
                await self._answer(exchange, principal, call, ours)

    async def _relay(self, exchange: Exchange, principal: Principal, call: ChatCall, headers: Headers) -> None:
        """Through the gateway to a model, and its bytes back."""
        reply = await self._gateway.chat(principal, call)
        headers += _served(exchange, reply)
        if isinstance(reply, ChatReply):
            await exchange.reply(reply.status, reply.body, [JSON, *headers])
        else:
            await _stream(exchange, reply, [EVENT_STREAM, *headers])

    async def _answer(self, exchange: Exchange, principal: Principal, call: ChatCall, ours: GimleFields) -> None:
        """From the documents of a collection."""
        messages = _field(call.body, "messages", _MESSAGES)
        question, history = grounded.question_of(messages)
        options = _field(call.body, "stream_options", _STREAM_OPTIONS)
        collection = ours.collection or DEFAULT_COLLECTION
        model = None if call.model == self._default_model else call.model
        events = self._answers.stream(principal, collection, question, top_k=ours.top_k, model=model, history=history)
        try:
            async with aclosing(events):
                by = await grounded.answered_by(events)
                headers = [*_provenance(by.model, by.provider, 1), *_dropped(exchange, ours)]
                if call.stream:
                    await exchange.begin(200, [EVENT_STREAM, *headers])
                    include_usage = bool(options and options.include_usage)
                    async for chunk in grounded.chunks(events, by.model, include_usage=include_usage):
                        await exchange.write(chunk)
                    await exchange.write(b"", more=False)
                else:
                    answer = await grounded.last(events)
                    await exchange.reply(200, grounded.completion(answer), [JSON, *headers])
        except InvalidRequest as wrong:
            if wrong.field == "question":
                wrong.field = f"messages[{len(messages) - 1}]"
            raise
        except CollectionNotFound as unknown:
            unknown.field = "gimle.collection"
            raise

    # -- embeddings

    async def _embed(self, exchange: Exchange, principal: Principal) -> None:
        asked: EmbeddingsRequest = _decoded(await exchange.body(), _EMBEDDINGS_REQUEST)
        texts = _texts(asked)
        async with exchange.while_connected(self._tasks):
            embedded = await self._gateway.embed(principal, asked.model, texts, dimensions=asked.dimensions)
        data = [
            {"object": "embedding", "index": index, "embedding": _vector(vector, asked.encoding_format)}
            for index, vector in enumerate(embedded.vectors)
        ]
        model = f"{embedded.provider}/{embedded.model}"
        usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
        body = {"object": "list", "data": data, "model": model, "usage": usage}
        headers = _provenance(embedded.model, embedded.provider, 1)
        await exchange.reply(200, msgspec.json.encode(body), [JSON, *headers])

    # -- models

    async def _model(self, exchange: Exchange, principal: Principal, name: str) -> None:
        for model in self._gateway.models(principal):
            if name in (model.id, model.name):
                await exchange.reply(200, msgspec.json.encode(_as_openai(model)))
                return
        raise ModelNotFound(
            f"There is no model {name!r}.", field="model", hint=f"GET {_MODELS} lists those that there are."
        )


async def _stream(exchange: Exchange, reply: ChatStream, headers: Headers) -> None:
    """The provider's bytes as they come. Closing the stream ends the upstream's work too, whoever has had enough."""
    try:
        await exchange.begin(200, headers)
        async for piece in reply:
            await exchange.write(piece)
        await exchange.write(b"", more=False)
    finally:
        await reply.close()


def _decoded(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """The body as far as we read it. Raises `InvalidRequest` that names the field."""
    decode_utf8(body)
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as wrong:
        raise problems.not_valid(wrong) from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", field="body") from None


def _field(fields: Fields, name: str, decoder: msgspec.json.Decoder[T]) -> T:
    """One field of the body. Raises `InvalidRequest` that names it."""
    try:
        return decoder.decode(fields.get(name, _NULL))
    except msgspec.MsgspecError as wrong:
        raise problems.not_valid(wrong, name) from None


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


def _served(exchange: Exchange, reply: ChatReply | ChatStream) -> Headers:
    """Who served a call, and what of the time was ours."""
    overhead = max(0.0, time.perf_counter() - exchange.started - reply.upstream_seconds)
    telemetry.overhead_seconds(exchange.route).observe(overhead)
    return [
        *_provenance(reply.model, reply.provider, reply.attempts),
        (b"x-gimle-overhead-ms", b"%.2f" % (overhead * 1000)),
    ]


def _provenance(model: str, provider: str, attempts: int) -> Headers:
    return [
        (b"x-gimle-model", _header(model)),
        (b"x-gimle-provider", _header(provider)),
        (b"x-gimle-attempts", b"%d" % attempts),
    ]


def _dropped(exchange: Exchange, fields: GimleFields) -> Headers:
    """Which of our own fields and headers have no effect in this version: silence would be a promise."""
    dropped = [header.decode() for header in _HEADERS_NOT_YET if header in exchange.headers]
    if fields is not _NOTHING:
        values = msgspec.structs.asdict(fields)
        dropped += [name for name in _NOT_YET if values[name] is not None]
    return [(b"x-gimle-dropped", ", ".join(dropped).encode())] if dropped else []


def _header(text: str) -> bytes:
    """A model's name in a header, where only plain characters may stand."""
    return re.sub(r"[^\x20-\x7e]", "?", text).encode("ascii")
