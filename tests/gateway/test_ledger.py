"""The ledger: one row an attempt, whoever dies, and no cent wrong."""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from bench import ledger as bench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gimle.foundation.config import LedgerSettings, Settings
from gimle.foundation.db import Database
from gimle.foundation.errors import LedgerUnavailable, Unpriced
from gimle.gateway import facts
from gimle.gateway.facts import Intent, Outcome, account
from gimle.gateway.journal import Journal
from gimle.gateway.ledger import Ledger
from gimle.gateway.neutral import Usage
from gimle.gateway.posting import Matcher, Posting
from gimle.gateway.rates import Price, Rates
from gimle.selection.types import Model

MODEL = Model(provider="mock", name="mock-1")
# A dollar for a million tokens: a thousand nano-dollars each.
PRICE = Price("test/1", (Rates(0, 10**9, 10**9, 10**9, 10**9, 10**9),))
EXPECTED = Usage(uncached=10, output=90)
BOUND = 100_000


@asynccontextmanager
async def kept(db: Database, data: Path, **settings: Any) -> AsyncIterator[Ledger]:
    ledger = Ledger.open(db, Settings(data=data, ledger=LedgerSettings(**settings)))
    try:
        yield ledger
    finally:
        await ledger.close()


async def attempts(db: Database, tenant: str) -> list[dict[str, Any]]:
    async with db.tenant(tenant) as conn:
        return await (await conn.execute("select * from call_attempt order by id")).fetchall()


async def days(db: Database, tenant: str) -> list[dict[str, Any]]:
    async with db.tenant(tenant) as conn:
        return await (await conn.execute("select * from cost_day order by digest")).fetchall()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.02)


def posting_of(ledger: Ledger) -> Posting:
    assert ledger.posting is not None
    return ledger.posting


async def test_an_attempt_becomes_a_row(db: Database, tenants: tuple[str, str], data_dir: Path) -> None:
    whose = account(tenants[0], "key_1", user="ann", case="c-1", workflow="w", request="req_1")
    async with kept(db, data_dir) as ledger:
        entry = ledger.begin(whose, MODEL, PRICE, EXPECTED)
        told = Usage(uncached=5, cache_read=4, cache_write=3, output=2, reasoning=1)
        assert entry.settle("done", told, first=0.25, overhead=0.001) == 15_000
    (row,) = await attempts(db, tenants[0])
    assert row.pop("started_at") is not None
    assert 0 <= row.pop("seconds") < 5
    assert row == {
        "tenant": tenants[0], "id": row["id"], "request": "req_1", "key": "key_1", "user_id": "ann", "case_id": "c-1",
        "workflow": "w", "provider": "mock", "model": "mock-1", "kind": "chat", "outcome": "done", "estimated": False,
        "uncached": 5, "cache_read": 4, "cache_write": 3, "output": 2, "reasoning": 1, "cost_nano": 15_000,
        "price": "test/1", "first_seconds": 0.25, "overhead_seconds": pytest.approx(0.001),
    }  # fmt: skip
    assert row["id"].bytes == entry.id
    assert await attempts(db, tenants[1]) == []


async def test_only_the_first_settlement_counts(db: Database, tenants: tuple[str, str], data_dir: Path) -> None:
    async with kept(db, data_dir) as ledger:
        entry = ledger.begin(account(tenants[0], "k"), MODEL, PRICE, EXPECTED)
        assert entry.settle("overtaken", Usage(uncached=1)) == 1_000
        assert entry.settle("done", Usage(uncached=9)) == 1_000
    (row,) = await attempts(db, tenants[0])
    assert (row["outcome"], row["cost_nano"]) == ("overtaken", 1_000)


@pytest.mark.parametrize(
    "end, usage, nano, estimated",
    [
        ("done", Usage(uncached=7), 7_000, False),
        ("cancelled", Usage(uncached=7), 7_000, False),
        ("done", None, BOUND, True),
        ("broken", None, BOUND, True),
        ("cancelled", None, BOUND, True),
        ("drained", None, BOUND, True),
        ("overtaken", None, BOUND, True),
        ("cancelled", Usage(uncached=7, output=3, exact=False), 10_000, True),
        ("cancelled", Usage(uncached=7, output=900, exact=False), BOUND, True),
        ("refused", None, 0, False),
        ("refused", Usage(uncached=7), 7_000, False),
    ],
)
async def test_each_end_costs_what_it_should(
    db: Database,
    tenants: tuple[str, str],
    data_dir: Path,
    end: facts.End,
    usage: Usage | None,
    nano: int,
    estimated: bool,
) -> None:
    async with kept(db, data_dir) as ledger:
        assert ledger.begin(account(tenants[0], "k"), MODEL, PRICE, EXPECTED).settle(end, usage) == nano
    (row,) = await attempts(db, tenants[0])
    assert (row["outcome"], row["cost_nano"], row["estimated"]) == (end, nano, estimated)


