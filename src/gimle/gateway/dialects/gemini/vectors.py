"""Gemini's embeddings (batchEmbedContents)."""

from collections.abc import Sequence

import msgspec

from gimle.gateway import vectors
from gimle.gateway.dialects.gemini.replies import read_answer
from gimle.gateway.neutral import Json
from gimle.gateway.types import Vectors
from gimle.gateway.wire import MALFORMED, NULL, Count, lenient, no_answer

# As published: more in one request are refused.
BATCH = 100


class _Values(msgspec.Struct, frozen=True):
    values: list[float] = []


class _Usage(msgspec.Struct, frozen=True, rename="camel"):
    prompt_token_count: Count | None = None


class _Embedded(msgspec.Struct, frozen=True, rename="camel"):
    embeddings: list[_Values] = []
    usage_metadata: msgspec.Raw = NULL


_USAGE = msgspec.json.Decoder(_Usage | None, strict=False)
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
    except MALFORMED as wrong:
        raise no_answer(body, "a list of vectors", wrong) from None
    found = vectors.told([one.values for one in listed.embeddings], count)
    usage = lenient(listed.usage_metadata, _USAGE)
    tokens = None if usage is None else usage.prompt_token_count
    return found, None if tokens is None else max(0, tokens)
