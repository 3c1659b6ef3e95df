"""Gemini's generateContent: what callers ask in it, and what others ask of it."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.geminis import (
    CALLS,
    CHAT,
    PARTS,
    PROVIDER,
    REQUEST,
    SPOKEN,
    TEXTS,
    asked,
    call,
    one,
    said,
    written,
)

from gimle.foundation.errors import InvalidRequest, Unsayable
from gimle.gateway.neutral import (
    Ask,
    Audio,
    Choose,
    File,
    Foreign,
    ForeignTool,
    Format,
    Image,
    Reasoning,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from gimle.gateway.types import ChatCall


def test_a_request_comes_out_as_it_went_in() -> None:
    """Everything that the form can hold, and Gemini's own beside it."""
    body, dropped = written(CHAT.read_request(call(REQUEST)))
    assert body == REQUEST
    assert dropped == ()


def test_a_request_says_what_it_says() -> None:
    ask = CHAT.read_request(call(REQUEST))
    assert [turn.role for turn in ask.turns] == ["system", "user", "assistant", "tool", "assistant", "tool"]
    _, question, first, flight, second, taxi = ask.turns
    assert question.parts[1] == Image(data="/9j/4AAQSkZJRg==", media_type="image/jpeg")
    assert isinstance(question.parts[2], File)
    assert first.parts[0] == Thinking(text="I check the flight first.")
    assert first.parts[1] == ToolCall(
        id="8f2b1a3c",
        name="check_flight",
        arguments='{"flight": "AA100", "limit": 1.0}',
        signature="EpkOCpYOAXLI2nwMdJvMR",
    )
    assert flight.parts[0] == ToolResult(
        id="8f2b1a3c", name="check_flight", parts=(Text(text='{"status": "delayed", "departure_time": "12 PM"}'),)
    )
    (booking,), (answer,) = second.parts, taxi.parts
    assert isinstance(booking, ToolCall)
    assert answer == ToolResult(id=booking.id, name="book_taxi", parts=(Text(text="no taxi is free"),), failed=True)
    assert (ask.max_tokens, ask.n, ask.top_k, ask.seed, ask.top_logprobs) == (800, 2, 10, 42, 3)
    assert ask.choose == Choose(mode="one", name="book_taxi")
    assert ask.reasoning == Reasoning(budget=1024, show=True)
    assert ask.format is not None
    assert ask.format.schema == {
        "type": "array",
        "items": {"type": "object", "properties": {"recipeName": {"type": "string"}}},
    }
    tool = ask.tools[0]
    assert isinstance(tool, Tool)
    assert tool.schema == {
        "type": "object",
        "properties": {
            "flight": {"type": ["string", "null"], "description": "The flight number to check"},
            "legs": {"type": "array", "minItems": 1, "items": {"type": "integer"}},
        },
        "required": ["flight"],
    }
    assert ask.tools[2] == ForeignTool(dialect="gemini", name="googleSearch", raw={"googleSearch": {}})
    assert ask.extra["gemini"].keys() == {"safetySettings", "cachedContent", "generationConfig"}


def test_the_spelling_of_the_documentation_is_read_too() -> None:
    body = {
        "system_instruction": {"parts": {"text": "Be brief."}},
        "contents": {
            "parts": [
                {"inline_data": {"mime_type": "audio/mp3", "data": "AAAA"}},
                {"file_data": {"mime_type": "image/png", "file_uri": "gs://b/c.png"}},
            ]
        },
        "generation_config": {"max_output_tokens": 5, "thinking_config": {"include_thoughts": True}},
        "tools": [{"function_declarations": [{"name": "f", "parameters_json_schema": {"type": "object"}}]}],
        "tool_config": {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["f"]}},
    }
    ask = CHAT.read_request(call(body))
    assert ask.turns[0].text == "Be brief."
    assert ask.turns[1].parts == (
        Audio(data="AAAA", media_type="audio/mp3"),
        Image(url="gs://b/c.png", media_type="image/png"),
    )
    assert (ask.max_tokens, ask.reasoning) == (5, Reasoning(show=True))
    assert ask.tools == (Tool(name="f", schema={"type": "object"}),)
    assert ask.choose == Choose(mode="one", name="f")


