"""Files uploaded with both vendors' SDKs, named in requests of each dialect, and never seen by another tenant."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.images import png
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.foundation import ids
from gimle.interfaces.http.attached import _named
from gimle.testing import Upstream

MODEL = "stand/mock"
PICTURE = png()
PNG = base64.b64encode(PICTURE).decode()
SHOWN = f"data:image/png;base64,{PNG}"


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running:
        await running.provide({"name": "stand", "base_url": upstream.url, "models": [{"name": "mock"}]})
        yield running


@pytest.fixture
async def claude(served: Served) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=served.url, api_key=served.token, max_retries=0) as client:
        yield client


async def test_a_file_with_openais_sdk(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.files.create(file=("Biene 🐝.png", PICTURE), purpose="vision")
    assert (made.object, made.bytes, made.filename, made.purpose) == ("file", len(PICTURE), "Biene 🐝.png", "vision")
    assert (await sdk.files.retrieve(made.id)).created_at == made.created_at
    assert (await sdk.files.content(made.id)).content == PICTURE
    other = await sdk.files.create(file=("notes.txt", b"Bees swarm in May."), purpose="user_data")
    assert [file.id async for file in sdk.files.list(limit=1)] == [other.id, made.id]
    assert [file.id async for file in sdk.files.list(order="asc")] == [made.id, other.id]
    assert [file.id async for file in sdk.files.list(purpose="vision")] == [made.id]
    assert (await sdk.files.delete(made.id)).deleted
    for call in (sdk.files.retrieve, sdk.files.content, sdk.files.delete):
        with pytest.raises(openai.NotFoundError):
            await call(made.id)


async def test_a_file_with_anthropics_sdk(claude: anthropic.AsyncAnthropic) -> None:
    made = await claude.beta.files.upload(file=("bee.png", PICTURE, "image/png"))
    assert (made.type, made.mime_type, made.size_bytes, made.filename) == ("file", "image/png", len(PICTURE), "bee.png")
    assert (await claude.beta.files.retrieve_metadata(made.id)).created_at == made.created_at
    assert [file.id async for file in claude.beta.files.list()] == [made.id]
    assert await (await claude.beta.files.download(made.id)).read() == PICTURE
    assert (await claude.beta.files.delete(made.id)).type == "file_deleted"
    with pytest.raises(anthropic.NotFoundError):
        await claude.beta.files.retrieve_metadata(made.id)


async def test_anthropics_sdk_goes_on_to_the_next_page(claude: anthropic.AsyncAnthropic) -> None:
    made = [(await claude.beta.files.upload(file=(f"{n}.png", png(n + 1, 1), "image/png"))).id for n in range(5)]
    assert [file.id async for file in claude.beta.files.list(limit=2)] == made[::-1]


async def test_the_bytes_stay_until_the_last_file_with_them_goes(sdk: openai.AsyncOpenAI) -> None:
    first = await sdk.files.create(file=("a.png", PICTURE), purpose="vision")
    second = await sdk.files.create(file=("b.png", PICTURE), purpose="vision")
    await sdk.files.delete(first.id)
    assert (await sdk.files.content(second.id)).content == PICTURE
    await sdk.files.delete(second.id)
    third = await sdk.files.create(file=("c.png", PICTURE), purpose="vision")
    assert (await sdk.files.content(third.id)).content == PICTURE


@pytest.mark.parametrize(
    "name,data,purpose,field",
    [
        ("a.png", b"", "vision", "file"),
        ("a.png", b"<html>", "vision", "file"),
        ("a.jsonl", b"{}", "fine-tune", "purpose"),
        ("a\u2028b", b"x", "user_data", "file"),
        ("a" * 256, b"x", "user_data", "file"),
    ],
)
async def test_a_file_that_is_refused(
    sdk: openai.AsyncOpenAI, name: str, data: bytes, purpose: Any, field: str
) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        await sdk.files.create(file=(name, data), purpose=purpose)
    assert wrong.value.param == field


async def test_a_form_without_a_file_and_a_page_that_is_none(served: Served) -> None:
    assert (await served.http.post("/v1/files", data={"purpose": "vision"})).status_code == 400
    assert (await served.http.post("/v1/files", files={"other": b"x"})).status_code == 400
    for query in ("limit=0", "limit=x", "limit=-1", "order=up"):
        assert (await served.http.get(f"/v1/files?{query}")).status_code == 400
    assert (await served.http.get("/v1/files?after=unknown")).json()["data"] == []


async def test_a_browser_keeps_a_file_and_does_not_show_it(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.files.create(file=("a.html", b"<script>alert(1)</script>"), purpose="user_data")
    raw = await sdk.files.with_raw_response.content(made.id)
    assert raw.headers["content-type"] == "text/plain"
    assert raw.headers["content-disposition"] == "attachment"


# -- in requests


async def test_a_picture_by_its_id_in_each_dialect(
    sdk: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic, upstream: Upstream
) -> None:
    id_ = (await sdk.files.create(file=("bee.png", PICTURE), purpose="vision")).id
    text = {"type": "text", "text": "What is this?"}
    part: Any = [text, {"type": "file", "file": {"file_id": id_}}]
    await sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": part}])
    said: Any = [{"type": "input_text", "text": "What?"}, {"type": "input_image", "file_id": id_, "detail": "low"}]
    first = await sdk.responses.create(model=MODEL, input=[{"role": "user", "content": said}])
    await sdk.responses.create(model=MODEL, input="And now?", previous_response_id=first.id)
    block: Any = [text, {"type": "image", "source": {"type": "file", "file_id": id_}}]
    await claude.beta.messages.create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": block}])
    asked = [received.json["messages"][0]["content"][1]["image_url"]["url"] for received in upstream.received]
    assert asked == [SHOWN] * 4


async def test_a_document_by_its_id_in_each_dialect(
    sdk: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic, upstream: Upstream
) -> None:
    pdf = b"%PDF-1.7\n" + bytes(range(256))
    id_ = (await sdk.files.create(file=("a.pdf", pdf), purpose="user_data")).id
    part: Any = [{"type": "file", "file": {"file_id": id_}}]
    await sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": part}])
    said: Any = [{"type": "input_file", "file_id": id_}]
    await sdk.responses.create(model=MODEL, input=[{"role": "user", "content": said}])
    block: Any = [{"type": "document", "source": {"type": "file", "file_id": id_}}]
    await claude.beta.messages.create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": block}])
    asked = [received.json["messages"][0]["content"][0]["file"]["file_data"] for received in upstream.received]
    assert asked == [f"data:application/pdf;base64,{base64.b64encode(pdf).decode()}"] * 3


async def test_an_unknown_id_is_named_and_a_vendors_own_is_left(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    part: Any = [{"type": "file", "file": {"file_id": ids.new("file")}}]
    with pytest.raises(openai.NotFoundError) as wrong:
        await sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": part}])
    assert (wrong.value.code, wrong.value.param) == ("file_not_found", "messages[0].content[0]")
    part = [{"type": "file", "file": {"file_id": "file-abc"}}]
    await sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": part}])
    assert upstream.received[0].json["messages"][0]["content"] == part


async def test_another_tenants_file_is_an_unknown_one(
    app: App, tenants: tuple[str, str], served: Served, sdk: openai.AsyncOpenAI, upstream: Upstream
) -> None:
    made = await sdk.files.create(file=("bee.png", PICTURE), purpose="vision")
    key = await app.keys.create(tenants[1], "bert")
    await app.ring.refresh()
    part: Any = [{"type": "file", "file": {"file_id": made.id}}]
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key=key.token, max_retries=0) as bert:
        for call in (bert.files.retrieve, bert.files.content, bert.files.delete):
            answers = []
            for id_ in (made.id, ids.new("file")):
                with pytest.raises(openai.NotFoundError) as wrong:
                    await call(id_)
                answers.append((wrong.value.message.replace(id_, "ID"), wrong.value.code))
            assert answers[0] == answers[1]
        with pytest.raises(openai.NotFoundError):
            await bert.chat.completions.create(model="builtin/extract", messages=[{"role": "user", "content": part}])
        assert [file.id async for file in bert.files.list()] == []
        assert [file.id async for file in bert.files.list(after=made.id)] == []
        # The same bytes are his own.
        own = await bert.files.create(file=("bee.png", PICTURE), purpose="vision")
        await bert.files.delete(own.id)
    assert (await sdk.files.content(made.id)).content == PICTURE
    assert not upstream.received


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.just("file_" + "a" * 32),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "file_id", "file", "source", "content", "output"]), inner, max_size=4
        )
    ),
)


@given(JSON)
def test_any_conversation_names_files_or_not(told: Any) -> None:
    for _, part, place, id_ in _named(json.loads(json.dumps(told)), "messages"):
        assert place in part
        assert ids.is_id(id_, "file")
