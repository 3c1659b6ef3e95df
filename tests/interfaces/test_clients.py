"""Clients that people have already run unchanged against Gimle: OpenAI's own SDK, simonw's `llm`, LangChain.

Behind Gimle stands a provider with OpenAI's interface; what it answers is hand-written from the published schema.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel, SecretStr
from tests.interfaces import vendor
from tests.interfaces.served import ran
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.testing import WORDS, Behaviour, Upstream

SENTENCE = "".join(WORDS)
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "When do bees swarm?"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="


class Event(BaseModel):
    """An appointment."""

    name: str
    day: str
    guests: list[str]


EVENT = '{"name": "Honey fair", "day": "Friday", "guests": ["Anna", "Jörg"]}'


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    """The server, with the stand-in added as a provider over REST."""
    async with serving(app, tenants[0]) as running:
        await running.provide(vendor.provider(upstream))
        yield running


def sent(upstream: Upstream) -> dict[str, Any]:
    """The last request that reached the provider."""
    body: dict[str, Any] = upstream.received[-1].json
    return body


# -- OpenAI's SDK


async def test_the_sdk_chats(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    answer = await sdk.chat.completions.create(
        model="stand/mock", messages=HELLO, stop=["\n\n", "END"], seed=7, temperature=0.3, n=1, user="u-1"
    )
    assert answer.choices[0].message.content == SENTENCE
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, len(WORDS))
    asked = sent(upstream)
    assert {"stop": ["\n\n", "END"], "seed": 7, "temperature": 0.3, "n": 1, "user": "u-1"}.items() <= asked.items()
    assert asked["messages"] == HELLO


async def test_the_sdk_chats_from_a_program_without_a_loop(served: Served) -> None:
    def program() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=served.url + "/v1", api_key=served.token, max_retries=0) as client:
            whole = client.chat.completions.create(model="stand/mock", messages=HELLO)
            stream = client.chat.completions.create(model="stand/mock", messages=HELLO, stream=True)
            said = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
            return whole.choices[0].message.content, said

    assert await asyncio.to_thread(program) == (SENTENCE, SENTENCE)


async def test_the_sdk_reads_a_stream_and_its_usage(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    for wanted in (True, False):
        stream = await sdk.chat.completions.create(
            model="stand/mock",
            messages=HELLO,
            stream=True,
            stream_options={"include_usage": True} if wanted else openai.omit,
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SENTENCE
        told = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage is not None]
        assert told == ([len(WORDS)] if wanted else [])
        assert all(chunk.choices for chunk in chunks) == (not wanted)
        # The provider was asked for it both times: what is used has to be counted.
        assert sent(upstream)["stream_options"] == {"include_usage": True}


async def test_the_sdk_calls_tools(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.plan.append(vendor.says(None, finish="tool_calls", tool_calls=[vendor.WEATHER_CALL]))
    answer = await sdk.chat.completions.create(
        model="stand/mock", messages=HELLO, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert json.loads(calls[0].function.arguments) == {"city": "Köln", "unit": "celsius"}
    assert sent(upstream)["tools"] == [WEATHER]
    assert (sent(upstream)["tool_choice"], sent(upstream)["parallel_tool_calls"]) == ("required", False)

    told: list[ChatCompletionMessageParam] = [
        *HELLO,
        {"role": "assistant", "tool_calls": [{"id": calls[0].id, "type": "function", "function": {
            "name": "get_weather", "arguments": calls[0].function.arguments}}]},
        {"role": "tool", "tool_call_id": calls[0].id, "content": '{"degrees": 21}'},
    ]  # fmt: skip
    upstream.plan.append(vendor.says("21 °C in Köln."))
    answer = await sdk.chat.completions.create(model="stand/mock", messages=told, tools=[WEATHER])
    assert answer.choices[0].message.content == "21 °C in Köln."
    assert sent(upstream)["messages"] == told


async def test_the_sdk_streams_the_arguments_of_tools(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.plan.append(vendor.streams_the_weather_call())
    async with sdk.chat.completions.stream(model="stand/mock", messages=HELLO, tools=[WEATHER]) as stream:
        events = [event async for event in stream]
        message = (await stream.get_final_completion()).choices[0].message
    pieces = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert len(pieces) >= 6
    assert message.tool_calls is not None
    assert [call.id for call in message.tool_calls] == [vendor.WEATHER_CALL["id"], "call_second"]
    for call in message.tool_calls:
        assert call.function.arguments == vendor.WEATHER_CALL["function"]["arguments"]


async def test_the_sdk_shows_a_picture(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.plan.append(vendor.says("A single pixel."))
    asked: list[ChatCompletionMessageParam] = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is in these?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "https://pictures.example/bee.jpg"}},
            ],
        }
    ]
    answer = await sdk.chat.completions.create(model="stand/mock", messages=asked)
    assert answer.choices[0].message.content == "A single pixel."
    assert sent(upstream)["messages"] == asked


async def test_the_sdk_parses_an_answer_that_fits_a_schema(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.plan.append(vendor.says(EVENT))
    answer = await sdk.chat.completions.parse(model="stand/mock", messages=HELLO, response_format=Event)
    assert answer.choices[0].message.parsed == Event(name="Honey fair", day="Friday", guests=["Anna", "Jörg"])
    asked = sent(upstream)["response_format"]["json_schema"]
    assert (asked["name"], asked["strict"], asked["schema"]["required"]) == ("Event", True, ["name", "day", "guests"])

    upstream.plan.append(vendor.says(None, refusal="I'm sorry, I can't help with that."))
    answer = await sdk.chat.completions.parse(model="stand/mock", messages=HELLO, response_format=Event)
    assert answer.choices[0].message.refusal == "I'm sorry, I can't help with that."


async def test_the_sdk_reads_logprobs(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.plan.append(vendor.says("Yes", logprobs=vendor.LOGPROBS))
    answer = await sdk.chat.completions.create(model="stand/mock", messages=HELLO, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [rival.token for rival in logprobs.content[0].top_logprobs] == ["Yes", "No"]
    assert (sent(upstream)["logprobs"], sent(upstream)["top_logprobs"]) == (True, 2)


async def test_the_sdk_embeds(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    made = await sdk.embeddings.create(model="stand/vectors", input=["a bee", "a hive"])
    assert [item.index for item in made.data] == [0, 1]
    assert [len(item.embedding) for item in made.data] == [8, 8]
    assert made.data[0].embedding != made.data[1].embedding
    assert made.usage.prompt_tokens == 6
    shorter = await sdk.embeddings.create(model="stand/vectors", input="a bee", dimensions=4, encoding_format="float")
    assert len(shorter.data[0].embedding) == 4


async def test_the_sdk_lists_models(sdk: openai.AsyncOpenAI) -> None:
    assert {"stand/mock", "stand/vectors"} <= {model.id async for model in sdk.models.list()}
    assert (await sdk.models.retrieve("stand/mock")).owned_by == "stand"


FAULTS: tuple[tuple[Behaviour, type[openai.APIStatusError], str], ...] = (
    (
        vendor.refuses(400, "Invalid value for 'temperature'.", "invalid_request_error", param="temperature"),
        openai.BadRequestError,
        "Invalid value for 'temperature'.",
    ),
    (
        vendor.refuses(
            400,
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
            "invalid_request_error",
            param="messages",
            code="context_length_exceeded",
        ),
        openai.BadRequestError,
        "maximum context length is 8192 tokens",
    ),
    (
        vendor.refuses(404, "The model `mock` does not exist.", "invalid_request_error", code="model_not_found"),
        openai.NotFoundError,
        "The model `mock` does not exist.",
    ),
    (
        vendor.refuses(422, "Unprocessable: bees.", "invalid_request_error"),
        openai.UnprocessableEntityError,
        "Unprocessable: bees.",
    ),
)


async def test_the_sdk_raises_its_own_errors_with_the_providers_words(
    sdk: openai.AsyncOpenAI, upstream: Upstream
) -> None:
    for fault, kind, words in FAULTS:
        upstream.usual = fault
        told = json.loads(fault.body or b"")["error"]
        for stream in (False, True):
            with pytest.raises(kind, match=words) as raised:
                await sdk.chat.completions.create(model="stand/mock", messages=HELLO, stream=stream)
            assert raised.value.request_id
            assert (raised.value.type, raised.value.param) == (told["type"], told["param"])


async def test_the_sdk_knows_a_rate_limit_and_how_long_it_lasts(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    limit = vendor.refuses(429, "Rate limit reached for requests", "requests", code="rate_limit_exceeded")
    upstream.usual = Behaviour(status=429, headers={"retry-after": "70"}, body=limit.body)
    with pytest.raises(openai.RateLimitError, match="Rate limit reached for requests") as raised:
        await sdk.chat.completions.create(model="stand/mock", messages=HELLO)
    assert int(raised.value.response.headers["retry-after"]) >= 70


async def test_the_sdk_knows_a_provider_that_is_down(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.usual = vendor.refuses(503, "The engine is currently overloaded.", "server_error")
    with pytest.raises(openai.InternalServerError):
        await sdk.chat.completions.create(model="stand/mock", messages=HELLO)


async def test_the_sdk_knows_a_key_that_is_not_valid(served: Served) -> None:
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="gk_no_key", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as raised:
            await stranger.chat.completions.create(model="stand/mock", messages=HELLO)
    assert raised.value.code == "invalid_api_key"


async def test_the_sdk_sees_a_stream_that_broke_as_broken(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.usual = Behaviour(cut_after=4)
    stream = await sdk.chat.completions.create(model="stand/mock", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError):
        async for _ in stream:
            pass


# -- simonw's llm


@pytest.fixture
def llm_home(tmp_path: Path, served: Served) -> Path:
    """A user's folder of `llm`, whose only own model is behind Gimle."""
    model = f"""
- model_id: gimle
  model_name: stand/mock
  api_base: "{served.url}/v1"
  api_key_name: gimle
  supports_tools: true
  supports_schema: true
  vision: true
"""
    (tmp_path / "extra-openai-models.yaml").write_text(model)
    (tmp_path / "keys.json").write_text(json.dumps({"gimle": served.token}))
    return tmp_path