@pytest.mark.parametrize(
    "body,field",
    [
        ({}, "contents"),
        ({"contents": []}, "contents"),
        ({"contents": 7}, "contents"),
        ({"contents": [{"role": "robot", "parts": []}]}, "contents[0].role"),
        ({"contents": [{"parts": 7}]}, "contents[0].parts"),
        ({"contents": [{"parts": [{"text": 7}]}]}, "contents[0].parts[0].text"),
        ({"contents": [{"parts": [{"inlineData": {"data": "x"}}]}]}, "contents[0].parts[0].inlineData"),
        ({"contents": [{"parts": [{"functionCall": {"args": {}}}]}]}, "contents[0].parts[0].functionCall"),
        ({"contents": [{"parts": [{"text": "x"}]}], "tools": 7}, "tools"),
        (
            {"contents": [{"parts": [{"text": "x"}]}], "tools": [{"functionDeclarations": [{}]}]},
            "tools[0].functionDeclarations[0]",
        ),
        (
            {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": {"maxOutputTokens": "many"}},
            "generationConfig.maxOutputTokens",
        ),
        (
            {"contents": [{"parts": [{"text": "x"}]}], "toolConfig": {"functionCallingConfig": {"mode": "SOME"}}},
            "toolConfig.functionCallingConfig.mode",
        ),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], field: str) -> None:
    for read in (CHAT.read_request, CHAT.inspect):
        with pytest.raises(InvalidRequest) as raised:
            read(call(body))
        assert raised.value.field == field


def test_nesting_without_end_is_a_caller_s_fault() -> None:
    deep = msgspec.Raw(
        b'[{"parts": [{"functionCall": {"name": "f", "args": ' + b'{"a":' * 9999 + b"1" + b"}" * 9999 + b"}}]}]"
    )
    with pytest.raises(InvalidRequest):
        CHAT.read_request(ChatCall(body={"contents": deep}, model="m", dialect="gemini"))
    with pytest.raises(InvalidRequest):
        body = {"contents": msgspec.Raw(b'[{"parts":[{"text":"x"}]}]'), "tools": msgspec.Raw(b"[" * 9999)}
        CHAT.read_request(ChatCall(body=body, model="m", dialect="gemini"))


def test_what_the_gateway_must_know() -> None:
    prompt = CHAT.inspect(call(REQUEST))
    assert prompt.max_tokens == 800
    assert prompt.capabilities == {"tools", "json_schema", "vision"}
    assert not prompt.plain
    assert CHAT.inspect(call({"contents": [{"parts": [{"text": "Hi"}]}]})).plain


def test_the_caller_s_bytes_pass_and_the_model_stands_in_the_path() -> None:
    raw = msgspec.Raw(b'[ {"parts":[{"text":"Hi"}]} ]')
    sent = CHAT.patch(ChatCall(body={"contents": raw, "model": msgspec.Raw(b'"x"')}, model="x"), "y", PROVIDER)
    assert sent == b'{"contents":[ {"parts":[{"text":"Hi"}]} ]}'
    assert CHAT.path("gemini-2.5-pro", False) == "/models/gemini-2.5-pro:generateContent"
    assert CHAT.path("models/gemini-2.5-pro", True) == "/models/gemini-2.5-pro:streamGenerateContent?alt=sse"
    assert CHAT.path("tunedModels/mine", False) == "/tunedModels/mine:generateContent"
    assert CHAT.path("../../v1/x?y", False) == "/models/..%2F..%2Fv1%2Fx%3Fy:generateContent"


def test_what_others_say_becomes_gemini_s() -> None:
    ask = one(
        said(Text(text="Be kind."), role="system"),
        said(Text(text="And brief."), role="developer"),
        said(Text(text="Weather?"), Image(url="https://a.example/b.PNG?x=1")),
        said(
            ToolCall(id="call_1", name="w", arguments='{"at": "Köln",  "n": 1.0}'),
            ToolCall(id="call_2", name="t"),
            role="assistant",
        ),
        said(ToolResult(id="call_1", parts=(Text(text="18 °C"),)), role="tool"),
        said(ToolResult(id="call_2", parts=(Text(text="no clock"),), failed=True), role="tool"),
        said(Text(text="Go on."), role="system"),
        tools=(Tool(name="w", description="Weather", schema={"type": "object"}, strict=True),),
        choose=Choose(mode="any"),
        max_tokens=9,
        stop=("END",),
        format=Format(schema={"type": "object"}, strict=True),
        user="u1",
        parallel_tools=False,
        extra={"openai": {"store": True}},
    )
    body, dropped = written(ask)
    assert body["systemInstruction"] == {"parts": [{"text": "Be kind."}, {"text": "And brief."}]}
    question, calls, results = body["contents"]
    assert question["parts"][1] == {"fileData": {"fileUri": "https://a.example/b.PNG?x=1", "mimeType": "image/png"}}
    assert calls == {
        "role": "model",
        "parts": [
            {"functionCall": {"id": "call_1", "name": "w", "args": {"at": "Köln", "n": 1.0}}},
            {"functionCall": {"id": "call_2", "name": "t", "args": {}}},
        ],
    }
    assert results == {
        "role": "user",
        "parts": [
            {"functionResponse": {"id": "call_1", "name": "w", "response": {"output": "18 °C"}}},
            {"functionResponse": {"id": "call_2", "name": "t", "response": {"error": "no clock"}}},
            {"text": "Go on."},
        ],
    }
    assert body["tools"] == [
        {"functionDeclarations": [{"name": "w", "description": "Weather", "parametersJsonSchema": {"type": "object"}}]}
    ]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}
    assert body["generationConfig"] == {
        "maxOutputTokens": 9,
        "stopSequences": ["END"],
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object"},
    }
    assert set(dropped) == {"turns[6].role", "tools[0].strict", "user", "parallel_tools", "store"}


