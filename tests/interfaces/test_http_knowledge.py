"""Documents in, answers out, over HTTP: uploads with jobs, progress as events, search, ask, and chat with citations."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.testing import Behaviour, Upstream

BASE = "/api/v1/knowledge"
NOTICE = (
    "The club meets on the first Monday of each month at half past seven in the barn. "
    "New members bring their own veil. The annual fee is 42 euros and is due in March."
)


@pytest.fixture
async def served(app: App, tenants: tuple[str, str]) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running:
        yield running


@pytest.fixture
async def stranger(app: App, tenants: tuple[str, str], served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody of another tenant, without an admin's rights."""
    key = await app.keys.create(tenants[1], "stranger")
    await app.ring.refresh()
    async with httpx.AsyncClient(base_url=served.url, headers={"x-api-key": key.token or ""}) as client:
        yield client


async def events(http: httpx.AsyncClient, method: str, path: str, **more: Any) -> list[tuple[str, dict[str, object]]]:
    """All events of a stream: name and data."""
    found = []
    async with http.stream(method, path, **more) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for block in _blocks(answer):
            lines = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            if lines:
                found.append((lines["event"], json.loads(lines["data"])))
    return found


async def _blocks(answer: httpx.Response) -> AsyncIterator[str]:
    text = ""
    async for piece in answer.aiter_text():
        text += piece
        while "\n\n" in text:
            block, text = text.split("\n\n", 1)
            yield block
    assert not text, "the stream was cut in the middle of an event"


async def take_in(served: Served, name: str = "notice.txt", text: str = NOTICE, collection: str = "default") -> str:
    """Upload a text and wait for its job; the id of the document."""
    answer = await served.http.post(f"{BASE}/documents", json={"name": name, "text": text, "collection": collection})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/api/v1/jobs/{answer.json()['items'][0]['job']}"
    followed = await events(served.http, "GET", answer.headers["location"] + "/events")
    assert followed[-1][0] == "done", followed[-1]
    document: str = answer.json()["items"][0]["document"]["id"]
    return document


async def test_from_an_upload_to_a_cited_answer(served: Served) -> None:
    document = await take_in(served)
    shown = (await served.http.get(f"{BASE}/documents/{document}")).json()
    assert (shown["status"], shown["is_latest"]) == ("ready", True)

    found = (await served.http.post(f"{BASE}/search", json={"query": "annual fee"})).json()
    assert "42 euros" in found["passages"][0]["text"]

    asked = {"question": "How much is the annual fee?"}
    answer = (await served.http.post(f"{BASE}/ask", json=asked)).json()
    assert answer["answered"]
    assert "42 euros" in answer["text"]
    assert answer["citations"][0]["document"] == document
    assert "42 euros" in answer["citations"][0]["quote"]

    streamed = await events(served.http, "POST", f"{BASE}/ask", json=asked | {"stream": True})
    assert [name for name, _ in streamed][-1] == "done"
    assert "progress" in {name for name, _ in streamed}
    assert streamed[-1][1]["text"] == answer["text"]


