"""Who is served when: priorities, fair turns, first come first served, ageing."""

from hypothesis import given
from hypothesis import strategies as st

from gimle.gateway.queueing import BULK, PRIORITIES, Entry, FairQueue


def served(queue: FairQueue[str], now: float = 0.0) -> list[str]:
    out = []
    while (entry := queue.first(now)) is not None:
        queue.serve(entry)
        out.append(entry.item)
    return out


def test_every_tenant_s_first_call_is_served_within_one_round() -> None:
    """A thousand wait, of ten tenants; one of them has nine hundred, and came first."""
    queue: FairQueue[str] = FairQueue(10.0)
    for number in range(900):
        queue.put(f"greedy {number}", "greedy", 1, 0.0)
    for tenant in range(9):
        for number in range(12 if tenant else 4):
            queue.put(f"{tenant} {number}", str(tenant), 1, 0.0)
    assert queue.count == 1000
    order = served(queue)
    assert len(order) == 1000
    assert {item.split()[0] for item in order[:10]} == {"greedy", *map(str, range(9))}
    for name in ("greedy", *map(str, range(9))):
        numbers = [int(item.split()[1]) for item in order if item.split()[0] == name]
        assert numbers == sorted(numbers)


def test_higher_priorities_come_first() -> None:
    queue: FairQueue[str] = FairQueue(10.0)
    for name in ("bulk", "agents-low", "default", "agents-high", "ingestion"):
        queue.put(name, "t", PRIORITIES[name], 0.0)
    assert served(queue) == ["agents-high", "default", "agents-low", "ingestion", "bulk"]


def test_who_has_waited_long_counts_as_one_of_a_higher_priority() -> None:
    queue: FairQueue[str] = FairQueue(10.0)
    queue.put("old bulk", "a", PRIORITIES["bulk"], 0.0)
    queue.put("new high", "b", PRIORITIES["agents-high"], 39.0)
    entry = queue.first(39.0)
    assert entry is not None
    assert entry.item == "new high"
    entry = queue.first(50.0)
    assert entry is not None
    assert entry.item == "new high"
    queue.serve(entry)
    queue.put("newer high", "b", PRIORITIES["agents-high"], 49.0)
    entry = queue.first(50.0)
    assert entry is not None
    assert entry.item == "old bulk"


def test_how_many_are_ahead_of_a_newcomer() -> None:
    queue: FairQueue[str] = FairQueue(10.0)
    for _ in range(900):
        queue.put("g", "greedy", 1, 0.0)
    for _ in range(2):
        queue.put("m", "modest", 1, 0.0)
    queue.put("h", "modest", 0, 0.0)
    # One of priority 0, and in the round of each tenant his turns before mine.
    assert queue.ahead("new", 1) == 1 + 1 + 1
    assert queue.ahead("modest", 1) == 1 + 2 + 3
    assert queue.ahead("greedy", 1) == 1 + 900 + 2


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, BULK), st.sampled_from(["put", "serve", "leave"])), max_size=80
    )
)
def test_nobody_is_lost_and_nobody_is_served_twice(steps: list[tuple[str, int, str]]) -> None:
    queue: FairQueue[int] = FairQueue(5.0)
    waiting: dict[int, Entry[int]] = {}
    for now, (tenant, level, what) in enumerate(steps):
        if what == "put":
            waiting[now] = queue.put(now, tenant, level, float(now))
        elif what == "serve" and (entry := queue.first(float(now))) is not None:
            queue.serve(entry)
            assert waiting.pop(entry.item) is entry
        elif waiting:
            queue.remove(waiting.pop(next(iter(waiting))))
        assert queue.count == len(waiting)
    left = []
    while (entry := queue.first(1000.0)) is not None:
        queue.serve(entry)
        left.append(entry.item)
    assert sorted(left) == sorted(waiting)
