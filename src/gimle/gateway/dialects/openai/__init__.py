"""OpenAI's chat completions and embeddings, both directions, and transcripts that pass. Pure."""

import msgspec

from gimle.foundation.errors import UpstreamError
from gimle.gateway.dialects.openai import asks, events, passing, replies, transcripts, vectors
from gimle.gateway.dialects.openai.faults import MALFORMED, read_fault
from gimle.gateway.types import Chat, Dialect, Embeddings, Headers, Transcription


class _ModelList(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]


_MODELS = msgspec.json.Decoder(_ModelList)


def key_headers(key: str) -> Headers:
    """The header that carries a key."""
    return (("authorization", f"Bearer {key}"),)


def read_models(body: bytes) -> int:
    """How many models a provider lists. Raises `UpstreamError`."""
    try:
        return len(_MODELS.decode(body).data)
    except MALFORMED:
        raise UpstreamError("The provider's answer is not a list of models.") from None


DIALECT = Dialect(
    key_headers=key_headers,
    models_path="/models",
    read_models=read_models,
    read_fault=read_fault,
    chat=Chat(
        names=asks.NAMES,
        inspect=passing.inspect,
        read_request=asks.read_request,
        write_reply=replies.write_reply,
        write_events=events.Writer,
        path=lambda model, stream: asks.PATH,
        patch=passing.patch,
        write_request=asks.write_request,
        read_usage=passing.read_usage,
        watch=passing.watch,
        read_reply=replies.read_reply,
        read_events=events.Reader,
    ),
    embeddings=Embeddings(path=lambda model: "/embeddings", write=vectors.write, read=vectors.read),
    transcription=Transcription(
        path="/audio/transcriptions", read_usage=transcripts.read_usage, watch=transcripts.watch
    ),
)
