"""Requests in Anthropic's format: read of a caller, and written for a provider."""

import json
from typing import Any

import msgspec
import pytest
from tests.gateway.claude import CHAT, HELLO, NEW, OLD, OTHER, PROVIDER, ask, asked, call, dropped, fixture, sent

from gimle.foundation.errors import InvalidRequest, Unsayable, UpstreamError
from gimle.gateway.dialects.anthropic import DIALECT
from gimle.gateway.neutral import (
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
from gimle.gateway.types import ProviderModel

# -- requests


def test_a_request_says_all_that_it_says() -> None:
    said = CHAT.read_request(call(fixture("request.json")))
    assert [turn.role for turn in said.turns] == ["system", "user", "assistant", "tool", "tool", "user", "system"]
    system, user, assistant, first, second, go_on, later = said.turns
    assert system.parts[1] == Text(text="The handbook: …", cache={"ttl": "1h"})
    assert user.parts[0] == Text(text="What is in these?", cache={})
    assert user.parts[1] == Image(data="/9j/4AAQSkZJRg==", media_type="image/jpeg")
    assert user.parts[2] == Image(url="https://upload.wikimedia.org/ant.jpg")
    assert isinstance(user.parts[3], Foreign)
    pdf = user.parts[4]
    assert isinstance(pdf, File)
    assert (pdf.data, pdf.media_type, pdf.name) == ("JVBERi0xLjQ=", "application/pdf", "My Document")
    assert pdf.extra["anthropic"]["context"] == "This is a trustworthy document."
    assert user.parts[5] == File(text="The grass is green.", media_type="text/plain")
    assert user.parts[6] == File(url="https://assets.anthropic.com/m/card.pdf")
    assert user.parts[7] == File(id="file_011CPMxVD3fHLUhvTqtsQA5w")
    assert isinstance(user.parts[8], File)
    assert user.parts[8].text == "First chunk"
    assert isinstance(user.parts[9], Text)
    assert "All API requests include a key." in user.parts[9].text
    assert assistant.parts[0] == Thinking(text="Let me look it up.", signature="EqQBCgIYAhIM1gbcDa9GJwZA2b3h")
    assert assistant.parts[1] == Thinking(sealed="EmwKAhgBEgy3va3pzix/LafPsn4a")
    weather, look, search = assistant.parts[3:]
    assert isinstance(weather, ToolCall)
    assert json.loads(weather.arguments) == {"location": "San Francisco, CA", "days": 1.5}
    assert look == ToolCall(id="toolu_01A09q90qw90lq917835lqs", name="look", arguments="{}")
    assert isinstance(search, Foreign)
    assert first.parts == (ToolResult(id="toolu_01A09q90qw90lq917835lq9", parts=(Text(text="15 degrees"),)),)
    (failed,) = second.parts
    assert isinstance(failed, ToolResult)
    assert failed.failed
    assert failed.parts[1] == Image(data="iVBORw0KGgo=", media_type="image/png")
    assert go_on.text == "Go on."
    assert later.text == "Terse mode enabled."
    assert (said.max_tokens, said.temperature, said.top_p, said.top_k, said.stop) == (2048, 0.5, 0.9, 40, ("END",))
    assert isinstance(said.tools[0], Tool)
    assert (said.tools[0].strict, said.tools[0].cache) == (True, {})
    assert said.tools[0].extra == {"anthropic": {"input_examples": [{"location": "Paris"}]}}
    assert isinstance(said.tools[2], ForeignTool)
    assert (said.choose, said.parallel_tools) == (Choose(mode="one", name="get_weather"), False)
    assert said.reasoning == Reasoning(effort="medium", show=True)
    assert said.format is not None
    assert said.format.schema == {"type": "object", "properties": {}, "additionalProperties": False}
    assert (said.user, said.service_tier) == ("13803d75-b4b5-4c3e-b2a2-6f21399b021b", "default")
    assert said.extra["anthropic"]["an_extra_field"] == {"kept": [1, 2.50, None]}


def plainly(request: dict[str, Any]) -> dict[str, Any]:
    """A request with what is only another way to say the same put one way."""
    for message in request["messages"]:
        if isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
    for tool in request.get("tools", ()):
        if tool.get("type") == "custom":
            del tool["type"]
    return request


def test_a_request_is_the_same_when_it_is_written_again() -> None:
    request = fixture("request.json") | {"temperature": None, "top_p": None, "top_k": None}
    written = sent(CHAT.read_request(call(request)))
    assert plainly(written) == plainly({name: value for name, value in request.items() if value is not None})


def test_the_words_of_a_call_are_not_written_anew() -> None:
    raw = b'[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"b","input":{"x":  1.50,"x":1e3}}]}]'
    asking = asked()
    asking.body["messages"] = msgspec.Raw(raw)
    part = CHAT.read_request(asking).turns[0].parts[0]
    assert isinstance(part, ToolCall)
    assert part.arguments == '{"x":  1.50,"x":1e3}'
    assert (
        b'{"x":  1.50,"x":1e3}'
        in CHAT.write_request(ask(HELLO, Turn(role="assistant", parts=(part,))), NEW, PROVIDER).body
    )


def test_a_system_prompt_in_blocks_or_in_one_text() -> None:
    for system in ("Be brief.", [{"type": "text", "text": "Be brief."}]):
        said = CHAT.read_request(asked(system=system))
        assert said.turns[0] == Turn(role="system", parts=(Text(text="Be brief."),))
        assert sent(said)["system"] == "Be brief."


def test_instructions_inside_a_message_are_turns_of_their_own() -> None:
    block = {"type": "mid_conv_system", "content": [{"type": "text", "text": "Be brief."}]}
    content = [{"type": "text", "text": "Hello"}, block]
    said = CHAT.read_request(asked(messages=[{"role": "user", "content": content}]))
    assert [(turn.role, turn.text) for turn in said.turns] == [("user", "Hello"), ("system", "Be brief.")]


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"messages": ...}, "messages"),
        ({"max_tokens": ...}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"content": "Hi"}]}, "messages[0]"),
        ({"messages": [{"role": "boss", "content": "Hi"}]}, "messages[0].role"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"tools": {}}, "tools"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"system": 3}, "system"),
        ({"thinking": {"budget_tokens": 3}}, "thinking"),
        ({"tool_choice": "auto"}, "tool_choice"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        CHAT.inspect(asked(**fields))
    assert raised.value.field == field


@pytest.mark.parametrize(
    "block, field",
    [
        ({}, ""),
        (3, ""),
        ({"type": "text"}, ""),
        ({"type": "text", "text": 3}, ".text"),
        ({"type": "image", "source": {"type": "base64"}}, ".source"),
        ({"type": "image", "source": "https://x/y.png"}, ".source"),
        ({"type": "document", "source": {"type": "url"}}, ".source"),
        ({"type": "tool_use", "id": "a", "name": "b", "input": "{}"}, ".input"),
        ({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text"}]}, ".content[0]"),
        ({"type": "tool_result", "content": "a"}, ""),
        ({"type": "text", "text": "a", "cache_control": "yes"}, ".cache_control"),
    ],
)
def test_a_wrong_block_is_named(block: object, field: str) -> None:
    asking = asked(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, block]}])
    CHAT.inspect(asking)
    with pytest.raises(InvalidRequest) as raised:
        CHAT.read_request(asking)
    assert raised.value.field == f"messages[0].content[1]{field}"


