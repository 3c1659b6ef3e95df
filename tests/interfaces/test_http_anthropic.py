"""Anthropic's surface with Anthropic's own SDK, and across: its SDK with OpenAI's models, and the other way round."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from tests.interfaces.claude import ARGUMENTS, KEY, SEALED, SIGNATURE, THOUGHT, WORDS, Claude, event
from tests.interfaces.serving import Served, serving
from tests.interfaces.vendor import calls, chunk

from gimle.app import App
from gimle.testing import WORDS as OPENAI_WORDS
from gimle.testing import Behaviour, Upstream

TEXT = "".join(WORDS)
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
WEATHER: dict[str, Any] = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
CLAUDE, GPT = "claude/claude-opus-4-8", "gpt/mock"


@pytest.fixture
async def claude() -> AsyncIterator[Claude]:
    async with Claude() as provider:
        yield provider


@pytest.fixture
async def gpt() -> AsyncIterator[Upstream]:
    async with Upstream() as provider:
        yield provider


@pytest.fixture
async def served(
    app: App, tenants: tuple[str, str], claude: Claude, gpt: Upstream, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    """The server, with both vendors' stand-ins added as providers over REST."""
    monkeypatch.setenv("CLAUDE_API_KEY", KEY)
    facts = {"kind": "chat", "context_window": 100_000, "capabilities": ["tools", "json_schema", "vision"]}
    theirs = [{"name": name, **facts} for name in ("claude-opus-4-8", "claude-haiku-4-5")]
    async with serving(app, tenants[0]) as running:
        for provider in (
            {"name": "claude", "dialect": "anthropic", "base_url": claude.url, "models": theirs},
            {"name": "gpt", "base_url": gpt.url, "models": [{"name": "mock", **facts}]},
        ):
            known = {"api_key_env": "CLAUDE_API_KEY"} if provider["name"] == "claude" else {}
            await running.provide(provider | known)
        yield running


@pytest.fixture
async def sdk(served: Served) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=served.url, api_key=served.token, max_retries=0) as client:
        yield client


@pytest.fixture
async def other(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key=served.token, max_retries=0) as client:
        yield client


def weather_tool() -> Any:
    return {"name": "weather", "description": "The weather of a place.", "input_schema": WEATHER}


def words_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


# -- Anthropic's SDK, Anthropic's models: everything passes


async def test_a_message_passes_with_the_headers_of_the_contract(
    sdk: anthropic.AsyncAnthropic, claude: Claude, served: Served
) -> None:
    raw = await sdk.messages.with_raw_response.create(
        model=CLAUDE,
        max_tokens=64,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=HELLO,
        extra_headers={"x-request-id": "mine-1"},
    )
    message = await raw.parse()
    assert (words_of(message), message.stop_reason, message.model) == (TEXT, "end_turn", "claude-opus-4-8")
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (11, 7)
    assert message._request_id == raw.headers["x-request-id"] == "mine-1"
    assert raw.headers["x-gimle-provider"] == "claude"
    assert "x-gimle-dropped" not in raw.headers
    (received,) = claude.received
    assert received.path == "/v1/messages"
    assert received.headers["x-api-key"] == KEY
    assert served.token not in str(received.headers)
    assert received.json["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert received.json["model"] == "claude-opus-4-8"


async def test_a_stream_passes_byte_by_byte(served: Served, sdk: anthropic.AsyncAnthropic, claude: Claude) -> None:
    async with sdk.messages.stream(model=CLAUDE, max_tokens=64, messages=HELLO) as stream:
        said = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert (tuple(said), words_of(message)) == (WORDS, TEXT)
    assert message.usage.output_tokens == 14
    claude.usual = Behaviour(piece=3)
    body = {"model": CLAUDE, "max_tokens": 64, "messages": HELLO, "stream": True}
    answer = await served.http.post("/v1/messages", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    names = [line for line in answer.text.split("\n") if line.startswith("event: ")]
    assert names[0] == "event: message_start"
    assert "event: ping" in names
    assert names[-1] == "event: message_stop"


async def test_betas_go_along(sdk: anthropic.AsyncAnthropic, claude: Claude) -> None:
    message = await sdk.beta.messages.create(model=CLAUDE, max_tokens=64, messages=HELLO, betas=["a-beta-2026-01-01"])
    assert message.content[0].type == "text"
    assert claude.received[0].headers["anthropic-beta"] == "a-beta-2026-01-01"


async def test_betas_in_two_headers_go_along(served: Served, claude: Claude) -> None:
    headers = [("anthropic-beta", "one-2026-01-01"), ("anthropic-beta", "two-2026-01-01")]
    body = {"model": CLAUDE, "max_tokens": 64, "messages": HELLO}
    assert (await served.http.post("/v1/messages", json=body, headers=headers)).status_code == 200
    assert claude.received[0].headers["anthropic-beta"] == "one-2026-01-01,two-2026-01-01"


async def test_tools_and_thoughts_go_round(sdk: anthropic.AsyncAnthropic, claude: Claude) -> None:
    turns = [*HELLO]
    asked: dict[str, Any] = {"model": CLAUDE, "max_tokens": 64, "tools": [weather_tool()]}
    async with sdk.messages.stream(messages=turns, thinking={"type": "adaptive"}, **asked) as stream:
        first = await stream.get_final_message()
    kinds = [block.type for block in first.content]
    assert kinds == ["thinking", "redacted_thinking", "text", "tool_use", "tool_use"]
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "sunny"}
        for block in first.content
        if block.type == "tool_use"
    ]
    turns += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    second = await sdk.messages.create(messages=turns, **asked)
    assert words_of(second) == TEXT


