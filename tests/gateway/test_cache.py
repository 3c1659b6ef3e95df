"""Kept answers: found, not found for another tenant, bounded, forgotten; one call for many; questions alike."""

import asyncio
import time

import msgspec
import numpy as np
import pytest

from gimle.foundation.config import CacheSettings
from gimle.foundation.db import Database
from gimle.foundation.errors import InvalidRequest
from gimle.foundation.redis import Redis
from gimle.gateway.cache import Cache, Kept, Lead
from gimle.gateway.cache_keys import ALL, NOTHING, Control, canonical, control, digest, meaning
from gimle.gateway.neutral import Ask, Format, Image, Text, Tool, Turn
from gimle.gateway.similar import Similar
from gimle.gateway.types import Vectors

DAY = 86_400.0
KIND, OTHER_KIND = b"k" * 32, b"o" * 32


def answer(text: bytes = b"hello") -> Kept:
    return Kept((text,), "p", "m", cost=1000)


def raw(**fields: object) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}


@pytest.fixture
def cache() -> Cache:
    return Cache(CacheSettings(memory_mb=1))


async def lead(cache: Cache, key: bytes, said: Control = ALL) -> Lead:
    found = await cache.enter(key, said, 5.0)
    assert isinstance(found, Lead)
    return found


# -- keys


def same(dialect: str = "openai", **fields: object) -> bytes:
    said = canonical(dialect, raw(**fields))
    assert said is not None
    return said


def test_the_order_of_fields_and_who_the_user_is_make_no_difference() -> None:
    one = same(model="m", messages=[{"role": "user", "content": "x"}], user="a", metadata={"b": 1})
    other = {"messages": msgspec.Raw(b'[ {"content":"x", "role":"user"} ]'), "model": msgspec.Raw(b'"m"')}
    assert one == canonical("openai", other)
    assert one != same(model="m", messages=[{"role": "user", "content": "y"}])
    # A response repeats what it was asked with.
    assert same("responses", input="x", metadata={"a": "1"}) != same("responses", input="x", metadata={"a": "2"})


def test_what_is_too_large_or_no_plain_json_has_no_key() -> None:
    assert canonical("openai", raw(messages="x" * 1_100_000)) is None
    deep = b"[" * 100_000 + b"]" * 100_000
    assert canonical("openai", {"messages": msgspec.Raw(deep)}) is None


def test_a_key_holds_each_part_and_the_secret() -> None:
    parts: list[bytes | str] = ["same", b'["t","openai","p/m"]', same(model="m")]
    keys = {digest(b"secret", parts), digest(b"another", parts)}
    others: tuple[bytes | str, ...] = ("alike", b'["u","openai","p/m"]', b"{}")
    for place, another in enumerate(others):
        keys.add(digest(b"secret", [*parts[:place], another, *parts[place + 1 :]]))
    # What stands in one part can't pass for what stands in two.
    keys.add(digest(b"secret", ("sam", "e", *parts[1:])))
    assert len(keys) == 6


@pytest.mark.parametrize(
    "header,field,told",
    [
        ("", None, ALL),
        ("no-store", None, NOTHING),
        ("no-store", True, NOTHING),
        ("", False, NOTHING),
        ("", True, Control(asked=True)),
        ("no-cache", None, Control(read=False)),
        ("max-age=60, stale-ok", True, Control(max_age=60.0, asked=True)),
        ("max-age=60", "max-age=5", Control(max_age=5.0, asked=True)),
        ("max-age=0", None, Control(read=False, max_age=0.0)),
        ("max-age=soon", None, ALL),
        ("NO-STORE", None, NOTHING),
        ("max", "max-age=5", Control(max_age=5.0, asked=True)),
    ],
)
def test_a_caller_controls_the_cache(header: str, field: bool | str | None, told: Control) -> None:
    assert control(header, field) == told


@pytest.mark.parametrize("field", ["always", "max-age=soon", "max-age", "no-cache, often", ""])
def test_a_field_that_is_no_directive_is_refused(field: str) -> None:
    with pytest.raises(InvalidRequest, match="no directive"):
        control("", field)


# -- keeping


