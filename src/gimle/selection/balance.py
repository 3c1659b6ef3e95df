"""Which of several that are about equal gets the next call. State and chance are given; nothing waits."""

import hashlib
from collections.abc import Mapping, Sequence

# With affinity, nobody gets more than this many times the mean load.
_BOUND = 1.25
# So many characters are how a prompt begins.
PREFIX = 1024


class RoundRobin:
    """Smooth weighted round-robin: in each run of calls everyone gets its share, as evenly spread as can be."""

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}

    def pick(self, shares: Mapping[str, float]) -> str:
        """The next of those named, in proportion to their shares, of which one at least is above 0."""
        # Who is not among the candidates this time keeps its credit, and gains none: kinds of calls may alternate.
        for name, share in shares.items():
            self._credit[name] = self._credit.get(name, 0.0) + share
        chosen = max(shares, key=self._credit.__getitem__)
        self._credit[chosen] -= sum(shares.values())
        return chosen


def two_choices(loads: Sequence[float], roll: float) -> int:
    """The less loaded of two that chance names (`roll` from 0 up to 1)."""
    n = len(loads)
    if n == 1:
        return 0
    pair = int(roll * n * (n - 1))
    first, second = pair // (n - 1), pair % (n - 1)
    second += second >= first
    return first if loads[first] <= loads[second] else second


def affine(prefix: int, names: Sequence[str], flying: Sequence[float]) -> int:
    """The same one for the same beginning of the prompt, as long as it is not loaded above its share.

    Rendezvous hashing: when one comes or goes, only its own calls move.
    """
    bound = _BOUND * (sum(flying) + 1) / len(names)
    ranked = sorted(range(len(names)), key=lambda at: _rank(prefix, names[at]), reverse=True)
    return next((at for at in ranked if flying[at] < bound), ranked[0])


def prefix_of(text: str) -> int:
    """A number for how a prompt begins."""
    return int.from_bytes(hashlib.blake2b(text[:PREFIX].encode("utf-8", "replace"), digest_size=8).digest())


def _rank(prefix: int, name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8, key=prefix.to_bytes(8)).digest()
