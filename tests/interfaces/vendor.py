"""What OpenAI's interface answers, in the words of its published reference: payloads for the stand-in provider.

Hand-written from the schema, and never made by our own code.
"""

import json
from typing import Any

from gimle.testing import Behaviour, Upstream

Tree = dict[str, Any]

USAGE: Tree = {
    "prompt_tokens": 82,
    "completion_tokens": 17,
    "total_tokens": 99,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
WEATHER_CALL: Tree = {
    "id": "call_DdmO9pD3xa9XTPNJ32zg2hcA",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Köln", "unit": "celsius"}'},
}
LOGPROBS: Tree = {
    "content": [
        {
            "token": "Yes",
            "logprob": -0.31725305,
            "bytes": [89, 101, 115],
            "top_logprobs": [
                {"token": "Yes", "logprob": -0.31725305, "bytes": [89, 101, 115]},
                {"token": "No", "logprob": -1.3190403, "bytes": [78, 111]},
            ],
        }
    ],
    "refusal": None,
}


def provider(upstream: Upstream) -> Tree:
    """The stand-in as a provider with one model of each kind that most tests need."""
    models = [
        {"name": "mock", "context_window": 100_000, "capabilities": ["tools", "json_schema", "vision"]},
        {"name": "vectors", "kind": "embedding", "dimensions": 8},
    ]
    return {"name": "stand", "base_url": upstream.url, "models": models}


def says(text: str | None, *, finish: str = "stop", logprobs: Tree | None = None, **message: Any) -> Behaviour:
    """A whole chat completion with one choice."""
    said = {"role": "assistant", "content": text, "refusal": None, "annotations": [], **message}
    choice = {"index": 0, "message": said, "logprobs": logprobs, "finish_reason": finish}
    whole = {
        "id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG",
        "object": "chat.completion",
        "created": 1741570283,
        "model": "gpt-4o-2024-08-06",
        "choices": [choice],
        "usage": USAGE,
        "service_tier": "default",
        "system_fingerprint": "fp_fc9f1d7035",
    }
    return Behaviour(body=json.dumps(whole).encode())


def streams(*deltas: Tree, finish: str = "stop", usage: bool = False) -> Behaviour:
    """A stream with one choice; in pieces of 7 bytes, so that no border of an event is that of a read."""
    told = [chunk({"role": "assistant", "content": None, "refusal": None})]
    told += [chunk(delta) for delta in deltas]
    told.append(chunk({}, finish))
    if usage:
        told.append(_chunk([], usage=USAGE))
    return Behaviour(events=(*told, b"data: [DONE]\n\n"), piece=7)


def calls(index: int, **function: str) -> Tree:
    """The beginning of a tool's call, when it has a name; else a piece of its arguments."""
    begun = {"id": f"call_{index}", "type": "function"} if "name" in function else {}
    return {"tool_calls": [{"index": index, **begun, "function": function}]}


def streams_the_weather_call(*, usage: bool = False) -> Behaviour:
    """Two calls of a tool, whose arguments come in pieces that break words and escapes."""
    pieces = ['{"ci', 'ty": "K', "öln", '", "unit"', ': "celsi', 'us"}']
    deltas: list[Tree] = []
    for index, identity in enumerate((WEATHER_CALL["id"], "call_second")):
        begun = {"name": "get_weather", "arguments": ""}
        deltas.append({"tool_calls": [{"index": index, "id": identity, "type": "function", "function": begun}]})
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in pieces]
    return streams(*deltas, finish="tool_calls", usage=usage)


def refuses(status: int, message: str, kind: str, *, param: str | None = None, code: str | None = None) -> Behaviour:
    """An error in OpenAI's shape."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    return Behaviour(status=status, body=json.dumps({"error": error}).encode())


def chunk(delta: Tree, finish: str | None = None, usage: Tree | None = None) -> bytes:
    """An event of a stream with one choice."""
    return _chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}], usage)


def _chunk(choices: list[Tree], usage: Tree | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG",
        "object": "chat.completion.chunk",
        "created": 1741570283,
        "model": "gpt-4o-2024-08-06",
        "system_fingerprint": "fp_fc9f1d7035",
        "choices": choices,
        "usage": usage,
    }
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"
