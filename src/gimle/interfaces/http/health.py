"""`/health` and `/metrics`: open to everyone who can reach the port, since probes and scrapers carry no keys.

They tell how the components feel and how busy the server is, and nothing of what tenants do.
"""

from typing import Literal

import msgspec
from litestar import Response, get

import gimle
from gimle.foundation import telemetry
from gimle.foundation.health import ComponentHealth, ServiceStatus
from gimle.interfaces.http.given import Rooms


class HealthDetail(msgspec.Struct, frozen=True):
    """The whole installation as this process sees it."""

    status: ServiceStatus
    version: str
    uptime_seconds: float
    components: tuple[ComponentHealth, ...]


class Probe(msgspec.Struct, frozen=True):
    """The answer to a probe; the HTTP status says the same (200 or 503)."""

    status: Literal["alive", "started", "ready", "not ready"]


@get("/health", summary="Health in detail", tags=["health"], security=[])
async def detail(rooms: Rooms) -> Response[HealthDetail]:
    """One entry a component. If an optional one fails the whole is degraded (200); a required one: unhealthy (503)."""
    report = await rooms.health.report()
    body = HealthDetail(report.status, gimle.__version__, report.uptime_seconds, report.components)
    return Response(body, status_code=200 if report.ready else 503)


@get("/health/live", summary="Is the process alive?", tags=["health"], security=[])
async def live() -> Probe:
    """Restart the process when this fails. It asks nothing of the database."""
    return Probe("alive")


@get("/health/ready", summary="Send requests here?", tags=["health"], security=[])
async def ready(rooms: Rooms) -> Response[Probe]:
    """503 while a required component fails; the process heals by itself and need not be restarted."""
    good = (await rooms.health.report()).ready
    return Response(Probe("ready" if good else "not ready"), status_code=200 if good else 503)


@get("/health/startup", summary="Has it started?", tags=["health"], security=[])
async def startup() -> Probe:
    """The port opens only after everything has started, so an answer is a yes."""
    return Probe("started")


@get("/metrics", summary="Metrics", tags=["health"], security=[], media_type=telemetry.CONTENT_TYPE)
async def metrics() -> Response[bytes]:
    """Prometheus text format."""
    return Response(telemetry.exposition(), media_type=telemetry.CONTENT_TYPE)


HANDLERS = (detail, live, ready, startup, metrics)
