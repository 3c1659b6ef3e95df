"""How the house feels: one entry a component, and one word for the whole.

A required component that fails makes the whole `unhealthy` (not ready: send no work here); an optional one only
`degraded` (it serves, with less). A check is a function that returns a short detail, or raises: what it raised becomes
`last_error`, which stays visible after the component has come back.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from gimle.foundation.errors import GimleError

ServiceStatus = Literal["healthy", "degraded", "unhealthy"]
Check = Callable[[], Awaitable[str | None]]

# Load balancers and people ask often, and all at once: an answer this young (seconds) is given again.
_FRESH_SECONDS = 1.0


class ComponentHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One component at its last check. `latency_ms` is the check's own time."""

    name: str
    status: ServiceStatus
    required: bool
    latency_ms: float
    detail: str | None = None
    last_error: str | None = None


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole house at one moment."""

    status: ServiceStatus
    uptime_seconds: float
    components: tuple[ComponentHealth, ...]

    @property
    def ready(self) -> bool:
        """Whether requests may be sent here."""
        return self.status != "unhealthy"


class _Component(msgspec.Struct):
    name: str
    check: Check
    required: bool
    timeout_seconds: float
    last_error: str | None = None


class Health:
    """The components that were registered, and their last report."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._born = clock()
        self._components: dict[str, _Component] = {}
        self._report: HealthReport | None = None
        self._reported_at = 0.0
        self._lock = asyncio.Lock()

    def register(self, name: str, check: Check, *, required: bool, timeout_seconds: float = 2.0) -> None:
        """Watch one component. The check may be called at any time, but never twice at once."""
        self._components[name] = _Component(name, check, required, timeout_seconds)
        self._report = None

    async def report(self) -> HealthReport:
        """Check every component at once; callers who ask within a second share one round."""
        async with self._lock:
            if self._report is None or self._clock() - self._reported_at > _FRESH_SECONDS:
                checked = await asyncio.gather(*(self._check(each) for each in self._components.values()))
                self._report = self._sum_up(tuple(checked))
                self._reported_at = self._clock()
            return self._report

    async def _check(self, component: _Component) -> ComponentHealth:
        begun = time.perf_counter()
        # Gathering turns whatever the check raises into a value, without a broad `except`.
        (outcome,) = await asyncio.gather(
            asyncio.wait_for(component.check(), component.timeout_seconds), return_exceptions=True
        )
        latency_ms = round((time.perf_counter() - begun) * 1000, 2)
        if isinstance(outcome, BaseException):
            component.last_error = _reason(outcome, component.timeout_seconds)
            status: ServiceStatus = "unhealthy" if component.required else "degraded"
            detail = None
        else:
            status, detail = "healthy", outcome
        return ComponentHealth(
            name=component.name,
            status=status,
            required=component.required,
            latency_ms=latency_ms,
            detail=detail,
            last_error=component.last_error,
        )

    def _sum_up(self, components: tuple[ComponentHealth, ...]) -> HealthReport:
        found = {component.status for component in components}
        worst: ServiceStatus = "unhealthy" if "unhealthy" in found else "degraded" if "degraded" in found else "healthy"
        uptime = round(self._clock() - self._born, 1)
        return HealthReport(status=worst, uptime_seconds=uptime, components=components)


def _reason(error: BaseException, timeout_seconds: float) -> str:
    """Our own errors explain themselves; of foreign ones only the kind is told, since this page needs no key."""
    if isinstance(error, GimleError):
        return f"{error.message} {error.hint}" if error.hint else error.message
    if isinstance(error, TimeoutError):
        return f"No answer within {timeout_seconds:g} s."
    return type(error).__name__
