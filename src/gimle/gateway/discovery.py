"""What a provider's own list says of its models, in whichever of the usual shapes; pure."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from gimle.foundation.errors import UpstreamError
from gimle.selection.types import Kind, ModelSpec

# The names under which vendors tell the window, the longest answer, and prices.
_WINDOW = (
    "context_window",
    "context_length",
    "max_model_len",
    "max_context_length",
    "inputTokenLimit",
    "max_input_tokens",
)
_ANSWER = ("max_output", "max_completion_tokens", "outputTokenLimit", "max_tokens")
_INPUT, _OUTPUT = ("prompt", "input"), ("completion", "output")
_KINDS: Sequence[tuple[Kind, re.Pattern[str]]] = (
    ("rerank", re.compile(r"rerank")),
    ("embedding", re.compile(r"embed|\bbge\b|\be5\b|minilm")),
    ("transcription", re.compile(r"whisper|transcri")),
)
# What answers no chat: pictures, speech, moderation.
_OTHERS = re.compile(r"tts|speech|dall|image|imagen|veo|sora|moderation|guard|realtime|aqa")
_MILLION = 1_000_000


def specs(body: bytes, provider: str) -> list[ModelSpec]:
    """The models of a list that can be registered; what Gimle has no use for is left out. Raises `UpstreamError`."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise UpstreamError(f"{provider} did not list its models as JSON.") from None
    entries = (
        told if isinstance(told, list) else told.get("data", told.get("models")) if isinstance(told, dict) else None
    )
    if not isinstance(entries, list):
        raise UpstreamError(f"{provider} did not list its models.")
    found = [_spec(entry, provider) for entry in entries if isinstance(entry, dict)]
    return list({(spec.name, spec.kind): spec for spec in found if spec is not None}.values())


def _spec(entry: Mapping[str, Any], provider: str) -> ModelSpec | None:
    name = entry.get("id") or entry.get("name")
    if not isinstance(name, str):
        return None
    name = name.removeprefix("models/")
    kind = next((kind for kind, shape in _KINDS if shape.search(name.lower())), "chat")
    # A vector without its dimensions can't be kept; what a list leaves out an administrator may register.
    if kind == "embedding" or (kind == "chat" and _OTHERS.search(name.lower())) or entry.get("active") is False:
        return None
    prices = entry.get("pricing")
    try:
        return msgspec.convert(
            {
                "provider": provider,
                "name": name,
                "kind": kind,
                "context_window": _count(entry, _WINDOW),
                "max_output": _count(entry, _ANSWER),
                "input_usd": _usd(prices, _INPUT),
                "output_usd": _usd(prices, _OUTPUT),
            },
            ModelSpec,
        )
    except msgspec.ValidationError:
        return None


def _count(entry: Mapping[str, Any], names: Sequence[str]) -> int | None:
    found = (entry.get(name) for name in names)
    return next(
        (value for value in found if isinstance(value, int) and not isinstance(value, bool) and value > 0), None
    )


def _usd(prices: object, names: Sequence[str]) -> str | None:
    """A price for a million tokens. Those who write it as text mean a single token, a number is for a million."""
    if not isinstance(prices, dict):
        return None
    value = next((prices[name] for name in names if name in prices), None)
    try:
        usd = Decimal(value) * _MILLION if isinstance(value, str) else Decimal(repr(value))
    except (InvalidOperation, TypeError):
        return None
    return format(usd.normalize(), "f") if usd.is_finite() and 0 <= usd <= _MILLION else None