def test_nesting_without_end_is_refused() -> None:
    for name, deep in (("messages", b"["), ("tools", b'[{"a":'), ("an_extra_field", b"[")):
        asking = asked()
        asking.body[name] = msgspec.Raw(deep * 100_000)
        with pytest.raises(InvalidRequest):
            CHAT.read_request(asking)
    for check in (CHAT.watch(), CHAT.read_events(), CHAT.read_usage, CHAT.read_reply, DIALECT.read_models):
        with pytest.raises(UpstreamError):
            check(b'{"type":"message","content":[{"type":"x","y":' + b"[" * 100_000)


def test_what_a_request_needs() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    assert CHAT.inspect(asked(messages=[{"role": "user", "content": [image]}])).capabilities == {"vision"}
    assert CHAT.inspect(asked(messages=[{"role": "user", "content": 'The word "image".'}])).capabilities == frozenset()
    assert CHAT.inspect(asked(tools=[{"name": "a"}])).capabilities == {"tools"}
    form = {"type": "json_schema", "schema": {}}
    assert CHAT.inspect(asked(output_config={"format": form})).capabilities == {"json_schema"}
    assert CHAT.inspect(asked(output_config={"effort": "low"})).capabilities == frozenset()
    prompt = CHAT.inspect(asked())
    assert (prompt.max_tokens, prompt.plain, prompt.include_usage) == (64, True, True)
    assert not CHAT.inspect(asked(thinking={"type": "adaptive"})).plain


def test_only_the_model_is_changed_in_what_passes() -> None:
    patched = CHAT.patch(call(fixture("request.json")), "their-model", PROVIDER)
    assert json.loads(patched) == {**fixture("request.json"), "model": "their-model"}
    assert CHAT.path("their-model", True) == "/messages"


