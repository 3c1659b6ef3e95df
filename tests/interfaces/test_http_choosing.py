"""How calls under `/v1` are decided: by policy, on every surface, explained, and followed to their end."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.testing import Behaviour, Upstream

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Why do bees swarm? Explain it, please."}]
AUTO = {"model": "auto", "messages": HELLO}
DECISIONS = "/api/v1/selection/decisions"
SCHEMA = {"type": "object", "properties": {"bees": {"type": "integer"}}, "required": ["bees"]}
FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running:
        models: list[dict[str, Any]] = [
            {"name": "mock", "capabilities": ["tools", "json_schema"]},
            {"name": "ranker", "kind": "rerank"},
            {"name": "ears", "kind": "transcription"},
        ]
        await running.provide({"name": "stand", "base_url": upstream.url, "models": models})
        yield running


async def _ended(served: Served, id: str) -> dict[str, Any]:
    """A decision once its call has ended."""
    async with asyncio.timeout(5):
        while True:
            found = (await served.http.get(f"{DECISIONS}/{id}")).json()
            if found["outcome"]["seconds"] is not None:
                break
            await asyncio.sleep(0.02)
    assert isinstance(found, dict)
    return found


def _id(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-gimle-decision"].split(";")[0]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_decision_is_told_in_a_header_and_kept_with_what_came_of_it(served: Served, stream: bool) -> None:
    answer = await served.http.post(CHAT, json=AUTO | {"stream": stream})
    header = answer.headers["x-gimle-decision"]
    assert "; efficient; stand/mock=" in header
    assert "; availability:-" in header
    found = await _ended(served, _id(answer))
    assert (found["decision"]["chosen"], found["decision"]["requested"]) == ("stand/mock", "auto")
    assert found["decision"]["complexity"]["language"] == "en"
    assert (found["outcome"]["model"], found["outcome"]["failed"]) == ("stand/mock", False)


async def test_the_policy_of_a_call_comes_from_its_model_its_body_or_a_header(served: Served) -> None:
    by_body = await served.http.post(CHAT, json=AUTO | {"gimle": {"policy": "cheapest"}})
    by_header = await served.http.post(CHAT, json=AUTO, headers={"x-gimle-policy": "fastest"})
    by_name = await served.http.post(CHAT, json=AUTO | {"model": "auto:pinned", "gimle": {"policy": "cheapest"}})
    told = [answer.headers["x-gimle-decision"].split("; ")[1] for answer in (by_body, by_header, by_name)]
    assert told == ["cheapest", "fastest", "pinned"]
    assert "x-gimle-dropped" not in by_header.headers
    wrong = await served.http.post(CHAT, json=AUTO | {"gimle": {"policy": "luck"}})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "gimle.policy")


async def test_auto_on_every_surface(served: Served) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/v1/messages", AUTO | {"max_tokens": 64}),
        ("/v1/responses", {"model": "auto", "input": "Hello"}),
        ("/v1/completions", {"model": "auto", "prompt": "Hello"}),
        ("/v1/rerank", {"model": "auto", "query": "bees", "documents": ["bees", "cars"]}),
    ]
    for path, body in asked:
        for model in ("auto", "auto:cheapest"):
            answer = await served.http.post(path, json=body | {"model": model})
            assert "; stand/" in answer.headers["x-gimle-decision"], (path, answer.text)
            assert (await _ended(served, _id(answer)))["decision"]["requested"] == model
    ranked = {"query": "bees", "documents": ["bees", "cars"], "gimle": {"policy": "fastest", "explain": True}}
    answer = await served.http.post("/v1/rerank", json=ranked)
    assert "; fastest; stand/ranker=" in answer.headers["x-gimle-decision"]
    assert answer.headers["x-gimle-dropped"] == "explain"
    spoken = await served.http.post(
        "/v1/audio/transcriptions", data={"model": "auto:cheapest"}, files={"file": ("a.mp3", b"sound")}
    )
    assert "; cheapest; stand/ears=" in spoken.headers["x-gimle-decision"], spoken.text
    spoken = await served.http.post(
        "/v1/audio/transcriptions",
        data={"model": "auto"},
        files={"file": ("a.mp3", b"sound")},
        headers={"x-gimle-policy": "fastest"},
    )
    assert "; fastest; stand/ears=" in spoken.headers["x-gimle-decision"], spoken.text
    vectors = await served.http.post("/v1/embeddings", json={"model": "auto:cheapest", "input": "Hello"})
    assert vectors.headers["x-gimle-decision"].startswith("fixed; builtin/"), vectors.text


async def test_who_names_a_model_gets_it_and_nothing_is_decided(served: Served, app: App) -> None:
    answer = await served.http.post(CHAT, json=AUTO | {"model": "stand/mock", "gimle": {"policy": "cheapest"}})
    assert answer.headers["x-gimle-decision"] == "named; stand/mock"
    assert (await served.http.get(DECISIONS)).json()["items"] == []


async def test_the_reasons_come_with_the_answer_on_request(served: Served) -> None:
    whole = await served.http.post(CHAT, json=AUTO | {"gimle": {"explain": True}})
    told = whole.json()["gimle"]["decision"]
    assert (told["id"], told["chosen"]) == (_id(whole), "stand/mock")
    assert any(one["gates"] and one["model"] == "openai/gpt-4o" for one in told["verdicts"])
    stream = await served.http.post(CHAT, json=AUTO | {"stream": True, "gimle": {"explain": True}})
    (comment,) = [line for line in stream.text.splitlines() if line.startswith(": gimle ")]
    assert json.loads(comment.removeprefix(": gimle "))["decision"]["id"] == _id(stream)
    named = await served.http.post(CHAT, json=AUTO | {"model": "stand/mock", "gimle": {"explain": True}})
    told = named.json()["gimle"]["decision"]
    assert (told["policy"], told["chosen"], len(told["verdicts"])) == ("named", "stand/mock", 1)


async def test_reasons_are_never_kept_for_another_call(served: Served, upstream: Upstream) -> None:
    asked = AUTO | {"model": "stand/mock"}
    explained = asked | {"gimle": {"explain": True, "cache": True}}
    for _ in range(2):
        answer = await served.http.post(CHAT, json=explained)
        assert "x-gimle-cache" not in answer.headers
        assert answer.headers["x-gimle-dropped"] == "cache"
    first, again = [await served.http.post(CHAT, json=asked | {"gimle": {"cache": True}}) for _ in range(2)]
    assert "gimle" not in first.json()
    assert first.headers["x-gimle-decision"] == "named; stand/mock"
    assert (again.headers["x-gimle-cache"], again.headers["x-gimle-decision"]) == ("hit", "kept; stand/mock")


async def test_the_deployments_of_a_name_share_its_calls(served: Served, upstream: Upstream) -> None:
    await served.provide({"name": "other", "base_url": upstream.url, "models": [{"name": "mock"}]})
    seen: set[str] = set()
    async with asyncio.timeout(20):
        while len(seen) < 2:
            answer = await served.http.post(CHAT, json=AUTO | {"model": "mock"})
            seen.add(answer.headers["x-gimle-provider"])
            assert answer.headers["x-gimle-decision"].startswith("dec_")
    assert seen == {"stand", "other"}


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
async def test_a_conversation_stays_where_the_vendor_remembers_it(
    served: Served, app: App, upstream: Upstream, path: str
) -> None:
    for name in ("one", "two", "three"):
        await served.provide({"name": name, "base_url": upstream.url, "models": [{"name": "shared"}]})
    app.selection.settings = replace(app.selection.settings, affinity=True, explore=0.0)
    seen, turns = set(), list(HELLO)
    for number in range(8):
        answer = await served.http.post(path, json={"model": "shared", "messages": turns, "max_tokens": 64})
        seen.add(answer.headers["x-gimle-provider"])
        turns += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": f"And number {number}?"}]
    assert len(seen) == 1


# One that fails, and one that only lacks its key: the name stands for models here and elsewhere both times.
@pytest.mark.parametrize("missing,status", [({}, 502), ({"api_key_file": "nowhere"}, 404)])
async def test_what_must_not_leave_the_house_does_not_by_a_bare_name(
    served: Served, upstream: Upstream, missing: dict[str, str], status: int
) -> None:
    async with Upstream(Behaviour(status=503)) as house, Upstream() as cloud:
        await served.provide(
            {"name": "house", "base_url": house.url, "models": [{"name": "shared"}], **missing},
            {"name": "cloud", "base_url": cloud.url, "models": [{"name": "shared"}], "local": False},
        )
        asked = AUTO | {"model": "shared"}
        stand_in = await served.http.post(CHAT, json=asked, headers={"x-gimle-policy": "local-only"})
        assert (stand_in.status_code, stand_in.headers["x-gimle-provider"]) == (200, "stand"), stand_in.text
        assert (await served.http.delete("/api/v1/llm/providers/stand")).status_code == 204
        refused = await served.http.post(CHAT, json=asked, headers={"x-gimle-policy": "local-only"})
        assert refused.status_code == status, refused.text
        preferred = await served.http.put("/api/v1/selection/preferences", json={"policy": "local-only"})
        assert preferred.status_code == 200, preferred.text
        assert (await served.http.post(CHAT, json=asked)).status_code == status
        assert cloud.received == []
        answer = await served.http.post(CHAT, json=asked, headers={"x-gimle-policy": "efficient"})
        assert (answer.status_code, answer.headers["x-gimle-provider"]) == (200, "cloud"), answer.text
        named = await served.http.post(CHAT, json=asked | {"model": "cloud/shared"})
        assert (named.status_code, named.headers["x-gimle-provider"]) == (200, "cloud")


async def test_whose_breaker_is_open_is_passed_by_and_told(served: Served, upstream: Upstream) -> None:
    async with Upstream(Behaviour(status=401)) as locked:
        await served.provide({"name": "locked", "base_url": locked.url, "models": [{"name": "mock"}]})
        refused = await served.http.post(CHAT, json=AUTO | {"model": "locked/mock"})
        assert refused.status_code >= 400
        before = len(locked.received)
        answer = await served.http.post(CHAT, json=AUTO)
        found = await _ended(served, _id(answer))
        gates = {one["model"]: one["gates"] for one in found["decision"]["verdicts"]}
        assert gates["locked/mock"][0].startswith("breaker: ")
        assert len(locked.received) == before


async def test_a_call_that_fails_is_kept_as_such(served: Served, upstream: Upstream) -> None:
    only = {"model": "auto:cheapest", "messages": HELLO, "gimle": {"explain": True}}
    upstream.usual = Behaviour(status=500)
    answer = await served.http.post(CHAT, json=only | {"tools": [_tool()]})
    assert answer.status_code == 502, answer.text
    (last, *_) = (await served.http.get(DECISIONS)).json()["items"]
    found = await _ended(served, last["decision"]["id"])
    assert (found["outcome"]["model"], found["outcome"]["failed"]) == ("stand/mock", True)


def _tool() -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def _said(text: str, finish: str = "stop", **more: str) -> Behaviour:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **more}, "finish_reason": finish}
    return Behaviour(body=json.dumps({"id": "x", "object": "chat.completion", "created": 1, "model": "mock",
                                      "choices": [choice]}).encode())  # fmt: skip


def _streamed(text: str, finish: str = "stop") -> Behaviour:
    def event(delta: dict[str, str], end: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": end}
        told = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "mock", "choices": [choice]}
        return b"data: " + json.dumps(told).encode() + b"\n\n"

    parts = [event({"role": "assistant", "content": text[:3]}, None), event({"content": text[3:]}, None)]
    return Behaviour(events=(*parts, event({}, finish), b"data: [DONE]\n\n"))


async def test_an_answer_that_only_its_caller_can_read_passes_all_the_same(served: Served, upstream: Upstream) -> None:
    odd = b'{"id": "x", "choices": [{"message": 3}], "usage": null}'
    upstream.plan.append(Behaviour(body=odd))
    answer = await served.http.post(CHAT, json=AUTO)
    assert (answer.status_code, answer.content) == (200, odd)
    assert (await _ended(served, _id(answer)))["outcome"]["quality"] is None


@pytest.mark.parametrize(
    "behaviour,more,quality",
    [
        (_said('{"bees": 3}'), {"response_format": FORM}, 1.0),
        (_said('{"bees": "many"}'), {"response_format": FORM}, 0.0),
        (_said("I can't.", refusal="I won't."), {}, 0.0),
        (_said("Bees swarm bec", "length"), {}, 0.3),
        (_said("Bees swarm bec", "length"), {"max_tokens": 3}, None),
        (_said("Bees swarm."), {}, None),
        (_streamed('{"bees": 3}'), {"response_format": FORM, "stream": True}, 1.0),
        (_streamed('{"bees": }'), {"response_format": FORM, "stream": True}, 0.0),
        (_streamed("Bees swarm bec", "length"), {"stream": True}, 0.3),
        (_streamed("No.", "content_filter"), {"stream": True}, 0.0),
    ],
)
async def test_what_an_answer_shows_is_learnt(
    served: Served, upstream: Upstream, app: App, behaviour: Behaviour, more: dict[str, Any], quality: float | None
) -> None:
    upstream.plan.append(behaviour)
    found = await _ended(served, _id(await served.http.post(CHAT, json=AUTO | more)))
    told = found["outcome"]["quality"]
    assert told == (None if quality is None else pytest.approx(quality, abs=1e-6))