async def test_the_sdk_chats_with_a_collection(served: Served) -> None:
    await take_in(served)
    fields = {"gimle": {"collection": "default"}}
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [
        {"role": "user", "content": "How much is the annual fee?"}
    ]
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key=served.token, max_retries=0) as sdk:
        whole = await sdk.chat.completions.create(model="auto", messages=messages, extra_body=fields)
        message = whole.choices[0].message
        assert "42 euros" in (message.content or "")
        assert message.model_extra is not None
        citations = message.model_extra["gimle"]["citations"]
        assert set(citations[0]) >= {"n", "document", "chunk", "page", "heading", "start", "end", "quote"}

        stream = await sdk.chat.completions.create(
            model="auto",
            messages=messages,
            extra_body=fields,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    said = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert "".join(delta.content or "" for delta in said) == message.content
    # Citations stand on the last chunk with content; behind it only the end.
    last = [index for index, delta in enumerate(said) if delta.content is not None][-1]
    assert (said[last].model_extra or {})["gimle"]["citations"] == citations
    assert [chunk.choices[0].finish_reason for chunk in chunks[last:-1]] == [None, "stop"]


async def test_who_answers_from_the_documents_is_decided_and_told_too(served: Served) -> None:
    await take_in(served)
    asked = {"model": "auto", "messages": [{"role": "user", "content": "How much is the annual fee?"}]}
    ours = {"collection": "default", "policy": "cheapest"}
    extracted = await served.http.post("/v1/chat/completions", json=asked | {"gimle": ours})
    assert extracted.headers["x-gimle-decision"] == "documents; builtin/extract"
    choice = {"index": 0, "message": {"role": "assistant", "content": '{"claims": []}'}, "finish_reason": "stop"}
    told = {"id": "x", "object": "chat.completion", "created": 1, "model": "mock", "choices": [choice]}
    async with Upstream(Behaviour(body=json.dumps(told).encode())) as upstream:
        models = [{"name": "mock", "capabilities": ["json_schema"]}]
        await served.provide({"name": "stand", "base_url": upstream.url, "models": models})
        answer = await served.http.post("/v1/chat/completions", json=asked | {"gimle": ours})
    assert "; cheapest; stand/mock=" in answer.headers["x-gimle-decision"]


async def test_a_question_that_the_documents_cannot_answer(served: Served) -> None:
    await take_in(served)
    asked = {"question": "What is the boiling point of tungsten in kelvin?"}
    answer = (await served.http.post(f"{BASE}/ask", json=asked)).json()
    assert (answer["answered"], answer["citations"]) == (False, [])
    assert answer["text"]


async def test_collections_come_and_go(served: Served) -> None:
    made = await served.http.post(f"{BASE}/collections", json={"name": "papers"})
    assert made.status_code == 201
    assert made.headers["location"] == f"{BASE}/collections/papers"
    again = await served.http.post(f"{BASE}/collections", json={"name": "papers"})
    assert (again.status_code, again.json()["error"]["field"]) == (409, "name")
    for name in ("a", "b"):
        await served.http.post(f"{BASE}/collections", json={"name": name})
    page = (await served.http.get(f"{BASE}/collections", params={"limit": 2})).json()
    rest = (await served.http.get(f"{BASE}/collections", params={"limit": 2, "after": page["next"]})).json()
    assert [item["name"] for item in page["items"] + rest["items"]] == ["a", "b", "papers"]
    assert rest["next"] is None
    assert (await served.http.delete(f"{BASE}/collections/papers")).status_code == 204
    assert (await served.http.get(f"{BASE}/collections/papers")).status_code == 404


async def test_many_files_at_once_and_a_bad_one_fails_alone(served: Served) -> None:
    files = [
        ("file", ("good.md", b"# Title\n\nSome words.")),
        ("file", ("empty.txt", b"")),
        ("file", ("b.txt", b"More.")),
    ]
    answer = await served.http.post(f"{BASE}/documents", data={"collection": "default"}, files=files)
    assert answer.status_code == 202, answer.text
    items = answer.json()["items"]
    assert [item["name"] for item in items] == ["good.md", "empty.txt", "b.txt"]
    assert [item["error"] is None for item in items] == [True, False, True]
    assert items[1]["error"]["message"]
    assert items[1]["document"] is None
    listed = (await served.http.get(f"{BASE}/documents")).json()["items"]
    assert {item["name"] for item in listed} == {"good.md", "b.txt"}


async def test_an_upload_that_is_refused_leaves_nothing(served: Served) -> None:
    for name, content in (("empty.txt", b""), ("../../etc/passwd", b"x"), ("a\x00b.txt", b"x"), ("x" * 1000, b"x")):
        answer = await served.http.post(f"{BASE}/documents", json={"name": name, "text": content.decode()})
        assert answer.status_code == 400, (name, answer.text)
        assert answer.json()["error"]["field"] in ("name", "text", "file"), answer.text
    wrong = await served.http.post(f"{BASE}/documents", content=b"x", headers={"content-type": "text/csv"})
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (400, "content-type")
    odd = await served.http.post(f"{BASE}/documents", data={"colection": "a"}, files={"file": ("a.txt", b"x")})
    assert (odd.status_code, odd.json()["error"]["field"]) == (400, "colection")
    torn = await served.http.post(
        f"{BASE}/documents", content=b"--x\r\nrubbish", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert torn.status_code == 400, torn.text
    assert (await served.http.get(f"{BASE}/documents")).json()["items"] == []


async def test_the_same_key_uploads_once(served: Served) -> None:
    headers = {"idempotency-key": "k1"}
    upload = {"name": "a.txt", "text": "The same words."}
    first = await served.http.post(f"{BASE}/documents", json=upload, headers=headers)
    second = await served.http.post(f"{BASE}/documents", json=upload, headers=headers)
    assert first.json()["items"][0]["document"]["id"] == second.json()["items"][0]["document"]["id"]
    other = await served.http.post(f"{BASE}/documents", json=upload | {"text": "Other."}, headers=headers)
    assert other.status_code == 409, other.text


async def test_unknown_things_are_not_found_in_the_words_of_the_path(served: Served) -> None:
    for path, code in (
        (f"{BASE}/collections/none", "collection_not_found"),
        (f"{BASE}/documents/doc_none", "document_not_found"),
        ("/api/v1/jobs/job_none", "job_not_found"),
        ("/api/v1/jobs/job_none/events", "job_not_found"),
        ("/api/v1/tenants/none", "tenant_not_found"),
        ("/api/v1/llm/providers/none", "provider_not_found"),
    ):
        answer = await served.http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, code), path
    for body in ({"question": "a?", "collection": "none"}, {"question": "a?", "collection": "none", "stream": True}):
        answer = await served.http.post(f"{BASE}/ask", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "collection_not_found")
    for stream in (False, True):
        chat = {"messages": [{"role": "user", "content": "a?"}], "gimle": {"collection": "none"}, "stream": stream}
        answer = await served.http.post("/v1/chat/completions", json=chat)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "collection_not_found")