@pytest.mark.parametrize(
    "most, thinking",
    [
        (10_001, {"type": "enabled", "budget_tokens": 10_000, "display": "omitted"}),
        (10_000, {"type": "enabled", "budget_tokens": 5_000, "display": "omitted"}),
        (2_047, {"type": "disabled"}),
    ],
)
def test_a_shorter_answer_has_room_behind_its_thoughts(most: int, thinking: dict[str, Any]) -> None:
    said = {"type": "enabled", "budget_tokens": 10_000, "display": "omitted"}
    shorter = CHAT.shorten(asked(max_tokens=20_000, thinking=said), most, PROVIDER)
    patched = json.loads(CHAT.patch(shorter, NEW, PROVIDER))
    assert (patched["max_tokens"], patched["thinking"]) == (most, thinking)


@pytest.mark.parametrize(
    "fields, reasoning, extra",
    [
        ({}, None, {}),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, Reasoning(budget=2048), {}),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, Reasoning(show=False), {}),
        ({"thinking": {"type": "disabled"}}, Reasoning(effort="none"), {}),
        ({"output_config": {"effort": "xhigh"}}, Reasoning(effort="xhigh"), {"output_config": {"effort": "xhigh"}}),
        (
            {"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}},
            Reasoning(effort="none"),
            {"output_config": {"effort": "low"}},
        ),
        ({"thinking": {"type": "dreaming", "deep": 1}}, None, {"thinking": {"type": "dreaming", "deep": 1}}),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "more"}},
            Reasoning(),
            {"output_config": {"effort": "more"}},
        ),
        (
            {"thinking": {"type": "adaptive", "block_binding": {"a": 1}}, "output_config": {"task_budget": {"b": 2}}},
            Reasoning(),
            {"thinking": {"block_binding": {"a": 1}}, "output_config": {"task_budget": {"b": 2}}},
        ),
    ],
)
def test_how_much_to_think_is_read_and_written_again(
    fields: dict[str, Any], reasoning: Reasoning | None, extra: dict[str, Any]
) -> None:
    said = CHAT.read_request(asked(**fields))
    assert said.reasoning == reasoning
    assert said.extra.get("anthropic", {}) == extra
    again = sent(said, OTHER)
    assert {name: again[name] for name in ("thinking", "output_config") if name in again} == fields


