"""Vectors: a request for them, and the answer."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from gimle.foundation.errors import UpstreamError
from gimle.gateway.dialects.openai.replies import ToldUsage, usage_of
from gimle.gateway.openai_wire import MALFORMED, NULL, told_error
from gimle.gateway.types import Vectors


class _Vector(msgspec.Struct, frozen=True):
    embedding: list[float] | str
    index: int | None = None


class _VectorList(msgspec.Struct, frozen=True):
    data: list[_Vector] = []
    usage: ToldUsage | None = None
    error: msgspec.Raw = NULL


_VECTORS = msgspec.json.Decoder(_VectorList)


def write(model: str, texts: Sequence[str], dimensions: int | None) -> bytes:
    """A request for vectors, as plain numbers: every compatible server can do that."""
    body: dict[str, Any] = {"model": model, "input": texts, "encoding_format": "float"}
    if dimensions is not None:
        body["dimensions"] = dimensions
    return msgspec.json.encode(body)


def read(body: bytes, count: int) -> tuple[Vectors, int | None]:
    """The vectors of `count` texts in their order, float32 (count, dimensions), and the tokens if it tells them."""
    try:
        listed = _VECTORS.decode(body)
        if bytes(listed.error) != b"null":
            raise told_error(bytes(listed.error))
        if len(listed.data) != count:
            raise UpstreamError(f"The provider sent {len(listed.data)} vectors for {count} texts.")
        ordered = sorted(enumerate(listed.data), key=lambda at: at[0] if at[1].index is None else at[1].index)
        with np.errstate(over="ignore"):
            vectors = np.asarray([_floats(vector.embedding) for _, vector in ordered], dtype=np.float32)
    except (*MALFORMED, ValueError) as wrong:
        raise UpstreamError(f"The provider's answer is not a list of vectors: {wrong}.") from None
    if vectors.ndim != 2 or vectors.shape[1] == 0 or not np.isfinite(vectors).all():
        raise UpstreamError("The provider's vectors are empty or not finite.")
    usage = usage_of(listed.usage)
    return vectors, None if usage is None else usage.input_tokens


def _floats(embedding: list[float] | str) -> Any:
    if isinstance(embedding, list):
        return embedding
    try:
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    except binascii.Error as wrong:
        raise ValueError(f"not base64: {wrong}") from None
