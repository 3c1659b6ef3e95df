"""Durable model calls: asked once, answered once, whoever dies in between; and never seen by another tenant."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from tests.gateway.calls import opened, provider
from tests.interfaces.served import started

from gimle.foundation import ids
from gimle.foundation.config import GatewaySettings, JobSettings
from gimle.foundation.db import Connection, Database
from gimle.foundation.errors import Conflict, InvalidRequest, ModelNotFound, QueryNotFound
from gimle.gateway.gateway import Gateway
from gimle.gateway.queries import Begun, Queries, QueryRequest, QueryResponse
from gimle.jobs.jobs import Jobs
from gimle.jobs.reaper import Pace
from gimle.jobs.types import Job
from gimle.testing import WORDS, Behaviour, Upstream
from gimle.trust.types import Principal

T = TypeVar("T")
SENTENCE = "".join(WORDS)
QUICK = Pace(beat=0.2, stale=2.0, sweep=1.0, grace=0.0)
PATIENT = GatewaySettings(first_token_seconds=20, idle_seconds=20, total_seconds=30)
ASKED = QueryRequest(prompt="When do bees swarm?", model="mock/mock")


class House:
    """The rooms that queries need, open; nobody works on jobs until `jobs.start`."""

    def __init__(
        self, db: Database, jobs: Jobs, gateway: Gateway, upstream: Upstream, tenants: tuple[str, str]
    ) -> None:
        self.db, self.jobs, self.upstream = db, jobs, upstream
        self.queries = Queries(db, jobs, gateway, PATIENT)
        jobs.register(self.queries.kind())
        self.anna, self.bert = (Principal(tenant, ids.new("key")) for tenant in tenants)

    async def ended(self, query: str) -> Job:
        job = (await self.queries.status(self.anna, query)).job
        async with asyncio.timeout(30):
            return [state async for state in self.jobs.watch(self.anna.tenant, job)][-1]


@pytest.fixture
async def house(db: Database, data_dir: Path, tenants: tuple[str, str]) -> AsyncIterator[House]:
    async with Upstream() as upstream, opened(data_dir, {"mock": provider(upstream)}, PATIENT, db) as gateway:
        jobs = await Jobs.open(db, [], JobSettings(drain_seconds=0.0), QUICK)
        yield House(db, jobs, gateway, upstream, tenants)
        await jobs.close()


async def test_a_query_is_answered_and_its_answer_kept(house: House) -> None:
    request = QueryRequest(
        prompt="When?", system="Be brief.", model="mock/mock", max_tokens=9, temperature=0.5, metadata={"for": "test"}
    )
    query = await house.queries.submit(house.anna, request)
    waiting = await house.queries.status(house.anna, query)
    assert (waiting.status, waiting.attempts, waiting.metadata) == ("queued", 0, {"for": "test"})
    with pytest.raises(Conflict, match="no answer yet"):
        await house.queries.result(house.anna, query)
    await house.jobs.start()
    assert (await house.ended(query)).status == "done"
    answer = await house.queries.result(house.anna, query)
    assert (answer.id, answer.text, answer.model, answer.provider) == (query, SENTENCE, "mock", "mock")
    assert answer.finish == "stop"
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cache_read_tokens) == (11, 8, 4)
    assert answer.metrics.attempts == 1
    assert answer.metrics.latency_ms > 0
    body = house.upstream.received[-1].json
    assert [said["role"] for said in body["messages"]] == ["system", "user"]
    assert (body["max_tokens"], body["temperature"], body["model"]) == (9, 0.5, "mock")


async def test_a_key_makes_a_query_once(house: House) -> None:
    first, again = [await house.queries.submit(house.anna, ASKED, "key-1") for _ in range(2)]
    assert first == again
    others = await asyncio.gather(*(house.queries.submit(house.anna, ASKED, "key-2") for _ in range(5)))
    assert len(set(others)) == 1
    with pytest.raises(Conflict, match="another query"):
        await house.queries.submit(house.anna, msgspec.structs.replace(ASKED, prompt="Why?"), "key-1")
    assert await house.queries.submit(house.bert, ASKED, "key-1") != first
    assert len((await house.jobs.list(house.anna.tenant))[0]) == 2


async def test_a_foreign_query_is_an_unknown_one(house: House) -> None:
    query = await house.queries.submit(house.anna, ASKED)
    for ask in (house.queries.status, house.queries.result):
        told = []
        for given in (query, ids.new("qry")):
            with pytest.raises(QueryNotFound) as refused:
                await ask(house.bert, given)
            told.append((refused.value.message.replace(given, "ID"), refused.value.field))
        assert told[0] == told[1]
    async with house.db.tenant(house.bert.tenant) as conn:
        assert await (await conn.execute("select id from query")).fetchall() == []
        assert (await conn.execute("update query set response = '{}'")).rowcount == 0


async def test_what_can_not_be_asked_is_refused_at_once(house: House) -> None:
    wrong: tuple[tuple[QueryRequest, type[Exception], str], ...] = (
        (QueryRequest(), InvalidRequest, "prompt"),
        (QueryRequest(prompt="a", messages=[{"role": "user", "content": "b"}]), InvalidRequest, "prompt"),
        (QueryRequest(messages=[{"role": "bee", "content": "b"}]), InvalidRequest, "messages[0].role"),
        (QueryRequest(prompt="a", model="nobody/nothing"), ModelNotFound, "model"),
    )
    for request, kind, field in wrong:
        with pytest.raises(kind) as refused:
            await house.queries.submit(house.anna, request)
        assert isinstance(refused.value, InvalidRequest | ModelNotFound)
        assert refused.value.field == field
    assert (await house.jobs.list(house.anna.tenant))[0] == []


async def test_a_refusal_of_the_provider_ends_the_query(house: House) -> None:
    error = b'{"error": {"message": "No bees, please.", "type": "invalid_request_error", "param": null, "code": null}}'
    house.upstream.usual = Behaviour(status=400, body=error)
    query = await house.queries.submit(house.anna, ASKED)
    await house.jobs.start()
    await house.ended(query)
    state = await house.queries.status(house.anna, query)
    assert (state.status, state.attempts) == ("failed", 1)
    assert state.error is not None
    assert (state.error.code, state.error.message) == ("invalid_request", "No bees, please.")
    with pytest.raises(Conflict, match="No bees, please"):
        await house.queries.result(house.anna, query)


async def test_an_answer_with_a_sign_that_no_database_holds_is_kept(house: House) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "In\0May"}, "finish_reason": "stop"}
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "mock", "choices": [choice]}
    house.upstream.usual = Behaviour(body=msgspec.json.encode(answer))
    query = await house.queries.submit(house.anna, ASKED)
    await house.jobs.start()
    assert (await house.ended(query)).status == "done"
    assert (await house.queries.result(house.anna, query)).text == "In\ufffdMay"
    assert len(house.upstream.received) == 1


async def test_a_query_can_be_cancelled(house: House) -> None:
    house.upstream.usual = Behaviour(head_delay=60)
    query = await house.queries.submit(house.anna, ASKED)
    await house.jobs.start()
    async with asyncio.timeout(15):
        while not house.upstream.received:
            await asyncio.sleep(0.02)
    await house.jobs.cancel(house.anna.tenant, (await house.queries.status(house.anna, query)).job)
    assert (await house.queries.status(house.anna, query)).status == "cancelled"
    async with asyncio.timeout(10):
        await house.upstream.left.wait()


class KilledError(BaseException):
    """The process is gone: nothing that follows in it may run."""


class Dying:
    """A run that dies right after the answer is kept, or when it would be."""

    def __init__(self, house: House, query: str, *, before: bool) -> None:
        self.db, self.tenant, self.payload = house.db, house.anna.tenant, {"query": query, "key": house.anna.key}
        self._before = before

    async def progress(self, phase: str) -> None:
        return

    async def once(self, _: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        if not self._before:
            async with self.db.tenant(self.tenant) as conn:
                await work(conn)
        raise KilledError


@pytest.mark.parametrize("before, calls", [(True, 2), (False, 1)])
async def test_who_dies_after_the_answer_was_kept_costs_nothing(house: House, before: bool, calls: int) -> None:
    query = await house.queries.submit(house.anna, ASKED)
    run: Any = Dying(house, query, before=before)
    with pytest.raises(KilledError):
        await house.queries.kind().handler(run)
    await house.jobs.start()
    assert (await house.ended(query)).status == "done"
    assert (await house.queries.result(house.anna, query)).text == SENTENCE
    assert len(house.upstream.received) == calls


async def test_kill_9_of_the_worker_in_the_middle_of_a_query(house: House, data_dir: Path, database_url: str) -> None:
    house.upstream.plan.append(Behaviour(head_delay=60))
    query = await house.queries.submit(house.anna, ASKED)
    config = data_dir / "worker.toml"
    config.write_text(f'[providers.mock]\nbase_url = "{house.upstream.url}"\nmodels = [{{name = "mock"}}]\n')

    def work_until(asked: asyncio.Event, loop: asyncio.AbstractEventLoop) -> int | None:
        flags = ("--database-url", database_url, "--config", str(config))
        with started(data_dir, "worker", *flags) as (worker, _):
            asyncio.run_coroutine_threadsafe(asked.wait(), loop).result(30)
            worker.send_signal(signal.SIGKILL)
            return worker.wait(10)

    asked = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        working = group.create_task(asyncio.to_thread(work_until, asked, asyncio.get_running_loop()))
        while not house.upstream.received:
            await asyncio.sleep(0.05)
        asked.set()
    assert working.result() == -signal.SIGKILL
    assert (await house.queries.status(house.anna, query)).status == "running"
    await house.jobs.start()
    assert (await house.ended(query)).status == "done"
    state = await house.queries.status(house.anna, query)
    assert (state.status, state.attempts) == ("done", 2)
    assert (await house.queries.result(house.anna, query)).text == SENTENCE
    assert len(house.upstream.received) == 2


async def test_a_stream_brings_words_and_then_the_whole(house: House) -> None:
    told = [event async for event in house.queries.stream(house.anna, ASKED)]
    whole = told[-1]
    assert isinstance(whole, QueryResponse)
    assert isinstance(told[0], Begun)
    assert "".join(str(word) for word in told[1:-1]) == whole.text == SENTENCE
    assert (whole.finish, whole.id, whole.metrics.attempts) == ("stop", None, 1)
    assert whole.usage is not None
    assert whole.usage.output_tokens == len(WORDS)


async def test_a_schema_goes_to_the_provider(house: House) -> None:
    schema = {"type": "object", "properties": {"when": {"type": "string"}}}
    request = msgspec.structs.replace(ASKED, json_schema=schema)
    assert [event async for event in house.queries.stream(house.anna, request)]
    form = house.upstream.received[-1].json["response_format"]
    assert form == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
