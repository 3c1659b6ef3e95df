"""`/api/v1/selection` and the registry over HTTP: choose, explain, judge, register, import, filter."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from tests.interfaces.serving import Served, serving
from tests.interfaces.test_http_queries import other_tenant

from gimle.app import App
from gimle.foundation.config import Settings
from gimle.foundation.errors import NotFound
from gimle.foundation.outbound import Outbound
from gimle.gateway.catalog import Catalog
from gimle.interfaces.cli.main import cli
from gimle.testing import Upstream

CHOOSE = "/api/v1/selection/choose"
REGISTRY = "/api/v1/models/registrations"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Another node may ask this one for its models."""
    return replace(settings, selection=replace(settings.selection, node_secret_file="shared"))


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running:
        provider = {"name": "stand", "base_url": upstream.url, "local": True, "models": [{"name": "mock"}]}
        added = await running.http.post("/api/v1/llm/providers", json=provider)
        assert added.status_code == 201, added.text
        yield running


async def test_a_choice_is_told_with_its_reasons_and_may_be_fetched_and_judged(served: Served, app: App) -> None:
    question = {"prompt": "Why do bees swarm? Explain.", "capabilities": ["tools"], "policy": "cheapest"}
    chosen = await served.http.post(CHOOSE, json=question)
    assert chosen.status_code == 200, chosen.text
    told = chosen.json()
    assert told["chosen"] == "stand/mock"
    assert told["policy"] == "cheapest"
    assert told["complexity"]["signs"]["reasoning"] > 0
    left_out = {one["model"]: one["gates"] for one in told["verdicts"]}
    assert left_out["builtin/extract"][0].startswith("capability: lacks tools")
    assert left_out["openai/gpt-4o"][0].startswith("availability: ")
    path = f"/api/v1/selection/decisions/{told['id']}"
    assert (await served.http.get(path)).json()["decision"] == told
    judged = await served.http.post("/api/v1/selection/feedback", json={"decision": told["id"], "rating": 4})
    assert (judged.status_code, judged.json()["error"]["field"]) == (400, "decision")
    call = {"model": "auto:cheapest", "messages": [{"role": "user", "content": "Why do bees swarm?"}], "tools": [TOOL]}
    called = (await served.http.post("/v1/chat/completions", json=call)).headers["x-gimle-decision"].split(";")[0]
    judged = await served.http.post("/api/v1/selection/feedback", json={"decision": called, "rating": 4})
    assert judged.status_code == 204, judged.text
    judged = await served.http.post("/api/v1/selection/feedback", json={"decision": called, "signal": "rating"})
    assert (judged.status_code, judged.json()["error"]["field"]) == (400, "signal")
    listed = (await served.http.get("/api/v1/selection/decisions")).json()["items"]
    found = [(one["decision"]["id"], one["outcome"]["quality"]) for one in listed]
    assert found == [(called, 0.75), (told["id"], None)]
    async with serving(app, await other_tenant(app)) as stranger:
        refused = await stranger.http.get(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "decision_not_found")
        refused = await stranger.http.post("/api/v1/selection/feedback", json={"decision": told["id"], "rating": 4})
        assert refused.status_code == 404


@pytest.mark.parametrize(
    "question,field",
    [
        ({"policy": "luck"}, "policy"),
        ({"policy": "named"}, "policy"),
        ({"weights": {"beauty": 1}}, "weights"),
        ({"model": "auto:luck"}, "model"),
        ({"max_cost": "-1"}, "max_cost"),
        ({"max_cost": "NaN"}, "max_cost"),
        ({"tokens": -1}, "tokens"),
        ({"colour": "red"}, "colour"),
        ({"capabilities": ["\0"]}, "capabilities[0]"),
        ({"tags": ["a\nb"]}, "tags[0]"),
        ({"regions": [""]}, "regions[0]"),
    ],
)
async def test_errors_name_the_field(served: Served, question: dict[str, object], field: str) -> None:
    refused = await served.http.post(CHOOSE, json=question)
    assert refused.status_code in (400, 404), refused.text
    assert refused.json()["error"]["field"] == field


async def test_a_policy_in_the_models_name(served: Served) -> None:
    told = (await served.http.post(CHOOSE, json={"model": "auto:local-only"})).json()
    assert (told["policy"], told["requested"], told["chosen"]) == ("local-only", "auto:local-only", "stand/mock")
    for model, policy in (("auto:cheapest", "cheapest"), ("auto", "fastest"), ("stand/mock", "named")):
        told = (await served.http.post(CHOOSE, json={"model": model, "policy": "fastest"})).json()
        assert told["policy"] == policy