def test_the_text_of_arguments_is_never_written_anew() -> None:
    arguments = '{"b":1.0,  "a":1e2, "c":"\\u00e9", "d":12345678901234567890123}'
    ask = one(said(ToolCall(id="c", name="f", arguments=arguments), role="assistant"))
    assert arguments.encode() in CHAT.write_request(ask, "gemini-2.5-pro", PROVIDER).body


@pytest.mark.parametrize(
    "ask,field",
    [
        (one(said(ToolCall(id="c", name="f", arguments='{"a": '), role="assistant")), "turns[0].parts[0].arguments"),
        (one(said(ToolCall(id="c", name="f", arguments="[1]"), role="assistant")), "turns[0].parts[0].arguments"),
        (one(said(ToolResult(id="c", parts=()), role="tool")), "turns[0].parts[0].id"),
        (one(said(Text(text="x"), File(id="file-1"))), "turns[0].parts[1]"),
        (one(said(Foreign(dialect="openai", raw={}))), "turns[0].parts[0]"),
        (one(tools=(ForeignTool(dialect="anthropic", name="bash", raw={}),)), "tools[0]"),
        (one(stop=tuple("abcdef")), "stop"),
    ],
)
def test_what_gemini_can_not_say_is_refused(ask: Ask, field: str) -> None:
    with pytest.raises(Unsayable) as raised:
        written(ask)
    assert raised.value.field == field


@pytest.mark.parametrize(
    "given, sent",
    [
        ({}, {"generationConfig": {"maxOutputTokens": 5}}),
        (
            {"generation_config": {"max_output_tokens": 9, "topK": 3}},
            {"generation_config": {"topK": 3, "maxOutputTokens": 5}},
        ),
    ],
)
def test_a_shorter_answer_is_asked_for_in_either_spelling(given: dict[str, Any], sent: dict[str, Any]) -> None:
    contents = {"contents": [{"parts": [{"text": "Hi"}]}]}
    shorter = CHAT.shorten(call({**contents, **given}), 5, PROVIDER)
    assert json.loads(CHAT.patch(shorter, "m", PROVIDER)) == {**contents, **sent}


@pytest.mark.parametrize("budget, reasoning", [(-1, Reasoning(budget=-1)), (0, Reasoning(effort="none", budget=0))])
def test_budgets_that_are_no_numbers(budget: int, reasoning: Reasoning) -> None:
    ask = asked(generationConfig={"thinkingConfig": {"thinkingBudget": budget}})
    assert ask.reasoning == reasoning
    assert reasoning.tokens is None
    assert written(ask)[0]["generationConfig"] == {"thinkingConfig": {"thinkingBudget": budget}}


@pytest.mark.parametrize(
    "model,reasoning,config",
    [
        ("gemini-3-flash-preview", Reasoning(effort="minimal"), {"thinkingLevel": "minimal"}),
        ("gemini-3.1-pro-preview", Reasoning(effort="minimal"), {"thinkingLevel": "low"}),
        (
            "gemini-flash-latest",
            Reasoning(effort="xhigh", show=True),
            {"thinkingLevel": "high", "includeThoughts": True},
        ),
        ("gemini-2.5-flash", Reasoning(effort="none"), {"thinkingBudget": 0}),
        ("gemini-2.5-pro", Reasoning(effort="none"), {"thinkingBudget": 128}),
        ("gemini-2.5-pro", Reasoning(effort="medium"), {"thinkingBudget": 8192}),
        ("gemini-3-pro-preview", Reasoning(effort="low", budget=512), {"thinkingBudget": 512}),
        ("gemini-2.0-flash", Reasoning(effort="low"), None),
        ("gemma-3-27b-it", Reasoning(effort="low"), None),
    ],
)
def test_how_much_to_think(model: str, reasoning: Reasoning, config: dict[str, Any] | None) -> None:
    body, dropped = written(one(reasoning=reasoning), model)
    assert body.get("generationConfig", {}).get("thinkingConfig") == config
    assert dropped == (("reasoning",) if config is None else ())


