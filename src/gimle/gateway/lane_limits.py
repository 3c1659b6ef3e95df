"""The limits of the lanes to providers (one key at one provider for one model), learned from their answers."""

import time
from collections.abc import Mapping

from gimle.foundation.tally import key
from gimle.gateway import gcra
from gimle.gateway.gcra import Rate
from gimle.gateway.learned import learned
from gimle.gateway.limits import Limit, Limits, Unit

_MOST_LANES = 10_000
# A pace that is read anew moves a limit this far; one answer's rounding must not throw it about.
_WEIGHT = 0.3
_LISTEN_SECONDS = 0.05


class LaneLimits:
    """What is known of the lanes' limits in this process; how far they are used up, all processes of the node know."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lanes: dict[str, dict[Unit, Limit]] = {}
        self._heard: dict[str, float] = {}

    def of(self, lane: str) -> tuple[Limit, ...]:
        """The limits of a lane; none before its provider has told of any."""
        known = self._lanes.get(lane)
        return tuple(known.values()) if known else ()

    def listens(self, lane: str) -> bool:
        """Whether an answer over a lane is to be `heard`. Of many at once one is: what we send is counted anyway."""
        now = time.monotonic()
        if now - self._heard.get(lane, 0.0) < _LISTEN_SECONDS:
            return False
        self._heard[lane] = now
        return True

    def heard(self, lane: str, headers: Mapping[str, str]) -> None:
        """What an answer that came over a lane tells of its limits."""
        for told in learned(headers):
            limit = self._known(lane, told.unit, told.rate)
            self._limits.told(limit, told.full_in)

    def refused(self, lane: str, seconds: float) -> None:
        """The provider refuses calls over a lane for so many seconds."""
        limit = self._lanes.get(lane, {}).get("requests") or self._known(lane, "requests", gcra.a_minute(60))
        self._limits.close_lane(limit, seconds)

    def _known(self, lane: str, unit: Unit, rate: Rate) -> Limit:
        if len(self._lanes) >= _MOST_LANES:
            self._lanes.clear()
            self._heard.clear()
        own = self._lanes.setdefault(lane, {})
        before = own.get(unit)
        if before is not None and before.rate.burst == rate.burst:
            interval = before.rate.interval + int((rate.interval - before.rate.interval) * _WEIGHT)
            rate = gcra.rate(max(1, interval), rate.burst)
            if rate == before.rate:
                return before
        name = f"gimle:lane:{lane}:{unit}"
        limit = own[unit] = Limit("provider", unit, key(name), name, rate)
        return limit
