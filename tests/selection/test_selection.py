"""The room's door: decisions are logged and explained, judgements learnt, facts shared between processes and kept."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.selection.tables import model

from gimle.foundation.config import SelectionSettings
from gimle.foundation.db import Connection, Database
from gimle.foundation.errors import ConfigError, DatabaseUnavailable, DecisionNotFound, InvalidRequest
from gimle.selection.replay import Outcome
from gimle.selection.selection import Asked, Feedback, Preferences, Selection
from gimle.selection.types import Model, Need

CHEAP = model("a/cheap", input_nano=10**8, output_nano=10**8, parameters=8 * 10**9)
LARGE = model("b/large", input_nano=10**10, output_nano=10**10, parameters=400 * 10**9)
MODELS: list[Model] = [CHEAP, LARGE]
QUIET = SelectionSettings(explore=0.0)


async def _until(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


async def test_a_decision_is_kept_with_what_came_of_it(db: Database, tenants: tuple[str, str]) -> None:
    selection = await Selection.open(db, SelectionSettings(shadow=("cheapest",)))
    asked = Asked(need=Need(tokens=100), text="Why is the sky blue? Explain it step by step.", requested="auto")
    decision = selection.decide(tenants[0], MODELS, asked)
    id = selection.remember(tenants[0], asked, decision)
    early = await selection.records.find(tenants[0], id)
    await selection.records.flush()
    selection.records.settle(tenants[0], id, Outcome("b/large", None, 1234, 2.5))
    await selection.records.flush()
    late = await selection.records.find(tenants[0], id)
    assert late.decision == early.decision
    assert late.decision.shadow == {"cheapest": "a/cheap"}
    assert late.decision.complexity is not None
    assert late.decision.subject.startswith("chat/en/")
    assert (late.outcome.model, late.outcome.cost_nano, late.outcome.seconds) == ("b/large", 1234, 2.5)
    assert [one.decision.id for one in await selection.records.page(tenants[0], None, 10)] == [id]
    with pytest.raises(DecisionNotFound):
        await selection.records.find(tenants[1], id)
    assert await selection.records.page(tenants[1], None, 10) == []
    await selection.records.sweep(tenants[0], 0)
    with pytest.raises(DecisionNotFound):
        await selection.records.find(tenants[0], id)
    await selection.close()


async def test_the_log_tells_all_who_might_have_been_chosen_and_some_of_the_others(
    db: Database, tenants: tuple[str, str]
) -> None:
    selection = await Selection.open(db, QUIET)
    able = [model(f"a/m{number}", parameters=(number + 1) * 10**9) for number in range(20)]
    missing = [model(f"b/m{number}", unavailable="no key") for number in range(20)]
    asked = Asked(need=Need(tokens=100))
    for few, told in ((able, 20), (able[:2], 12)):
        decision = selection.decide(tenants[0], [*few, *missing], asked)
        id = selection.remember(tenants[0], asked, decision)
        await selection.records.flush()
        verdicts = (await selection.records.find(tenants[0], id)).decision.verdicts
        assert len(verdicts) == told
        assert {one.model for one in verdicts if not one.gates} == {one.id for one in few}
    id = selection.remember(tenants[0], asked, decision, whole=True)
    assert len((await selection.records.find(tenants[0], id)).decision.verdicts) == 22
    await selection.close()


async def test_what_people_said_of_an_answer_outweighs_what_it_shows(db: Database, tenants: tuple[str, str]) -> None:
    selection = await Selection.open(db, QUIET)
    asked = Asked(need=Need())
    id = selection.remember(tenants[0], asked, selection.decide(tenants[0], MODELS, asked))
    await selection.judge(tenants[0], Feedback(decision=id, rating=5.0))
    selection.records.settle(tenants[0], id, Outcome("b/large", 0.3, 1, 1.0))
    await selection.records.flush()
    assert (await selection.records.find(tenants[0], id)).outcome.quality == 1.0
    await selection.close()


async def test_judgements_are_learnt_by_all_nodes_and_each_tenant_on_its_own(
    db: Database, tenants: tuple[str, str]
) -> None:
    here, there = await Selection.open(db, QUIET), await Selection.open(db, QUIET)
    asked = Asked(need=Need(subject="s"), policy="best-quality")
    for _ in range(25):
        decision = here.decide(tenants[0], [LARGE], asked)
        id = here.remember(tenants[0], asked, decision)
        await here.judge(tenants[0], Feedback(decision=id, rating=1.0))
    for _ in range(10):
        good = here.remember(tenants[0], asked, here.decide(tenants[0], [CHEAP], asked))
        await here.judge(tenants[0], Feedback(decision=good, rating=5.0))
    assert (await here.records.find(tenants[0], good)).outcome.quality == 1.0
    await _until(lambda: there.decide(tenants[0], MODELS, asked).first == "a/cheap")
    assert there.decide(tenants[1], MODELS, asked).first == "b/large"
    later = await Selection.open(db, QUIET)
    assert later.decide(tenants[0], MODELS, asked).first == "a/cheap"
    for one in (here, there, later):
        await one.close()


async def test_feedback_that_makes_no_sense_is_refused(tenants: tuple[str, str], db: Database) -> None:
    selection = await Selection.open(db, QUIET)
    asked = Asked(need=Need())
    id = selection.remember(tenants[0], asked, selection.decide(tenants[0], MODELS, asked))
    dry = selection.remember(tenants[0], asked, selection.decide(tenants[0], MODELS, asked), dry_run=True)
    for wrong in (
        Feedback(decision=id),
        Feedback(decision=id, rating=6.0),
        Feedback(decision=id, rating=3.0, signal="refused"),
        Feedback(decision=id, signal="preferred", over="nobody/x"),
        Feedback(decision=id, rating=5.0, over="b/large"),
        Feedback(decision=dry, rating=5.0),
    ):
        with pytest.raises(InvalidRequest):
            await selection.judge(tenants[0], wrong)
    with pytest.raises(DecisionNotFound):
        await selection.judge(tenants[1], Feedback(decision=id, rating=3.0))
    await selection.judge(tenants[0], Feedback(decision=id, signal="preferred", over="a/cheap"))
    await selection.close()


@pytest.mark.parametrize("kept", [True, False])
async def test_the_last_word_on_an_answer_counts_alone(db: Database, tenants: tuple[str, str], kept: bool) -> None:
    selection = await Selection.open(db if kept else None, QUIET)
    asked = Asked(need=Need(subject="s"))
    told = [selection.remember(tenants[0], asked, selection.decide(tenants[0], MODELS, asked)) for _ in range(22)]
    for _ in range(30):
        await selection.judge(tenants[0], Feedback(decision=told[0], rating=1.0, over="a/cheap"))
    # One answer is too few for quality to count, however often it was judged.
    assert selection.decide(tenants[0], MODELS, asked).moment.quality is None
    for rating in (1.0, 5.0):
        for id in told:
            await selection.judge(tenants[0], Feedback(decision=id, rating=rating))
    quality = selection.decide(tenants[0], MODELS, asked).moment.quality
    assert quality is not None
    assert quality.value[0] == pytest.approx(0.5 + 0.3 * 8 / 405, abs=1e-3)
    assert quality.value[1] > 0.9
    await selection.close()


async def test_facts_are_shared_and_survive_a_restart(db: Database) -> None:
    first = await Selection.open(db, QUIET)
    first.decide("ten_x", MODELS, Asked(need=Need()))
    flight = first.board.take_off(":a/cheap")
    flight.answered(time.time(), 100, (0.5, 2.0), 50)
    flight.failed(time.time())
    assert first.board.in_flight(":a/cheap") == 0
    await first.close()
    second = await Selection.open(db, QUIET)
    second.decide("ten_x", MODELS, Asked(need=Need()))
    assert second.board.of(":a/cheap").calls == pytest.approx(1, abs=0.01)
    assert second.board.of(":a/cheap").quantile(100, 0.5) == pytest.approx(0.5, rel=0.1)
    second.board.failed(":a/cheap", time.time())
    third = await Selection.open(db, QUIET)
    third.decide("ten_x", MODELS, Asked(need=Need()))
    await _until(lambda: third.board.of(":a/cheap").errors > 0)
    await second.close()
    await third.close()


async def test_one_of_all_processes_probes(db: Database) -> None:
    here, there = await Selection.open(db, QUIET), await Selection.open(db, QUIET)
    assert sorted([await here.may_probe(), await there.may_probe()]) == [False, True]
    assert not await here.may_probe()
    await here.close()
    await there.close()


async def test_a_tenant_has_a_policy_and_weights_of_its_own(db: Database, tenants: tuple[str, str]) -> None:
    here, there = await Selection.open(db, QUIET), await Selection.open(db, QUIET)
    wanted = Preferences(policy="cheapest", weights={"cost": 0.5})
    assert await here.prefer(tenants[0], wanted) == wanted
    await _until(lambda: there.preferences(tenants[0]) == wanted)
    asked = Asked(need=Need())
    assert there.decide(tenants[0], MODELS, asked).first == "a/cheap"
    assert there.preferences(tenants[1]) == Preferences()
    assert there.decide(tenants[1], MODELS, Asked(need=Need(), policy="best-quality")).first == "b/large"
    with pytest.raises(InvalidRequest):
        await here.prefer(tenants[0], Preferences(policy="luck"))
    await here.close()
    await there.close()


async def test_what_answers_show_is_learnt_by_all_nodes(db: Database, tenants: tuple[str, str]) -> None:
    here, there = await Selection.open(db, QUIET), await Selection.open(db, QUIET)
    asked = Asked(need=Need(subject="s"), policy="best-quality")
    for _ in range(60):
        here.noticed(tenants[0], "s", "b/large", "schema_invalid")
    assert here.decide(tenants[0], MODELS, asked).first == "a/cheap"
    await _until(lambda: there.decide(tenants[0], MODELS, asked).first == "a/cheap")
    await here.close()
    await there.close()


class Shaky(Database):
    """A database that is away now and then."""

    away = False

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[Connection]:
        if self.away:
            raise DatabaseUnavailable
        async with super().shared() as conn:
            yield conn


async def test_what_was_noticed_and_measured_while_the_database_was_away_is_told_later(
    database_url: str, db: Database, tenants: tuple[str, str]
) -> None:
    shaky = await Shaky.open(database_url, size=2)
    here, there = await Selection.open(shaky, QUIET), await Selection.open(db, QUIET)
    asked = Asked(need=Need(subject="s"), policy="best-quality")
    for selection in (here, there):
        assert selection.decide(tenants[0], MODELS, asked).first == "b/large"
    shaky.away = True
    for _ in range(60):
        here.noticed(tenants[0], "s", "b/large", "schema_invalid")
    here.board.failed(":b/large", time.time())
    await asyncio.sleep(3.5)
    shaky.away = False
    await _until(lambda: there.decide(tenants[0], MODELS, asked).first == "a/cheap")
    await _until(lambda: there.board.of(":b/large").errors > 0)
    await here.close()
    await there.close()
    await shaky.close()


@pytest.mark.parametrize("gone", [True, False])
async def test_what_the_database_refuses_of_one_tenant_harms_no_other(
    db: Database, tenants: tuple[str, str], gone: bool
) -> None:
    here, there = await Selection.open(db, QUIET), await Selection.open(db, QUIET)
    asked = Asked(need=Need(subject="s"), policy="best-quality")
    unsayable = Asked(need=Need(subject="s", capabilities=frozenset({"\0"})), policy="best-quality")
    # Not a tenant any longer, or one whose decision can't be written.
    bad = "ten_gone" if gone else tenants[1]
    here.remember(bad, unsayable, here.decide(bad, MODELS, asked if gone else unsayable))
    here.noticed(bad, "s" if gone else "\0", "b/large", "schema_invalid")
    id = here.remember(tenants[0], asked, here.decide(tenants[0], MODELS, asked))
    assert [one.decision.id for one in await here.records.page(tenants[0], None, 10)] == [id]
    assert await here.records.page(bad, None, 10) == []
    for _ in range(60):
        here.noticed(tenants[0], "s", "b/large", "schema_invalid")
    await _until(lambda: there.decide(tenants[0], MODELS, asked).first == "a/cheap")
    await here.close()
    await there.close()


async def test_a_policy_is_promoted_only_when_the_log_says_so(db: Database, tenants: tuple[str, str]) -> None:
    selection = await Selection.open(db, QUIET)
    report = await selection.promote(tenants[0], "cheapest", 1e7)
    assert not report.promote
    assert "too few" in report.why
    assert selection.preferences(tenants[0]).policy == "efficient"
    with pytest.raises(InvalidRequest):
        await selection.promote(tenants[0], "luck", 1e7)
    await selection.close()


def test_an_order_is_kept_for_the_same_need_until_something_breaks() -> None:
    selection = Selection(None, QUIET)
    asked = Asked(need=Need(tokens=10))
    found = [selection.decide("ten_x", MODELS, asked).cached for _ in range(3)]
    assert found == [False, True, True]
    assert not selection.decide("ten_x", MODELS, Asked(need=Need(tokens=11))).cached
    for _ in range(5):
        selection.board.failed(":b/large", time.time())
    after = selection.decide("ten_x", MODELS, asked)
    assert not after.cached
    assert after.first == "a/cheap"


async def test_without_a_database_it_learns_for_itself() -> None:
    selection = await Selection.open(None, QUIET)
    asked = Asked(need=Need(subject="s"), policy="best-quality")
    for _ in range(40):
        id = selection.remember("ten_x", asked, selection.decide("ten_x", MODELS, asked))
        await selection.judge("ten_x", Feedback(decision=id, rating=1.0))
    assert selection.decide("ten_x", MODELS, asked).first == "a/cheap"
    assert await selection.may_probe()
    await selection.close()


def test_a_source_outside_is_heeded_for_all_tenants() -> None:
    selection = Selection(None, SelectionSettings(explore=0.0, quality_url="https://x", quality_key_env="X_KEY"))
    asked = Asked(need=Need(), policy="best-quality")
    assert selection.decide("ten_x", MODELS, asked).first == "b/large"
    selection.heed({"a/cheap": 0.95, "b/large": 0.2})
    assert [selection.decide(tenant, MODELS, asked).first for tenant in ("ten_x", "ten_y")] == ["a/cheap"] * 2
    assert selection.settings.quality_seconds == 300.0


def test_settings_of_selection() -> None:
    with pytest.raises(ConfigError):
        Selection(None, SelectionSettings(policy="luck"))
    berlin = SelectionSettings(
        largest_parameters=8e9, highest_price=0.2, farthest_km=100.0, slowest_ms=2000.0, place=(52.5, 13.4),
        complexity=False, affinity=True, explore=0.0, probe_seconds=0.0, keep_days=1,
    )  # fmt: skip
    near = model("c/near", place=(52.5, 13.4), parameters=8 * 10**9)
    asked = Asked(need=Need(), begins="Hello, bees!", text="And wasps?")
    selection = Selection(None, berlin)
    firsts = set()
    for _ in range(8):
        decision = selection.decide("ten_x", [CHEAP, near], asked)
        firsts.add(decision.first)
    told = {one.model: one.factors for one in decision.explain("dec_1", "auto").verdicts}
    assert told["c/near"]["distance"] == 1.0
    assert told["a/cheap"]["size"] == 1.0
    assert told["a/cheap"]["cost"] == pytest.approx(0.5)
    assert decision.explain("dec_1", "auto").complexity is None
    assert len(firsts) == 1