async def test_a_stranger_sees_nothing_of_it(served: Served, stranger: httpx.AsyncClient) -> None:
    document = await take_in(served)
    job = (await served.http.get("/api/v1/jobs")).json()["items"][0]["id"]
    for path in (f"{BASE}/documents/{document}", f"/api/v1/jobs/{job}", f"/api/v1/jobs/{job}/events"):
        assert (await stranger.get(path)).status_code == 404, path
    assert (await stranger.delete(f"{BASE}/documents/{document}")).status_code == 404
    for act in ("cancel", "retry", "discard"):
        assert (await stranger.post(f"/api/v1/jobs/{job}/{act}")).status_code == 404
    assert (await stranger.get("/api/v1/jobs")).json()["items"] == []
    assert (await stranger.get(f"{BASE}/documents")).json()["items"] == []
    found = await stranger.post(f"{BASE}/search", json={"query": "annual fee"})
    assert found.status_code == 200
    assert found.json()["passages"] == []
    assert (await served.http.get(f"{BASE}/documents/{document}")).status_code == 200


async def test_a_stranger_may_not_administer(stranger: httpx.AsyncClient) -> None:
    provider = {"name": "mine", "base_url": "http://127.0.0.1:1/v1"}
    for method, path, body in (
        ("GET", "/api/v1/tenants", None),
        ("POST", "/api/v1/tenants", {"name": "x"}),
        ("GET", "/api/v1/keys", None),
        ("POST", "/api/v1/keys", {"name": "x"}),
        ("DELETE", "/api/v1/keys/key_1", None),
        ("GET", "/api/v1/llm/providers", None),
        ("POST", "/api/v1/llm/providers", provider),
        ("PUT", "/api/v1/llm/providers/mine", provider),
        ("DELETE", "/api/v1/llm/providers/mine", None),
        ("GET", "/api/v1/llm/providers/mine/status", None),
        ("GET", "/api/v1/llm/providers/mine/metrics", None),
        ("GET", "/api/v1/llm/providers/mine/credentials", None),
        ("PUT", "/api/v1/llm/providers/mine/credentials", {}),
    ):
        answer = await stranger.request(method, path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), (method, path)


async def test_tenants_and_keys(served: Served) -> None:
    tenant = (await served.http.post("/api/v1/tenants", json={"name": "third"})).json()
    made = await served.http.post("/api/v1/keys", json={"name": "k", "tenant": "third"})
    assert made.status_code == 201
    assert made.json()["tenant"] == tenant["id"]
    assert made.json()["token"].startswith("gk_")
    listed = (await served.http.get("/api/v1/keys", params={"tenant": tenant["id"]})).json()
    assert [key["id"] for key in listed["items"]] == [made.json()["id"]]
    assert listed["items"][0]["token"] is None
    assert "third" in {item["name"] for item in (await served.http.get("/api/v1/tenants")).json()["items"]}
    ended = await served.http.delete(f"/api/v1/keys/{made.json()['id']}", params={"tenant": "third"})
    assert ended.status_code == 204
