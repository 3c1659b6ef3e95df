"""The budget for extra attempts, and what a fault means, by a clock that the tests move."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.foundation.errors import (
    ContextTooLong,
    GimleError,
    InvalidRequest,
    RateLimitedError,
    Unavailable,
    Unsayable,
    UpstreamError,
    UpstreamTimeout,
)
from gimle.gateway import faults
from gimle.gateway.breaker import Breaker
from gimle.gateway.retries import Budget
from gimle.gateway.types import Fault
from gimle.selection.types import Model


def test_extra_attempts_are_a_share_of_the_calls() -> None:
    budget = Budget(share=0.2, reserve=10.0)
    granted = 0
    for _ in range(10_000):
        budget.call()
        granted += budget.take(0.0)
    assert 2000 <= granted <= 2010


def test_where_little_is_asked_a_call_is_not_alone() -> None:
    budget = Budget(share=0.2, reserve=10.0, a_second=0.5)
    assert [budget.take(1.0) for _ in range(11)] == [True] * 10 + [False]
    assert not budget.take(2.9)
    assert budget.take(3.1)
    # It never gathers more than the reserve.
    assert [budget.take(10_000.0) for _ in range(11)] == [True] * 10 + [False]


@given(st.lists(st.sampled_from(["call", "take"]), max_size=300), st.floats(0.0, 1.0))
def test_it_never_grants_more_than_its_share_and_reserve(events: list[str], share: float) -> None:
    budget, granted = Budget(share=share, reserve=3.0), 0
    for event in events:
        if event == "call":
            budget.call()
        else:
            granted += budget.take(0.0)
    assert granted <= 3.0 + share * events.count("call") + 1e-6


def test_pauses_grow_and_are_spread() -> None:
    assert [faults.pause(round_, 0.5) for round_ in range(3)] == [0.25, 0.5, 1.0]
    assert (faults.pause(0, 0.0), faults.pause(0, 1.0)) == (0.125, 0.375)


@pytest.mark.parametrize(
    "fault, kind, label",
    [
        (Fault(UpstreamError("x"), again=True, status=500), "transient", "upstream_error"),
        (Fault(UpstreamTimeout("x")), "transient", "upstream_timeout"),
        (Fault(UpstreamError("x"), status=401), "key", "key_refused"),
        (Fault(UpstreamError("x"), status=403), "key", "key_refused"),
        (Fault(RateLimitedError("x", after=9.0), after=9.0, status=429), "quota", "rate_limited"),
        (Fault(ContextTooLong("x"), status=400), "context", "context_length_exceeded"),
        (Fault(InvalidRequest("x"), status=400, passable=True), "caller", "invalid_request"),
        (Fault(Unsayable("x", field="logprobs")), "unsayable", "unsupported_parameter"),
        (Fault(Unavailable("x")), "ours", "unavailable"),
    ],
)
def test_a_faults_class(fault: Fault, kind: str, label: str) -> None:
    assert faults.kind(fault) == kind
    assert faults.label(fault) == label


def test_only_the_callers_own_fault_ends_a_call() -> None:
    assert faults.ends(Fault(InvalidRequest("x")))
    assert not any(faults.ends(Fault(error)) for error in (UpstreamError("x"), ContextTooLong("x"), RateLimitedError()))


@pytest.mark.parametrize(
    "error, again",
    [
        (UpstreamError("x"), True),
        (UpstreamTimeout("x"), False),
        (RateLimitedError("x", after=2.0), True),
        (RateLimitedError("x", after=60.0), False),
        (InvalidRequest("x"), False),
    ],
)
def test_whether_the_same_target_is_asked_again(error: GimleError, again: bool) -> None:
    assert faults.weigh(error).again is again


def test_what_a_breaker_is_told() -> None:
    def after(fault: Fault) -> Breaker:
        breaker = Breaker(limit=1, seconds=60.0)
        ticket = breaker.enter(0.0)
        assert ticket is not None
        faults.tell(ticket, fault, 0.0)
        return breaker

    assert after(Fault(UpstreamError("x"), status=500)).until == 60.0
    assert after(Fault(UpstreamError("x"), status=401)).reason == "key"
    # What one caller may not do says nothing about the key of all.
    assert after(Fault(UpstreamError("x"), status=403)).reason == "failures"
    assert after(Fault(RateLimitedError("x"), after=7.0, status=429)).until == 7.0
    for harmless in (ContextTooLong("x"), InvalidRequest("x"), Unsayable("x"), Unavailable("x")):
        assert after(Fault(harmless)).state(0.0) == "closed"


def test_a_long_prompt_goes_to_larger_windows_only() -> None:
    small, other, large = (Model(provider="p", name=str(window), context_window=window) for window in (10, 9, 20))
    assert faults.remaining([small, other, large], small, Fault(ContextTooLong("x"))) == [large]


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    "said, seconds",
    [
        ("7", 7.0),
        ("0.5", 0.5),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("-3", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("soon", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date(said: str, seconds: float) -> None:
    assert faults.waiting({"retry-after": said}, NOW) == pytest.approx(seconds)


def test_a_refusal_keeps_the_longer_wait() -> None:
    fault = faults.held(Fault(RateLimitedError("x", after=1.0), again=True, after=1.0), 429, 90.0)
    assert isinstance(fault.error, RateLimitedError)
    assert (fault.after, fault.error.after, fault.again, fault.status) == (90.0, 90.0, False, 429)
    assert faults.held(Fault(UpstreamError("x"), again=True), 503, 2.0).again