async def test_a_model_is_registered_and_serves_at_once(served: Served) -> None:
    spec = {"provider": "stand", "name": "extra", "region": "eu", "tags": ["approved"], "input_usd": "0.25"}
    made = await served.http.post(REGISTRY, json=spec)
    assert made.status_code == 201, made.text
    path = made.headers["location"]
    assert made.json()["input_usd"] == "0.25"
    async with asyncio.timeout(5):
        while "stand/extra" not in await _models(served, tag="approved"):
            await asyncio.sleep(0.05)
    assert await _models(served, tag="approved", kind="chat", provider="stand", available="true") == ["stand/extra"]
    assert await _models(served, capability="no-such") == []
    told = (await served.http.post(CHOOSE, json={"tags": ["approved"]})).json()
    assert told["chosen"] == "stand/extra"
    changed = await served.http.put(path, json=spec | {"enabled": False})
    assert changed.status_code == 200, changed.text
    async with asyncio.timeout(5):
        while "stand/extra" in await _models(served, available="true"):
            await asyncio.sleep(0.05)
    assert [one["name"] for one in (await served.http.get(REGISTRY)).json()["items"]] == ["extra"]
    assert (await served.http.delete(path)).status_code == 204
    assert (await served.http.get(path)).json()["error"]["code"] == "model_not_found"
    refused = await served.http.post(REGISTRY, json=spec | {"provider": "nobody"})
    assert refused.json()["error"]["code"] == "provider_not_found"
    for field, wrong in (("parameters", 10**400), ("context_window", 10**16), ("version", "1\0")):
        refused = await served.http.post(REGISTRY, json=spec | {field: wrong})
        assert (refused.status_code, refused.json()["error"]["field"]) == (400, field)
    refused = await served.http.post("/api/v1/selection/feedback", json={"decision": "dec_\0", "rating": 4})
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "decision")


async def _models(served: Served, **wanted: str) -> list[str]:
    found = (await served.http.get("/api/v1/models", params=wanted)).json()["items"]
    return [one["id"] for one in found]


async def test_what_a_provider_lists_is_imported(served: Served) -> None:
    made = await served.http.post(f"{REGISTRY}/import", json={"provider": "stand"})
    assert made.status_code == 200, made.text
    names = [one["name"] for one in made.json()["items"]]
    assert "mock" not in names
    again = await served.http.post(f"{REGISTRY}/import", json={"provider": "stand"})
    assert again.json()["items"] == []


async def test_another_node_is_followed_and_its_models_are_used_through_it(
    served: Served, app: App, upstream: Upstream
) -> None:
    async with serving(app, await other_tenant(app)) as node:
        theirs = {"name": "there", "base_url": upstream.url, "local": True, "models": [{"name": "mock"}]}
        assert (await node.http.post("/api/v1/llm/providers", json=theirs)).status_code == 201
        secrets = app.settings.data / "secrets"
        secrets.mkdir(exist_ok=True)
        (secrets / "node").write_text(node.token)
        (secrets / "shared").write_text("s" * 32)
        ours = {
            "name": "node", "base_url": f"{node.url}/v1", "api_key_file": "node", "node_secret_file": "shared",
        }  # fmt: skip
        assert (await served.http.post("/api/v1/llm/providers", json=ours)).status_code == 201
        made = await served.http.post(f"{REGISTRY}/import", json={"provider": "node"})
        assert made.status_code == 200, made.text
        assert [one["name"] for one in made.json()["items"]] == ["there/mock"]
        async with asyncio.timeout(5):
            while "node/there/mock" not in await _models(served):
                await asyncio.sleep(0.05)
        asked = {"model": "node/there/mock", "messages": [{"role": "user", "content": "Hello"}]}
        answer = await served.http.post("/v1/chat/completions", json=asked)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-gimle-provider"] == "node"
        # What comes from a node is not told to the next.
        told = await served.http.get("/api/v1/selection/node", params={"nonce": "n" * 32})
        assert "there/mock" not in told.json()["statement"]
        again = await served.http.post(f"{REGISTRY}/import", json={"provider": "node"})
        assert again.json()["items"] == []
        # What it no longer offers is switched off, from the next look on.
        await node.http.delete("/api/v1/llm/providers/there")
        await app.follow_nodes()
        async with asyncio.timeout(5):
            while "node/there/mock" in await _models(served, available="true"):
                await asyncio.sleep(0.05)
        (secrets / "shared").write_text("t" * 31)
        refused = await served.http.post(f"{REGISTRY}/import", json={"provider": "node"})
        assert refused.status_code >= 400
        assert "no secret" in refused.text


async def test_a_node_that_shall_not_tells_nothing(tmp_path: Path) -> None:
    catalog = Catalog(None, Settings(data=tmp_path), Outbound(), [])
    with pytest.raises(NotFound, match="nothing"):
        catalog.statement("ten_x", "n" * 32)