async def test_our_own_fields_do_not_go_upstream(sdk: anthropic.AsyncAnthropic, claude: Claude) -> None:
    raw = await sdk.messages.with_raw_response.create(
        model=CLAUDE, max_tokens=64, messages=HELLO, extra_body={"gimle": {"explain": True}}
    )
    assert "x-gimle-dropped" not in raw.headers
    assert raw.headers["x-gimle-decision"].startswith("dec_")
    assert "gimle" not in claude.received[0].json


async def test_the_vendor_counts_what_its_models_are_asked(sdk: anthropic.AsyncAnthropic, claude: Claude) -> None:
    counted = await sdk.messages.count_tokens(model=CLAUDE, messages=HELLO, system="Be brief.")
    assert counted.input_tokens == 2095
    assert claude.received[0].path == "/v1/messages/count_tokens"
    assert claude.received[0].json["model"] == "claude-opus-4-8"


# -- errors


@pytest.mark.parametrize(
    "status, raised, kind",
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (401, anthropic.InternalServerError, "api_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (529, anthropic.InternalServerError, "api_error"),
    ],
)
async def test_a_providers_refusal_is_the_sdks_own_exception(
    sdk: anthropic.AsyncAnthropic, claude: Claude, status: int, raised: type[anthropic.APIStatusError], kind: str
) -> None:
    claude.usual = Behaviour(status=status, headers={"retry-after": "30"})
    with pytest.raises(raised) as wrong:
        await sdk.messages.create(model=CLAUDE, max_tokens=64, messages=HELLO)
    assert error_of(wrong.value)["type"] == kind
    assert wrong.value.request_id
    assert KEY not in str(wrong.value)


def error_of(wrong: anthropic.APIStatusError) -> dict[str, Any]:
    body: Any = wrong.body
    assert body["type"] == "error"
    error: dict[str, Any] = body["error"]
    return error


async def test_our_own_refusals_have_anthropics_shape(served: Served, sdk: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        await sdk.messages.create(model="nobody/nothing", max_tokens=64, messages=HELLO)
    error = error_of(unknown.value)
    assert (error["type"], error["details"]["error_code"]) == ("not_found_error", "model_not_found")
    with pytest.raises(anthropic.AuthenticationError) as stranger:
        await sdk.with_options(api_key="gk_nobody").messages.create(model=CLAUDE, max_tokens=64, messages=HELLO)
    assert error_of(stranger.value)["type"] == "authentication_error"
    answer = await served.http.post("/v1/messages", json={"model": CLAUDE, "messages": HELLO})
    assert answer.status_code == 400
    assert answer.json() == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "max_tokens: The request has no max_tokens. Say how long the answer may be, in tokens.",
            "details": {"error_code": "invalid_request", "field": "max_tokens"},
        },
        "request_id": answer.headers["request-id"],
    }
    assert (await served.http.get("/v1/messages")).json()["type"] == "error"
    assert (await served.http.post("/v1/messages/batches")).status_code == 404


