"""What the gateway counts. Labels are a provider's and a model's name as configured, never a caller's words."""

from collections.abc import Mapping
from functools import cache

import msgspec

from gimle.foundation.telemetry import REGISTRY, Counter, Histogram
from gimle.gateway.neutral import Usage
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


class Meters(msgspec.Struct, frozen=True):
    """The counters of one target, looked up once."""

    labels: tuple[str, str]
    attempts: Counter
    calls: Counter
    first_seconds: Histogram
    total_seconds: Histogram
    abandoned: Counter
    tokens: Mapping[tuple[str, bool], Counter]

    def failed(self, fault: str) -> None:
        """Count an attempt that failed, under the code of its error."""
        FAULTS.labels(*self.labels, fault).inc()

    def settle(self, usage: Usage | None, seconds: float) -> None:
        """Count an answer that has ended. `usage` None: the provider did not tell."""
        self.calls.inc()
        self.total_seconds.observe(seconds)
        if usage is not None:
            self.tokens["in", usage.exact].inc(usage.input_tokens)
            self.tokens["out", usage.exact].inc(usage.output_tokens)


def of(model: Model) -> Meters:
    """The counters of a model. Names that only callers know are counted together: they must not fill the memory."""
    return _meters(model.provider, model.name if model.listed else "(unlisted)", model.kind)


@cache
def _meters(provider: str, model: str, kind: str) -> Meters:
    labels = (provider, model)
    directions = [(direction, exact) for direction in ("in", "out") for exact in (True, False)]
    return Meters(
        labels=labels,
        attempts=ATTEMPTS.labels(*labels),
        calls=CALLS.labels(*labels, kind),
        first_seconds=FIRST_SECONDS.labels(*labels),
        total_seconds=TOTAL_SECONDS.labels(*labels),
        abandoned=ABANDONED.labels(*labels),
        tokens={(way, exact): TOKENS.labels(*labels, way, str(exact).lower()) for way, exact in directions},
    )