async def test_what_probes_find_is_told(served: Served, app: App) -> None:
    await app.gateway.catalog.probe_all(app.selection.board)
    (one,) = (await served.http.get("/api/v1/selection/health", params={"model": "stand/mock"})).json()["items"]
    assert (one["uptime"], one["available"], one["in_flight"]) == (1.0, True, 0)
    assert one["ping_seconds"] > 0
    await served.http.put(
        "/api/v1/llm/providers/stand",
        json={"name": "stand", "base_url": "http://127.0.0.1:9/v1", "local": True, "models": [{"name": "mock"}]},
    )
    await app.gateway.catalog.probe_all(app.selection.board)
    (one,) = (await served.http.get("/api/v1/selection/health", params={"model": "stand/mock"})).json()["items"]
    assert one["uptime"] == 0.5


async def test_calls_are_measured_whole_and_streamed(served: Served, app: App) -> None:
    asked = {"model": "stand/mock", "messages": [{"role": "user", "content": "Hello"}]}
    for stream in (False, True):
        answer = await served.http.post("/v1/chat/completions", json=asked | {"stream": stream})
        assert answer.status_code == 200, answer.text
    path, wanted = "/api/v1/selection/health", {"model": "stand/mock"}
    async with asyncio.timeout(5):
        while True:
            (one,) = (await served.http.get(path, params=wanted)).json()["items"]
            if one["calls"] > 1.9 and one["in_flight"] == 0:
                break
            await asyncio.sleep(0.02)
    assert (one["error_rate"], one["uptime"]) == (0.0, 1.0)
    assert 0 < one["first_p50"] < 5
    assert 0 < one["total_p50"] < 5


async def test_a_call_is_made_by_a_policy(served: Served) -> None:
    dear = {"provider": "stand", "name": "dear", "input_usd": "9", "output_usd": "9"}
    cheap = {"provider": "stand", "name": "cheap", "input_usd": "0.01", "output_usd": "0.01"}
    for spec in ({"provider": "stand", "name": "mock", "input_usd": "5", "output_usd": "5"}, dear, cheap):
        assert (await served.http.post(REGISTRY, json=spec)).status_code == 201
    asked = {"model": "auto:cheapest", "messages": [{"role": "user", "content": "Hello"}]}
    async with asyncio.timeout(5):
        while "stand/cheap" not in await _models(served):
            await asyncio.sleep(0.05)
    answer = await served.http.post("/v1/chat/completions", json=asked)
    assert (answer.status_code, answer.headers["x-gimle-model"]) == (200, "cheap"), answer.text
    refused = await served.http.post("/v1/chat/completions", json=asked | {"model": "auto:luck"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


async def test_preferences_need_an_admin_to_change(served: Served, app: App, tenants: tuple[str, str]) -> None:
    path = "/api/v1/selection/preferences"
    wanted = {"policy": "cheapest", "weights": {"cost": 0.5}}
    assert (await served.http.put(path, json=wanted)).json() == wanted
    assert (await served.http.get(path)).json() == wanted
    key = await app.keys.create(tenants[0], "plain")
    await app.ring.refresh()
    as_user = {"authorization": f"Bearer {key.token}"}
    assert (await served.http.put(path, json=wanted, headers=as_user)).status_code == 403
    assert (await served.http.get(path, headers=as_user)).status_code == 200
    promoted = await served.http.post("/api/v1/selection/promotions", json={"policy": "fastest", "worth": "0.05"})
    assert (promoted.status_code, promoted.json()["promote"]) == (200, False), promoted.text
    for method, other in (("GET", "/api/v1/selection/decisions"), ("POST", REGISTRY), ("POST", f"{REGISTRY}/import")):
        body = {"provider": "stand", "name": "x"} if other == REGISTRY else {"provider": "stand"}
        refused = await served.http.request(method, other, json=body, headers=as_user)
        assert refused.status_code == 403, (method, other)


async def test_the_command_line(served: Served, tmp_path: object) -> None:
    def run(*words: str) -> str:
        line = ["selection", *words, "--url", served.url, "--key", served.token]
        result = CliRunner().invoke(cli, line, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    told = json.loads(await asyncio.to_thread(run, "choose", "Hello!", "--json"))
    assert told["complexity"]["level"] == "easy"
    assert "stand/mock" in await asyncio.to_thread(run, "choose", "Hello!", "--policy", "cheapest")
    assert told["id"] in await asyncio.to_thread(run, "show", told["id"])
    save = f"{tmp_path}/log.jsonl"
    found = json.loads(await asyncio.to_thread(run, "replay", "--save", save, "--json"))
    assert {one["policy"] for one in found["reports"]} >= {"efficient", "cheapest"}
    assert "too few" in await asyncio.to_thread(run, "replay", save, "--policy", "cheapest")
    for worth in ("0", "-1", "nan", "inf"):
        refused = CliRunner().invoke(cli, ["selection", "replay", save, "--worth", worth, "--key", served.token])
        assert (refused.exit_code, "--worth" in refused.stderr) == (2, True), refused.output
