"""What a provider's own list says of its models, in whichever of the usual shapes; pure."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from gimle.foundation.errors import UpstreamError
from gimle.selection.types import DataPolicy, Hardware, Kind, ModelSpec

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
_NANO = 1_000_000_000


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


class _Offered(msgspec.Struct, frozen=True, kw_only=True):
    """A model as another Gimle node lists it under `/api/v1/models`."""

    id: str
    kind: Kind = "chat"
    dialect: str | None = None
    unavailable: str | None = None
    context_window: int | None = None
    max_output: int | None = None
    capabilities: tuple[str, ...] = ()
    dimensions: int | None = None
    parameters: int | None = None
    hardware: Hardware | None = None
    hardware_quality: float | None = None
    input_nano: int | None = None
    output_nano: int | None = None
    region: str | None = None
    place: tuple[float, float] | None = None
    tags: tuple[str, ...] = ()
    data_policy: DataPolicy | None = None


class _Registry(msgspec.Struct, frozen=True):
    items: list[_Offered]


def node_specs(body: bytes, provider: str) -> list[ModelSpec]:
    """The models of another Gimle node that can serve there, to be used through it. Raises `UpstreamError`.

    Its engines are left out, since every node has them; and what is local there is not so here.
    """
    try:
        told = msgspec.json.decode(body, type=_Registry)
    except (msgspec.MsgspecError, RecursionError):
        raise UpstreamError(f"{provider} did not list its models as a Gimle node does.") from None
    found = (_of_node(one, provider) for one in told.items if one.dialect is not None and one.unavailable is None)
    return list({(spec.name, spec.kind): spec for spec in found if spec is not None}.values())


def _of_node(one: _Offered, provider: str) -> ModelSpec | None:
    fields = msgspec.to_builtins(one)
    for name in ("id", "dialect", "unavailable", "input_nano", "output_nano"):
        del fields[name]
    fields |= {"provider": provider, "name": one.id, "tags": list(one.tags)}
    for name, nano in (("input_usd", one.input_nano), ("output_usd", one.output_nano)):
        fields[name] = None if nano is None else str(Decimal(nano) / _NANO)
    if one.data_policy == "local":
        fields["data_policy"] = None
    if one.kind == "embedding" and one.dimensions is None:
        return None
    try:
        return msgspec.convert(fields, ModelSpec)
    except msgspec.ValidationError:
        return None


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
