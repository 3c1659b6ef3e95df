"""What Gimle nodes tell each other of their models: all their facts, signed, and of now."""

from decimal import Decimal

import msgspec
import pytest

from gimle.foundation.errors import UpstreamError
from gimle.gateway.nodes import Signed, heard, told
from gimle.selection.types import Model

SECRET, NONCE = "s" * 32, "n" * 32
MODELS = [
    Model(
        provider="openai", name="gpt-4o", dialect="openai", context_window=128_000, capabilities=frozenset({"tools"}),
        input_nano=2_500_000_000, output_nano=10_000_000_000, tags=("approved",), data_policy="no-training",
    ),
    Model(provider="home", name="llama", dialect="openai", local=True, data_policy="local", place=(52.5, 13.4)),
    Model(provider="openai", name="o9", dialect="openai", unavailable="the environment variable X is not set"),
    Model(provider="builtin", name="extract"),
    Model(provider="openai", name="vectors", dialect="openai", kind="embedding", dimensions=1536),
]  # fmt: skip


def said(**changed: str) -> bytes:
    signed = told(MODELS, NONCE, SECRET)
    return msgspec.json.encode(msgspec.structs.replace(signed, **changed))


def test_a_node_tells_all_its_facts_and_what_is_local_there_is_not_so_here() -> None:
    big, llama, vectors = heard(said(), NONCE, SECRET, "node")
    assert (big.provider, big.name, big.context_window, big.tags) == ("node", "openai/gpt-4o", 128000, ("approved",))
    assert (big.input_usd, big.output_usd, big.data_policy) == (Decimal("2.5"), Decimal("10"), "no-training")
    assert (llama.name, llama.data_policy, llama.place) == ("home/llama", None, (52.5, 13.4))
    assert (vectors.kind, vectors.dimensions) == ("embedding", 1536)


def test_who_has_another_secret_or_changes_a_word_is_not_believed() -> None:
    cheaper = told(MODELS, NONCE, SECRET).statement.replace("2500000000", "1500000000")
    for wrong in (said(signature="0" * 64), said(signature="é"), said(statement=cheaper)):
        with pytest.raises(UpstreamError, match="not signed"):
            heard(wrong, NONCE, SECRET, "node")
    with pytest.raises(UpstreamError, match="not signed"):
        heard(said(), NONCE, "t" * 32, "node")


def test_what_was_said_before_is_not_believed() -> None:
    with pytest.raises(UpstreamError, match="repeated"):
        heard(said(), "m" * 32, SECRET, "node")


def test_what_is_no_statement_is_the_nodes_fault() -> None:
    for body in (b"", b"null", b"[]", b'{"statement": 3}', b"[" * 100_000):
        with pytest.raises(UpstreamError):
            heard(body, NONCE, SECRET, "node")


def test_a_model_that_cannot_be_kept_is_passed_by() -> None:
    odd = [Model(provider="x", name="v", dialect="openai", kind="embedding"), *MODELS[:1]]
    signed = told(odd, NONCE, SECRET)
    assert isinstance(signed, Signed)
    assert [spec.name for spec in heard(msgspec.json.encode(signed), NONCE, SECRET, "node")] == ["openai/gpt-4o"]
