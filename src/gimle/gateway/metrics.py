"""What the gateway counts. Labels are a provider's and a model's name as configured, never a caller's words."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache

import msgspec

from gimle.foundation.telemetry import REGISTRY, Counter, Gauge, Histogram, Metric, Totals
from gimle.gateway.neutral import Usage
from gimle.gateway.types import ProviderMetrics
from gimle.selection.types import Model

_TARGET = ("provider", "model")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)

CALLS = Counter("gimle_model_calls", "Calls that a model answered.", (*_TARGET, "kind"))
ATTEMPTS = Counter("gimle_model_attempts", "Attempts at a target, retries included.", _TARGET)
FAULTS = Counter("gimle_model_faults", "Attempts that failed, by class.", (*_TARGET, "fault"))
TOKENS = Counter(
    "gimle_model_tokens",
    "Tokens; `exact` is false where they were estimated.",
    (*_TARGET, "direction", "exact"),
)
FIRST_SECONDS = Histogram("gimle_model_first_seconds", "From the send to the first content.", _TARGET, buckets=_SECONDS)
TOTAL_SECONDS = Histogram("gimle_model_seconds", "From the send to the end of the answer.", _TARGET, buckets=_SECONDS)
ABANDONED = Counter("gimle_model_streams_abandoned", "Streams closed before their end.", _TARGET)
BUDGET_REFUSALS = Counter("gimle_budget_refusals", "Calls refused for want of budget.", ("scope",))
BUDGET_ALERTS = Counter("gimle_budget_alerts", "Budgets that passed a mark, in per cent.", ("percent",))
BUDGET_SWEPT = Counter(
    "gimle_budget_leases_swept", "Leases of dead processes; what they had used is known or not.", ("used",)
)
LIMITED = Counter("gimle_limited", "Calls that met a rate limit.", ("of", "unit"))
WAITING = Gauge("gimle_admission_waiting", "Calls that wait for their turn now.")
WAITED_SECONDS = Histogram("gimle_admission_wait_seconds", "How long calls waited that had to.", buckets=_SECONDS)
REFUSED_WAITING = Counter("gimle_admission_refusals", "Calls refused because waiting would have been of no use.")
CACHE_HITS = Counter("gimle_cache_hits", "Calls answered from the cache.")
CACHE_JOINED = Counter("gimle_cache_joined", "Calls answered by another call that was on its way.")
CACHE_SIMILAR = Counter("gimle_cache_similar", "Calls answered from the cache because they mean the same.")
CACHE_MISSES = Counter("gimle_cache_misses", "Calls that the cache could have answered and had no answer for.")
CACHE_SAVED = Counter("gimle_cache_saved_nano_usd", "What the answers from the cache would have cost, in 10^-9 USD.")
CACHE_BYTES = Gauge("gimle_cache_bytes", "Memory that kept answers take.")
REDIS_FAILURES = Counter("gimle_redis_failures", "Times that Redis did not answer and this node went on alone.")


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


def summary(provider: str) -> ProviderMetrics:
    """What a provider's models have done since this server started, for all tenants, in all its processes."""
    totals = REGISTRY.totals()
    faults: defaultdict[str, int] = defaultdict(int)
    for labels, cells in _rows(totals, FAULTS, provider):
        faults[labels["fault"]] += int(cells[0])
    tokens = {"in": 0, "out": 0}
    for labels, cells in _rows(totals, TOKENS, provider):
        tokens[labels["direction"]] += int(cells[0])
    return ProviderMetrics(
        name=provider,
        attempts=_sum(totals, ATTEMPTS, provider),
        calls=_sum(totals, CALLS, provider),
        faults=dict(faults),
        tokens_in=tokens["in"],
        tokens_out=tokens["out"],
        seconds=_mean(totals, TOTAL_SECONDS, provider),
        first_seconds=_mean(totals, FIRST_SECONDS, provider),
        abandoned=_sum(totals, ABANDONED, provider),
    )


def _rows(totals: Totals, meter: Metric, provider: str) -> Iterator[tuple[dict[str, str], list[float]]]:
    for (name, values), cells in totals.items():
        if name == meter.name and (labels := dict(zip(meter.label_names, values, strict=True)))["provider"] == provider:
            yield labels, cells


def _sum(totals: Totals, meter: Counter, provider: str) -> int:
    return int(sum(cells[0] for _, cells in _rows(totals, meter, provider)))


def _mean(totals: Totals, meter: Histogram, provider: str) -> float | None:
    """The mean of what a histogram has observed: its cells are the sum, then the counts of its ranges."""
    rows = [cells for _, cells in _rows(totals, meter, provider)]
    count = sum(sum(cells[1:]) for cells in rows)
    return round(sum(cells[0] for cells in rows) / count, 4) if count else None
