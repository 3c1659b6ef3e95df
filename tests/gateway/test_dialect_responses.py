"""What OpenAI's responses ask: read, written, and carried through other dialects."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response
from tests.gateway.responses import (
    ACME,
    CHAT,
    ITEM,
    JSON,
    asked,
    call,
    raw,
    sent,
)

from gimle.foundation.errors import InvalidRequest, Unsayable
from gimle.gateway.neutral import (
    Ask,
    Choice,
    Foreign,
    ForeignTool,
    Image,
    Reasoning,
    Reply,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from gimle.gateway.types import ProviderModel

# -- requests


def test_all_that_a_request_says_is_read() -> None:
    ask = CHAT.read_request(call(json.loads(raw("request.json"))))
    assert [turn.role for turn in ask.turns] == [
        *("system", "developer", "user", "assistant", "tool", "tool", "assistant", "assistant", "user"),
    ]
    assert [type(part).__name__ for part in ask.turns[2].parts] == ["Text", "Image", "Image", "File", "File", "File"]
    assert [type(part).__name__ for part in ask.turns[3].parts] == ["Thinking", "Text", "ToolCall", "ToolCall"]
    look = ask.turns[3].parts[2]
    assert isinstance(look, ToolCall)
    assert look.arguments == '{ "at":"hive" }'
    results = [part for turn in ask.turns[4:6] for part in turn.parts if isinstance(part, ToolResult)]
    assert [(result.id, result.name) for result in results] == [("call_1", "look"), ("call_2", "smell")]
    assert isinstance(results[1].parts[1], Image)
    assert [type(tool).__name__ for tool in ask.tools] == ["Tool", "Tool", "ForeignTool", "ForeignTool"]
    assert ask.choose is not None
    assert ask.choose.name == "look"
    assert ask.format is not None
    assert ask.format.strict is True
    assert (ask.max_tokens, ask.verbosity, ask.logprobs, ask.top_logprobs, ask.user) == (900, "low", True, 2, "u-1")
    assert ask.reasoning == Reasoning(effort="high", show=True)
    assert ask.extra["responses"]["truncation"] == "auto"


def test_all_that_a_request_says_comes_back() -> None:
    given = json.loads(raw("request.json"))
    again = sent(CHAT.read_request(call(given)))
    assert again.pop("model") == "m"
    given.pop("model")
    # Said in the other of two ways that mean the same.
    for item in again["input"]:
        if item.get("type") == "message" and "content" in item:
            del item["type"]
    for item in given["input"]:
        if item.get("type") == "message":
            del item["type"]
        if item.get("role") == "assistant" and isinstance(item["content"], str):
            item["content"] = [{"type": "output_text", "text": item["content"], "annotations": []}]
    assert again == given


def test_a_text_is_a_turn_of_the_user() -> None:
    ask = CHAT.read_request(call({"input": "Hi", "instructions": "Be brief."}))
    assert [(turn.role, turn.text) for turn in ask.turns] == [("system", "Be brief."), ("user", "Hi")]
    assert sent(ask)["instructions"] == "Be brief."
    assert sent(ask)["input"] == [{"type": "message", "role": "user", "content": "Hi"}]


def test_calls_with_their_results_between_them_are_turns_of_their_own() -> None:
    one, two = ({"type": "function_call", "call_id": f"c{n}", "name": "f", "arguments": "{}"} for n in (1, 2))
    result = {"type": "function_call_output", "call_id": "c1", "output": "1"}
    assert [turn.role for turn in asked(one, result, two).turns] == ["assistant", "tool", "assistant"]
    assert [turn.role for turn in asked(one, two, result).turns] == ["assistant", "tool"]


@pytest.mark.parametrize(
    "fields, field",
    [
        ({}, "input"),
        ({"input": 3}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": "a", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "a", "temperature": "hot"}, "temperature"),
        ({"input": "a", "tools": {}}, "tools"),
        ({"input": "a", "top_logprobs": 50}, "top_logprobs"),
        ({"input": "a", "text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"input": "a", "reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"input": "a", "truncation": "some"}, "truncation"),
        ({"input": "a", "include": "all"}, "include"),
        ({"input": "a", "metadata": {"a": 1}}, "metadata[...]"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        CHAT.inspect(call(fields))
    assert raised.value.field == field


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"input": [{"role": "boss", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"text": "a"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0]"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": 1}]}, "input[0].output"),
        ({"input": [{"nothing": 1}]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": "a", "tools": [{"type": "function"}]}, "tools[0]"),
        ({"input": "a", "tool_choice": "maybe"}, "tool_choice"),
        ({"input": "a", "text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"input": "a", "background": True}, "background"),
        ({"input": "a", "prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"input": "a", "conversation": "conv_1"}, "conversation"),
        ({"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
def test_what_another_dialect_could_not_be_told_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        CHAT.read_request(call(fields))
    assert raised.value.field == field


def test_nesting_without_end_is_refused() -> None:
    deep = call({"input": "a"})
    deep.body["input"] = msgspec.Raw(b'[{"a":' + b"[" * 99_999 + b"]" * 99_999 + b"}]")
    for reading in (CHAT.inspect, CHAT.read_request):
        with pytest.raises(InvalidRequest, match="nested too deeply"):
            reading(deep)


def test_what_a_request_needs() -> None:
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "https://example.com/a.png"}]}]
    assert CHAT.inspect(call({"input": image})).capabilities == {"vision"}
    assert CHAT.inspect(call({"input": "a", "tools": [{"type": "function"}]})).capabilities == {"tools"}
    form = {"format": {"type": "json_object"}}
    assert CHAT.inspect(call({"input": "a", "text": form})).capabilities == {"json_schema"}
    assert CHAT.inspect(call({"input": "a"})).plain


def test_allowed_tools_are_those_that_another_vendor_is_told_of() -> None:
    tools: list[dict[str, Any]] = [{"type": "function", "name": name, "parameters": {}} for name in ("a", "b", "c")]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "b"}]}
    ask = asked({"role": "user", "content": "a"}, tools=tools, tool_choice=choice)
    assert [tool.name for tool in ask.tools] == ["b"]
    assert ask.choose is not None
    assert ask.choose.mode == "any"


def test_a_function_of_another_dialect_that_does_not_say_is_not_strict() -> None:
    ask = Ask(turns=(Turn(role="user", parts=(Text(text="a"),)),), tools=(Tool(name="f"),))
    assert sent(ask)["tools"][0]["strict"] is False
    mine = asked({"role": "user", "content": "a"}, tools=[{"type": "function", "name": "f", "parameters": {}}])
    assert "strict" not in sent(mine)["tools"][0]


@pytest.mark.parametrize(
    "ask, field",
    [
        (Ask(turns=(), n=2), "n"),
        (Ask(turns=(), stop=("end",)), "stop"),
        (Ask(turns=(), presence_penalty=0.5), "presence_penalty"),
        (Ask(turns=(), tools=(ForeignTool(dialect="anthropic", name="bash", raw={}),)), "tools[0]"),
        (Ask(turns=(Turn(role="user", parts=(Foreign(dialect="gemini", raw={}),)),)), "turns[0].parts[0]"),
        (Ask(turns=(Turn(role="assistant", parts=(Image(url="https://x/y"),)),)), "turns[0].parts[0]"),
    ],
)
def test_what_the_format_can_not_say_is_refused(ask: Ask, field: str) -> None:
    with pytest.raises(Unsayable) as raised:
        CHAT.write_request(ask, "m", ACME)
    assert raised.value.field == field


def test_hints_that_it_has_no_word_for_are_told() -> None:
    turn = Turn(role="user", parts=(Text(text="a", cache={}),), name="anna")
    thought = Turn(role="assistant", parts=(Thinking(text="hm", signature="another vendor's"), Text(text="b")))
    result = Turn(role="tool", parts=(ToolResult(id="c", parts=(Text(text="x"),), failed=True),))
    ask = Ask(
        turns=(turn, thought, result), seed=7, top_k=3, reasoning=Reasoning(budget=2000), extra={"gemini": {"a": 1}}
    )
    written = CHAT.write_request(ask, "m", ACME)
    assert set(written.dropped) == {
        "turns[0].name",
        "turns[0].parts[0].cache",
        "turns[1].parts[0]",
        "turns[2].parts[0].failed",
        "seed",
        "top_k",
        "reasoning.budget",
        "extra.a",
    }
    assert json.loads(written.body)["reasoning"] == {"effort": "low"}
    assert json.loads(written.body)["store"] is False


def test_a_model_that_does_not_reason_is_not_told_how_much() -> None:
    thought = Turn(role="assistant", parts=(Thinking(text="hm"), Text(text="b")))
    ask = Ask(turns=(Turn(role="user", parts=(Text(text="a"),)), thought), reasoning=Reasoning(effort="low"))
    provider = msgspec.structs.replace(ACME, models=(ProviderModel(name="plain"),))
    written = CHAT.write_request(ask, "plain", provider)
    assert not {"reasoning", "include"} & json.loads(written.body).keys()
    assert "reasoning" in written.dropped
    budget = msgspec.structs.replace(ask, reasoning=Reasoning(budget=-1))
    assert "reasoning" not in json.loads(CHAT.write_request(budget, "m", ACME).body)


# -- thoughts


def test_a_sealed_thought_leaves_and_comes_back() -> None:
    reply = CHAT.read_reply(raw("tools.json"))
    thought = reply.choices[0].parts[0]
    assert isinstance(thought, Thinking)
    assert thought.text == "**Looking at the hive**\n\nThe user asks about the weather in Paris.\n\n**Choosing a tool**"
    # Another dialect keeps the text and the signature, and nothing else.
    carried = Thinking(text=thought.text, signature=thought.signature)
    (item,) = sent(Ask(turns=(Turn(role="assistant", parts=(carried,)),)))["input"]
    assert (item["id"], item["encrypted_content"]) == ("rs_6806bfca2cb0819187a2d4d5d9d4b5aa", "gAAAAABoBr_LkE3")
    assert sent(Ask(turns=(Turn(role="assistant", parts=(carried,)),)))["include"] == ["reasoning.encrypted_content"]


@pytest.mark.parametrize(
    "thought",
    [
        Thinking(text="Hm.", signature="EqQBCg=="),
        Thinking(sealed="EmwKAh"),
        Thinking(text="Hm."),
        Thinking(text="a", signature=""),
    ],
)
def test_a_thought_of_another_vendor_travels_through_its_caller(thought: Thinking) -> None:
    reply = Reply(id="msg_1", model="m", choices=(Choice(parts=(thought, Text(text="b"))),))
    output = json.loads(CHAT.write_reply(reply))["output"]
    assert Response.model_validate(json.loads(CHAT.write_reply(reply))).output[0].type == "reasoning"
    back = asked(*output).turns[0].parts[0]
    assert isinstance(back, Thinking)
    assert (back.text, back.signature, back.sealed) == (thought.text, thought.signature, thought.sealed)


def test_a_signature_on_a_call_travels_through_its_caller() -> None:
    signed = ToolCall(id="c", name="f", arguments="{}", signature="CvQBAX")
    output = json.loads(CHAT.write_reply(Reply(id="x", model="m", choices=(Choice(parts=(signed,)),))))["output"]
    back = asked(*output).turns[0].parts[0]
    assert isinstance(back, ToolCall)
    assert back.signature == "CvQBAX"


def test_a_provider_gets_no_thoughts_of_another() -> None:
    ours = json.loads(CHAT.write_reply(Reply(id="x", model="m", choices=(Choice(parts=(Thinking(signature="s"),)),))))
    elsewhere = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "g", "gimle": {"provider": "b"}}
    here = {**elsewhere, "id": "rs_3", "gimle": {"provider": "acme"}}
    said = {"role": "user", "content": "Hi"}
    asking = call({"input": [*ours["output"], elsewhere, here, said]})
    passed = json.loads(CHAT.patch(asking, "their-model", ACME))
    assert [item.get("id") for item in passed["input"]] == ["rs_3", None]
    assert all("gimle" not in item for item in passed["input"])


# -- whatever comes


@settings(deadline=None)
@given(
    st.lists(ITEM | JSON, max_size=4) | JSON, st.dictionaries(st.sampled_from(["tools", "text", "tool_choice"]), JSON)
)
def test_no_request_breaks_the_reader(items: Any, fields: dict[str, Any]) -> None:
    asking = call({"input": items, **fields})
    for reading in (CHAT.inspect, CHAT.read_request):
        try:
            read_one = reading(asking)
        except InvalidRequest:
            continue
        if isinstance(read_one, Ask):
            with suppress(Unsayable):
                CHAT.write_request(read_one, "m", ACME)
