"""How long a model's answers are: what a call with overdraft reserves is learned, and not the most that it may write.

A histogram of ranges that grow by a quarter each, in which the past fades: after some hundred answers it counts for
half. Pure, and a look-up costs nothing: the quantile is taken anew now and then only.
"""

import math

_GROWTH = math.log(1.25)
_RANGES = 80
_ANEW_AFTER = 32
_FADE = 0.92
# Before there is anything to go by: longer than most answers.
_UNKNOWN = 1024
_ENOUGH = 20
# Of all answers, those that are no longer than what is told as likely.
_SHARE = 0.95


class Lengths:
    """The answers of one model, in tokens."""

    __slots__ = ("_counts", "_new", "_quantile", "_seen")

    def __init__(self) -> None:
        self._counts = [0.0] * _RANGES
        self._new: list[int] = []
        self._seen = 0
        self._quantile = _UNKNOWN

    def learn(self, tokens: int) -> None:
        """An answer had so many tokens."""
        self._new.append(tokens)
        self._seen += 1
        if len(self._new) >= _ANEW_AFTER or self._seen == _ENOUGH:
            self._take_in()

    def likely(self, most: int | None) -> int:
        """The tokens that all but one in twenty answers stay below, where at most `most` may be written."""
        return self._quantile if most is None else min(self._quantile, most)

    def _take_in(self) -> None:
        for tokens in self._new:
            self._counts[_range(tokens)] += 1.0
        self._new.clear()
        self._quantile = self._look()
        self._counts = [count * _FADE for count in self._counts]

    def _look(self) -> int:
        wanted = sum(self._counts) * _SHARE
        for place, count in enumerate(self._counts):
            wanted -= count
            if wanted <= 0:
                return math.ceil(math.exp((place + 1) * _GROWTH))
        return _UNKNOWN


def _range(tokens: int) -> int:
    return min(_RANGES - 1, int(math.log(tokens) / _GROWTH)) if tokens > 1 else 0