async def run_llm(home: Path, *arguments: str) -> str:
    return await ran(sys.executable, "-m", "llm", *arguments, home=home)


async def test_llm_asks(llm_home: Path, upstream: Upstream) -> None:
    for flags in ([], ["--no-stream"]):
        said = await run_llm(llm_home, "-m", "gimle", "-s", "Be brief.", *flags, "When do bees swarm?")
        assert said == SENTENCE + "\n"
        asked = sent(upstream)
        assert bool(asked.get("stream")) == (not flags)
        assert asked["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "When do bees swarm?"},
        ]


async def test_llm_holds_an_answer_to_a_schema(llm_home: Path, upstream: Upstream) -> None:
    upstream.plan.append(vendor.says(EVENT))
    said = await run_llm(llm_home, "-m", "gimle", "--no-stream", "--schema", "name, day", "Which event?")
    assert json.loads(said)["name"] == "Honey fair"
    assert sent(upstream)["response_format"]["json_schema"]["schema"]["properties"].keys() == {"name", "day"}


async def test_llm_calls_tools(llm_home: Path, upstream: Upstream) -> None:
    version = {"index": 0, "id": "call_v", "type": "function", "function": {"name": "llm_version", "arguments": "{}"}}
    upstream.plan.append(vendor.streams({"tool_calls": [version]}, finish="tool_calls"))
    upstream.plan.append(vendor.streams({"content": "It is "}, {"content": "the newest."}))
    assert await run_llm(llm_home, "-m", "gimle", "-T", "llm_version", "Which llm?") == "It is the newest.\n"
    result = sent(upstream)["messages"][-1]
    assert (result["role"], result["tool_call_id"]) == ("tool", "call_v")


