"""Documents in order: by a provider, by the builtin vectors, and what can't be ranked."""

from pathlib import Path

import numpy as np
import pytest
from tests.gateway.calls import ANNA, MODELS, QUICK, opened, provider

from gimle.foundation.config import Settings
from gimle.foundation.errors import InvalidRequest, ModelNotFound, UpstreamError
from gimle.gateway.gateway import Gateway
from gimle.gateway.inside import Engines
from gimle.gateway.ranking import read
from gimle.gateway.reranking import by_cosine
from gimle.gateway.tokens import Tokens
from gimle.gateway.types import Ranked
from gimle.testing import Behaviour, ScriptedEngine, Upstream

DOCUMENTS = ["Bees sleep in winter.", "When bees swarm, call us.", "Honey is sweet."]
QUERY = "when do bees swarm"


def ranking(upstream: Upstream, **fields: object) -> dict[str, object]:
    return {**provider(upstream), "models": [{"name": "ranker", "kind": "rerank"}], **fields}


async def test_a_provider_ranks(tmp_path: Path) -> None:
    async with Upstream() as upstream, opened(tmp_path, {"mock": ranking(upstream)}) as gateway:
        found = await gateway.rerank(ANNA, "mock/ranker", QUERY, DOCUMENTS, 2)
    assert [place.index for place in found.ranked] == [1, 0]
    assert (found.model, found.provider, found.attempts) == ("ranker", "mock", 1)
    assert found.tokens > 0
    asked = upstream.received[0]
    assert asked.path == "/v1/rerank"
    assert asked.json == {"model": "ranker", "query": QUERY, "documents": DOCUMENTS, "top_n": 2}


async def test_coheres_own_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHERE_API_KEY", "secret")
    async with Upstream() as upstream:
        cohere = {"base_url": upstream.url.removesuffix("/v1")}
        async with opened(tmp_path, {"cohere": cohere}) as gateway:
            found = await gateway.rerank(ANNA, "rerank-v3.5", QUERY, DOCUMENTS)
    assert found.ranked[0].index == 1
    assert upstream.received[0].path == "/v2/rerank"
    assert upstream.received[0].headers["authorization"] == "Bearer secret"


async def test_auto_takes_a_real_reranker_first_and_the_builtin_vectors_last(tmp_path: Path) -> None:
    engine = ScriptedEngine(available=frozenset({"minilm"}))
    async with Upstream() as upstream:
        settings = Settings(data=tmp_path, gateway=QUICK, providers={"mock": ranking(upstream)})
        gateway = await Gateway.assemble(
            None, settings, Engines({"builtin": engine}, MODELS, Tokens(None)), Tokens(None)
        )
        try:
            assert (await gateway.rerank(ANNA, "auto", QUERY, DOCUMENTS)).provider == "mock"
            upstream.usual = Behaviour(status=503, body=b"{}")
            found = await gateway.rerank(ANNA, "auto", QUERY, DOCUMENTS)
            assert (found.provider, found.model) == ("builtin", "minilm")
            named = await gateway.rerank(ANNA, "builtin/minilm", DOCUMENTS[2], DOCUMENTS, 1)
            assert named.ranked == (Ranked(2, 1.0),)
            assert (await gateway.embed(ANNA, "builtin/minilm", ["a"])).vectors.shape == (1, 8)
        finally:
            await gateway.close()


async def test_nobody_ranks(tmp_path: Path) -> None:
    async with opened(tmp_path, {}) as gateway:
        with pytest.raises(ModelNotFound) as raised:
            await gateway.rerank(ANNA, "auto", QUERY, DOCUMENTS)
    assert raised.value.hint is not None
    assert "gimle setup" in raised.value.hint


async def test_what_is_no_ranking_is_a_fault_of_the_provider(tmp_path: Path) -> None:
    async with Upstream() as upstream, opened(tmp_path, {"mock": ranking(upstream)}) as gateway:
        upstream.usual = Behaviour(body=b'{"results": [{"index": 7, "relevance_score": 1}]}')
        with pytest.raises(UpstreamError):
            await gateway.rerank(ANNA, "mock/ranker", QUERY, DOCUMENTS)


@pytest.mark.parametrize(
    "query,documents,top,field",
    [(" ", DOCUMENTS, None, "query"), (QUERY, [], None, "documents"), (QUERY, DOCUMENTS, 0, "top_n"),
     (QUERY, ["x"] * 2049, None, "documents")],
)  # fmt: skip
async def test_what_can_not_be_ranked(
    tmp_path: Path, query: str, documents: list[str], top: int | None, field: str
) -> None:
    async with opened(tmp_path, {}) as gateway:
        with pytest.raises(InvalidRequest) as raised:
            await gateway.rerank(ANNA, "auto", query, documents, top)
    assert raised.value.field == field


def test_the_cosine_of_unit_vectors() -> None:
    query = np.array([1, 0], np.float32)
    documents = np.array([[0, 1], [1, 0], [-1, 0], [0.6, 0.8]], np.float32)
    assert by_cosine(query, documents) == (Ranked(1, 1.0), Ranked(3, 0.6), Ranked(0, 0.0), Ranked(2, 0.0))


def test_scores_that_are_no_shares_become_some() -> None:
    body = b'{"results": [{"index": 0, "relevance_score": -8.5}, {"index": 1, "relevance_score": 4.2}]}'
    ranked, _ = read(body, 2)
    assert [one.index for one in ranked] == [1, 0]
    assert [round(one.score, 3) for one in ranked] == [0.985, 0.0]
    told = b'{"results": [{"index": 0, "relevance_score": 0.25}, {"index": 1, "relevance_score": 0.75}]}'
    assert [one.score for one in read(told, 2)[0]] == [0.75, 0.25]