@pytest.mark.parametrize("fault", [Behaviour(cut_after=3), Behaviour(events=(event("ping"),))])
async def test_a_stream_that_dies_before_its_words_is_a_refusal(
    sdk: anthropic.AsyncAnthropic, claude: Claude, fault: Behaviour
) -> None:
    claude.usual = fault
    with pytest.raises(anthropic.InternalServerError):
        async with sdk.messages.stream(model=CLAUDE, max_tokens=64, messages=HELLO) as stream:
            await stream.get_final_message()


@pytest.mark.parametrize("model", [CLAUDE, GPT])
async def test_a_stream_that_breaks_never_looks_finished(
    served: Served, sdk: anthropic.AsyncAnthropic, claude: Claude, gpt: Upstream, model: str
) -> None:
    claude.usual = gpt.usual = Behaviour(cut_after=5)
    with pytest.raises(anthropic.APIStatusError, match="upstream_error"):
        async with sdk.messages.stream(model=model, max_tokens=64, messages=HELLO) as stream:
            await stream.get_final_message()
    body = {"model": model, "max_tokens": 64, "messages": HELLO, "stream": True}
    answer = await served.http.post("/v1/messages", json=body)
    last = answer.text.rstrip().rsplit("\n\n", 1)[-1]
    assert last.startswith("event: error\ndata: ")
    assert "message_stop" not in answer.text
    assert json.loads(last.partition("data: ")[2])["error"]["type"] == "api_error"


# -- Anthropic's SDK, OpenAI's models


async def test_an_openai_model_answers_anthropics_sdk(sdk: anthropic.AsyncAnthropic, gpt: Upstream) -> None:
    content: list[Any] = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/bee.png"}},
    ]
    raw = await sdk.messages.with_raw_response.create(
        model=GPT,
        max_tokens=64,
        system="Be brief.",
        messages=[{"role": "user", "content": content}],
        stop_sequences=["END"],
        metadata={"user_id": "anna"},
        extra_body={"top_k": 5, "temperature": 0.5},
    )
    message = await raw.parse()
    assert (words_of(message), message.stop_reason) == ("".join(OPENAI_WORDS), "end_turn")
    # Eleven went in, four of them from the cache.
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (7, 4)
    assert "top_k" in raw.headers["x-gimle-dropped"]
    sent = gpt.received[0].json
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sent["messages"][1]["content"][1]["image_url"]["url"] == f"data:image/png;base64,{PIXEL}"
    assert sent["messages"][1]["content"][2]["image_url"]["url"] == "https://example.com/bee.png"
    assert (sent["stop"], sent["temperature"], sent["user"], sent["max_tokens"]) == (["END"], 0.5, "anna", 64)


async def test_an_openai_stream_is_anthropics_to_its_sdk(sdk: anthropic.AsyncAnthropic, gpt: Upstream) -> None:
    gpt.usual = Behaviour(piece=5)
    async with sdk.messages.stream(model=GPT, max_tokens=64, messages=HELLO) as stream:
        said = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert ("".join(said), words_of(message)) == ("".join(OPENAI_WORDS), "".join(OPENAI_WORDS))
    assert (message.usage.output_tokens, message.stop_reason) == (len(OPENAI_WORDS), "end_turn")


