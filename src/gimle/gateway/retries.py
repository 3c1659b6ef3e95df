"""How much may be sent beyond what callers ask for: a share of the traffic, and a small reserve. Pure."""


class Budget:
    """Leave for extra attempts.

    Each call adds `share` of one, each extra attempt takes one, and at most `reserve` are kept; `a_second` flow in with
    time, so that where little is asked a call is not alone. Under load the extra traffic is `share` of it and no more.
    """

    __slots__ = ("_a_second", "_left", "_reserve", "_seen", "_share")

    def __init__(self, share: float, reserve: float, a_second: float = 0.0) -> None:
        self._share = share
        self._reserve = reserve
        self._a_second = a_second
        self._left = reserve
        self._seen = 0.0

    def call(self) -> None:
        """A caller asks for something."""
        left = self._left + self._share
        self._left = left if left < self._reserve else self._reserve

    def take(self, now: float) -> bool:
        """Whether one more attempt may be sent; it is taken as sent."""
        if self.spent(now):
            return False
        self._left -= 1.0
        return True

    def spent(self, now: float) -> bool:
        """Whether nothing is left. `now` is in seconds and never goes back."""
        if self._seen:
            self._left = min(self._reserve, self._left + (now - self._seen) * self._a_second)
        self._seen = now
        return self._left < 1.0
