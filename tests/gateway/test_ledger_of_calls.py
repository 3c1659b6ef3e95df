"""The ledger of real calls: each request that reached the provider has one row, however it ended."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tests.gateway.calls import ANNA, QUICK, call, opened, provider, read, streamed

from gimle.foundation.config import GatewaySettings, LedgerSettings
from gimle.foundation.db import Database
from gimle.foundation.errors import GimleError, Unpriced
from gimle.gateway.gateway import Gateway
from gimle.gateway.types import Purpose
from gimle.testing import Behaviour, Upstream
from gimle.trust.types import Principal

PRICE = [{"input": 1, "cache_read": 1, "output": 1}]
# The stand-in tells of 7 tokens, 4 from its cache, and 8 written: 19 nano-dollars a thousand.
TOLD = 19_000


@asynccontextmanager
async def priced(
    upstream: Upstream, db: Database, data: Path, settings: GatewaySettings = QUICK
) -> AsyncIterator[Gateway]:
    facts = provider(upstream)
    facts["models"].append({"name": "ranker", "kind": "rerank"})
    for model in facts["models"]:
        model["price"] = PRICE
    facts["models"][0]["max_output"] = 50
    async with opened(data, {"mock": facts}, settings, db) as gateway:
        yield gateway


async def entered(gateway: Gateway, db: Database, tenant: str) -> list[dict[str, Any]]:
    assert gateway.till.ledger.posting is not None
    await gateway.till.ledger.posting.post()
    async with db.tenant(tenant) as conn:
        return await (await conn.execute("select * from call_attempt order by started_at")).fetchall()


def outcomes(rows: list[dict[str, Any]]) -> list[tuple[str, bool, int]]:
    return [(row["outcome"], row["estimated"], row["cost_nano"]) for row in rows]


@pytest.fixture
def ann(tenants: tuple[str, str]) -> Principal:
    return Principal(tenants[0], "key_1")


async def test_an_answer_is_entered(upstream: Upstream, db: Database, data_dir: Path, ann: Principal) -> None:
    async with priced(upstream, db, data_dir) as gateway:
        await gateway.chat(ann, call())
        assert await read(streamed(await gateway.chat(ann, call(stream=True))))
        await gateway.embed(ann, "mock/vectors", ["bees"])
        await gateway.complete(ann, "builtin/extract", [{"role": "user", "content": "When?"}], 10)
        rows = await entered(gateway, db, ann.tenant)
    assert outcomes(rows[:3]) == [("done", False, TOLD), ("done", False, TOLD), ("done", False, 3_000)]
    assert [(row["provider"], row["model"], row["kind"]) for row in rows] == [
        ("mock", "mock", "chat"), ("mock", "mock", "chat"), ("mock", "vectors", "embedding"),
        ("builtin", "extract", "chat"),
    ]  # fmt: skip
    assert rows[1]["first_seconds"] is not None
    assert rows[3]["cost_nano"] == 0


@pytest.mark.parametrize(
    "stream, asked, output",
    [(False, {}, 42), (True, {}, 21), (False, {"max_tokens": 12}, 12), (True, {"max_tokens": 12}, 12)],
)
async def test_what_nobody_tells_is_counted(
    upstream: Upstream, db: Database, data_dir: Path, ann: Principal, stream: bool, asked: dict[str, Any], output: int
) -> None:
    """By what came, a token for two bytes of it, and never more than was expected at most."""
    whole = b'{"choices": [{"message": {"content": "%b"}}]}' % (b"b" * 40)
    piece = b'data: {"choices": [{"delta": {"content": "bbbbbbbb"}}]}\n\n'
    last = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    upstream.usual = Behaviour(events=(piece, piece, piece, piece, last)) if stream else Behaviour(body=whole)
    async with priced(upstream, db, data_dir) as gateway:
        answer = await gateway.chat(ann, call(stream=stream, **asked))
        if stream:
            await read(streamed(answer))
        (row,) = await entered(gateway, db, ann.tenant)
    assert (row["outcome"], row["estimated"], row["output"]) == ("done", True, output)
    assert row["cost_nano"] == 1000 * (row["uncached"] + row["output"])


async def test_what_nobody_tells_the_other_rooms_is_counted_too(
    upstream: Upstream, db: Database, data_dir: Path, ann: Principal
) -> None:
    upstream.plan.append(Behaviour(body=b'{"choices": [{"message": {"content": "%b"}}]}' % (b"b" * 40)))
    upstream.plan.append(Behaviour(body=b'{"results": [{"index": 0, "relevance_score": 0.5}]}'))
    async with priced(upstream, db, data_dir) as gateway:
        told = await gateway.complete(ann, "mock/mock", [{"role": "user", "content": "Hi"}], 50)
        await gateway.rerank(ann, "mock/ranker", "bees", ["Bees swarm in May."])
        rows = await entered(gateway, db, ann.tenant)
    assert told.usage.exact is False
    assert [(row["estimated"], row["output"]) for row in rows] == [(True, 21), (True, 0)]
    assert all(row["cost_nano"] == 1000 * (row["uncached"] + row["output"]) > 0 for row in rows)


async def test_each_try_is_entered(upstream: Upstream, db: Database, data_dir: Path, ann: Principal) -> None:
    upstream.plan.extend([Behaviour(status=500), Behaviour(body=b"{")])
    async with priced(upstream, db, data_dir) as gateway:
        await gateway.chat(ann, call())
        rows = await entered(gateway, db, ann.tenant)
    assert outcomes(rows) == [("refused", False, 0), ("broken", True, rows[1]["cost_nano"]), ("done", False, TOLD)]
    assert len(rows) == len(upstream.received)


async def test_who_leaves_pays_what_was_expected(
    upstream: Upstream, db: Database, data_dir: Path, ann: Principal
) -> None:
    upstream.usual = Behaviour(chunks=100, event_delay=0.05)
    settings = msgspec.structs.replace(QUICK, first_token_seconds=5)
    async with priced(upstream, db, data_dir, settings) as gateway:
        stream = streamed(await gateway.chat(ann, call(stream=True, max_tokens=20)))
        await stream.close()
        upstream.usual = Behaviour(head_delay=5)
        for stream_too in (False, True):
            upstream.arrived.clear()
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(gateway.chat(ann, call(stream=stream_too, max_tokens=20)))
                await upstream.arrived.wait()
                asking.cancel()
        rows = await entered(gateway, db, ann.tenant)
    assert [row["outcome"] for row in rows] == ["cancelled"] * 3
    assert all(row["estimated"] and row["output"] == 20 for row in rows)


async def test_a_cut_stream_is_entered(upstream: Upstream, db: Database, data_dir: Path, ann: Principal) -> None:
    upstream.usual = Behaviour(cut_after=3)
    settings = msgspec.structs.replace(QUICK, on_cut="error")
    async with priced(upstream, db, data_dir, settings) as gateway:
        stream = streamed(await gateway.chat(ann, call(stream=True)))
        with pytest.raises(GimleError):
            await read(stream)
        rows = await entered(gateway, db, ann.tenant)
    assert [(row["outcome"], row["estimated"], row["output"]) for row in rows] == [("broken", True, 50)]


async def test_who_can_not_be_reached_has_no_row(
    upstream: Upstream, db: Database, data_dir: Path, ann: Principal
) -> None:
    async with priced(upstream, db, data_dir) as gateway:
        await upstream.close()
        with pytest.raises(GimleError):
            await gateway.chat(ann, call())
        assert await entered(gateway, db, ann.tenant) == []
        await upstream.start()


async def test_a_loser_of_the_race_is_entered(upstream: Upstream, db: Database, data_dir: Path, ann: Principal) -> None:
    upstream.plan.append(Behaviour(head_delay=3))
    settings = msgspec.structs.replace(QUICK, hedge_after=0.1, first_token_seconds=5)
    async with priced(upstream, db, data_dir, settings) as gateway:
        await gateway.chat(ann, call())
        rows = await entered(gateway, db, ann.tenant)
    assert sorted(outcomes(rows))[0] == ("done", False, TOLD)
    assert [row["outcome"] for row in rows] == ["overtaken", "done"]
    assert len(upstream.received) == 2


async def test_our_own_time_is_entered_and_no_providers(
    upstream: Upstream, db: Database, data_dir: Path, ann: Principal
) -> None:
    upstream.plan.extend([Behaviour(status=500, head_delay=0.3), Behaviour(head_delay=0.3)])
    async with priced(upstream, db, data_dir) as gateway:
        started = time.perf_counter()
        await gateway.chat(ann, replace(call(), purpose=Purpose(started=started - 2)))
        seconds = time.perf_counter() - started
        first, second = await entered(gateway, db, ann.tenant)
    # The call came two seconds before it got here, and between the two attempts we paused.
    assert first["overhead_seconds"] >= 2
    assert first["overhead_seconds"] + 0.125 <= second["overhead_seconds"] <= 2 + seconds - 0.6 + 0.01


async def test_auto_passes_over_models_whose_price_nobody_knows(
    upstream: Upstream, second: Upstream, tmp_path: Path
) -> None:
    told = {"name": "told", "price": PRICE}
    providers = {
        "first": {"base_url": upstream.url, "models": [{"name": "secret"}, {"name": "ears", "kind": "transcription"}]},
        "second": {"base_url": second.url, "models": [told]},
    }
    settings = msgspec.structs.replace(QUICK, fallbacks={"second/told": ("first/secret",)})
    for unpriced in ("allow", "refuse"):
        ledger = LedgerSettings(unpriced=unpriced)
        async with opened(tmp_path, providers, settings, ledger=ledger) as gateway:
            served = await gateway.chat(ANNA, call("auto"))
            chain = [model.id for model in gateway.resolve(ANNA, "second/told")]
            assert (served.attempts, served.notice) == (1, None)
            if unpriced == "allow":
                assert (served.provider, chain) == ("first", ["second/told", "first/secret"])
                continue
            assert (served.provider, chain) == ("second", ["second/told"])
            with pytest.raises(Unpriced, match="first/secret"):
                await gateway.chat(ANNA, call("first/secret"))
            with pytest.raises(Unpriced, match="models for transcription"):
                gateway.resolve(ANNA, "auto", "transcription")
    assert len(upstream.received) == 1
