"""OpenAI's chat completions, embeddings and transcripts, and the ranking of compatible servers. Pure."""

from msgspec.structs import replace

from gimle.gateway import openai_wire, ranking
from gimle.gateway.dialects.openai import asks, events, passing, places, replies, transcripts, vectors
from gimle.gateway.types import Chat, Embeddings, Rerank, Transcription

DIALECT = replace(
    openai_wire.DIALECT,
    chat=Chat(
        names=asks.NAMES,
        places=places.places,
        inspect=passing.inspect,
        read_request=asks.read_request,
        write_reply=replies.write_reply,
        write_events=events.Writer,
        path=lambda model, stream: asks.PATH,
        patch=openai_wire.patch,
        shorten=openai_wire.shorten,
        write_request=asks.write_request,
        read_usage=passing.read_usage,
        watch=passing.watch,
        read_reply=replies.read_reply,
        read_events=events.Reader,
    ),
    embeddings=Embeddings(path=lambda model: "/embeddings", write=vectors.write, read=vectors.read),
    # OpenAI has none; the servers that speak its dialect took Cohere's.
    rerank=Rerank(path=lambda model: "/rerank", write=ranking.write, read=ranking.read),
    transcription=Transcription(
        path="/audio/transcriptions", read_usage=transcripts.read_usage, watch=transcripts.watch
    ),
)
