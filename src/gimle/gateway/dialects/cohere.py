"""Cohere's own API, version 2: embed and rerank. Pure. Its chat goes through its OpenAI-compatible endpoint."""

import re
from collections.abc import Mapping, Sequence

import msgspec

from gimle.foundation.errors import ContextTooLong
from gimle.gateway import faults, ranking, vectors, wire
from gimle.gateway.neutral import Json
from gimle.gateway.types import Dialect, Embeddings, Fault, Headers, Rerank, Vectors
from gimle.gateway.wire import MALFORMED, NULL, Count

# As published: more in one request are refused.
_BATCH = 96
_CONTEXT = re.compile(r"too many tokens|token limit|maximum context|exceeds? the (maximum|max)", re.IGNORECASE)
_QUOTA = re.compile(r"per month|monthly", re.IGNORECASE)


def key_headers(key: str) -> Headers:
    """The header that carries a key."""
    return (("authorization", f"Bearer {key}"),)


# -- vectors


class _ByType(msgspec.Struct, frozen=True):
    float_: list[list[float]] = msgspec.field(name="float")


class _Billed(msgspec.Struct, frozen=True):
    input_tokens: Count | None = None


class _Meta(msgspec.Struct, frozen=True):
    billed_units: _Billed | None = None


class _Embedded(msgspec.Struct, frozen=True):
    embeddings: _ByType
    meta: msgspec.Raw = NULL


class _Told(msgspec.Struct, frozen=True):
    message: str = ""


_META = msgspec.json.Decoder(_Meta | None, strict=False)
_EMBEDDED = msgspec.json.Decoder(_Embedded)
_TOLD = msgspec.json.Decoder(_Told)


def embed_path(model: str) -> str:
    """Where texts are embedded."""
    return "/v2/embed"


def write_embeddings(model: str, texts: Sequence[str], dimensions: int | None) -> bytes:
    """A request for vectors. Nothing says whether a text is a question, so each is taken for a document."""
    body: Json = {"model": model, "texts": texts, "input_type": "search_document", "embedding_types": ["float"]}
    return msgspec.json.encode(body if dimensions is None else {**body, "output_dimension": dimensions})


def read_embeddings(body: bytes, count: int) -> tuple[Vectors, int | None]:
    """The vectors of `count` texts in their order, float32 (count, dimensions), and the tokens if it tells them."""
    try:
        told = _EMBEDDED.decode(body)
    except MALFORMED as wrong:
        raise wire.no_answer(body, "a list of vectors", wrong) from None
    meta = wire.lenient(told.meta, _META)
    billed = meta.billed_units if meta is not None else None
    tokens = billed.input_tokens if billed is not None else None
    return vectors.told(told.embeddings.float_, count), None if tokens is None else max(0, tokens)


# -- order, refusals


def rerank_path(model: str) -> str:
    """Where documents are ordered."""
    return "/v2/rerank"


def read_fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    """What an answer that is no success means. 498 is about a key, too."""
    said = _said(body)
    if status in (401, 403, 498):
        return faults.key_refused(status)
    if status == 429:
        wait = faults.seconds(headers.get("retry-after", ""))
        return faults.used_up() if _QUOTA.search(said) else faults.limited(1.0 if wait is None else wait)
    if status == 504:
        return faults.late(said)
    if faults.theirs(status):
        return faults.failed(status, said)
    if status in (400, 413, 422) and _CONTEXT.search(said):
        return Fault(ContextTooLong(said))
    return faults.declined(status, said, passable=bool(said))


def _said(body: bytes) -> str:
    try:
        return _TOLD.decode(body).message.strip()[: faults.LONGEST]
    except MALFORMED:
        return ""


DIALECT = Dialect(
    key_headers=key_headers,
    models_path="/v1/models",
    read_models=wire.models_in("models"),
    read_fault=read_fault,
    embeddings=Embeddings(path=embed_path, write=write_embeddings, read=read_embeddings, batch=_BATCH),
    rerank=Rerank(path=rerank_path, write=ranking.write, read=ranking.read),
)