def test_a_seal_of_another_vendor_s_is_left_out() -> None:
    ask = one(
        said(Text(text="Hi")),
        said(
            Thinking(text="Hm", signature="EqQBCgIYAhIM"),
            Thinking(sealed="EmwKAhgB"),
            Thinking(text="So", signature="gemini:AAA="),
            Thinking(signature="gemini:BBB="),
            role="assistant",
        ),
    )
    body, dropped = written(ask)
    assert body["contents"][1]["parts"] == [
        {"text": "Hm", "thought": True},
        {"text": "So", "thought": True, "thoughtSignature": "AAA="},
        {"text": "", "thoughtSignature": "BBB="},
    ]
    assert dropped == ("turns[1].parts[0].signature", "turns[1].parts[1].sealed")


def test_unsigned_calls_are_told_as_such_where_signatures_are_asked_for() -> None:
    calls = said(ToolCall(id="a", name="f"), ToolCall(id="b", name="f"), role="assistant")
    new, _ = written(one(calls), "gemini-3-pro-preview")
    first, second = new["contents"][0]["parts"]
    assert first["thoughtSignature"] == "skip_thought_signature_validator"
    assert "thoughtSignature" not in second
    old, _ = written(one(calls), "gemini-2.5-pro")
    assert "thoughtSignature" not in old["contents"][0]["parts"][0]


def test_pictures_from_a_tool() -> None:
    result = ToolResult(id="a", parts=(Text(text="Here"), Image(data="AAAA", media_type="image/png")))
    ask = one(said(ToolCall(id="a", name="f"), role="assistant"), said(result, role="tool"))
    picture = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
    (answer,) = written(ask, "gemini-3-flash-preview")[0]["contents"][1]["parts"]
    assert answer["functionResponse"]["parts"] == [picture]
    beside = written(ask, "gemini-2.5-flash")[0]["contents"][1]["parts"]
    assert beside[1] == picture


def test_answers_without_an_id_stand_in_the_order_of_their_calls() -> None:
    contents = [
        {"role": "model", "parts": [{"functionCall": {"name": n, "args": {"n": i}}} for i, n in enumerate("ffg")]},
        {"role": "user", "parts": [
            {"functionResponse": {"name": n, "response": {"output": n + str(i)}}} for i, n in enumerate("ffg")
        ]},
    ]  # fmt: skip
    ask = CHAT.read_request(call({"contents": contents}))
    ids = [part.id for turn in ask.turns for part in turn.parts if isinstance(part, ToolCall | ToolResult)]
    assert ids[:3] == ids[3:]
    assert len(set(ids)) == 3
    results = ask.turns[1].parts
    turned = Ask(turns=(ask.turns[0], *(said(part, role="tool") for part in reversed(results))))
    body, _ = written(turned)
    assert body["contents"] == contents


def test_a_conversation_of_instructions_alone_is_a_question() -> None:
    body, _ = written(one(said(Text(text="Say hi."), role="system")))
    assert body == {"contents": [{"role": "user", "parts": [{"text": "Say hi."}]}]}


@st.composite
def conversations(draw: st.DrawFn) -> Ask:
    turns = [said(Text(text="Be kind."), role="system")] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns.append(Turn(role="user", parts=tuple(draw(st.lists(PARTS, min_size=1, max_size=3)))))
        calls = draw(st.lists(CALLS, max_size=3, unique_by=lambda one: one.id))
        spoken = tuple(draw(st.lists(SPOKEN, min_size=1, max_size=2)))
        turns.append(Turn(role="assistant", parts=(*spoken, *calls)))
        if calls:
            results = [
                ToolResult(id=one.id, name=one.name, failed=draw(st.booleans()), parts=(Text(text=draw(TEXTS)),))
                for one in calls
            ]
            turns.append(Turn(role="tool", parts=tuple(results)))
            turns.append(said(Text(text="So?"), role="assistant"))
    return Ask(
        turns=tuple(turns),
        max_tokens=draw(st.none() | st.integers(1, 9)),
        stop=tuple(draw(st.lists(TEXTS, max_size=5))),
        choose=draw(st.sampled_from((None, Choose(mode="auto"), Choose(mode="none"), Choose(mode="one", name="f")))),
        tools=(Tool(name="f", description="F", schema={"type": "object"}),) if draw(st.booleans()) else (),
        format=draw(st.sampled_from((None, Format(), Format(schema={"type": "object"})))),
        show_usage=True,
    )


@given(conversations())
def test_whatever_is_asked_survives_the_way_there_and_back(ask: Ask) -> None:
    body = json.loads(CHAT.write_request(ask, "gemini-2.5-flash", PROVIDER).body)
    assert CHAT.read_request(call(body)) == ask
