"""In which order those who wait are served. Pure.

Higher priorities come first; within one, tenants take turns, whatever each of them has waiting; within a tenant, who
came first. A priority whose oldest has waited long counts as a higher one, so that nobody waits for ever.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# The names are those of the queues of jobs.
PRIORITIES: Final[Mapping[str, int]] = {
    "agents-high": 0,
    "default": 1,
    "agents-low": 2,
    "ingestion": 3,
    "media": 3,
    "ingestion-bulk": 4,
    "bulk": 4,
}
BULK: Final = 4


class Entry(Generic[T]):
    """Somebody who waits, since a moment."""

    __slots__ = ("gone", "item", "level", "since", "tenant")

    def __init__(self, item: T, tenant: str, level: int, since: float) -> None:
        self.item = item
        self.tenant = tenant
        self.level = level
        self.since = since
        self.gone = False


class _Level(Generic[T]):
    """Those of one priority. Who is gone stays in the rows until he would have had his turn."""

    def __init__(self) -> None:
        self.tenants: OrderedDict[str, deque[Entry[T]]] = OrderedDict()
        self.waiting: dict[str, int] = {}
        self.arrivals: deque[Entry[T]] = deque()

    def oldest(self) -> Entry[T] | None:
        while self.arrivals and self.arrivals[0].gone:
            self.arrivals.popleft()
        return self.arrivals[0] if self.arrivals else None

    def put(self, entry: Entry[T]) -> None:
        self.arrivals.append(entry)
        self.tenants.setdefault(entry.tenant, deque()).append(entry)
        self.waiting[entry.tenant] = self.waiting.get(entry.tenant, 0) + 1

    def turn(self) -> Entry[T]:
        """Whose turn it is. Only where somebody waits."""
        while True:
            tenant, row = next(iter(self.tenants.items()))
            while row and row[0].gone:
                row.popleft()
            if row:
                return row[0]
            del self.tenants[tenant]

    def leave(self, entry: Entry[T]) -> None:
        left = self.waiting[entry.tenant] - 1
        if left:
            self.waiting[entry.tenant] = left
        else:
            del self.waiting[entry.tenant]
            self.tenants.pop(entry.tenant, None)

    def ahead(self, tenant: str) -> int:
        own = self.waiting.get(tenant, 0)
        return own + sum(min(count, own + 1) for other, count in self.waiting.items() if other != tenant)


class FairQueue(Generic[T]):
    """Who waits. A priority rises by one for each `ageing_seconds` that its oldest has waited."""

    def __init__(self, ageing_seconds: float) -> None:
        self._ageing = ageing_seconds
        self._levels = [_Level[T]() for _ in range(BULK + 1)]
        # How many wait.
        self.count = 0

    def put(self, item: T, tenant: str, level: int, now: float) -> Entry[T]:
        """Somebody more waits."""
        entry = Entry(item, tenant, level, now)
        self._levels[level].put(entry)
        self.count += 1
        return entry

    def first(self, now: float) -> Entry[T] | None:
        """Who is to be served next; he stays in the queue."""
        best: _Level[T] | None = None
        lowest = 0.0
        for number, level in enumerate(self._levels):
            oldest = level.oldest()
            if oldest is not None:
                rank = number - (now - oldest.since) / self._ageing
                if best is None or rank < lowest:
                    best, lowest = level, rank
        return None if best is None else best.turn()

    def serve(self, entry: Entry[T]) -> None:
        """He is served: his tenant's next turn comes after those of the others."""
        level = self._levels[entry.level]
        self.remove(entry)
        if entry.tenant in level.tenants:
            level.tenants.move_to_end(entry.tenant)

    def remove(self, entry: Entry[T]) -> None:
        """He waits no more. A second time changes nothing."""
        if not entry.gone:
            entry.gone = True
            self.count -= 1
            self._levels[entry.level].leave(entry)

    def ahead(self, tenant: str, level: int) -> int:
        """How many would be served before a newcomer."""
        higher = sum(sum(each.waiting.values()) for each in self._levels[:level])
        return higher + self._levels[level].ahead(tenant)
