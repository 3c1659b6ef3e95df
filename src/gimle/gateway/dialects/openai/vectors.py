"""Vectors: a request for them, and the answer."""

import base64
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from gimle.foundation.errors import UpstreamError
from gimle.gateway import vectors
from gimle.gateway.openai_wire import Answer, usage_in, whole
from gimle.gateway.types import Vectors
from gimle.gateway.wire import NULL


class _Vector(msgspec.Struct, frozen=True):
    embedding: list[float] | str
    index: int | None = None


class _VectorList(Answer, frozen=True):
    data: list[_Vector] = []
    usage: msgspec.Raw = NULL


_VECTORS = msgspec.json.Decoder(_VectorList)


def write(model: str, texts: Sequence[str], dimensions: int | None) -> bytes:
    """A request for vectors, as plain numbers: every compatible server can do that."""
    body: dict[str, Any] = {"model": model, "input": texts, "encoding_format": "float"}
    if dimensions is not None:
        body["dimensions"] = dimensions
    return msgspec.json.encode(body)


def read(body: bytes, count: int) -> tuple[Vectors, int | None]:
    """The vectors of `count` texts in their order, float32 (count, dimensions), and the tokens if it tells them."""
    listed = whole(body, _VECTORS, "a list of vectors")
    ordered = sorted(enumerate(listed.data), key=lambda at: at[0] if at[1].index is None else at[1].index)
    usage = usage_in(listed.usage)
    found = vectors.told([_floats(vector.embedding) for _, vector in ordered], count)
    return found, None if usage is None else usage.input_tokens


def _floats(embedding: list[float] | str) -> Any:
    if isinstance(embedding, list):
        return embedding
    try:
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    except ValueError as wrong:
        raise UpstreamError(f"The provider's answer is not a list of vectors: {wrong}.") from None
