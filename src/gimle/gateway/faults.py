"""What follows from a failed attempt: pure decisions, so that the walk itself stays short."""

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Literal

from msgspec.structs import replace

from gimle.foundation.errors import (
    ContextTooLong,
    GimleError,
    RateLimitedError,
    TransientError,
    Unsayable,
    UpstreamError,
    UpstreamTimeout,
)
from gimle.gateway.breaker import Ticket
from gimle.gateway.types import Fault
from gimle.selection.types import Model

# Whose fault it is, and so what helps: another try, another key, time, a larger window, another target, the caller.
Kind = Literal["transient", "key", "quota", "context", "unsayable", "caller", "ours"]

# A call is retried this often beyond its first round over the targets.
RETRIES = 2
_FIRST_PAUSE = 0.25
# A provider that asks for a longer pause than this is not waited for.
LONGEST_WAIT = 5.0


def weigh(error: GimleError) -> Fault:
    """What an error met on the way means. A target that let the time run out is asked once, not three times."""
    if isinstance(error, RateLimitedError):
        return Fault(error, again=error.after <= LONGEST_WAIT, after=error.after)
    again = isinstance(error, TransientError) and not isinstance(error, UpstreamTimeout)
    return Fault(error, again=again)


def kind(fault: Fault) -> Kind:
    """The class of a fault."""
    match fault.error:
        case RateLimitedError():
            return "quota"
        case ContextTooLong():
            return "context"
        case Unsayable():
            return "unsayable"
        case UpstreamError():
            return "key" if 400 <= fault.status < 500 and not fault.again else "transient"
        case TransientError():
            return "ours"
    return "caller"


def tell(ticket: Ticket, fault: Fault, now: float) -> None:
    """Tell a target's breaker what became of an attempt.

    A 401 is about the key alone. Other refusals of the provider's (403, 402) may be about what this caller asked, and
    must repeat themselves before others are kept from asking.
    """
    match kind(fault):
        case "quota":
            ticket.limited(now, fault.after)
        case "key" if fault.status == 401:
            ticket.refused(now)
        case "key" | "transient":
            ticket.failed(now, fault.after)
        case _:
            ticket.left()


def ends(fault: Fault) -> bool:
    """Whether no other target would do better: the caller's own fault."""
    return kind(fault) == "caller"


def remaining(targets: list[Model], failed: Model, fault: Fault) -> list[Model]:
    """The targets that are still worth asking after one has failed."""
    if isinstance(fault.error, ContextTooLong):
        return [target for target in targets if target.context_window > failed.context_window]
    return targets if fault.again else [target for target in targets if target is not failed]


def waiting(headers: Mapping[str, str], now: float) -> float:
    """How many seconds an answer asks to wait, as a number or as a date; `now` is the time of day in Unix seconds."""
    said = headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - now
        except (ValueError, OverflowError):
            return 0.0
    return seconds if 0 < seconds < math.inf else 0.0


def held(fault: Fault, status: int, seconds: float) -> Fault:
    """A refusal with its status, whose provider asks to wait so long: less is not waited."""
    after = max(fault.after, seconds)
    if isinstance(fault.error, RateLimitedError) and after > fault.error.after:
        fault.error.after = after
        fault.error.hint = f"Try again in {after:.0f} s."
    return replace(fault, status=status, after=after, again=fault.again and after <= LONGEST_WAIT)


def pause(round_: int, jitter: float) -> float:
    """Seconds to wait before the next round (0 is the first); `jitter` is between 0 and 1."""
    return float(_FIRST_PAUSE * 2**round_ * (0.5 + jitter))


def label(fault: Fault) -> str:
    """The class of a fault, for the metrics: the code of its error, and a name of its own for a refused key."""
    return "key_refused" if kind(fault) == "key" else fault.error.code
