"""What providers' own lists say of their models, in the shapes that vendors publish."""

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gimle.foundation.errors import UpstreamError
from gimle.gateway.discovery import node_specs, specs

PROVIDER = "acme"

OPENAI = {
    "object": "list",
    "data": [
        {"id": "gpt-4o-mini", "object": "model", "created": 1721172741, "owned_by": "system"},
        {"id": "text-embedding-3-small", "object": "model", "created": 1705948997, "owned_by": "system"},
        {"id": "whisper-1", "object": "model", "created": 1677532384, "owned_by": "openai-internal"},
        {"id": "dall-e-3", "object": "model", "created": 1698785189, "owned_by": "system"},
    ],
}
OPENROUTER = {
    "data": [
        {
            "id": "qwen/qwen3-32b",
            "context_length": 40960,
            "pricing": {"prompt": "0.0000001", "completion": "0.0000003", "request": "0"},
            "top_provider": {"context_length": 40960, "max_completion_tokens": None},
        }
    ]
}
TOGETHER = [{"id": "meta/llama", "type": "chat", "context_length": 131072, "pricing": {"input": 0.88, "output": 0.88}}]
GEMINI = {
    "models": [
        {
            "name": "models/gemini-2.5-flash",
            "inputTokenLimit": 1048576,
            "outputTokenLimit": 65536,
            "supportedGenerationMethods": ["generateContent"],
        },
        {"name": "models/text-embedding-004", "supportedGenerationMethods": ["embedContent"]},
    ]
}
GROQ = {"data": [{"id": "llama-3.1-8b", "active": True, "context_window": 131072}, {"id": "old", "active": False}]}


def test_openai_tells_names_only() -> None:
    found = specs(json.dumps(OPENAI).encode(), PROVIDER)
    assert [(one.name, one.kind) for one in found] == [("gpt-4o-mini", "chat"), ("whisper-1", "transcription")]
    assert found[0].context_window is None


def test_openrouter_tells_windows_and_prices_of_a_token() -> None:
    (one,) = specs(json.dumps(OPENROUTER).encode(), PROVIDER)
    assert (one.name, one.context_window, one.max_output) == ("qwen/qwen3-32b", 40960, None)
    assert (one.input_usd, one.output_usd) == (Decimal("0.1"), Decimal("0.3"))


def test_together_tells_prices_of_a_million() -> None:
    (one,) = specs(json.dumps(TOGETHER).encode(), PROVIDER)
    assert (one.context_window, one.input_usd) == (131072, Decimal("0.88"))


def test_gemini_and_groq() -> None:
    (one,) = specs(json.dumps(GEMINI).encode(), PROVIDER)
    assert (one.name, one.context_window, one.max_output) == ("gemini-2.5-flash", 1048576, 65536)
    assert [one.name for one in specs(json.dumps(GROQ).encode(), PROVIDER)] == ["llama-3.1-8b"]


NODE = {
    "items": [
        {
            "id": "openai/gpt-4o", "provider": "openai", "name": "gpt-4o", "kind": "chat", "dialect": "openai",
            "unavailable": None, "context_window": 128000, "capabilities": ["tools"], "input_nano": 2500000000,
            "output_nano": 10000000000, "tags": ["approved"], "data_policy": "no-training", "local": False,
        },
        {"id": "home/llama", "dialect": "openai", "local": True, "data_policy": "local", "place": [52.5, 13.4]},
        {"id": "openai/o9", "dialect": "openai", "unavailable": "the environment variable X is not set"},
        {"id": "builtin/extract", "dialect": None},
        {"id": "openai/vectors", "dialect": "openai", "kind": "embedding", "dimensions": 1536},
    ],
    "next": None,
}  # fmt: skip


def test_another_node_tells_all_its_facts_and_what_is_local_there_is_not_so_here() -> None:
    big, llama, vectors = node_specs(json.dumps(NODE).encode(), PROVIDER)
    assert (big.provider, big.name, big.context_window, big.tags) == ("acme", "openai/gpt-4o", 128000, ("approved",))
    assert (big.input_usd, big.output_usd, big.data_policy) == (Decimal("2.5"), Decimal("10"), "no-training")
    assert (llama.name, llama.data_policy, llama.place) == ("home/llama", None, (52.5, 13.4))
    assert (vectors.kind, vectors.dimensions) == ("embedding", 1536)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'{"items": [{"id": 1}]}', b"[" * 100_000])
def test_what_is_no_registry_is_the_nodes_fault(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        node_specs(body, PROVIDER)


@pytest.mark.parametrize("body", [b"", b"<html>", b"null", b"3", b'"x"', b"{}", b'{"data": 3}', b"[" * 100_000])
def test_what_is_no_list_is_the_providers_fault(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        specs(body, PROVIDER)


plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab1.e-", max_size=5)
)
values = plain | st.lists(plain, max_size=2)
entries = st.dictionaries(
    st.sampled_from(["id", "name", "context_length", "max_tokens", "pricing", "active"]),
    values | st.fixed_dictionaries({"prompt": values, "output": values}),
)


@settings(deadline=None)
@given(st.lists(entries, max_size=4))
def test_any_list_is_read_or_passed_by(drawn: list[dict[str, object]]) -> None:
    specs(json.dumps({"data": drawn}).encode(), PROVIDER)
