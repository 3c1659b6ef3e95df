"""Google's Gemini API (generateContent, batchEmbedContents), both directions. Pure.

The model stands in the path. A stream has no event for its end: it is complete when each candidate has a finishReason.
"""

from gimle.gateway.dialects.gemini import events, reading, refusals, replies, vectors, writing
from gimle.gateway.dialects.gemini.shapes import path
from gimle.gateway.types import Chat, Dialect, Embeddings, Headers
from gimle.gateway.wire import models_in

_SET = "generationConfig"
_NAMES = {
    "turns": "contents",
    "tools": "tools",
    "choose": "toolConfig",
    "format": f"{_SET}.responseJsonSchema",
    "reasoning": f"{_SET}.thinkingConfig",
    "max_tokens": f"{_SET}.maxOutputTokens",
    "temperature": f"{_SET}.temperature",
    "top_p": f"{_SET}.topP",
    "top_k": f"{_SET}.topK",
    "stop": f"{_SET}.stopSequences",
    "seed": f"{_SET}.seed",
    "n": f"{_SET}.candidateCount",
    "logprobs": f"{_SET}.responseLogprobs",
    "top_logprobs": f"{_SET}.logprobs",
    "frequency_penalty": f"{_SET}.frequencyPenalty",
    "presence_penalty": f"{_SET}.presencePenalty",
    "signature": "thoughtSignature",
}


def key_headers(key: str) -> Headers:
    """The header that carries a key."""
    return (("x-goog-api-key", key),)


def chat_path(model: str, stream: bool) -> str:
    """Where a chat goes. Without `alt=sse` a stream would be one long list."""
    return path(model, "streamGenerateContent") + "?alt=sse" if stream else path(model, "generateContent")


def embeddings_path(model: str) -> str:
    """Where texts are embedded."""
    return path(model, "batchEmbedContents")


DIALECT = Dialect(
    key_headers=key_headers,
    models_path="/models?pageSize=1000",
    read_models=models_in("models"),
    read_fault=refusals.read_fault,
    chat=Chat(
        names=_NAMES,
        inspect=reading.inspect,
        read_request=reading.read_request,
        write_reply=replies.write_reply,
        write_events=events.write_events,
        path=chat_path,
        patch=reading.patch,
        shorten=reading.shorten,
        write_request=writing.write_request,
        read_usage=replies.read_usage,
        watch=events.watch,
        read_reply=replies.read_reply,
        read_events=events.read_events,
        image_urls=False,
    ),
    embeddings=Embeddings(path=embeddings_path, write=vectors.write, read=vectors.read, batch=vectors.BATCH),
)