@pytest.mark.parametrize(
    "model, reasoning, written, left_out",
    [
        (NEW, Reasoning(effort="high"), {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}, ()),
        (NEW, Reasoning(effort="minimal"), {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, ()),
        (NEW, Reasoning(budget=4096), {"thinking": {"type": "adaptive"}}, ("reasoning.budget",)),
        (NEW, Reasoning(effort="none"), {"thinking": {"type": "disabled"}}, ()),
        ("claude-opus-5-5", Reasoning(effort="none"), {"output_config": {"effort": "low"}}, ("reasoning",)),
        (OLD, Reasoning(effort="high"), {}, ("reasoning.effort",)),
        (OLD, Reasoning(budget=4096), {"thinking": {"type": "enabled", "budget_tokens": 4096}}, ()),
        ("claude-opus-4-5", Reasoning(effort="high"), {"output_config": {"effort": "high"}}, ()),
        (OTHER, Reasoning(budget=4096), {"thinking": {"type": "enabled", "budget_tokens": 4096}}, ()),
        (OLD, Reasoning(budget=512), {"thinking": {"type": "enabled", "budget_tokens": 1024}}, ("reasoning.budget",)),
        # As Gemini says it: as much as the model likes, and nothing.
        (OLD, Reasoning(budget=-1), {}, ()),
        (NEW, Reasoning(budget=-1), {"thinking": {"type": "adaptive"}}, ()),
        (OLD, Reasoning(effort="none", budget=0), {"thinking": {"type": "disabled"}}, ()),
    ],
)
def test_how_much_to_think_is_said_as_the_model_takes_it(
    model: str, reasoning: Reasoning, written: dict[str, Any], left_out: tuple[str, ...]
) -> None:
    body = sent(ask(reasoning=reasoning), model)
    assert {name: body[name] for name in ("thinking", "output_config") if name in body} == written
    assert dropped(ask(reasoning=reasoning), model) == left_out


@pytest.mark.parametrize(
    "fields, kept, left_out",
    [
        ({"temperature": 0.2, "top_p": 0.9, "top_k": 5}, {}, ("temperature", "top_p", "top_k")),
        ({"temperature": 1.0}, {"temperature": 1.0}, ()),
        ({"temperature": 0.2, "top_p": 0.95}, {"top_p": 0.95}, ("temperature",)),
    ],
)
def test_what_does_not_fit_beside_thoughts_is_left_out(
    fields: dict[str, Any], kept: dict[str, Any], left_out: tuple[str, ...]
) -> None:
    asking = ask(reasoning=Reasoning(budget=4096), **fields)
    body = sent(asking, OLD)
    assert {name: body[name] for name in ("temperature", "top_p", "top_k") if name in body} == kept
    assert dropped(asking, OLD) == left_out
    resting = sent(ask(reasoning=Reasoning(effort="none"), top_k=5), OLD)
    assert (resting["thinking"], resting["top_k"]) == ({"type": "disabled"}, 5)


def test_a_forced_tool_stands_before_thoughts() -> None:
    asking = ask(reasoning=Reasoning(budget=4096), choose=Choose(mode="any"), tools=(Tool(name="look"),))
    assert "thinking" not in sent(asking, OLD)
    assert dropped(asking, OLD) == ("reasoning",)
    assert sent(asking, NEW)["thinking"] == {"type": "adaptive"}


@pytest.mark.parametrize("most, thinking", [(3000, {"type": "enabled", "budget_tokens": 1500}), (2000, None)])
def test_thoughts_leave_room_for_the_answer(most: int, thinking: dict[str, Any] | None) -> None:
    asking = ask(reasoning=Reasoning(budget=4096), max_tokens=most)
    assert sent(asking, OLD).get("thinking") == thinking
    assert dropped(asking, OLD) == ("reasoning.budget",)


def test_a_limit_is_always_given() -> None:
    assert sent(ask(max_tokens=5))["max_tokens"] == 5
    assert sent(ask())["max_tokens"] == 16_384
    assert sent(ask(reasoning=Reasoning(budget=20_000)), OTHER)["max_tokens"] == 36_384
    small = msgspec.structs.replace(PROVIDER, models=(ProviderModel(name="tiny", max_output=4096),))
    assert json.loads(CHAT.write_request(ask(), "tiny", small).body)["max_tokens"] == 4096


def system(text: str) -> Turn:
    return Turn(role="developer", parts=(Text(text=text),))


def assistant(*parts: Any) -> Turn:
    return Turn(role="assistant", parts=parts or (Text(text="Hi"),))


def test_instructions_stay_where_the_model_takes_them() -> None:
    asking = ask(system("A"), system("B"), HELLO, system("C"), assistant(), HELLO, system("D"), system("E"))
    body = sent(asking)
    assert body["system"] == [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    assert [message["role"] for message in body["messages"]] == ["user", "system", "assistant", "user", "system"]
    assert body["messages"][1]["content"] == "C"
    assert [block["text"] for block in body["messages"][4]["content"]] == ["D", "E"]


@pytest.mark.parametrize(
    "model, turns",
    [
        (OLD, (HELLO, system("Be brief."))),
        (OTHER, (HELLO, system("Be brief."))),
        ("claude-sonnet-5", (HELLO, system("Be brief."))),
        (NEW, (HELLO, system("Be brief."), HELLO)),
        (NEW, (HELLO, assistant(), system("Be brief."), HELLO)),
    ],
)
def test_instructions_elsewhere_are_reminders_in_their_place(model: str, turns: tuple[Turn, ...]) -> None:
    body = sent(ask(*turns), model)
    assert "system" not in body
    assert {message["role"] for message in body["messages"]} <= {"user", "assistant"}
    roles = [message["role"] for message in body["messages"]]
    assert all(one != other for one, other in zip(roles, roles[1:], strict=False))
    assert "<system-reminder>\\nBe brief.\\n</system-reminder>" in json.dumps(body["messages"])


def test_turns_of_one_side_are_one_message_and_results_come_first() -> None:
    results = [Turn(role="tool", parts=(ToolResult(id=f"call|{n}", parts=(Text(text="1"),)),)) for n in (1, 2)]
    calls = assistant(ToolCall(id="call|1", name="a", arguments='{"x": 1}'), ToolCall(id="call|2", name="a"))
    body = sent(ask(HELLO, calls, system("Be brief."), *results, HELLO), OLD)
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    kinds = [block["type"] for block in body["messages"][2]["content"]]
    assert kinds == ["tool_result", "tool_result", "text", "text"]
    assert body["messages"][1]["content"][1] == {"type": "tool_use", "id": "call_2", "name": "a", "input": {}}
    assert body["messages"][2]["content"][0] == {"type": "tool_result", "tool_use_id": "call_1", "content": "1"}


def test_what_is_empty_is_not_sent() -> None:
    blank = Turn(role="user", parts=(Text(text=""), Text(text=" \n")))
    body = sent(ask(HELLO, assistant(Text(text="")), blank))
    assert body["messages"] == [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"format": Format()}, "format"),
        ({"tools": (ForeignTool(dialect="openai", name="web_search", raw={}),)}, "tools[0]"),
    ],
)
def test_what_cannot_be_said_is_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Unsayable) as raised:
        sent(ask(**fields))
    assert raised.value.field == field