# -- LangChain


@pytest.fixture
async def connections() -> AsyncIterator[httpx.AsyncClient]:
    """LangChain keeps its own for as long as the process lives; a test has to close what it opens."""
    async with httpx.AsyncClient() as client:
        yield client


@pytest.fixture
def chat(served: Served, connections: httpx.AsyncClient) -> ChatOpenAI:
    key = SecretStr(served.token)
    url = served.url + "/v1"
    return ChatOpenAI(model="stand/mock", base_url=url, api_key=key, max_retries=0, http_async_client=connections)


async def test_langchain_invokes(chat: ChatOpenAI) -> None:
    answer = await chat.ainvoke("When do bees swarm?")
    assert answer.content == SENTENCE
    assert answer.usage_metadata is not None
    assert (answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]) == (11, len(WORDS))


async def test_langchain_streams(chat: ChatOpenAI) -> None:
    pieces = [piece async for piece in chat.astream("When do bees swarm?", stream_usage=True)]
    assert "".join(str(piece.content) for piece in pieces) == SENTENCE
    told = [piece.usage_metadata for piece in pieces if piece.usage_metadata]
    assert [usage["output_tokens"] for usage in told] == [len(WORDS)]


async def test_langchain_calls_tools(chat: ChatOpenAI, upstream: Upstream) -> None:
    able = chat.bind_tools([dict(WEATHER)], tool_choice="get_weather")
    upstream.plan.append(vendor.says(None, finish="tool_calls", tool_calls=[vendor.WEATHER_CALL]))
    answer = await able.ainvoke("How warm is it?")
    call = answer.tool_calls[0]
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Köln", "unit": "celsius"})
    assert sent(upstream)["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}

    upstream.plan.append(vendor.says("21 °C."))
    told = [HumanMessage("How warm is it?"), answer, ToolMessage("21", tool_call_id=call["id"])]
    assert (await chat.ainvoke(told)).content == "21 °C."
    assert sent(upstream)["messages"][-1] == {"role": "tool", "content": "21", "tool_call_id": call["id"]}


async def test_langchain_streams_the_arguments_of_tools(chat: ChatOpenAI, upstream: Upstream) -> None:
    upstream.plan.append(vendor.streams_the_weather_call(usage=True))
    pieces = [piece async for piece in chat.bind_tools([dict(WEATHER)]).astream("How warm is it?")]
    whole = sum(pieces[1:], pieces[0])
    assert [call["args"] for call in whole.tool_calls] == [{"city": "Köln", "unit": "celsius"}] * 2
    assert whole.response_metadata["finish_reason"] == "tool_calls"


async def test_langchain_holds_an_answer_to_a_schema(chat: ChatOpenAI, upstream: Upstream) -> None:
    call = {"id": "call_e", "type": "function", "function": {"name": "Event", "arguments": EVENT}}
    upstream.plan.append(vendor.says(EVENT))
    upstream.plan.append(vendor.says(None, finish="tool_calls", tool_calls=[call]))
    by_schema = chat.with_structured_output(Event, method="json_schema")
    by_tool = chat.with_structured_output(Event, method="function_calling")
    for able in (by_schema, by_tool):
        assert await able.ainvoke("Which event?") == Event(name="Honey fair", day="Friday", guests=["Anna", "Jörg"])


async def test_langchain_embeds(served: Served, connections: httpx.AsyncClient) -> None:
    embeddings = OpenAIEmbeddings(
        model="stand/vectors",
        base_url=served.url + "/v1",
        api_key=SecretStr(served.token),
        check_embedding_ctx_length=False,
        http_async_client=connections,
    )
    assert [len(vector) for vector in await embeddings.aembed_documents(["a bee", "a hive"])] == [8, 8]
