"""`POST /v1/rerank` against a running server."""

from collections.abc import AsyncIterator

import pytest
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.testing import Upstream

DOCUMENTS = ["Bees sleep in winter.", {"text": "When bees swarm, call us.", "id": 7}, "Honey is sweet."]
QUERY = "when do bees swarm"


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running:
        models = [{"name": "ranker", "kind": "rerank"}]
        await running.provide({"name": "stand", "base_url": upstream.url, "models": models})
        yield running


async def test_documents_come_back_in_order(served: Served) -> None:
    asked = {"model": "stand/ranker", "query": QUERY, "documents": DOCUMENTS, "top_n": 2, "return_documents": True}
    answer = await served.http.post("/v1/rerank", json=asked)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [result["index"] for result in body["results"]] == [1, 0]
    assert body["results"][0]["document"] == {"text": "When bees swarm, call us.", "id": 7}
    assert body["results"][1]["document"] == {"text": "Bees sleep in winter."}
    assert body["results"][0]["relevance_score"] > body["results"][1]["relevance_score"]
    assert body["model"] == "stand/ranker"
    assert body["usage"]["total_tokens"] == body["meta"]["tokens"]["input_tokens"] > 0
    assert answer.headers["x-gimle-provider"] == "stand"
    assert answer.headers["x-gimle-attempts"] == "1"


async def test_documents_stay_away_where_they_are_not_asked_for(served: Served) -> None:
    asked = {"model": "stand/ranker", "query": QUERY, "documents": DOCUMENTS, "max_tokens_per_doc": 512}
    answer = await served.http.post("/v1/rerank", json=asked)
    assert [set(result) for result in answer.json()["results"]] == [{"index", "relevance_score"}] * 3
    assert answer.headers["x-gimle-dropped"] == "max_tokens_per_doc"


@pytest.mark.parametrize(
    "change,field",
    [
        ({"query": ""}, "query"),
        ({"query": 7}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "x"}, "documents"),
        ({"documents": [{"title": "x"}]}, "documents[0].text"),
        ({"top_n": 0}, "top_n"),
        ({"model": "stand/nobody"}, "model"),
    ],
)
async def test_what_is_wrong_is_named(served: Served, change: dict[str, object], field: str) -> None:
    asked = {"model": "stand/ranker", "query": QUERY, "documents": DOCUMENTS, **change}
    answer = await served.http.post("/v1/rerank", json=asked)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == field


async def test_a_model_of_two_kinds_is_listed_once(served: Served) -> None:
    listed = [model["id"] for model in (await served.http.get("/v1/models")).json()["data"]]
    assert len(set(listed)) == len(listed)
    assert "stand/ranker" in listed


async def test_a_providers_figures_and_the_place_of_its_key(served: Served) -> None:
    asked = {"model": "stand/ranker", "query": QUERY, "documents": DOCUMENTS}
    path = "/api/v1/llm/providers/stand/metrics"
    before = (await served.http.get(path)).json()
    await served.http.post("/v1/rerank", json=asked)
    after = (await served.http.get(path)).json()
    assert (after["calls"], after["faults"]) == (before["calls"] + 1, before["faults"])
    place = "/api/v1/llm/providers/stand/credentials"
    assert (await served.http.get(place)).json()["found"] is True
    moved = await served.http.put(place, json={"api_key_env": "STAND_API_KEY"})
    assert moved.status_code == 200, moved.text
    assert moved.json()["reason"] == "the environment variable STAND_API_KEY is not set"
    wrong = await served.http.put(place, json={"api_key": "sk-1"})
    assert wrong.status_code == 400