async def test_streamed_calls_of_an_openai_model(sdk: anthropic.AsyncAnthropic, gpt: Upstream) -> None:
    told = [chunk({"role": "assistant", "content": None}), chunk({"content": "I'll look."})]
    for number in (0, 1):
        told.append(chunk(calls(number, name="weather", arguments="")))
        told += [chunk(calls(number, arguments=piece)) for piece in ARGUMENTS]
    gpt.usual = Behaviour(events=(*told, chunk({}, "tool_calls"), b"data: [DONE]\n\n"))
    asked: dict[str, Any] = {"model": GPT, "max_tokens": 64, "tools": [weather_tool()]}
    async with sdk.messages.stream(messages=HELLO, tool_choice={"type": "any"}, **asked) as stream:
        pieces = [event.partial_json async for event in stream if event.type == "input_json"]
        first = await stream.get_final_message()
    assert tuple(pieces) == ARGUMENTS * 2
    assert first.stop_reason == "tool_use"
    used = [block for block in first.content if block.type == "tool_use"]
    assert [(block.id, block.input) for block in used] == [
        ("call_0", {"place": "Zürich", "days": 1.5}),
        ("call_1", {"place": "Zürich", "days": 1.5}),
    ]
    sent = gpt.received[0].json
    assert sent["tools"][0]["function"]["parameters"] == WEATHER
    assert sent["tool_choice"] == "required"
    gpt.usual = None
    results: list[Any] = [{"type": "tool_result", "tool_use_id": block.id, "content": "sunny"} for block in used]
    turns: list[Any] = [*HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    assert words_of(await sdk.messages.create(messages=turns, **asked)) == "".join(OPENAI_WORDS)
    roles = [message["role"] for message in gpt.received[1].json["messages"]]
    assert roles == ["user", "assistant", "tool", "tool"]


async def test_what_an_openai_model_cannot_take_is_named(sdk: anthropic.AsyncAnthropic) -> None:
    tools: list[Any] = [weather_tool(), {"type": "web_search_20250305", "name": "web_search"}]
    with pytest.raises(anthropic.BadRequestError) as wrong:
        await sdk.messages.create(model=GPT, max_tokens=64, messages=HELLO, tools=tools)
    assert error_of(wrong.value)["details"] == {"error_code": "unsupported_parameter", "field": "tools[1]"}
    with pytest.raises(anthropic.BadRequestError) as broken:
        turns: list[Any] = [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}]
        await sdk.messages.create(model=GPT, max_tokens=64, messages=turns)
    assert error_of(broken.value)["details"]["field"] == "messages[0].content[0].source"


async def test_we_count_what_nobody_else_counts(sdk: anthropic.AsyncAnthropic) -> None:
    few = await sdk.messages.count_tokens(model=GPT, messages=HELLO)
    picture = {"type": "image", "source": {"type": "url", "url": "https://example.com/bee.png"}}
    long: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "word " * 1000}, picture]}]
    many = await sdk.messages.count_tokens(model="builtin/extract", messages=long, tools=[weather_tool()])
    assert 0 < few.input_tokens < 20
    assert many.input_tokens > 2000


# -- OpenAI's SDK, Anthropic's models


