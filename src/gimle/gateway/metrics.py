"""What the gateway counts. Labels are a provider's and a model's name as configured, never a caller's words; `owner` is
the tenant whose own provider it is.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache

import msgspec

from gimle.foundation.telemetry import REGISTRY, Counter, Gauge, Histogram, Metric, Totals
from gimle.gateway.neutral import Usage
from gimle.selection.types import Model

_TARGET = ("provider", "model", "owner")
_RATES = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000)
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
TOKEN_RATE = Histogram(
    "gimle_model_tokens_per_second",
    "Tokens written a second; of a stream, after its first content.",
    _TARGET,
    buckets=_RATES,
)
ABANDONED = Counter("gimle_model_streams_abandoned", "Streams closed before their end.", _TARGET)
COST = Counter(
    "gimle_model_cost_nano_usd", "What answers have cost, in 10^-9 USD; what has no price is not in it.", _TARGET
)
LEDGER_POSTED = Counter("gimle_ledger_posted", "Attempts that were entered in the database.")
LEDGER_TAKEN_OVER = Counter("gimle_ledger_taken_over", "Journals of processes that had died.")
LEDGER_UNWRITTEN = Counter("gimle_ledger_unwritten", "Records that the journal could not take.")
LEDGER_LOST = Counter("gimle_ledger_lost", "Records that are lost: there was no room for them, or no tenant any more.")
LEDGER_BEHIND = Gauge("gimle_ledger_behind_bytes", "What is in the journals and not in the database yet.")
DRAINED = Counter("gimle_model_streams_drained", "Streams read to their end after the caller had left.", _TARGET)
OPEN_BREAKERS = Gauge("gimle_model_breakers_open", "Breakers that are open or half open: keys of this model.", _TARGET)
RETRIES = Counter("gimle_model_retries", "Attempts at a target that had been asked in the same call.", _TARGET)
FALLBACKS = Counter("gimle_model_fallbacks", "Calls that this target answered for a preferred one.", _TARGET)
CONTINUATIONS = Counter(
    "gimle_model_continuations", "Streams that broke off elsewhere and that this target continued.", _TARGET,
)  # fmt: skip
HEDGES = Counter(
    "gimle_model_hedges",
    "Second attempts sent because the first was slow; `won` is true where they answered first.",
    (*_TARGET, "won"),
)
NOTICES = Counter("gimle_notices", "Calls whose caller was told that another model answers.", ("code",))
RETRIES_REFUSED = Counter("gimle_retries_refused", "Retries that the retry budget refused.")


class Meters(msgspec.Struct, frozen=True):
    """The counters of one target, looked up once."""

    labels: tuple[str, str, str]
    attempts: Counter
    calls: Counter
    first_seconds: Histogram
    total_seconds: Histogram
    token_rate: Histogram
    abandoned: Counter
    cost: Counter
    drained: Counter
    open_breakers: Gauge
    retries: Counter
    fallbacks: Counter
    continuations: Counter
    tokens: Mapping[tuple[str, bool], Counter]

    def failed(self, fault: str) -> None:
        """Count an attempt that failed, under the code of its error."""
        FAULTS.labels(*self.labels, fault).inc()

    def hedged(self, *, won: bool) -> None:
        """Count a second attempt that has ended."""
        HEDGES.labels(*self.labels, str(won).lower()).inc()

    def settle(self, usage: Usage | None, seconds: float, first_seconds: float = 0.0) -> None:
        """Count an answer that has ended. `usage` None: the provider did not tell."""
        self.calls.inc()
        self.total_seconds.observe(seconds)
        if usage is not None:
            self.use(usage)
            written = usage.output_tokens
            if written > 1 and seconds > first_seconds:
                self.token_rate.observe(written / (seconds - first_seconds))

    def use(self, usage: Usage) -> None:
        """Count tokens."""
        self.tokens["in", usage.exact].inc(usage.input_tokens)
        self.tokens["out", usage.exact].inc(usage.output_tokens)


def of(model: Model) -> Meters:
    """The counters of a model. Names that only callers know are counted together: they must not fill the memory."""
    return _meters((model.provider, model.name if model.listed else "(unlisted)", model.owner), model.kind)


@cache
def _meters(labels: tuple[str, str, str], kind: str) -> Meters:
    directions = [(direction, exact) for direction in ("in", "out") for exact in (True, False)]
    return Meters(
        labels=labels,
        attempts=ATTEMPTS.labels(*labels),
        calls=CALLS.labels(*labels, kind),
        first_seconds=FIRST_SECONDS.labels(*labels),
        total_seconds=TOTAL_SECONDS.labels(*labels),
        token_rate=TOKEN_RATE.labels(*labels),
        abandoned=ABANDONED.labels(*labels),
        cost=COST.labels(*labels),
        drained=DRAINED.labels(*labels),
        open_breakers=OPEN_BREAKERS.labels(*labels),
        retries=RETRIES.labels(*labels),
        fallbacks=FALLBACKS.labels(*labels),
        continuations=CONTINUATIONS.labels(*labels),
        tokens={(way, exact): TOKENS.labels(*labels, way, str(exact).lower()) for way, exact in directions},
    )


class ProviderMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider's models have done on this node since it started. Seconds are means; None before the first."""

    name: str
    attempts: int
    calls: int
    faults: dict[str, int]
    tokens_in: int
    tokens_out: int
    seconds: float | None = None
    first_seconds: float | None = None
    abandoned: int = 0


def summary(provider: str, owner: str) -> ProviderMetrics:
    """What a provider's models have done since this server started, in all its processes: for the tenant whose own it
    is, or with an empty `owner` for all.
    """
    whose = {"provider": provider, "owner": owner}
    totals = REGISTRY.totals()
    faults: defaultdict[str, int] = defaultdict(int)
    for labels, cells in _rows(totals, FAULTS, whose):
        faults[labels["fault"]] += int(cells[0])
    tokens = {"in": 0, "out": 0}
    for labels, cells in _rows(totals, TOKENS, whose):
        tokens[labels["direction"]] += int(cells[0])
    return ProviderMetrics(
        name=provider,
        attempts=_sum(totals, ATTEMPTS, whose),
        calls=_sum(totals, CALLS, whose),
        faults=dict(faults),
        tokens_in=tokens["in"],
        tokens_out=tokens["out"],
        seconds=_mean(totals, TOTAL_SECONDS, whose),
        first_seconds=_mean(totals, FIRST_SECONDS, whose),
        abandoned=_sum(totals, ABANDONED, whose),
    )


def _rows(totals: Totals, meter: Metric, whose: Mapping[str, str]) -> Iterator[tuple[dict[str, str], list[float]]]:
    for (name, values), cells in totals.items():
        if (
            name == meter.name
            and whose.items() <= (labels := dict(zip(meter.label_names, values, strict=True))).items()
        ):
            yield labels, cells


def _sum(totals: Totals, meter: Counter, whose: Mapping[str, str]) -> int:
    return int(sum(cells[0] for _, cells in _rows(totals, meter, whose)))


def _mean(totals: Totals, meter: Histogram, whose: Mapping[str, str]) -> float | None:
    """The mean of what a histogram has observed: its cells are the sum, then the counts of its ranges."""
    rows = [cells for _, cells in _rows(totals, meter, whose)]
    count = sum(sum(cells[1:]) for cells in rows)
    return round(sum(cells[0] for cells in rows) / count, 4) if count else None
