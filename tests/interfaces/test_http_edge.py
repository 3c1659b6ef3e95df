"""The edge: who is let in, what is refused and in which words, and that the server lives on."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.interfaces.http import edge
from gimle.interfaces.http.exchange import Limits
from gimle.interfaces.http.wire import HEAD_BYTES, Wire
from gimle.knowledge.lexical import Lexical

CHAT = "/v1/chat/completions"
SEARCH = "/api/v1/knowledge/search"


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    quick = Limits(body=1024 * 1024, upload=2 * 1024 * 1024, idle_seconds=0.3, total_seconds=1.0)
    monkeypatch.setattr(edge, "limits_of", lambda _: quick)
    monkeypatch.setattr(Wire, "head_seconds", 0.3)
    async with serving(app, tenants[0]) as running:
        yield running


@pytest.fixture
async def nobody(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with httpx.AsyncClient(base_url=served.url) as client:
        yield client


# -- who is let in


NO_KEYS: tuple[dict[bytes, bytes], ...] = (
    {},
    {b"authorizationb": b"Bearer gk_00_11b"},
    {b"authorizationb": b"Basic Z2s6Z2s=b"},
    {b"authorizationb": b"Bearerb"},
    {b"x-api-keyb": b"gk_00_11b"},
    {b"x-api-keyb": b"\xff\xfeb"},
)


async def test_without_a_valid_key_nobody_comes_in(nobody: httpx.AsyncClient) -> None:
    for path in ("/v1/models", "/v1/nothing", "/api/v1/jobs", "/api/v1/nothing"):
        for headers in NO_KEYS:
            answer = await nobody.get(path, headers=headers)
            assert answer.status_code == 401, (path, headers)
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_both_ways_to_send_a_key_are_taken(nobody: httpx.AsyncClient, served: Served) -> None:
    for headers in ({"authorization": f"bearer  {served.token}"}, {"x-api-key": served.token}):
        assert (await nobody.get("/v1/models", headers=headers)).status_code == 200


async def test_an_ended_key_is_refused(served: Served) -> None:
    created = (await served.http.post("/api/v1/keys", json={"name": "short-lived"})).json()
    mine = {"authorization": f"Bearer {created['token']}"}
    async with asyncio.timeout(5):
        while (await served.http.get("/v1/models", headers=mine)).status_code != 200:
            await asyncio.sleep(0.02)
        assert (await served.http.delete(f"/api/v1/keys/{created['id']}")).status_code == 204
        while (await served.http.get("/v1/models", headers=mine)).status_code != 401:
            await asyncio.sleep(0.02)


async def test_open_paths_need_no_key(nobody: httpx.AsyncClient) -> None:
    for path in ("/", "/docs", "/openapi.json", "/health", "/health/live", "/health/ready", "/metrics"):
        assert (await nobody.get(path)).status_code == 200, path


# -- the request id


async def test_only_a_plain_request_id_is_kept(nobody: httpx.AsyncClient) -> None:
    for given in ("abc-123", "A" * 128, "0.1:2_3"):
        answer = await nobody.get("/health/live", headers={"x-request-id": given})
        assert answer.headers["x-request-id"] == given
    for given in ("", "a b", "A" * 129, "<script>", "a\tb"):
        answer = await nobody.get("/health/live", headers={"x-request-id": given})
        assert answer.headers["x-request-id"].startswith("req_"), given


async def test_an_error_carries_the_id_of_its_request(served: Served) -> None:
    answer = await served.http.get("/api/v1/jobs/job_none", headers={"x-request-id": "find-me"})
    assert answer.status_code == 404
    assert answer.json()["error"]["request_id"] == "find-me" == answer.headers["x-request-id"]


# -- what is refused, in the words of the path


WRONG_CHATS = (
    (b"", "body"),
    (b"{", "body"),
    (b"[]", "body"),
    (b"null", "body"),
    (b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', "body"),
    (b'{"x":' + b"[" * 100_000, "body"),
    (b'{"model":3,"messages":[]}', "model"),
    (b'{"stream":"yes","messages":[]}', "stream"),
    (b'{"model":"auto"}', "messages"),
    (b'{"model":"auto","messages":"hi"}', "messages"),
    (b'{"model":"auto","messages":[]}', "messages"),
    (b'{"model":"auto","messages":[{"role":"user","content":"x"}],"max_tokens":"many"}', "max_tokens"),
    (b'{"messages":[],"gimle":[]}', "gimle"),
    (b'{"messages":[],"gimle":{"colection":"x"}}', "gimle.colection"),
    (b'{"messages":[],"gimle":{"top_k":0}}', "gimle.top_k"),
    (b'{"messages":[],"gimle":{"collection":"x"}}', "messages"),
    (b'{"messages":[{"role":"system","content":"x"}],"gimle":{"collection":"x"}}', "messages[0]"),
    (b'{"messages":[{"role":"user"}],"gimle":{"collection":"x"}}', "messages[0]"),
    (b'{"messages":[{"content":"x"}],"gimle":{"collection":"x"}}', "messages[0].role"),
)


async def test_a_wrong_chat_request_names_its_field(served: Served) -> None:
    for body, param in WRONG_CHATS:
        answer = await served.http.post(CHAT, content=body)
        assert answer.status_code == 400, (body[:80], answer.text)
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["param"]) == ("invalid_request_error", param), (body[:80], error)


WRONG_SEARCHES = (
    (b"", "body"),
    (b"{", "body"),
    (b"[]", "body"),
    (b'{"query":"\xff"}', "body"),
    (b"{}", "query"),
    (b'{"query":3}', "query"),
    (b'{"query":""}', "query"),
    (b'{"query":"a","top_k":1000}', "top_k"),
    (b'{"query":"a","mode":"magic"}', "mode"),
    (b'{"query":"a","unknown":1}', "unknown"),
)


async def test_a_wrong_request_to_our_own_surface_names_its_field(served: Served) -> None:
    for body, field in WRONG_SEARCHES:
        answer = await served.http.post(SEARCH, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, (body, answer.text)
        error = answer.json()["error"]
        assert set(error) == {"code", "message", "field", "hint", "request_id"}
        assert error["field"] == field, (body, error)


WRONG_PATHS = (
    ("GET", CHAT, 405),
    ("DELETE", "/v1/models", 405),
    ("POST", "/v1/moderations", 404),
    ("PATCH", "/api/v1/jobs", 405),
    ("GET", "/api/v1/none", 404),
    ("GET", "/none", 404),
    ("GET", "/schema", 404),
    ("GET", "/api/v1/jobs?limit=0", 400),
    ("GET", "/api/v1/jobs?limit=ten", 400),
    ("GET", "/api/v1/jobs?status=odd", 400),
    ("GET", "/api/v1/jobs/%00", 400),
    ("GET", "/api/v1/knowledge/collections/%0d%0ax", 400),
    ("GET", "/docs/..%2f..%2fetc%2fpasswd", 404),
    ("GET", "/docs/%2e%2e/%2e%2e/etc/passwd", 404),
    ("GET", "/docs/swagger-initializer.js", 404),
)


async def test_a_wrong_path_or_method_is_refused(served: Served) -> None:
    for method, path, status in WRONG_PATHS:
        answer = await served.http.request(method, path)
        assert answer.status_code == status, (method, path, answer.text)
        assert answer.json()["error"]["message"]


async def test_a_head_is_answered_as_its_get_without_the_body(served: Served) -> None:
    for path in ("/health/live", "/v1/models", "/api/v1/jobs"):
        answer = await served.http.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path
    assert (await served.http.head(CHAT)).status_code == 405


async def test_a_crash_in_search_is_told_as_one(
    served: Served, app: App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def crash(*_: object) -> None:
        raise KeyError("the secret inside")

    await served.http.post("/api/v1/knowledge/collections", json={"name": "bees"})
    monkeypatch.setattr(Lexical, "candidates", crash)
    answer = await served.http.post("/api/v1/knowledge/search", json={"query": "Bees?", "collection": "bees"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "in crash" in capsys.readouterr().out


async def test_whatever_crashes_becomes_a_500_that_tells_nothing(
    served: Served, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_: object) -> None:
        raise KeyError("the secret inside")

    monkeypatch.setattr(app.gateway, "models", crash)
    for path in ("/v1/models", "/api/v1/models"):
        answer = await served.http.get(path)
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert answer.json()["error"]["code"] == "internal_error"
    monkeypatch.undo()
    assert (await served.http.get("/v1/models")).status_code == 200


# -- sizes


async def test_a_body_that_says_it_is_too_large_is_refused_by_its_word(served: Served) -> None:
    begun = time.perf_counter()
    answer = await served.raw(served.head("POST", CHAT, 50_000_000) + b"{", then_close=True)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"server.max_body_mb" in answer
    assert b"1 MB" in answer
    assert time.perf_counter() - begun < 5


async def test_a_body_of_fifty_megabytes_gets_its_answer(served: Served) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 1_000_000

    whole = b"x" * 50_000_000
    for path, content in ((CHAT, whole), (CHAT, pieces()), (SEARCH, whole), (SEARCH, pieces())):
        answer = await served.http.post(path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 413, answer.text
        assert answer.json()["error"]["code"] == "payload_too_large"
    assert (await served.http.get("/health/live")).status_code == 200


async def test_uploads_have_a_limit_of_their_own(served: Served) -> None:
    path = "/api/v1/knowledge/documents"
    too_large = await served.http.post(path, files={"file": ("a.txt", b"x" * 3_000_000)})
    assert too_large.status_code == 413
    assert "server.max_upload_mb" in too_large.json()["error"]["hint"]
    taken = await served.http.post(path, files={"file": ("a.txt", b"some words " * 140_000)})
    assert taken.status_code == 202, taken.text


async def test_a_head_without_end_is_refused(served: Served) -> None:
    answer = await served.raw(b"GET / HTTP/1.1\r\nx: " + b"a" * (HEAD_BYTES + 10))
    assert answer.startswith(b"HTTP/1.1 431 ")


# -- times


async def test_a_body_that_never_comes_is_given_up(served: Served) -> None:
    for path, field in ((CHAT, "param"), (SEARCH, "field")):
        answer = await served.raw(served.head("POST", path, 100, content_type="application/json") + b'{"a":')
        assert answer.startswith(b"HTTP/1.1 408 ")
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert (error["code"], error[field]) == ("request_timeout", "body")


async def test_a_body_that_drips_is_given_up(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(served.head("POST", CHAT, 100_000))
    begun = time.perf_counter()
    answer = b""
    while not answer:
        writer.write(b" ")
        try:
            async with asyncio.timeout(0.1):
                answer = await reader.read(100)
        except TimeoutError:
            assert time.perf_counter() - begun < 5
    assert answer.startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_head_that_stops_halfway_is_given_up(served: Served) -> None:
    answer = await served.raw(b"GET / HTTP/1.1\r\nhost:")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in answer


async def test_a_connection_that_says_nothing_is_closed(served: Served) -> None:
    assert await served.raw(b"") == b""


async def test_a_second_head_on_one_connection_is_timed_too(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n")
    await reader.readuntil(b'{"status":"alive"}')
    writer.write(b"GET / HTTP/1.1\r\nhost:")
    async with asyncio.timeout(5):
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    writer.close()


# -- what is no HTTP


GARBAGE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
    b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\nx",
    b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
)


async def test_what_is_no_http_gets_a_400(served: Served) -> None:
    for garbage in GARBAGE:
        answer = await served.raw(garbage, then_close=True)
        assert answer.startswith(b"HTTP/1.1 400 "), garbage
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_request"
        assert (await served.http.get("/health/live")).status_code == 200


# -- what every answer carries


async def test_every_answer_carries_the_security_headers(served: Served) -> None:
    for path in ("/", "/docs", "/v1/models", "/api/v1/none", "/v1/none"):
        headers = (await served.http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers


async def test_the_metrics_count_by_route_and_know_no_ids(served: Served) -> None:
    await served.http.get("/api/v1/jobs/job_0123")
    text = (await served.http.get("/metrics")).text
    assert 'gimle_http_requests_total{method="GET",route="/api/v1/jobs/{job}",status="404"}' in text
    assert "job_0123" not in text


def test_the_settings_set_the_limits(app: App) -> None:
    limits = edge.limits_of(app)
    assert limits.body == app.settings.server.max_body_mb * 1024 * 1024
    assert limits.upload == app.settings.server.max_upload_mb * 1024 * 1024