async def test_what_was_never_sent_has_no_row(db: Database, tenants: tuple[str, str], data_dir: Path) -> None:
    async with kept(db, data_dir) as ledger:
        assert ledger.begin(account(tenants[0], "k"), MODEL, PRICE, EXPECTED).settle("unsent") == 0
    assert await attempts(db, tenants[0]) == []


async def test_a_budgets_reservation_is_the_bound(db: Database, tenants: tuple[str, str], data_dir: Path) -> None:
    async with kept(db, data_dir) as ledger:
        entry = ledger.begin(account(tenants[0], "k"), MODEL, PRICE, EXPECTED, bound=42)
        assert entry.settle("broken", Usage(output=50, exact=False)) == 42


async def test_an_unknown_price_is_null(db: Database, tenants: tuple[str, str], data_dir: Path) -> None:
    async with kept(db, data_dir) as ledger:
        for usage in (Usage(uncached=3), None):
            assert ledger.begin(account(tenants[0], "k"), MODEL, None, EXPECTED).settle("done", usage) is None
    assert [(row["cost_nano"], row["price"]) for row in await attempts(db, tenants[0])] == [(None, None)] * 2
    (day,) = await days(db, tenants[0])
    assert (day["attempts"], day["unpriced"], day["cost_nano"]) == (2, 2, 0)


async def test_an_unknown_price_may_be_refused(db: Database, tenants: tuple[str, str], data_dir: Path) -> None:
    async with kept(db, data_dir, unpriced="refuse") as ledger:
        with pytest.raises(Unpriced, match="mock/mock-1"):
            ledger.begin(account(tenants[0], "k"), MODEL, None, EXPECTED)
        ledger.begin(account(tenants[0], "k"), MODEL, PRICE, EXPECTED).settle("done", Usage(uncached=1))
    assert len(await attempts(db, tenants[0])) == 1


async def test_the_days_are_the_sums_of_the_attempts(db: Database, tenants: tuple[str, str], data_dir: Path) -> None:
    ends: list[tuple[facts.End, Usage | None]] = [
        ("done", Usage(uncached=1, cache_read=2, cache_write=3, output=4, reasoning=5)),
        ("done", Usage(uncached=1)),
        ("broken", None),
        ("refused", None),
        ("cancelled", Usage(uncached=1, exact=False)),
    ]
    async with kept(db, data_dir) as ledger:
        for user in ("ann", "bob"):
            for end, usage in ends:
                ledger.begin(account(tenants[0], "k", user=user), MODEL, PRICE, EXPECTED).settle(end, usage)
            await posting_of(ledger).post()
            # The same day is moved by a second transaction.
            ledger.begin(account(tenants[0], "k", user=user), MODEL, PRICE, EXPECTED).settle("done", Usage(output=1))
    found = await days(db, tenants[0])
    assert [day["user_id"] for day in sorted(found, key=lambda day: str(day["user_id"]))] == ["ann", "bob"]
    for day in found:
        expected = {
            "attempts": 6, "failed": 2, "estimated": 2, "unpriced": 0, "uncached": 13, "cache_read": 2,
            "cache_write": 3, "output": 95, "reasoning": 5, "cost_nano": 118_000, "estimated_nano": 101_000,
        }  # fmt: skip
        assert {name: day[name] for name in expected} == expected


async def test_a_fact_that_is_posted_twice_is_entered_once(
    db: Database, tenants: tuple[str, str], data_dir: Path
) -> None:
    intent = Intent(b"\1" * 16, 0.0, account(tenants[0], "k"), "mock", "mock-1", "chat", "p", (1, 0, 0, 1, 0), 9)
    ended = Outcome(intent.id, "done", 1.0, None, None, (1, 0, 0, 1, 0), True, 2)
    for _ in range(2):
        left = Journal.open(data_dir / "ledger", 2**20)
        for record in (intent, intent, ended):
            left.append(facts.encode(record))
        left.close(delete=False)
        async with kept(db, data_dir) as ledger:
            await posting_of(ledger).take_over()
    (row,) = await attempts(db, tenants[0])
    assert row["cost_nano"] == 2
    (day,) = await days(db, tenants[0])
    assert day["attempts"] == 1


