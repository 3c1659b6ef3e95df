"""What providers' own lists say of their models, in the shapes that vendors publish."""

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gimle.foundation.errors import UpstreamError
from gimle.gateway.discovery import specs

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
