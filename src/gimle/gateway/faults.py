"""What a failed attempt means, and what follows from it: pure decisions, so that the walk itself stays short."""

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Literal

from msgspec.structs import replace

from gimle.foundation.errors import (
    BudgetExceeded,
    ContextTooLong,
    GimleError,
    InvalidRequest,
    Overloaded,
    QuotaExceeded,
    RateLimitedError,
    TransientError,
    Unpriced,
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
# What a quota that is used up is given to fill again, where the provider does not say.
_QUOTA_SECONDS = 60.0
# So much of what a provider says is told on, in characters.
LONGEST = 500

# -- what dialects make of a refusal


def key_refused(status: int) -> Fault:
    """The provider does not take our key. What it says about it is not told, since it may quote it."""
    error = UpstreamError(f"The provider refused Gimle's key (HTTP {status}).", hint="Check the key of this provider.")
    return Fault(error)


def limited(after: float, said: str = "") -> Fault:
    """The provider wants to be asked less often, and again after so many seconds."""
    return weigh(RateLimitedError(_ended("The provider limits the rate of requests", said), after=after))


def used_up(said: str = "", after: float = 0.0) -> Fault:
    """What the provider grants us is used up, for longer than a call can wait."""
    quota = _ended("The provider's quota is used up", said)
    return Fault(RateLimitedError(quota, after=max(_QUOTA_SECONDS, after)))


def _ended(sentence: str, said: str) -> str:
    return f"{sentence}: {said}" if said else f"{sentence}."


def late(said: str) -> Fault:
    """The provider gave up by itself, in its own words."""
    return weigh(UpstreamTimeout(f"The provider did not answer in time. {said}".strip()))


def theirs(status: int) -> bool:
    """Whether a status tells of the provider, its account or the way to it, rather than of what the caller sent."""
    return status in (402, 407, 408, 425, 499) or not 400 <= status < 500


def failed(status: int, said: str) -> Fault:
    """The provider failed, in its own words."""
    return Fault(UpstreamError(f"The provider answered with HTTP {status}. {said}".strip()), again=status >= 408)


def declined(status: int, said: str, *, passable: bool) -> Fault:
    """The provider does not want what the caller sent, in its own words."""
    return Fault(InvalidRequest(said or f"The provider refused the request (HTTP {status})."), passable=passable)


def reported(said: str, kind: str = "") -> UpstreamError:
    """The error that a provider tells inside a success or in the middle of a stream."""
    named = f" ({kind[:LONGEST]})" if kind else ""
    return UpstreamError(f"The provider reports an error{named}: {said[:LONGEST] or 'without a message'}")


# -- what follows


def weigh(error: GimleError) -> Fault:
    """What an error met on the way means. A target that let the time run out is asked once, not three times."""
    if isinstance(error, BudgetExceeded | QuotaExceeded | Overloaded | Unpriced):
        # It was not sent. Another target may be free.
        return Fault(error)
    if isinstance(error, RateLimitedError):
        return Fault(error, again=error.after <= LONGEST_WAIT, after=error.after)
    again = isinstance(error, TransientError) and not isinstance(error, UpstreamTimeout)
    return Fault(error, again=again)


def kind(fault: Fault) -> Kind:
    """The class of a fault."""
    match fault.error:
        case BudgetExceeded() | QuotaExceeded() | Overloaded() | Unpriced():
            return "ours"
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
    if (told := seconds(said)) is not None:
        return told
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def seconds(said: str) -> float | None:
    """A pause as a header tells it in seconds; None for what is no number, and for what nobody could wait."""
    try:
        told = float(said)
    except ValueError:
        return None
    return told if 0 <= told < math.inf else None


def held(fault: Fault, status: int, asked: float) -> Fault:
    """A refusal with its status, whose provider asks to wait so long: less is not waited."""
    after = max(fault.after, asked)
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