async def test_an_attempt_of_a_dead_process_is_entered_as_expected(
    db: Database, tenants: tuple[str, str], data_dir: Path
) -> None:
    intent = Intent(b"\2" * 16, 0.0, account(tenants[0], "k"), "mock", "mock-1", "chat", "p", (10, 0, 0, 90, 0), BOUND)
    left = Journal.open(data_dir / "ledger", 2**20)
    left.append(facts.encode(intent))
    left.close(delete=False)
    async with kept(db, data_dir):
        # At once, and by whoever is there.
        await until(lambda: len(list((data_dir / "ledger").iterdir())) == 1)
    (row,) = await attempts(db, tenants[0])
    assert (row["outcome"], row["estimated"], row["cost_nano"], row["uncached"], row["output"], row["seconds"]) == (
        "unknown", True, BOUND, 10, 90, None,
    )  # fmt: skip


async def test_attempts_under_way_at_a_stop_are_entered(db: Database, tenants: tuple[str, str], data_dir: Path) -> None:
    async with kept(db, data_dir) as ledger:
        ledger.begin(account(tenants[0], "k"), MODEL, PRICE, EXPECTED)
        await posting_of(ledger).post()
        assert await attempts(db, tenants[0]) == []
    (row,) = await attempts(db, tenants[0])
    assert (row["outcome"], row["estimated"]) == ("drained", True)
    assert list((data_dir / "ledger").iterdir()) == []


async def test_a_long_attempt_does_not_hold_the_journal(db: Database, tenants: tuple[str, str], data_dir: Path) -> None:
    whose = account(tenants[0], "k", request="r" * 200)
    async with kept(db, data_dir, journal_mb=1) as ledger:
        long = ledger.begin(whose, MODEL, PRICE, EXPECTED)
        posting = posting_of(ledger)
        for _ in range(8):
            for _ in range(600):
                ledger.begin(whose, MODEL, PRICE, EXPECTED).settle("done", Usage(uncached=1))
            await posting.post()
        assert len(list((data_dir / "ledger").glob("*/*.log"))) <= 2
        long.settle("done", Usage(uncached=2))
    rows = await attempts(db, tenants[0])
    assert len(rows) == 4801
    assert [row["cost_nano"] for row in rows if row["id"].bytes == long.id] == [2_000]


