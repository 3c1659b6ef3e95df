"""What the gateway counts. Labels are a provider's and a model's name as configured: never a caller's words."""

from prometheus_client import Counter, Histogram

from gimle.foundation.telemetry import REGISTRY
from gimle.gateway.types import Usage
from gimle.selection.types import Model

_TARGET = ("provider", "model")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)

CALLS = Counter("gimle_model_calls", "Calls that a model answered.", (*_TARGET, "kind"), registry=REGISTRY)
ATTEMPTS = Counter("gimle_model_attempts", "Attempts at a target, retries included.", _TARGET, registry=REGISTRY)
FAULTS = Counter("gimle_model_faults", "Attempts that failed, by class.", (*_TARGET, "fault"), registry=REGISTRY)
TOKENS = Counter(
    "gimle_model_tokens",
    "Tokens; `exact` is false where they were estimated.",
    (*_TARGET, "direction", "exact"),
    registry=REGISTRY,
)
FIRST_SECONDS = Histogram(
    "gimle_model_first_seconds", "From the send to the first content.", _TARGET, buckets=_SECONDS, registry=REGISTRY
)
TOTAL_SECONDS = Histogram(
    "gimle_model_seconds", "From the send to the end of the answer.", _TARGET, buckets=_SECONDS, registry=REGISTRY
)
ABANDONED = Counter("gimle_model_streams_abandoned", "Streams closed before their end.", _TARGET, registry=REGISTRY)


def settle(model: Model, usage: Usage | None, seconds: float) -> None:
    """Count an answer that came to its end. `usage` None: the provider did not tell."""
    CALLS.labels(model.provider, model.name, model.kind).inc()
    TOTAL_SECONDS.labels(model.provider, model.name).observe(seconds)
    if usage is not None:
        exact = "true" if usage.exact else "false"
        TOKENS.labels(model.provider, model.name, "in", exact).inc(usage.input_tokens)
        TOKENS.labels(model.provider, model.name, "out", exact).inc(usage.output_tokens)
