"""Rate limits as one number each: the generic cell rate algorithm, with reservation and refund. Pure.

`tat` is the theoretical arrival time: the moment, in nanoseconds, at which all that was taken has flowed off again. A
limit of 100 a minute lets 100 through at once, and then one each 0.6 s. What was reserved and not used goes back; what
was used above the reservation is owed, and the next has to wait for it.
"""

from typing import Final

import msgspec

SECOND: Final = 1_000_000_000
_MINUTE: Final = 60 * SECOND


class Rate(msgspec.Struct, frozen=True):
    """So many units at once (`burst`), and a new one each `interval` nanoseconds."""

    interval: int
    burst: int
    # How far the theoretical arrival time may lie ahead, in nanoseconds.
    tolerance: int


def rate(interval: int, burst: int) -> Rate:
    """A rate."""
    return Rate(interval, burst, interval * burst)


def a_minute(units: int) -> Rate:
    """At most so many units a minute, all of them at once if need be."""
    return rate(max(1, _MINUTE // units), units)


def wait(tat: int, now: int, rate: Rate, units: int) -> int:
    """The nanoseconds until so many units may be taken; 0: now.

    What is more than the whole limit may go when nothing else is under way: it could never go otherwise.
    """
    ahead = tat - now if tat > now else 0
    over = ahead + units * rate.interval - rate.tolerance
    if over <= 0:
        return 0
    return over if units <= rate.burst else ahead


def taken(tat: int, now: int, rate: Rate, units: int) -> int:
    """The number after so many units were taken."""
    return (tat if tat > now else now) + units * rate.interval


def refunded(tat: int, rate: Rate, units: int) -> int:
    """The number after so many units were given back; negative: after so many more were used."""
    return tat - units * rate.interval


def remaining(tat: int, now: int, rate: Rate) -> int:
    """How many units may be taken at once now."""
    return max(0, (rate.tolerance - max(0, tat - now)) // rate.interval)


def full_in(tat: int, now: int) -> float:
    """The seconds until the whole limit may be taken again."""
    return max(0, tat - now) / SECOND


def closed(now: int, rate: Rate, seconds: float) -> int:
    """The number of a limit that nothing passes for so many seconds: a provider said so."""
    return now + int(seconds * SECOND) + rate.tolerance - rate.interval