@asynccontextmanager
async def full_disk() -> AsyncIterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_lets_calls_go_on_and_says_so(
    db: Database, tenants: tuple[str, str], data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whose = account(tenants[0], "k")
    async with kept(db, data_dir) as ledger:
        half = ledger.begin(whose, MODEL, PRICE, EXPECTED)
        async with full_disk():
            ledger.begin(whose, MODEL, PRICE, EXPECTED).settle("done", Usage(uncached=1))
            late = ledger.begin(whose, MODEL, PRICE, EXPECTED)
            half.settle("done", Usage(uncached=2))
        late.settle("done", Usage(uncached=3))
    # As long as the process lives nothing is lost.
    assert sorted(row["cost_nano"] for row in await attempts(db, tenants[0])) == [1_000, 2_000, 3_000]
    assert "ledger_not_written" in "".join(capsys.readouterr())


async def test_a_full_disk_may_refuse_calls(db: Database, tenants: tuple[str, str], data_dir: Path) -> None:
    whose = account(tenants[0], "k")
    async with kept(db, data_dir, unwritten="refuse") as ledger:
        half = ledger.begin(whose, MODEL, PRICE, EXPECTED)
        async with full_disk():
            with pytest.raises(LedgerUnavailable):
                ledger.begin(whose, MODEL, PRICE, EXPECTED)
            half.settle("done", Usage(uncached=2))
        ledger.begin(whose, MODEL, PRICE, EXPECTED).settle("done", Usage(uncached=1))
    assert sorted(row["cost_nano"] for row in await attempts(db, tenants[0])) == [1_000, 2_000]


async def test_without_the_database_facts_wait(tenants: tuple[str, str], db: Database, data_dir: Path) -> None:
    away = await Database.open(db.url, size=1)
    await away.close()
    async with kept(db, data_dir) as ledger:
        posting = posting_of(ledger)
        posting._db = away
        for _ in range(100):
            ledger.begin(account(tenants[0], "k"), MODEL, PRICE, EXPECTED).settle("done", Usage(uncached=1))
        await asyncio.sleep(0.7)
        posting._db = db
        await posting.post()
        assert len(await attempts(db, tenants[0])) == 100


async def test_facts_of_a_tenant_that_is_gone_stop_nobody(
    db: Database, tenants: tuple[str, str], data_dir: Path
) -> None:
    async with kept(db, data_dir) as ledger:
        for tenant in ("ten_gone", tenants[1]):
            ledger.begin(account(tenant, "k"), MODEL, PRICE, EXPECTED).settle("done", Usage(uncached=1))
    assert len(await attempts(db, tenants[1])) == 1


async def test_without_a_database_it_only_computes(tmp_path: Path) -> None:
    ledger = Ledger.open(None, Settings(data=tmp_path))
    assert ledger.begin(account("t", "k"), MODEL, PRICE, EXPECTED).settle("done", Usage(uncached=1)) == 1_000
    await ledger.close()
    assert list(tmp_path.iterdir()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(words=st.lists(st.text(st.characters(codec=None, exclude_categories=())), min_size=4, max_size=4),
       counts=st.lists(st.integers(0, 2**80), min_size=5, max_size=5))  # fmt: skip
def test_nothing_that_callers_or_providers_say_stops_the_posting(words: list[str], counts: list[int]) -> None:
    user, case, workflow, model = words
    whose = account("ten_x", "k", user=user, case=case, workflow=workflow)
    usage = Usage(
        uncached=counts[0], cache_read=counts[1], cache_write=counts[2], output=counts[3], reasoning=counts[4]
    )
    intent = Intent(b"\3" * 16, 0.0, whose, "mock", facts.plain(model), "chat", "p", facts.tokens(usage), None)
    ended = facts.outcome(intent, "done", usage, PRICE)
    (record,) = facts.decoded([facts.encode(intent)])
    assert record == intent
    told = msgspec.json.encode(facts.fact(intent, ended))
    assert b"\\u0000" not in told
    assert max(*ended.tokens, ended.nano or 0) < 2**63


async def test_strange_words_are_entered(db: Database, tenants: tuple[str, str], data_dir: Path) -> None:
    strange = account(tenants[0], "k", user="a\0b", case="\ud800", workflow='{"x": "\u202e"}' * 50)
    async with kept(db, data_dir) as ledger:
        ledger.begin(strange, Model(provider="mock", name="\ud800\0"), PRICE, EXPECTED).settle(
            "done", Usage(uncached=1)
        )
    (row,) = await attempts(db, tenants[0])
    assert (row["user_id"], row["case_id"], len(row["workflow"])) == ("a\ufffdb", "?", 200)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans())))
def test_the_two_records_of_an_attempt_find_each_other(said: list[tuple[int, bool]]) -> None:
    """Whatever is repeated or missing, an attempt has one fact at most while it is read, and none is made up."""
    matcher, begun, found = Matcher(), set[int](), list[str]()
    for number, ends in said:
        id = bytes([number]) * 16
        if ends:
            record: facts.Record = Outcome(id, "done", 1.0, None, None, facts.NO_TOKENS, True, 0)
        else:
            record = Intent(id, 0.0, account("t", "k"), "p", "m", "chat", None, facts.NO_TOKENS, None)
            begun.add(number)
        found += [fact.id for _, fact in matcher.match([record])]
    assert {fact.id for _, fact in matcher.unheard()} | set(found) == {(bytes([n]) * 16).hex() for n in begun}
    assert not matcher.waiting


def test_three_kills_at_full_load_lose_nothing(database_url: str, data_dir: Path) -> None:
    """Long form: `bench/ledger.py`."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("insert into gimle.tenant (id, name) values (%s, 'ledger')", (bench.TENANT,))
    truth = bench.crashes(database_url, data_dir, times=3, size=150_000)
    assert truth.attempts > 5_000
    assert truth == bench.Truth(attempts=truth.attempts, settled=truth.settled, unheard=truth.unheard)
    # An end that was not said may have been entered, and a beginning that was not said.
    assert truth.unheard >= truth.attempts - truth.settled - 3
