"""What a caller's SDK makes of an answer, whole or streamed: the vendors' own code judges what ours has written."""

import json
from typing import Any

import msgspec
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from openai._types import omit
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

Tree = dict[str, Any]
_ANTHROPIC: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
_RESPONSES: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
# What of an answer is compared: all but names, times, and what the request is repeated for.
_READ = {
    "openai": ("choices", "usage"),
    "anthropic": ("content", "stop_reason", "stop_sequence", "stop_details", "usage"),
    "responses": ("status", "incomplete_details", "output", "usage"),
}


def as_read(caller: str, answer: Tree) -> Tree:
    """What an answer says, without what is empty and what has a name of its own each time."""
    read: Tree = pruned({name: answer.get(name) for name in _READ[caller]})
    for item in read["output"] if caller == "responses" else ():
        item.pop("id", None)
        if item.get("encrypted_content", "").startswith("gimle:"):
            item["encrypted_content"] = "carried"
    for choice in read["choices"] if caller == "openai" else ():
        # The SDK's own.
        choice["message"].pop("parsed", None)
        for call in choice["message"].get("tool_calls", ()):
            call.pop("index", None)
            call["function"].pop("parsed_arguments", None)
    return read


def pruned(node: Any) -> Any:
    """A tree without what is empty: no two vendors agree on when to write a null."""
    if isinstance(node, list):
        return [pruned(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {name: pruned(value) for name, value in node.items()}
    return {name: value for name, value in kept.items() if value not in (None, "", [], {}, 0)}


def events(stream: bytes) -> list[Any]:
    """The data of each event; OpenAI's end is none."""
    lines = stream.replace(b"\r\n", b"\n").split(b"\n")
    datas = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]
    return [json.loads(data) for data in datas if data != b"[DONE]"]


def assembled(caller: str, stream: bytes) -> Tree:
    """A stream put together by the caller's SDK, each event of which must be one that its types know."""
    tree: Tree = {"openai": _chat, "anthropic": _message, "responses": _response}[caller](stream)
    return tree


def _chat(stream: bytes) -> Tree:
    assert stream.endswith(b"data: [DONE]\n\n")
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for event in events(stream):
        state.handle_chunk(ChatCompletionChunk.model_validate(event))
    return state.current_completion_snapshot.to_dict()


def _message(stream: bytes) -> Tree:
    snapshot: Any = None
    pieces: dict[int, bytes] = {}
    told = events(stream)
    assert told[-1]["type"] == "message_stop"
    for event in told:
        if event["type"] != "ping":
            snapshot = accumulate_event(
                event=_ANTHROPIC.validate_python(event), current_snapshot=snapshot, json_bufs=pieces
            )
    tree: Tree = snapshot.to_dict()
    return tree


def _response(stream: bytes) -> Tree:
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    told = events(stream)
    for number, event in enumerate(told):
        assert event["sequence_number"] == number
        state.handle_event(_RESPONSES.validate_python(event))
    # The last event holds the whole answer, and the SDK has put together the same from the pieces.
    final: Tree = told[-1]["response"]
    if state._completed_response is not None:
        said = pruned(msgspec.to_builtins(final["output"]))
        together = pruned(state._completed_response.to_dict()["output"])
        assert [_plain(item) for item in together] == [_plain(item) for item in said]
    return final


def _plain(item: Any) -> Any:
    return {name: value for name, value in item.items() if name not in ("id", "parsed", "parsed_arguments", "content")}
