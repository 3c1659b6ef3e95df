"""A provider with Anthropic's interface, written from the vendor's published schema and not from our own dialect.

It refuses what the vendor refuses: a missing key or version, fields that it does not know, empty texts, results of
tools that answer no call. It calls the first tool that it is offered, thinks when asked to, and else says `WORDS`.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from gimle.testing import Behaviour, Received, Upstream

KEY = "sk-ant-api03-stand-in"
WORDS = ("Grüße", ", die Bienen", " schwärmen", " im Mai. 🐝")
THOUGHT, SIGNATURE, SEALED = "They ask about bees.", "EqQBCgIYAhIM1gbcDa9GJwZA2b3h", "EmwKAhgBEgy3va3pzix"
# With blanks that a parser would lose.
ARGUMENTS = ('{"place":', '  "Zürich",', ' "days": 1.50}')
_FIELDS = frozenset(
    "model messages max_tokens system metadata stop_sequences stream temperature top_k top_p tools tool_choice "
    "thinking output_config service_tier cache_control container inference_geo".split()
)
_BLOCKS = {
    "user": {"text", "image", "document", "search_result", "tool_result"},
    "assistant": {"text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "web_search_tool_result"},
    "system": {"text"},
}


class Claude(Upstream):
    """See `gimle.testing.Upstream`: `plan` and `usual` hold its behaviours, `received` what it was asked."""

    async def _behave(self, request: Received, writer: asyncio.StreamWriter) -> bool:
        behaviour = self.plan.popleft() if self.plan else self.usual or Behaviour()
        await asyncio.sleep(behaviour.head_delay)
        problem = _problem(request) if behaviour.status == 200 else (behaviour.status, *_KINDS[behaviour.status])
        if behaviour.hang_up:
            return False
        if behaviour.body is not None:
            await self._reply(writer, behaviour.status, behaviour.headers, behaviour.body)
        elif problem is not None:
            status, kind, message = problem
            error = {
                "type": "error",
                "error": {"type": kind, "message": message},
                "request_id": "req_011CSHoEeqs5C35K2",
            }
            await self._reply(writer, status, behaviour.headers, json.dumps(error).encode())
        elif request.path.endswith("/models"):
            models = [{"type": "model", "id": "claude-opus-4-8", "display_name": "Claude Opus 4.8"}]
            await self._reply(writer, 200, {}, json.dumps({"data": models, "has_more": False}).encode())
        elif request.path.endswith("/count_tokens"):
            await self._reply(writer, 200, {}, b'{"input_tokens": 2095}')
        elif request.json.get("stream"):
            events = behaviour.events if behaviour.events is not None else _events(request.json)
            return await self._streamed(events, behaviour, writer)
        else:
            await self._reply(writer, 200, behaviour.headers, json.dumps(_message(request.json)).encode())
        return True


# -- what the vendor refuses

_KINDS = {
    400: ("invalid_request_error", "messages: at least one message is required"),
    401: ("authentication_error", "invalid x-api-key"),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "model: claude-9"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your account's rate limit."),
    500: ("api_error", "Internal server error"),
    529: ("overloaded_error", "Overloaded"),
}


def _problem(request: Received) -> tuple[int, str, str] | None:
    if request.headers.get("x-api-key") != KEY:
        return 401, *_KINDS[401]
    if request.headers.get("anthropic-version") != "2023-06-01":
        return 400, "invalid_request_error", "anthropic-version: header is required"
    if request.method == "GET":
        return None
    wrong = next(_wrong(request.json, counts=request.path.endswith("/count_tokens")), None)
    return None if wrong is None else (400, "invalid_request_error", wrong)


def _wrong(asked: dict[str, Any], *, counts: bool) -> Iterator[str]:
    for name in asked.keys() - _FIELDS:
        yield f"{name}: Extra inputs are not permitted"
    for name in ("model", "messages", *(() if counts else ("max_tokens",))):
        if name not in asked:
            yield f"{name}: Field required"
    if counts and "max_tokens" in asked:
        yield "max_tokens: Extra inputs are not permitted"
    known = {block["id"] for _, _, block in _all_blocks(asked) if block["type"] == "tool_use"}
    for at, role, block in _all_blocks(asked):
        match block:
            case {"type": kind} if kind not in _BLOCKS[role]:
                yield f"{at}: Input tag '{kind}' is not expected"
            case {"type": "text", "text": text} if not text.strip():
                yield f"{at}: text content blocks must be non-empty"
            case {"type": "thinking", "signature": signature} if signature != SIGNATURE:
                yield f"{at}: Invalid `signature` in `thinking` block"
            case {"type": "tool_result", "tool_use_id": id_} if id_ not in known:
                yield f"{at}: unexpected `tool_use_id` found in `tool_result` blocks"


def _all_blocks(asked: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for n, message in enumerate(asked["messages"]):
        content = message["content"]
        for m, block in enumerate([{"type": "text", "text": content}] if isinstance(content, str) else content):
            yield f"messages.{n}.content.{m}", message["role"], block


# -- what it answers


def _blocks(asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if asked.get("thinking", {}).get("type") in ("enabled", "adaptive"):
        yield {"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE}
        yield {"type": "redacted_thinking", "data": SEALED}
    answered = "tool_result" in json.dumps(asked["messages"][-1])
    if asked.get("tools") and not answered:
        yield {"type": "text", "text": "I'll look."}
        name = asked["tools"][0]["name"]
        for number in (1, 2):
            yield {"type": "tool_use", "id": f"toolu_0{number}", "name": name, "input": json.loads("".join(ARGUMENTS))}
    else:
        yield {"type": "text", "text": "".join(WORDS)}


def _message(asked: dict[str, Any]) -> dict[str, Any]:
    content = list(_blocks(asked))
    reason = "tool_use" if content[-1]["type"] == "tool_use" else "end_turn"
    return {**_shell(asked), "content": content, "stop_reason": reason, "usage": _usage(14)}


def _shell(asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(1),
    }


def _usage(out: int) -> dict[str, Any]:
    cache = {"cache_creation_input_tokens": 5, "cache_read_input_tokens": 7}
    return {"input_tokens": 11, **cache, "output_tokens": out, "service_tier": "standard"}


def _events(asked: dict[str, Any]) -> Iterator[bytes]:
    yield event("message_start", message=_shell(asked))
    reason = "end_turn"
    for index, block in enumerate(_blocks(asked)):
        begun = dict(block)
        pieces: list[dict[str, str]] = []
        match block["type"]:
            case "text":
                begun["text"] = ""
                words = WORDS if block["text"] == "".join(WORDS) else (block["text"],)
                pieces = [{"type": "text_delta", "text": word} for word in words]
            case "thinking":
                begun |= {"thinking": "", "signature": ""}
                pieces = [{"type": "thinking_delta", "thinking": THOUGHT}]
                pieces.append({"type": "signature_delta", "signature": SIGNATURE})
            case "tool_use":
                begun["input"], reason = {}, "tool_use"
                pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *ARGUMENTS)]
        yield event("content_block_start", index=index, content_block=begun)
        if index == 0:
            yield event("ping")
        for piece in pieces:
            yield event("content_block_delta", index=index, delta=piece)
        yield event("content_block_stop", index=index)
    yield event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage={"output_tokens": 14})
    yield event("message_stop")


def event(type_: str, **said: object) -> bytes:
    """An event as the vendor writes it."""
    return f"event: {type_}\ndata: {json.dumps({'type': type_, **said}, ensure_ascii=False)}\n\n".encode()