@pytest.mark.parametrize(
    "part",
    [
        Audio(data="AAAA", media_type="audio/wav"),
        File(data="AAAA", media_type="application/zip"),
        File(data="/w==", media_type="text/plain"),
        File(data="!", media_type="text/plain"),
        File(id="file-abc123"),
        File(),
        Image(),
        Foreign(dialect="openai", raw={}),
        ToolCall(id="a", name="b", arguments="{broken"),
        ToolCall(id="a", name="b", arguments="[1]"),
        ToolCall(id="a", name="b", arguments="{" * 9),
        ToolResult(id="a", parts=(File(id="file-abc123"),)),
    ],
)
def test_a_part_that_cannot_be_said_is_refused(part: Any) -> None:
    with pytest.raises(Unsayable) as raised:
        sent(ask(system("A"), HELLO, Turn(role="user", parts=(Text(text="a"), part))))
    assert (raised.value.field or "").startswith("turns[2].parts[1]")


def test_what_is_no_text_is_no_instruction() -> None:
    for turns in ((Turn(role="system", parts=(Image(url="https://x/y.png"),)), HELLO), (system("A"),)):
        with pytest.raises(Unsayable):
            sent(ask(*turns))


def test_hints_without_a_word_are_left_out_and_named() -> None:
    picture = Turn(role="user", parts=(Image(url="https://x/y.png", detail="high"),), name="anna")
    thought = assistant(Thinking(text="Hm."), ToolCall(id="a", name="b", signature="s"))
    asking = ask(
        picture,
        thought,
        seed=7,
        verbosity="low",
        metadata={"a": "b"},
        frequency_penalty=0.5,
        presence_penalty=0.0,
        service_tier="flex",
        stop=("\n", "END"),
        temperature=0.1,
        extra={"openai": {"logit_bias": {}}},
    )
    named = "seed verbosity metadata frequency_penalty service_tier stop extra.logit_bias turns[0].name "
    named += "turns[0].parts[0].detail turns[1].parts[0] turns[1].parts[1].signature temperature"
    assert dropped(asking) == tuple(named.split())
    body = sent(asking)
    assert body["stop_sequences"] == ["END"]
    assert "temperature" not in body


def test_how_bold_to_be_is_said_as_the_model_takes_it() -> None:
    both = ask(temperature=1.5, top_p=0.9, top_k=3)
    assert {name: value for name, value in sent(both, OLD).items() if name[:3] in ("tem", "top")} == {
        "temperature": 1.0,
        "top_k": 3,
    }
    assert dropped(both, OLD) == ("temperature", "top_p")
    assert dropped(ask(temperature=0.5, top_p=0.9), OTHER) == ()


def test_a_schema_needs_a_model_that_holds_to_it() -> None:
    form = Format(schema={"type": "object"})
    assert sent(ask(format=form, reasoning=Reasoning(effort="low")))["output_config"] == {
        "effort": "low",
        "format": {"type": "json_schema", "schema": {"type": "object"}},
    }
    with pytest.raises(Unsayable):
        sent(ask(format=form), "claude-3-5-haiku-20241022")


@pytest.mark.parametrize(
    "choose, parallel, written",
    [
        (None, None, None),
        (None, True, {"type": "auto", "disable_parallel_tool_use": False}),
        (Choose(mode="any"), None, {"type": "any"}),
        (Choose(mode="none"), False, {"type": "none"}),
        (Choose(mode="one", name="a"), False, {"type": "tool", "name": "a", "disable_parallel_tool_use": True}),
    ],
)
def test_which_tool_to_call(choose: Choose | None, parallel: bool | None, written: dict[str, Any] | None) -> None:
    tools = (Tool(name="a", description="b"),)
    body = sent(ask(tools=tools, choose=choose, parallel_tools=parallel))
    assert body.get("tool_choice") == written
    assert body["tools"] == [{"name": "a", "description": "b", "input_schema": {"type": "object", "properties": {}}}]
