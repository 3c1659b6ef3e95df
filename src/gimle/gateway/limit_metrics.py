"""What budgets, limits, admission and cache count. No label is a caller's word."""

from gimle.foundation.telemetry import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

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
