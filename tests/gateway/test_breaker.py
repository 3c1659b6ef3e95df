"""The breaker's states, by a clock that the tests move."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.gateway.breaker import KEY_SECONDS, LONGEST_SECONDS, PAUSE_SECONDS, Breaker, Breakers, Ticket


def entered(breaker: Breaker, now: float) -> Ticket:
    ticket = breaker.enter(now)
    assert ticket is not None
    return ticket


def opened(now: float = 0.0) -> Breaker:
    """A breaker that five failures have opened at this moment, until 60 s later."""
    breaker = Breaker()
    for _ in range(5):
        entered(breaker, now).failed(now)
    return breaker


def test_it_opens_at_the_fifth_failure_in_a_row_for_a_minute() -> None:
    breaker = Breaker()
    for number in range(5):
        assert breaker.state(100.0) == "closed", number
        entered(breaker, 100.0).failed(100.0)
    assert breaker.state(100.0) == "open"
    assert breaker.enter(159.9) is None
    assert breaker.state(160.0) == "half_open"


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker()
    for _ in range(4):
        entered(breaker, 0.0).failed(0.0)
    entered(breaker, 0.0).succeeded()
    for _ in range(4):
        entered(breaker, 0.0).failed(0.0)
    assert breaker.state(0.0) == "closed"


def test_exactly_one_probe_passes_half_open() -> None:
    breaker = opened()
    probe = entered(breaker, 60.0)
    assert breaker.enter(60.0) is None
    assert breaker.enter(1000.0) is None
    probe.succeeded()
    assert breaker.state(60.0) == "closed"
    assert breaker.enter(60.0) is not None
    assert breaker.enter(60.0) is not None


def test_each_failed_probe_doubles_the_time_up_to_a_limit() -> None:
    breaker, now, waits = opened(), 60.0, []
    for _ in range(6):
        entered(breaker, now).failed(now)
        waits.append(breaker.until - now)
        now = breaker.until
    assert waits == [120.0, 240.0, 480.0, LONGEST_SECONDS, LONGEST_SECONDS, LONGEST_SECONDS]


def test_after_a_recovery_it_begins_anew_with_a_minute() -> None:
    breaker = opened()
    entered(breaker, 60.0).failed(60.0)
    entered(breaker, 180.0).succeeded()
    for _ in range(5):
        entered(breaker, 200.0).failed(200.0)
    assert breaker.until == 260.0


def test_a_probe_that_tells_nothing_lets_the_next_one_pass() -> None:
    breaker = opened()
    entered(breaker, 60.0).left()
    assert entered(breaker, 60.0) is not None


def test_a_probe_that_streams_lets_others_pass_and_opens_anew_when_it_breaks() -> None:
    breaker = opened()
    probe = entered(breaker, 60.0)
    probe.answered()
    assert breaker.state(60.0) == "closed"
    assert breaker.enter(60.0) is not None
    probe.failed(61.0)
    assert breaker.state(61.0) == "open"
    assert breaker.until == 181.0


def test_those_sent_before_the_opening_neither_lengthen_it_nor_close_it() -> None:
    breaker = Breaker()
    early = [entered(breaker, 0.0) for _ in range(20)]
    for ticket in early[:10]:
        ticket.failed(1.0)
    assert breaker.until == 61.0
    early[10].succeeded()
    assert breaker.state(2.0) == "open"
    early[11].failed(3.0)
    assert breaker.until == 61.0


def test_a_ticket_is_told_once() -> None:
    breaker = Breaker()
    ticket = entered(breaker, 0.0)
    for _ in range(10):
        ticket.failed(0.0)
    assert breaker.state(0.0) == "closed"


def test_retry_after_is_a_floor_and_no_failure() -> None:
    breaker = Breaker()
    entered(breaker, 0.0).limited(0.0, 30.0)
    assert breaker.enter(29.9) is None
    assert breaker.reason == "quota"
    # A shorter wish never shortens a longer one.
    breaker.limit(1.0, 2.0)
    assert breaker.until == 30.0
    assert not breaker.tripped
    assert breaker.enter(30.0) is not None


def test_retry_after_counts_beyond_the_opening_too() -> None:
    breaker = Breaker(limit=1, seconds=10.0)
    entered(breaker, 0.0).failed(0.0, after=300.0)
    assert breaker.until == 300.0


def test_nobody_is_left_alone_for_ever() -> None:
    breaker = Breaker()
    breaker.limit(0.0, 1e12)
    assert breaker.until == PAUSE_SECONDS


def test_a_refused_key_opens_at_once_and_is_probed_later() -> None:
    breaker = Breaker()
    entered(breaker, 0.0).refused(0.0)
    assert (breaker.until, breaker.reason) == (KEY_SECONDS, "key")
    entered(breaker, KEY_SECONDS).succeeded()
    assert breaker.state(KEY_SECONDS) == "closed"


def test_openings_and_closings_are_shown_once_each() -> None:
    shown: list[int] = []
    breaker = Breaker(limit=1, seconds=1.0, shown=shown.append)
    entered(breaker, 0.0).failed(0.0)
    entered(breaker, 1.0).failed(1.0)
    entered(breaker, 3.0).succeeded()
    breaker.succeed()
    assert shown == [1, -1]


def test_who_may_not_be_asked_is_known_while_it_lasts() -> None:
    breakers = Breakers(limit=1, seconds=60.0)
    broken, limited, fine = (breakers.of((name, "m"), lambda _: None) for name in ("broken", "limited", "fine"))
    entered(broken, 0.0).failed(0.0)
    entered(limited, 0.0).limited(0.0, 5.0)
    entered(fine, 0.0).succeeded()
    assert breakers.held(1.0) == {("broken", "m"): "failures", ("limited", "m"): "quota"}
    assert breakers.held(6.0) == {("broken", "m"): "failures"}
    assert breakers.held(61.0) == {}


def test_whoever_closes_leaves_none_shown_as_open() -> None:
    breakers, open_now = Breakers(limit=1, seconds=60.0), [0]
    for way in (("a",), ("b",)):
        ticket = breakers.of(way, lambda change: open_now.append(open_now[-1] + change)).enter(0.0)
        assert ticket is not None
        ticket.failed(0.0)
    assert open_now[-1] == 2
    breakers.close()
    assert open_now[-1] == 0


def test_each_way_has_its_own_breaker_and_their_number_is_bounded() -> None:
    breakers, open_now = Breakers(limit=1, seconds=60.0), [0]

    def shown(change: int) -> None:
        open_now[0] += change

    broken = breakers.of(("first", "key"), shown)
    entered(broken, 0.0).failed(0.0)
    for number in range(10_000):
        breakers.of(("other", str(number)), shown)
    assert breakers.of(("first", "key"), shown) is broken
    for number in range(10_000):
        entered(breakers.of(("broken", str(number)), shown), 0.0).failed(0.0)
    # Those that were forgotten are not shown as open for ever.
    assert 0 < open_now[0] <= 4096


@pytest.mark.parametrize("how", ["succeeded", "failed", "limited", "refused", "left"])
def test_whatever_becomes_of_a_probe_the_way_is_not_lost(how: str) -> None:
    breaker = opened()
    probe = entered(breaker, 60.0)
    match how:
        case "failed" | "refused":
            getattr(probe, how)(60.0)
        case "limited":
            probe.limited(60.0, 5.0)
        case _:
            getattr(probe, how)()
    assert breaker.enter(60.0 + LONGEST_SECONDS) is not None


@given(st.lists(st.tuples(st.sampled_from(["ok", "fail", "limit", "refuse", "leave", "begin"]), st.floats(0, 400))))
def test_however_it_goes_there_is_never_more_than_one_probe(events: list[tuple[str, float]]) -> None:
    breaker, now, probes = Breaker(limit=2, seconds=10.0), 0.0, 0
    out: list[Ticket] = []
    for event, passed in events:
        now += passed
        if event == "begin" or not out:
            tripped = breaker.tripped
            ticket = breaker.enter(now)
            assert ticket is None or now >= breaker.until
            probes += tripped and ticket is not None
            out += [ticket] if ticket is not None else []
        else:
            ticket = out.pop()
            match event:
                case "ok":
                    ticket.succeeded()
                case "fail":
                    ticket.failed(now)
                case "limit":
                    ticket.limited(now, 3.0)
                case "refuse":
                    ticket.refused(now)
                case _:
                    ticket.left()
        assert breaker.state(now) in ("closed", "open", "half_open")
    for ticket in out:
        ticket.left()
    # When all are back, somebody may ask again before long.
    assert breaker.enter(now + PAUSE_SECONDS) is not None
