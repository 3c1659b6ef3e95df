"""What is measured of a model: sums that fade, percentiles by the size of the prompt, checks. Time is always given.

All sums fade by half in `HALF_LIFE` seconds. They are kept as they would be worth at one moment, the landmark, so that
an old sum costs nothing to keep, and the sums of several processes can be added.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

import msgspec

HALF_LIFE = 600.0
# Prompts by their tokens: up to each of these, and above.
BUCKETS = (1_000, 4_000, 16_000, 64_000)
CHECKS = 100

# Bins of the percentiles: each is a tenth wider than the one before, from a millisecond to a quarter of an hour.
_GROWTH = math.log(1.1)
_SHORTEST = 0.001
_BINS = 144
# When newer samples weigh this much more than the landmark, the landmark moves.
_REBASE = 1e6
_NOTHING = 1e-9


def bucket(tokens: int) -> int:
    """Which size of prompts this is."""
    return bisect_left(BUCKETS, tokens)


class Times(msgspec.Struct):
    """The times of the calls with one size of prompts: their number, and the sums of the seconds to the first content.

    `bins` count them by those seconds, for percentiles, and `ends` by the seconds to the end.
    """

    n: float
    first: float
    squares: float
    total: float
    bins: dict[int, float]
    ends: dict[int, float] = {}

    def add(self, weight: float, first: float, total: float) -> None:
        """Count a call."""
        self.n += weight
        self.first += weight * first
        self.squares += weight * first * first
        self.total += weight * total
        for bins, seconds in ((self.bins, first), (self.ends, total)):
            place = _bin(seconds)
            bins[place] = bins.get(place, 0.0) + weight

    def scale(self, by: float) -> None:
        """Make all sums so many times as large."""
        self.n, self.first, self.squares, self.total = self.n * by, self.first * by, self.squares * by, self.total * by
        self.bins, self.ends = (
            {place: n * by for place, n in bins.items() if n * by > _NOTHING} for bins in (self.bins, self.ends)
        )

    def join(self, other: "Times") -> None:
        """Add the sums of another process."""
        self.n += other.n
        self.first += other.first
        self.squares += other.squares
        self.total += other.total
        for bins, others in ((self.bins, other.bins), (self.ends, other.ends)):
            for place, n in others.items():
                bins[place] = bins.get(place, 0.0) + n


class Facts(msgspec.Struct):
    """What is known of one model. Sums are worth what they say at the moment `at`, in seconds since 1970.

    `tokens` were written in `writing` seconds; `ping` is the sum of the seconds of `pings` probes. `checks` are the
    moments of the last checks, the failed ones negative; calls count as checks.
    """

    at: float
    calls: float
    errors: float
    tokens: float
    writing: float
    pings: float
    ping: float
    checks: list[float]
    times: list[Times]
    # How many of the checks found it there: counted along, since a sum at each call would cost more than the rest.
    ups: int = 0

    @property
    def streak(self) -> int:
        """How many of the last checks failed in a row."""
        return next((n for n, check in enumerate(reversed(self.checks)) if check > 0), len(self.checks))

    def uptime(self) -> float | None:
        """The share of the last checks that found it there; None before the first."""
        return self.ups / len(self.checks) if self.checks else None

    def answered(self, now: float, tokens: int, first: float, total: float, output: int) -> None:
        """A call was answered: the prompt's tokens, the seconds to the first content and to the end, tokens written."""
        weight = self._weight(now)
        self.calls += weight
        self._of(bucket(tokens)).add(weight, first, total)
        if output > 1 and total > first:
            self.tokens += weight * output
            self.writing += weight * (total - first)
        self._check(now)

    def failed(self, now: float) -> None:
        """A call failed by the model's or its provider's fault."""
        weight = self._weight(now)
        self.calls += weight
        self.errors += weight
        self._check(-now)

    def probed(self, now: float, seconds: float | None) -> None:
        """A probe found it there after so many seconds; None: not there."""
        if seconds is not None:
            weight = self._weight(now)
            self.pings += weight
            self.ping += weight * seconds
        self._check(-now if seconds is None else now)

    def quantile(self, tokens: int, share: float, *, whole: bool = False) -> float | None:
        """The seconds to the first content under which this share of the calls lies, for prompts of this size.

        `whole`: the seconds to the end.
        """
        size = bucket(tokens)
        if size >= len(self.times):
            return None
        times = self.times[size]
        return quantile(times.ends if whole else times.bins, share)

    def scale(self, by: float) -> None:
        """Make all sums so many times as large."""
        self.calls, self.errors = self.calls * by, self.errors * by
        self.tokens, self.writing = self.tokens * by, self.writing * by
        self.pings, self.ping = self.pings * by, self.ping * by
        for times in self.times:
            times.scale(by)

    def join(self, other: "Facts") -> None:
        """Add the sums of another process; both are of the same landmark."""
        self.calls, self.errors = self.calls + other.calls, self.errors + other.errors
        self.tokens, self.writing = self.tokens + other.tokens, self.writing + other.writing
        self.pings, self.ping = self.pings + other.pings, self.ping + other.ping
        for size, times in enumerate(other.times):
            self._of(size).join(times)
        self.checks = sorted((*self.checks, *other.checks), key=abs)[-CHECKS:]
        self.ups = sum(check > 0 for check in self.checks)

    def copy(self) -> "Facts":
        """The same facts, which change on their own."""
        return msgspec.convert(msgspec.to_builtins(self), Facts)

    def _weight(self, now: float) -> float:
        """What a sample of this moment weighs."""
        if self.at == 0.0:
            self.at = now
        weight: float = 2.0 ** min((now - self.at) / HALF_LIFE, 900.0)
        if weight > _REBASE:
            self.scale(1.0 / weight)
            self.at, weight = now, 1.0
        return weight

    def _of(self, size: int) -> Times:
        while len(self.times) <= size:
            self.times.append(Times(0.0, 0.0, 0.0, 0.0, {}))
        return self.times[size]

    def _check(self, moment: float) -> None:
        self.checks.append(moment)
        self.ups += moment > 0
        if len(self.checks) > CHECKS:
            self.ups -= self.checks.pop(0) > 0


def new() -> Facts:
    """Nothing is known yet."""
    return Facts(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, [], [])


def merged(parts: Iterable[Facts]) -> Facts:
    """What several processes know together."""
    found: Sequence[Facts] = [part.copy() for part in parts]
    whole = new()
    whole.at = max((part.at for part in found), default=0.0)
    for part in found:
        part.scale(2.0 ** max((part.at - whole.at) / HALF_LIFE, -900.0))
        whole.join(part)
    return whole


def quantile(bins: Mapping[int, float], share: float) -> float | None:
    """The seconds under which this share of what the bins count lies, within a twentieth; None when they are empty."""
    left = share * sum(bins.values())
    for place, weight in sorted(bins.items()):
        left -= weight
        if left <= 0.0:
            return _SHORTEST * math.exp((place + 0.5) * _GROWTH)
    return None


def _bin(seconds: float) -> int:
    return min(int(math.log(max(seconds, _SHORTEST) / _SHORTEST) / _GROWTH), _BINS - 1)
