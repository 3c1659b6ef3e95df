"""Whether a failed attempt is made again, and when. Pure."""

import math
import random
from datetime import UTC, datetime

import msgspec

from gimle.foundation.errors import GimleError, RateLimitedError, TransientError
from gimle.jobs.types import JobError, JobKind

# An upstream that says "later" is not broken: it may say so this many times as often as others may fail.
PATIENCE = 10


class Verdict(msgspec.Struct, frozen=True):
    """What becomes of a job after a failure: again `after` seconds, or never (`None`)."""

    error: JobError
    after: float | None


def judge(error: Exception, kind: JobKind, attempt: int, failures: int) -> Verdict:
    """Decide by the class of the error. `failures` counts the failed attempts before this one.

    Rate limited: after the upstream's own delay. Transient, and whatever nobody foresaw: after a growing wait with
    jitter. Everything else that we have a name for: trying again won't help.
    """
    reason = JobError(_code(error), _message(error), attempt, datetime.now(UTC))
    if isinstance(error, RateLimitedError):
        again = failures + 1 < kind.tries * PATIENCE and error.after < math.inf
        return Verdict(reason, error.after if again else None)
    if isinstance(error, GimleError) and not isinstance(error, TransientError):
        return Verdict(reason, None)
    if failures + 1 >= kind.tries:
        return Verdict(reason, None)
    return Verdict(reason, kind.backoff_seconds * 2**failures * random.uniform(0.5, 1.5))


def _code(error: Exception) -> str:
    if isinstance(error, GimleError):
        return error.code
    return "timeout" if isinstance(error, TimeoutError) else "internal_error"


def _message(error: Exception) -> str:
    if isinstance(error, GimleError):
        return error.message
    return str(error) if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