async def test_an_answer_is_kept_and_found_until_its_time_is_over(cache: Cache) -> None:
    (await lead(cache, b"k")).keep(answer(), 0.2)
    kept = cache.look(b"k", ALL)
    assert kept is not None
    assert kept.pieces == (b"hello",)
    assert await cache.enter(b"k", ALL, 1.0) == kept
    assert cache.look(b"k", Control(read=False)) is None
    await asyncio.sleep(0.05)
    assert cache.look(b"k", Control(max_age=0.01)) is None
    await asyncio.sleep(0.2)
    assert cache.look(b"k", ALL) is None


async def test_a_stream_is_played_again_in_its_pieces(cache: Cache) -> None:
    leading = await lead(cache, b"k")
    for piece in (b"data: 1\n\n", b"data: 2\n\n"):
        leading.collect(piece)
    leading.keep(Kept(leading.collected, "p", "m"), DAY)
    leading.close()
    kept = cache.look(b"k", ALL)
    assert kept is not None
    assert kept.pieces == (b"data: 1\n\n", b"data: 2\n\n")


async def test_memory_is_bounded_and_the_least_used_go_first(cache: Cache) -> None:
    for number in range(40):
        (await lead(cache, b"%d" % number)).keep(answer(b"x" * 50_000), DAY)
        cache.look(b"0", ALL)
    assert cache.look(b"0", ALL) is not None
    assert cache.look(b"1", ALL) is None
    assert cache.look(b"39", ALL) is not None
    found = [number for number in range(40) if cache.look(b"%d" % number, ALL)]
    assert 15 <= len(found) <= 1024 * 1024 // 50_000
    (await lead(cache, b"large")).keep(answer(b"x" * 200_000), DAY)
    assert cache.look(b"large", ALL) is None


async def test_no_store_neither_reads_nor_keeps_and_no_cache_keeps_anew(cache: Cache) -> None:
    (await lead(cache, b"k", NOTHING)).keep(answer(), DAY)
    assert cache.look(b"k", ALL) is None
    (await lead(cache, b"k")).keep(answer(b"old"), DAY)
    (await lead(cache, b"k", Control(read=False))).keep(answer(b"new"), DAY)
    kept = cache.look(b"k", ALL)
    assert kept is not None
    assert kept.pieces == (b"new",)


# -- one call for many


async def test_of_many_calls_that_are_the_same_one_goes_to_the_provider(cache: Cache) -> None:
    leading = await lead(cache, b"k")
    async with asyncio.TaskGroup() as group:
        joined = [group.create_task(cache.enter(b"k", ALL, 5.0)) for _ in range(50)]
        await asyncio.sleep(0)
        leading.keep(answer(), DAY)
    assert {type(task.result()) for task in joined} == {Kept}


async def test_when_the_first_fails_the_next_goes_and_the_others_wait_on(cache: Cache) -> None:
    leading = await lead(cache, b"k")
    async with asyncio.TaskGroup() as group:
        joined = [group.create_task(cache.enter(b"k", ALL, 5.0)) for _ in range(3)]
        await asyncio.sleep(0)
        leading.close()
        leading.close()
        second = await joined[0]
        assert isinstance(second, Lead)
        assert not joined[1].done()
        # The next is cancelled in the moment in which its turn comes.
        second.close()
        joined[1].cancel()
        third = await joined[2]
        assert isinstance(third, Lead)
        third.keep(answer(), DAY)
    assert cache.look(b"k", ALL) is not None


async def test_nobody_waits_for_what_will_not_be_kept_nor_beyond_his_time(cache: Cache) -> None:
    leading = await lead(cache, b"k")
    async with asyncio.TaskGroup() as group:
        joined = [group.create_task(cache.enter(b"k", ALL, 5.0)) for _ in range(3)]
        impatient = group.create_task(cache.enter(b"k", ALL, 0.02))
        assert isinstance(await impatient, Lead)
        assert not joined[0].done()
        for _ in range(3):
            leading.collect(b"x" * 100_000)
    assert all(isinstance(task.result(), Lead) for task in joined)
    leading.keep(Kept(leading.collected, "p", "m"), DAY)
    assert cache.look(b"k", ALL) is None


def held_up(seconds: float) -> None:
    """What the loop does meanwhile: nothing."""
    time.sleep(seconds)


