"""Gemini's embeddings (batchEmbedContents)."""

from collections.abc import Sequence

import msgspec
import numpy as np

from gimle.foundation.errors import UpstreamError
from gimle.gateway.dialects.gemini.replies import read_answer
from gimle.gateway.dialects.gemini.shapes import MALFORMED
from gimle.gateway.neutral import Json
from gimle.gateway.types import Vectors

# As published: more in one request are refused.
BATCH = 100


class _Values(msgspec.Struct, frozen=True):
    values: list[float] = []


class _Usage(msgspec.Struct, frozen=True, rename="camel"):
    prompt_token_count: int | None = None


class _Embedded(msgspec.Struct, frozen=True, rename="camel"):
    embeddings: list[_Values] = []
    usage_metadata: _Usage | None = None


_EMBEDDED = msgspec.json.Decoder(_Embedded)


def write(model: str, texts: Sequence[str], dimensions: int | None) -> bytes:
    """A request for vectors."""
    sized: Json = {} if dimensions is None else {"outputDimensionality": dimensions}
    name = model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"
    requests = [{"model": name, "content": {"parts": [{"text": text}]}, **sized} for text in texts]
    return msgspec.json.encode({"requests": requests})


def read(body: bytes, count: int) -> tuple[Vectors, int | None]:
    """The vectors of `count` texts in their order, float32 (count, dimensions), and the tokens if it tells them."""
    read_answer(body)
    try:
        listed = _EMBEDDED.decode(body)
        if len(listed.embeddings) != count:
            raise UpstreamError(f"The provider sent {len(listed.embeddings)} vectors for {count} texts.")
        with np.errstate(over="ignore"):
            vectors = np.asarray([one.values for one in listed.embeddings], dtype=np.float32)
    except (*MALFORMED, ValueError) as wrong:
        raise UpstreamError(f"The provider's answer is not a list of vectors: {wrong}.") from None
    if vectors.ndim != 2 or vectors.shape[1] == 0 or not np.isfinite(vectors).all():
        raise UpstreamError("The provider's vectors are empty or not finite.")
    return vectors, None if listed.usage_metadata is None else listed.usage_metadata.prompt_token_count
