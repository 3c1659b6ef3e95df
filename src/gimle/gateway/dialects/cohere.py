"""Cohere's own API, version 2: embed and rerank. Pure. Its chat goes through its OpenAI-compatible endpoint."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from gimle.foundation.errors import (
    ContextTooLong,
    GimleError,
    InvalidRequest,
    RateLimitedError,
    UpstreamError,
    UpstreamTimeout,
)
from gimle.gateway import faults, ranking
from gimle.gateway.neutral import Json
from gimle.gateway.types import Dialect, Embeddings, Fault, Headers, Rerank, Vectors

_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_LONGEST = 500
_QUOTA_SECONDS = 60.0
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
    input_tokens: float | None = None


class _Meta(msgspec.Struct, frozen=True):
    billed_units: _Billed | None = None


class _Embedded(msgspec.Struct, frozen=True):
    embeddings: _ByType
    meta: _Meta | None = None


class _Models(msgspec.Struct, frozen=True):
    models: list[msgspec.Raw]


class _Told(msgspec.Struct, frozen=True):
    message: str = ""


_EMBEDDED = msgspec.json.Decoder(_Embedded)
_MODELS = msgspec.json.Decoder(_Models)
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
        if len(told.embeddings.float_) != count:
            raise UpstreamError(f"The provider sent {len(told.embeddings.float_)} vectors for {count} texts.")
        with np.errstate(over="ignore"):
            vectors = np.asarray(told.embeddings.float_, dtype=np.float32)
    except (*_MALFORMED, ValueError) as wrong:
        raise UpstreamError(f"The provider's answer is not a list of vectors: {wrong}.") from None
    if vectors.ndim != 2 or vectors.shape[1] == 0 or not np.isfinite(vectors).all():
        raise UpstreamError("The provider's vectors are empty or not finite.")
    billed = told.meta.billed_units if told.meta is not None else None
    tokens = billed.input_tokens if billed is not None else None
    return vectors, None if tokens is None else max(0, int(tokens))


# -- order, models, refusals


def rerank_path(model: str) -> str:
    """Where documents are ordered."""
    return "/v2/rerank"


def read_models(body: bytes) -> int:
    """How many models it lists."""
    try:
        return len(_MODELS.decode(body).models)
    except _MALFORMED:
        raise UpstreamError("The provider's answer is not a list of models.") from None


def read_fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    """What an answer that is no success means. What Cohere says about our key is not told. 498 is a key, too."""
    said = _said(body)
    if status in (401, 403, 498):
        error: GimleError = UpstreamError(
            f"The provider refused Gimle's key (HTTP {status}).", hint="Check the key of this provider."
        )
        return Fault(error)
    if status == 429:
        return _limited(said, headers)
    if status == 504:
        return faults.weigh(UpstreamTimeout(f"The provider did not answer in time. {said}".strip()))
    if status in (402, 407, 408, 425, 499) or not 400 <= status < 500:
        return Fault(UpstreamError(f"The provider answered with HTTP {status}. {said}".strip()), again=status >= 408)
    if status in (400, 413, 422) and _CONTEXT.search(said):
        return Fault(ContextTooLong(said))
    refused = InvalidRequest(said or f"The provider refused the request (HTTP {status}).")
    return Fault(refused, passable=bool(said))


def _said(body: bytes) -> str:
    try:
        return _TOLD.decode(body).message.strip()[:_LONGEST]
    except _MALFORMED:
        return ""


def _limited(said: str, headers: Mapping[str, str]) -> Fault:
    if _QUOTA.search(said):
        return Fault(RateLimitedError("The provider's quota is used up.", after=_QUOTA_SECONDS))
    return faults.weigh(RateLimitedError("The provider limits the rate of requests.", after=_wait(headers)))


def _wait(headers: Mapping[str, str]) -> float:
    """Seconds from `Retry-After`; 1 when it is absent or a date."""
    try:
        wait: Any = float(headers.get("retry-after", ""))
    except ValueError:
        return 1.0
    return wait if 0 <= wait < float("inf") else 1.0


DIALECT = Dialect(
    key_headers=key_headers,
    models_path="/v1/models",
    read_models=read_models,
    read_fault=read_fault,
    embeddings=Embeddings(path=embed_path, write=write_embeddings, read=read_embeddings, batch=_BATCH),
    rerank=Rerank(path=rerank_path, write=ranking.write, read=ranking.read),
)
