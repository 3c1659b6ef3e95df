"""Cohere's embed and rerank, and the ranking that others answer in its form."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.foundation import plugins
from gimle.foundation.errors import ContextTooLong, RateLimitedError, UpstreamError
from gimle.gateway.neutral import Usage
from gimle.gateway.types import Dialect, Fault, Ranked

COHERE: Dialect = plugins.load("gimle.gateway.dialects", "cohere").DIALECT
RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "dialects" / "cohere.json").read_text("utf-8")
)
assert COHERE.embeddings is not None
assert COHERE.rerank is not None
EMBED, RERANK = COHERE.embeddings, COHERE.rerank


def test_its_chat_has_an_endpoint_of_its_own() -> None:
    assert COHERE.chat is None


def test_vectors_are_asked_for() -> None:
    assert json.loads(EMBED.write("embed-v4.0", ["hello", "goodbye"], 256)) == {
        "model": "embed-v4.0",
        "texts": ["hello", "goodbye"],
        "input_type": "search_document",
        "embedding_types": ["float"],
        "output_dimension": 256,
    }
    assert EMBED.path("embed-v4.0") == "/v2/embed"
    assert EMBED.batch == 96
    assert EMBED.read(json.dumps(RECORDED["embeddings"]).encode(), 2)[1] == 2


def test_an_order_is_asked_for() -> None:
    assert json.loads(RERANK.write("rerank-v3.5", "capital?", ["a", "b"], 1)) == {
        "model": "rerank-v3.5",
        "query": "capital?",
        "documents": ["a", "b"],
        "top_n": 1,
    }
    assert "top_n" not in json.loads(RERANK.write("rerank-v3.5", "capital?", ["a"], None))


def test_an_order_is_read() -> None:
    ranked, usage = RERANK.read(json.dumps(RECORDED["rerank"]).encode(), 5)
    assert ranked == (Ranked(3, 0.999071), Ranked(4, 0.7867867), Ranked(0, 0.32713068))
    assert usage is None


@pytest.mark.parametrize(
    "told,tokens",
    [
        ({"usage": {"total_tokens": 15}}, 15),
        ({"usage": {"prompt_tokens": 12, "total_tokens": 12}}, 12),
        ({"meta": {"tokens": {"input_tokens": 9}, "billed_units": {"search_units": 1}}}, 9),
    ],
)
def test_others_tell_tokens(told: dict[str, Any], tokens: int) -> None:
    """As Jina, llama-server and Voyage do."""
    body = {"results": [{"index": 0, "relevance_score": 0.1, "document": {"text": "a"}}], **told}
    assert RERANK.read(json.dumps(body).encode(), 1)[1] == Usage(uncached=tokens)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"null", b"<html>", b"[" * 9999, b'{"results": 3}', b'{"results": [{"index": 0}]}',
        b'{"results": [{"index": 2, "relevance_score": 1}]}', b'{"results": [{"index": -1, "relevance_score": 1}]}',
        b'{"results": [{"index": 0, "relevance_score": 1}, {"index": 0, "relevance_score": 1}]}',
    ],
)  # fmt: skip
def test_what_is_no_order_is_a_fault_of_the_provider(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        RERANK.read(body, 2)


_WORDS = ("results", "index", "relevance_score", "embeddings", "float", "meta", "models")
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(_WORDS), inner),
)


@given(_JSON)
def test_nothing_else_is_raised(value: Any) -> None:
    body = json.dumps(value).encode()
    for read in (lambda: RERANK.read(body, 2), lambda: EMBED.read(body, 2), lambda: COHERE.read_models(body)):
        try:
            read()
        except UpstreamError:
            continue


def test_refusals() -> None:
    def read(status: int) -> list[Fault]:
        told = [one for one in RECORDED["faults"] if one["status"] == status]
        return [COHERE.read_fault(status, one.get("headers", {}), json.dumps(one["body"]).encode()) for one in told]

    limits = [fault.error for fault in read(429)]
    assert [limit.after for limit in limits if isinstance(limit, RateLimitedError)] == [60.0, 2.0]
    (long,) = read(400)
    assert isinstance(long.error, ContextTooLong)
    assert all(fault.passable for fault in (*read(404), *read(422)))