async def test_claude_answers_openais_sdk(other: openai.AsyncOpenAI, claude: Claude) -> None:
    raw = await other.chat.completions.with_raw_response.create(
        model=CLAUDE,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "system", "content": "In German."},
        ],
        stop="END",
        seed=7,
        temperature=1.5,
    )
    answer = raw.parse()
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (TEXT, "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (23, 14)
    assert raw.headers["x-gimle-dropped"] == "seed, temperature"
    sent = claude.received[0].json
    assert (sent["system"], sent["max_tokens"], sent["stop_sequences"]) == ("Be brief.", 16_384, ["END"])
    assert sent["messages"][1] == {"role": "system", "content": "In German."}


async def test_a_claude_stream_is_openais_to_its_sdk(other: openai.AsyncOpenAI, claude: Claude) -> None:
    claude.usual = Behaviour(piece=4)
    stream = await other.chat.completions.create(
        model=CLAUDE,
        messages=[{"role": "user", "content": "Hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (23, 14)


async def test_claudes_tools_and_thoughts_through_openais_sdk(other: openai.AsyncOpenAI, claude: Claude) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}}
    turns: list[Any] = [{"role": "user", "content": "Hello"}]
    stream = await other.chat.completions.create(
        model=CLAUDE, messages=turns, tools=[tool], stream=True, reasoning_effort="high", parallel_tool_calls=False
    )
    arguments: dict[int, str] = {}
    details: list[dict[str, Any]] = []
    async for piece in stream:
        delta = piece.choices[0].delta
        details += (delta.model_extra or {}).get("reasoning_details", [])
        for call in delta.tool_calls or ():
            said = call.function.arguments if call.function else None
            arguments[call.index] = arguments.get(call.index, "") + (said or "")
    assert arguments == {0: "".join(ARGUMENTS), 1: "".join(ARGUMENTS)}
    assert THOUGHT in str(details)
    assert SIGNATURE in str(details)
    assert SEALED in str(details)
    sent = claude.received[0].json
    assert sent["thinking"] == {"type": "adaptive"}
    assert sent["output_config"] == {"effort": "high"}
    assert sent["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    whole = await other.chat.completions.create(model=CLAUDE, messages=turns, tools=[tool])
    turns += [
        whole.choices[0].message,
        *({"role": "tool", "tool_call_id": f"toolu_0{n}", "content": "sunny"} for n in (1, 2)),
    ]
    last = await other.chat.completions.create(model=CLAUDE, messages=turns, tools=[tool])
    assert last.choices[0].message.content == TEXT
    assert [block["type"] for block in claude.received[-1].json["messages"][-1]["content"]] == ["tool_result"] * 2


async def test_pictures_and_schemas_reach_claude(other: openai.AsyncOpenAI, claude: Claude) -> None:
    content: list[Any] = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/bee.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PIXEL}"}},
    ]
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": WEATHER}}
    await other.chat.completions.create(
        model=CLAUDE, messages=[{"role": "user", "content": content}], response_format=form
    )
    sent = claude.received[0].json
    assert [block["type"] for block in sent["messages"][0]["content"]] == ["text", "image", "image", "document"]
    assert sent["messages"][0]["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": PIXEL}
    assert sent["messages"][0]["content"][3]["title"] == "a.pdf"
    assert sent["output_config"] == {"format": {"type": "json_schema", "schema": WEATHER}}


async def test_what_claude_cannot_do_is_named(other: openai.AsyncOpenAI) -> None:
    cases: list[tuple[dict[str, Any], str]] = [({"n": 2}, "n"), ({"logprobs": True}, "logprobs")]
    for fields, param in cases:
        with pytest.raises(openai.BadRequestError) as wrong:
            await other.chat.completions.create(
                model=CLAUDE,
                messages=[{"role": "user", "content": "Hello"}],
                **fields,
            )
        assert (wrong.value.code, wrong.value.param) == ("unsupported_parameter", param)


# -- from the documents, and models


async def test_documents_answer_in_messages(served: Served, sdk: anthropic.AsyncAnthropic) -> None:
    asked: dict[str, Any] = {"model": "auto", "max_tokens": 64, "messages": [{"role": "user", "content": "Who?"}]}
    ours = {"gimle": {"collection": "default"}}
    whole = await sdk.messages.create(extra_body=ours, **asked)
    told = (whole.model_extra or {})["gimle"]
    assert set(told) == {"citations", "answered", "notice"}
    async with sdk.messages.stream(extra_body=ours, **asked) as stream:
        streamed = await stream.get_final_message()
    assert words_of(streamed) == words_of(whole)
    assert streamed.stop_reason == "end_turn"
    answer = await served.http.post("/v1/messages", json={**asked, **ours, "stream": True})
    ends = [
        json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith('data: {"type":"message_delta"')
    ]
    assert set(ends[0]["delta"]["gimle"]) == {"citations", "answered", "notice"}
    wrong = await served.http.post("/v1/messages", json={**asked, "gimle": {"collection": "none"}})
    assert wrong.json()["error"]["details"]["field"] == "gimle.collection"


async def test_the_builtin_model_answers_anthropics_sdk(sdk: anthropic.AsyncAnthropic) -> None:
    whole = await sdk.messages.create(model="builtin/extract", max_tokens=64, messages=HELLO)
    async with sdk.messages.stream(model="builtin/extract", max_tokens=64, messages=HELLO) as stream:
        assert words_of(await stream.get_final_message()) == words_of(whole) != ""


async def test_models_are_listed_as_either_vendor_does(
    sdk: anthropic.AsyncAnthropic, other: openai.AsyncOpenAI
) -> None:
    theirs = [model.id async for model in sdk.models.list()]
    assert CLAUDE in theirs
    assert theirs == [model.id async for model in other.models.list()]
    shown = await sdk.models.retrieve(CLAUDE)
    assert (shown.id, shown.max_input_tokens) == (CLAUDE, 100_000)
    with pytest.raises(anthropic.NotFoundError):
        await sdk.models.retrieve("nobody/nothing")
