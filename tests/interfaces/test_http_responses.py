"""OpenAI's responses with OpenAI's own SDK against a running server, before a provider that knows chat only."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest
from tests.interfaces.serving import Served, serving
from tests.interfaces.vendor import calls, chunk

from gimle.app import App
from gimle.testing import WORDS, Behaviour, Upstream

FIXTURES = Path(__file__).parents[1] / "fixtures" / "dialects" / "responses"
TEXT = "".join(WORDS)
TOOLS: Any = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "The weather somewhere.",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
        "strict": False,
    }
]


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    """The server, with the stand-in as a provider of chat, and once more as one of responses."""
    async with serving(app, tenants[0]) as running:
        for name, dialect in (("chat", "openai"), ("native", "responses")):
            provider = {"name": name, "base_url": upstream.url, "dialect": dialect, "any_model": True}
            await running.provide(provider)
        yield running


def calling(*pieces: str) -> tuple[bytes, ...]:
    """A stream that calls a tool with arguments in pieces."""
    begun = calls(0, name="get_weather", arguments="")
    more = [chunk(calls(0, arguments=piece)) for piece in pieces]
    return (chunk({"role": "assistant", **begun}), *more, chunk({}, "tool_calls"), b"data: [DONE]\n\n")


def sse(name: str) -> tuple[bytes, ...]:
    return tuple(event + b"\n\n" for event in (FIXTURES / name).read_bytes().split(b"\n\n") if event)


# -- one answer


async def test_the_sdk_gets_a_response(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    answer = await sdk.responses.create(
        model="chat/m",
        instructions="Be brief.",
        input="When do bees swarm?",
        temperature=0.3,
        max_output_tokens=50,
        metadata={"case": "7"},
    )
    assert (answer.output_text, answer.status, answer.id[:5]) == (TEXT, "completed", "resp_")
    assert (answer.instructions, answer.temperature, answer.metadata) == ("Be brief.", 0.3, {"case": "7"})
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.input_tokens_details.cached_tokens) == (11, 4)
    assert (answer.usage.output_tokens, answer.usage.total_tokens) == (8, 19)
    sent = upstream.received[-1]
    assert sent.path == "/v1/chat/completions"
    assert [(said["role"], said["content"]) for said in sent.json["messages"]] == [
        ("system", "Be brief."),
        ("user", "When do bees swarm?"),
    ]
    assert sent.json["max_tokens"] == 50


async def test_the_headers_of_the_contract(sdk: openai.AsyncOpenAI) -> None:
    raw = await sdk.responses.with_raw_response.create(model="chat/m", input="Hi", truncation="auto")
    assert raw.headers["x-gimle-provider"] == "chat"
    assert "truncation" in raw.headers["x-gimle-dropped"]
    assert raw.headers["x-gimle-attempts"] == "1"


async def test_the_sdk_reads_a_typed_stream(sdk: openai.AsyncOpenAI) -> None:
    async with sdk.responses.stream(model="chat/m", input="When do bees swarm?") as stream:
        told = [event async for event in stream]
        final = await stream.get_final_response()
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert [event.type for event in told][:2] == ["response.created", "response.in_progress"]
    assert told[-1].type == "response.completed"
    assert "".join(event.delta for event in told if event.type == "response.output_text.delta") == TEXT
    assert final.output_text == TEXT
    assert final.usage is not None
    assert final.usage.output_tokens == 8


async def test_the_sdk_reads_a_raw_stream(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.responses.create(model="chat/m", input="Hi", stream=True)
    told = [event async for event in stream]
    assert told[0].type == "response.created"
    assert told[-1].type == "response.completed"
    assert told[0].response.id == told[-1].response.id


async def test_arguments_of_tools_come_in_pieces(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(events=calling('{"loca', 'tion":"Zü', 'rich"}')))
    async with sdk.responses.stream(model="chat/m", input="Weather?", tools=TOOLS, tool_choice="required") as stream:
        pieces = [event.delta async for event in stream if event.type == "response.function_call_arguments.delta"]
        first = await stream.get_final_response()
    assert pieces == ['{"loca', 'tion":"Zü', 'rich"}']
    call = first.output[0]
    assert call.type == "function_call"
    assert (call.call_id, call.name, call.arguments) == ("call_0", "get_weather", '{"location":"Zürich"}')
    result: Any = [{"type": "function_call_output", "call_id": "call_0", "output": "Sun."}]
    second = await sdk.responses.create(model="chat/m", previous_response_id=first.id, input=result, tools=TOOLS)
    assert second.output_text == TEXT
    messages = upstream.received[-1].json["messages"]
    assert [said["role"] for said in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == '{"location":"Zürich"}'
    assert (messages[2]["tool_call_id"], messages[2]["content"]) == ("call_0", "Sun.")


async def test_thoughts_are_told(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    thought = (chunk({"reasoning_content": "Hm. "}), chunk({"reasoning_content": "Bees."}), chunk({"content": "May."}))
    upstream.plan.append(Behaviour(events=(*thought, chunk({}, "stop"), b"data: [DONE]\n\n")))
    async with sdk.responses.stream(model="chat/m", input="Why?", reasoning={"effort": "low"}) as stream:
        told = [event async for event in stream]
        final = await stream.get_final_response()
    deltas = [event.delta for event in told if event.type == "response.reasoning_summary_text.delta"]
    assert deltas == ["Hm. ", "Bees."]
    reasoning = final.output[0]
    assert reasoning.type == "reasoning"
    assert (reasoning.summary[0].text, final.output_text) == ("Hm. Bees.", "May.")
    assert upstream.received[-1].json["reasoning_effort"] == "low"


async def test_an_answer_in_a_form(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    form: Any = {"format": {"type": "json_schema", "name": "a", "schema": schema, "strict": True}}
    await sdk.responses.create(model="chat/m", input="Hi", text=form)
    sent = upstream.received[-1].json["response_format"]
    assert sent == {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}


# -- conversations


async def test_a_conversation_goes_on_by_the_id(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    first = await sdk.responses.create(model="chat/m", input="One", instructions="Only now.")
    async with sdk.responses.stream(model="chat/m", input="Two", previous_response_id=first.id) as stream:
        second = await stream.get_final_response()
    third = await sdk.responses.create(model="chat/m", input="Three", previous_response_id=second.id)
    assert third.previous_response_id == second.id
    said = [(message["role"], message["content"]) for message in upstream.received[-1].json["messages"]]
    assert said == [("user", "One"), ("assistant", TEXT), ("user", "Two"), ("assistant", TEXT), ("user", "Three")]


async def test_a_conversation_moves_to_a_provider_of_responses(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    first = await sdk.responses.create(model="chat/m", input="One")
    upstream.plan.append(Behaviour(body=(FIXTURES / "tools.json").read_bytes()))
    second = await sdk.responses.create(
        model="native/o4", input="Two", previous_response_id=first.id, tools=TOOLS, reasoning={"effort": "low"}
    )
    sent = upstream.received[-1]
    assert (sent.path, sent.json["model"], sent.json["store"]) == ("/v1/responses", "o4", False)
    assert sent.json["include"] == ["reasoning.encrypted_content"]
    assert "previous_response_id" not in sent.json
    assert [item["role"] for item in sent.json["input"]] == ["user", "assistant", "user"]
    assert [item.type for item in second.output] == ["reasoning", "function_call", "function_call"]
    assert (second.previous_response_id, second.to_dict()["store"]) == (first.id, True)
    # There again, its sealed thoughts go along; elsewhere they would not open.
    results: Any = [
        {"type": "function_call_output", "call_id": f"call_zPQ{number}", "output": "Sun."} for number in (1, 2)
    ]
    upstream.plan.append(Behaviour(events=sse("refusal.sse")))
    async with sdk.responses.stream(model="native/o4", input=results, previous_response_id=second.id) as stream:
        third = await stream.get_final_response()
    kinds = [item["type"] for item in upstream.received[-1].json["input"]]
    assert kinds == [*["message"] * 3, "reasoning", *["function_call"] * 2, *["function_call_output"] * 2]
    assert upstream.received[-1].json["input"][3]["encrypted_content"] == "gAAAAABoBr_LkE3"
    await sdk.responses.create(model="chat/m", input="Four", previous_response_id=third.id)
    messages = upstream.received[-1].json["messages"]
    assert [said["role"] for said in messages] == [
        *("user", "assistant", "user", "assistant", "tool", "tool", "assistant", "user"),
    ]


async def test_a_stream_passes_as_it_came_but_for_its_id(served: Served, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(events=sse("tools.sse"), piece=7))
    body = {"model": "native/o4", "input": "Weather?", "stream": True}
    answer = await served.http.post("/v1/responses", json=body)
    told = answer.content.split(b"\n\n")
    came = (FIXTURES / "tools.sse").read_bytes().split(b"\n\n")
    own = [number for number, (ours, theirs) in enumerate(zip(told, came, strict=True)) if ours != theirs]
    assert own == [0, 1, len(came) - 2]
    ids = {json.loads(told[number].partition(b"data: ")[2])["response"]["id"] for number in own}
    assert len(ids) == 1
    assert (await served.http.get(f"/v1/responses/{ids.pop()}")).json()["status"] == "completed"


async def test_a_response_is_found_and_forgotten(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.responses.create(model="chat/m", input="One", metadata={"a": "b"})
    assert (await sdk.responses.retrieve(made.id)).to_dict() == made.to_dict()
    await sdk.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.delete(made.id)


async def test_the_items_of_a_conversation_are_listed(sdk: openai.AsyncOpenAI) -> None:
    first = await sdk.responses.create(model="chat/m", input="One")
    parts: Any = [{"role": "user", "content": [{"type": "input_text", "text": "Two"}]}]
    second = await sdk.responses.create(model="chat/m", input=parts, previous_response_id=first.id)
    page = await sdk.responses.input_items.list(second.id, limit=2)
    listed: list[Any] = [item async for item in page]
    assert [(item.role, item.content[0].text) for item in listed] == [
        ("user", "Two"),
        ("assistant", TEXT),
        ("user", "One"),
    ]
    assert len({item.id for item in listed}) == 3
    ordered: list[Any] = [item async for item in await sdk.responses.input_items.list(second.id, order="asc")]
    assert [item.id for item in ordered] == [item.id for item in reversed(listed)]


async def test_what_is_not_to_be_kept_is_not(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.responses.create(model="chat/m", input="One", store=False)
    assert made.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError) as unknown:
        await sdk.responses.create(model="chat/m", input="Two", previous_response_id=made.id)
    assert (unknown.value.param, unknown.value.code) == ("previous_response_id", "previous_response_not_found")


async def test_a_conversation_with_a_hole_is_not_continued(sdk: openai.AsyncOpenAI) -> None:
    first = await sdk.responses.create(model="chat/m", input="One")
    second = await sdk.responses.create(model="chat/m", input="Two", previous_response_id=first.id)
    await sdk.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="is gone") as lost:
        await sdk.responses.create(model="chat/m", input="Three", previous_response_id=second.id)
    assert lost.value.param == "previous_response_id"


async def test_another_tenants_response_is_an_unknown_one(
    app: App, tenants: tuple[str, str], sdk: openai.AsyncOpenAI
) -> None:
    made = await sdk.responses.create(model="chat/m", input="One")
    key = await app.keys.create(tenants[1], "other", admin=True)
    await app.ring.refresh()
    other = sdk.with_options(api_key=key.token)
    asking = (
        other.responses.retrieve(made.id),
        other.responses.delete(made.id),
        other.responses.cancel(made.id),
        other.responses.input_items.list(made.id),
        other.responses.create(model="builtin/extract", input="Two", previous_response_id=made.id),
    )
    for one in asking:
        with pytest.raises(openai.NotFoundError, match=f"no response '{made.id}'"):
            await one
    assert (await sdk.responses.retrieve(made.id)).id == made.id


async def test_what_has_expired_is_gone(app: App, tenants: tuple[str, str], sdk: openai.AsyncOpenAI) -> None:
    old = await sdk.responses.create(model="chat/m", input="One")
    new = await sdk.responses.create(model="chat/m", input="Two")
    await sdk.responses.retrieve(old.id)
    await sdk.responses.retrieve(new.id)
    async with app.db.tenant(tenants[0]) as conn:
        await conn.execute("update response set expires_at = now() - interval '1 s' where id = %s", (old.id,))
        await conn.execute("update response set expires_at = now() + interval '1 h' where id = %s", (new.id,))
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(old.id)
    assert await app.responses.sweep(tenants[0]) == 1
    built = await sdk.responses.create(model="chat/m", input="Three", previous_response_id=new.id)
    await sdk.responses.retrieve(built.id)
    async with app.db.tenant(tenants[0]) as conn:
        cursor = await conn.execute("select min(expires_at) > now() + interval '29 days' as renewed from response")
        assert await cursor.fetchone() == {"renewed": True}


async def test_an_answer_that_could_not_be_kept_breaks_nothing_later(app: App, sdk: openai.AsyncOpenAI) -> None:
    """As after a crash between the answer and its row."""
    with psycopg.connect(app.db.url, autocommit=True) as owner:
        # In a thread: it waits for whoever has just looked into the table, and that is done by the loop.
        await asyncio.to_thread(owner.execute, "alter table gimle.response rename to elsewhere")
        made = await sdk.responses.create(model="chat/m", input="One")
        assert made.output_text == TEXT
        async with asyncio.timeout(5):
            while app.responses.waiting:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(owner.execute, "alter table gimle.elsewhere rename to response")
    with pytest.raises(openai.NotFoundError, match="not stored") as lost:
        await sdk.responses.create(model="chat/m", input="Two", previous_response_id=made.id)
    assert lost.value.param == "previous_response_id"
    again = await sdk.responses.create(model="chat/m", input="Two")
    assert (await sdk.responses.retrieve(again.id)).id == again.id


# -- what goes wrong


async def test_faults_are_the_sdks_typed_exceptions(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await sdk.responses.create(model="nobody/nothing", input="Hi")
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
    for fields, param in (
        ({"input": "Hi", "temperature": "hot"}, "temperature"),
        ({"input": 3}, "input"),
        ({"input": "Hi", "background": True}, "background"),
        ({"input": "Hi", "extra_body": {"conversation": "conv_1"}}, "conversation"),
        ({"input": "Hi", "tools": [{"type": "web_search_preview"}]}, "tools[0]"),
        ({"input": "Hi", "previous_response_id": 3}, "previous_response_id"),
        ({"input": "Hi", "extra_body": {"gimle": {"collection": "default"}}}, "gimle.collection"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0]"),
    ):
        asked: Any = fields
        with pytest.raises(openai.BadRequestError) as wrong:
            await sdk.responses.create(model="chat/m", **asked)
        assert wrong.value.param == param
    upstream.usual = Behaviour(status=429, headers={"retry-after": "60"})
    with pytest.raises(openai.RateLimitError):
        await sdk.responses.create(model="chat/m", input="Hi")


async def test_a_refusal_of_the_provider_is_passed_on(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    for model in ("chat/m", "native/o4"):
        upstream.plan.append(Behaviour(status=400))
        with pytest.raises(openai.BadRequestError, match="The mock answers 400"):
            await sdk.responses.create(model=model, input="Hi")


async def test_only_the_background_can_be_cancelled(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.responses.create(model="chat/m", input="Hi")
    with pytest.raises(openai.BadRequestError, match="does not run in the background"):
        await sdk.responses.cancel(made.id)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.cancel("resp_1")


@pytest.mark.parametrize("model", ["chat/m", "native/o4"])
async def test_a_stream_that_breaks_never_looks_finished(
    sdk: openai.AsyncOpenAI, served: Served, upstream: Upstream, model: str
) -> None:
    events = sse("tools.sse") if model == "native/o4" else None
    upstream.usual = Behaviour(cut_after=9, chunks=3, events=events)
    id_ = ""
    with pytest.raises(openai.APIError):
        async for event in await sdk.responses.create(model=model, input="Hi", stream=True):
            assert event.type not in ("response.completed", "response.incomplete")
            id_ = event.response.id if event.type == "response.created" else id_
    broken = await sdk.responses.retrieve(id_)
    assert broken.status == "failed"
    assert broken.error is not None
    answer = await served.http.post("/v1/responses", json={"model": model, "input": "Hi", "stream": True})
    last = [json.loads(event.partition(b"data: ")[2]) for event in answer.content.split(b"\n\n") if event]
    assert [event["type"] for event in last[-2:]] == ["response.failed", "error"]
    assert [event["sequence_number"] for event in last] == list(range(len(last)))


async def test_a_caller_who_leaves_ends_the_work_and_finds_what_had_come(
    sdk: openai.AsyncOpenAI, upstream: Upstream
) -> None:
    upstream.usual = Behaviour(chunks=1000, event_delay=0.01)
    stream = await sdk.responses.create(model="chat/m", input="Hi", stream=True)
    events = aiter(stream)
    begun = await anext(events)
    assert begun.type == "response.created"
    for _ in range(5):
        await anext(events)
    await stream.close()
    await asyncio.wait_for(upstream.left.wait(), 5)
    async with asyncio.timeout(5):
        while True:
            try:
                left = await sdk.responses.retrieve(begun.response.id)
                break
            except openai.NotFoundError:
                await asyncio.sleep(0.01)
    assert left.status == "cancelled"


async def test_the_engine_inside_answers_too(sdk: openai.AsyncOpenAI) -> None:
    first = await sdk.responses.create(model="builtin/extract", input="Who are you?")
    assert first.output_text
    async with sdk.responses.stream(
        model="builtin/extract", input="And again?", previous_response_id=first.id
    ) as stream:
        assert (await stream.get_final_response()).output_text
