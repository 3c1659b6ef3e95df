"""Which failures are tried again, and after how long."""

import math

import pytest

from gimle.foundation.errors import (
    BudgetExceeded,
    DatabaseUnavailable,
    InvalidRequest,
    NotFound,
    PermanentError,
    RateLimitedError,
    TransientError,
    UnreadableDocument,
    UnsupportedDocument,
    UpstreamError,
)
from gimle.jobs.retries import PATIENCE, judge
from gimle.jobs.run import Run
from gimle.jobs.types import JobKind


async def nothing(run: Run) -> None:
    return None


KIND = JobKind(name="k", queue="default", handler=nothing, soft_seconds=1, hard_seconds=2, tries=4, backoff_seconds=2.0)


@pytest.mark.parametrize(
    "error", [TransientError(), UpstreamError(), DatabaseUnavailable(), TimeoutError(), ValueError()]
)
def test_transient_and_unforeseen_errors_are_retried_three_times(error: Exception) -> None:
    waits = [judge(error, KIND, failures + 1, failures).after for failures in range(4)]
    assert waits[3] is None
    for failures, wait in enumerate(waits[:3]):
        assert wait is not None
        assert 1.0 * 2**failures <= wait <= 3.0 * 2**failures


@pytest.mark.parametrize(
    "error", [PermanentError(), InvalidRequest(), UnreadableDocument(), UnsupportedDocument(), NotFound()]
)
def test_permanent_errors_are_not_retried(error: Exception) -> None:
    assert judge(error, KIND, 1, 0).after is None


def test_rate_limits_wait_as_long_as_the_upstream_says_but_not_for_ever() -> None:
    assert judge(RateLimitedError(after=7.5), KIND, 9, 8).after == 7.5
    assert judge(RateLimitedError(after=7.5), KIND, 40, KIND.tries * PATIENCE - 1).after is None
    assert judge(BudgetExceeded(after=math.inf), KIND, 1, 0).after is None


def test_the_reason_is_kept() -> None:
    error = judge(UnreadableDocument("Page 3 is damaged."), KIND, 2, 1).error
    assert (error.code, error.message, error.attempt) == ("unreadable_document", "Page 3 is damaged.", 2)
    assert judge(ValueError("x"), KIND, 1, 0).error.message == "ValueError: x"
