"""The numbers that the house shows at `/metrics`: every metric is declared here, so that a name has one meaning.

A room counts by importing the metric. Labels take few values: never an id, a path with an id in it, or a caller's
words.
"""

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

CONTENT_TYPE = CONTENT_TYPE_LATEST.removesuffix("; charset=utf-8")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

HTTP_REQUESTS = Counter(
    "gimle_http_requests", "HTTP requests answered.", ("route", "method", "status"), registry=REGISTRY
)
HTTP_SECONDS = Histogram(
    "gimle_http_request_seconds",
    "Time from the first byte of a request to the last of its answer.",
    ("route",),
    buckets=_SECONDS,
    registry=REGISTRY,
)
HTTP_IN_FLIGHT = Gauge("gimle_http_in_flight", "HTTP requests being answered now.", registry=REGISTRY)
HTTP_DISCONNECTS = Counter(
    "gimle_http_disconnects", "Callers who left before their answer was complete.", ("route",), registry=REGISTRY
)
OVERHEAD_SECONDS = Histogram(
    "gimle_overhead_seconds",
    "Our own time on an inference call up to its first byte, the provider's taken off.",
    ("route",),
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1),
    registry=REGISTRY,
)


# Looking a metric up by its labels costs more than counting; with labels of few values the look-up can be kept.
@cache
def http_requests(route: str, method: str, status: int) -> Counter:
    """The counter of these requests."""
    return HTTP_REQUESTS.labels(route, method, status)


@cache
def http_seconds(route: str) -> Histogram:
    """The times of a route."""
    return HTTP_SECONDS.labels(route)


@cache
def overhead_seconds(route: str) -> Histogram:
    """Our own time on a route."""
    return OVERHEAD_SECONDS.labels(route)


def exposition() -> bytes:
    """All metrics in the Prometheus text format."""
    return generate_latest(REGISTRY)