async def test_a_turn_that_comes_as_the_patience_ends_is_not_lost(cache: Cache) -> None:
    leading = await lead(cache, b"k")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(cache.enter(b"k", ALL, 0.02))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.01, leading.close)
        # Both times are over when the loop looks again.
        held_up(0.05)
    second = waiting.result()
    assert isinstance(second, Lead)
    second.close()
    # Were the turn lost, this call would wait for nobody.
    async with asyncio.timeout(1):
        (await lead(cache, b"k")).close()


# -- nodes


async def test_nodes_that_share_a_redis_make_the_same_keys(db: Database) -> None:
    redis = Redis("redis://127.0.0.1:1")
    shared = [Cache(CacheSettings(), db, redis) for _ in range(2)]
    alone = Cache(CacheSettings(), db)
    for each in (*shared, alone):
        await each.open()
    assert shared[0].key("t", b"x") == shared[1].key("t", b"x") != alone.key("t", b"x")
    for each in (*shared, alone):
        await each.close()
    await redis.close()


# -- meaning


def asked(text: str, **more: object) -> Ask:
    return Ask(turns=(Turn(role="user", parts=(Text(text=text),)),), **more)  # type: ignore[arg-type]


def test_what_could_go_wrong_is_not_compared_by_meaning() -> None:
    assert meaning(asked("When do bees swarm?")) is not None
    tool = Tool(name="f", schema={})
    for wrong in (
        asked("x", temperature=0.9), asked("x", tools=(tool,)), asked("x", format=Format()), asked("x", n=2),
        asked(" "),
        asked("x", seed=1), asked("x" * 5000), Ask(turns=()),
        Ask(turns=(Turn(role="user", parts=(Text(text="x"), Image(url="https://e.com/a.png"))),)),
        Ask(turns=(Turn(role="assistant", parts=(Text(text="x"),)),)),
    ):  # fmt: skip
        assert meaning(wrong) is None


def test_numbers_negations_and_what_was_said_before_must_be_the_same() -> None:
    def rest(ask: Ask) -> bytes:
        found = meaning(ask)
        assert found is not None
        return found.rest

    assert rest(asked("When do bees swarm?")) == rest(asked("When does a hive swarm?"))
    assert rest(asked("What is 2 + 3?")) != rest(asked("What is 2 + 4?"))
    assert rest(asked("Is -40 °C cold?")) != rest(asked("Is 40 °C cold?"))
    assert rest(asked("How far is it from 3 to 12?")) != rest(asked("How far is it from 12 to 3?"))
    assert rest(asked("Is it legal?")) != rest(asked("Is it not legal?"))
    assert rest(asked("Is it legal, or not?")) != rest(asked("Is it legal, or so?"))
    assert rest(asked("Why should I vaccinate?")) != rest(asked("Why shouldn't I vaccinate?"))
    assert rest(asked("Why should I vaccinate?")) != rest(asked("Why shouldn’t I vaccinate?"))
    assert rest(asked("Hilft das?")) != rest(asked("Hilft das nicht?"))
    assert rest(asked("x", max_tokens=5)) != rest(asked("x"))
    system = Turn(role="system", parts=(Text(text="Be brief."),))
    assert rest(Ask(turns=(system, *asked("x").turns))) != rest(asked("x"))


async def test_the_nearest_question_s_answer_is_found_if_it_is_near_enough(cache: Cache) -> None:
    vectors = {"swarm": [1.0, 0.0, 0.0], "swarms": [0.99, 0.1, 0.0], "honey": [0.0, 1.0, 0.0]}

    async def embed(text: str) -> Vectors:
        return np.array([vectors[text]], dtype=np.float32)

    similar = Similar(cache, embed, 0.95)
    (await lead(cache, b"k")).keep(answer(), DAY)
    found, vector = await similar.find(KIND, "swarm", ALL)
    assert found is None
    similar.add(KIND, vector, b"k")
    assert (await similar.find(KIND, "swarms", ALL))[0] == cache.look(b"k", ALL)
    assert (await similar.find(KIND, "honey", ALL))[0] is None
    assert (await similar.find(OTHER_KIND, "swarm", ALL))[0] is None
    assert (await similar.find(KIND, "swarm", Control(read=False)))[0] is None
    for number in range(10_000):
        similar.add(OTHER_KIND, vector, b"%d" % number)
    # The oldest have made room.
    assert (await similar.find(KIND, "swarms", ALL))[0] is None
