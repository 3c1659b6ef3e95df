"""What follows from a failed attempt: pure decisions, so that the walk itself stays short."""

from gimle.foundation.errors import (
    ContextTooLong,
    GimleError,
    RateLimitedError,
    TransientError,
    Unsayable,
    UpstreamTimeout,
)
from gimle.gateway.types import Fault
from gimle.selection.types import Model

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


def ends(fault: Fault) -> bool:
    """Whether no other target would do better: the caller's own fault."""
    return not isinstance(fault.error, TransientError | RateLimitedError | ContextTooLong | Unsayable)


def remaining(targets: list[Model], failed: Model, fault: Fault) -> list[Model]:
    """The targets that are still worth asking after one has failed."""
    if isinstance(fault.error, ContextTooLong):
        return [target for target in targets if target.context_window > failed.context_window]
    return targets if fault.again else [target for target in targets if target is not failed]


def pause(round_: int, jitter: float) -> float:
    """Seconds to wait before the next round (0 is the first); `jitter` is between 0 and 1."""
    return float(_FIRST_PAUSE * 2**round_ * (0.5 + jitter))


def label(error: GimleError) -> str:
    """The class of a fault, for the metrics."""
    return error.code
