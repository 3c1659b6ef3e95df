"""Model calls in Gimle's own shape: streamed at once, or durable.

A durable query is taken in together with its job in one transaction. Whoever works on the job asks the model and keeps
the answer beside the question; once it is kept, no attempt at the job asks again. Job and query are forgotten together.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any

import msgspec

from gimle.foundation import ids, plugins
from gimle.foundation.config import GatewaySettings
from gimle.foundation.db import Connection, Database, Jsonb, queries, row
from gimle.foundation.errors import Conflict, InvalidRequest, QueryNotFound, UpstreamError
from gimle.gateway.gateway import Gateway
from gimle.gateway.lanes import chat_of
from gimle.gateway.neutral import Added, Began, Delta, Finished, Text, Usage
from gimle.gateway.notices import Notice
from gimle.gateway.streams import Translation
from gimle.gateway.types import Chat, ChatCall, ChatReply, ChatStream, Dialect, Headers, Purpose
from gimle.jobs.jobs import Jobs
from gimle.jobs.run import Run
from gimle.jobs.types import FINAL, JobError, JobKind, Status
from gimle.trust.types import Principal

SQL = queries("gimle.gateway")
QUERY = "query"

# A job may take this many seconds longer than one call of the gateway.
_SPARE_SECONDS = 30.0
_NO_PURPOSE = Purpose()


class QueryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to ask: a `prompt`, or a conversation as `messages` in OpenAI's form. With a `json_schema` the answer is
    JSON that fits it. `metadata` comes back with the status.
    """

    prompt: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)] | None = None
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=300)] = "auto"
    system: str | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    json_schema: dict[str, Any] | None = None
    metadata: Annotated[dict[str, Annotated[str, msgspec.Meta(max_length=512)]], msgspec.Meta(max_length=16)] = {}


class QueryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a query is. `job` is what works on it; cancel it there."""

    id: str
    job: str
    status: Status
    phase: str
    attempts: int
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: JobError | None = None
    metadata: dict[str, str] = {}


class QueryUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens, in classes that share none but the two sums."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    exact: bool = True


class QueryMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What the call took: milliseconds from the sending to the whole answer, and attempts at providers."""

    latency_ms: float
    attempts: int
    first_token_ms: float | None = None


class QueryResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, and who gave it. `id` is None for a streamed query, which is not kept; `notice` says why another
    model answered than the one that was asked for.
    """

    text: str
    model: str
    provider: str
    usage: QueryUsage | None
    metrics: QueryMetrics
    id: str | None = None
    finish: str | None = None
    notice: Notice | None = None


class Begun(msgspec.Struct, frozen=True):
    """A streamed query is being answered: headers that tell of limits, and why another model answers."""

    told: Headers
    notice: Notice | None


class _Kept(msgspec.Struct, frozen=True):
    id: str
    request: QueryRequest


class _Asked(msgspec.Struct, frozen=True):
    request: QueryRequest
    response: QueryResponse | None = None


class Queries:
    """The queries of all tenants; every call names whose it is about."""

    def __init__(self, db: Database, jobs: Jobs, gateway: Gateway, settings: GatewaySettings) -> None:
        self._db = db
        self._jobs = jobs
        self._gateway = gateway
        self._total_seconds = settings.total_seconds

    def kind(self) -> JobKind:
        """The kind of job that asks a query, whose payload names it."""
        soft = self._total_seconds + _SPARE_SECONDS
        hard = soft + _SPARE_SECONDS
        return JobKind(name=QUERY, queue="agents-low", handler=self._perform, soft_seconds=soft, hard_seconds=hard)

    async def submit(
        self,
        principal: Principal,
        request: QueryRequest,
        idempotency_key: str | None = None,
        purpose: Purpose = _NO_PURPOSE,
    ) -> str:
        """Take a query in, and return its id; a key used in the last 24 h returns the query it was first used for.

        Raises `InvalidRequest`, `ModelNotFound`, `Unavailable`, and `Conflict` when the key was used for another
        request.
        """
        self._gateway.resolve(principal, _call(request, stream=False).model)
        query = ids.new("qry")
        # When it came means nothing to the process that works on it.
        told = msgspec.structs.replace(purpose, started=None)
        payload = {"query": query, "key": principal.key, "purpose": msgspec.to_builtins(told)}
        key = None if idempotency_key is None else f"query {idempotency_key}"
        async with self._db.tenant(principal.tenant) as conn:
            job = await self._jobs.enqueue(conn, principal.tenant, QUERY, payload, idempotency_key=key)
            kept = await row(conn, SQL["query_of_job"], {"job": job}, _Kept)
            if kept is None:
                values = {"id": query, "job": job, "request": Jsonb(msgspec.to_builtins(request))}
                await conn.execute(SQL["insert_query"], values)
                return query
        if kept.request != request:
            raise Conflict(
                "This idempotency key was used for another query.", field="Idempotency-Key", hint="Use a new key."
            )
        return kept.id

    async def status(self, principal: Principal, query: str) -> QueryStatus:
        """How far a query is. Raises `QueryNotFound`, also for another tenant's."""
        async with self._db.tenant(principal.tenant) as conn:
            found = await row(conn, SQL["query_status"], {"id": query}, QueryStatus)
        if found is None:
            raise _unknown(query)
        return found

    async def result(self, principal: Principal, query: str) -> QueryResponse:
        """The answer. Raises `QueryNotFound`, and `Conflict` while there is none, or when there will be none."""
        async with self._db.tenant(principal.tenant) as conn:
            found = await row(conn, SQL["query_asked"], {"id": query}, _Asked)
        if found is not None and found.response is not None:
            return found.response
        state = await self.status(principal, query)
        if state.status not in FINAL:
            hint = f"Ask GET /api/v1/llm/query/{query}/status until it is done."
            raise Conflict(f"The query {query} is {state.status}: there is no answer yet.", field="query", hint=hint)
        why = f": {state.error.message}" if state.error else "."
        raise Conflict(f"The query {query} is {state.status}{why}", field="query", hint="Send it again.")

    async def stream(
        self, principal: Principal, request: QueryRequest, purpose: Purpose = _NO_PURPOSE
    ) -> AsyncGenerator[Begun | str | QueryResponse, None]:
        """That it has begun, the words as they come, then the whole answer. Nothing is kept.

        Raises what `Gateway.chat` raises.
        """
        started = time.perf_counter()
        reply = await self._gateway.chat(principal, self._limited(principal, request, purpose, stream=True))
        if isinstance(reply, ChatReply):
            raise _refused(reply)
        yield Begun(reply.told, reply.notice)
        words: list[str] = []
        heard = _Heard()
        async with aclosing(_words(reply, heard)) as told:
            async for word in told:
                words.append(word)
                yield word
        metrics = QueryMetrics(
            latency_ms=_since(started),
            attempts=reply.attempts,
            first_token_ms=round(reply.upstream_seconds * 1000, 1),
        )
        response = _response(reply, reply.usage, "".join(words), metrics)
        yield msgspec.structs.replace(response, finish=heard.finish)

    async def _perform(self, run: Run) -> dict[str, Any]:
        """Ask a query and keep the answer, unless it is kept already. Raises what `Gateway.chat` raises."""
        query: str = run.payload["query"]
        async with run.db.tenant(run.tenant) as conn:
            asked = await row(conn, SQL["query_asked"], {"id": query}, _Asked)
        if asked is None:
            return {"skipped": "The query was deleted before it was asked."}
        if asked.response is None:
            await run.progress("asking")
            # Jobs of an earlier version have none.
            purpose = msgspec.convert(run.payload.get("purpose", {}), Purpose)
            response = await self._ask(Principal(run.tenant, run.payload["key"]), asked.request, query, purpose)

            async def keep(conn: Connection) -> None:
                values = {"id": query, "response": Jsonb(msgspec.to_builtins(response))}
                await conn.execute(SQL["keep_answer"], values)

            await run.once("answer", keep)
        return {"query": query}

    async def _ask(self, principal: Principal, request: QueryRequest, query: str, purpose: Purpose) -> QueryResponse:
        started = time.perf_counter()
        answer = await self._gateway.chat(principal, self._limited(principal, request, purpose, stream=False))
        if not isinstance(answer, ChatReply) or answer.status != 200:
            raise _refused(answer)
        reply = _chat().read_reply(answer.body)
        metrics = QueryMetrics(latency_ms=_since(started), attempts=answer.attempts)
        # PostgreSQL holds no NUL, and what can't be kept would be asked again.
        text = reply.choices[0].text.replace("\0", "\ufffd")
        response = _response(answer, answer.usage, text, metrics)
        return msgspec.structs.replace(response, id=query, finish=reply.choices[0].finish)

    def _limited(self, principal: Principal, request: QueryRequest, purpose: Purpose, *, stream: bool) -> ChatCall:
        """The call, its limit under the name by which the first target's provider takes it."""
        call = msgspec.structs.replace(_call(request, stream=stream), purpose=purpose)
        if request.max_tokens is not None:
            target = self._gateway.resolve(principal, call.model)[0]
            access = self._gateway.catalog.snapshot(principal.tenant).access.get(target.provider)
            name = "max_tokens" if access is None else access.provider.max_tokens_field
            call.body[name] = _raw(request.max_tokens)
        return call


def _call(request: QueryRequest, *, stream: bool) -> ChatCall:
    """A query as a chat in OpenAI's dialect, without its limit. Raises `InvalidRequest`, which names the field."""
    body: dict[str, Any] = {"model": request.model, "messages": _messages(request)}
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.json_schema is not None:
        form = {"name": "answer", "schema": request.json_schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    if stream:
        body["stream"] = True
    call = ChatCall(body={name: _raw(value) for name, value in body.items()}, model=request.model, stream=stream)
    _chat().inspect(call)
    return call


def _messages(request: QueryRequest) -> list[dict[str, Any]]:
    if (request.prompt is None) == (request.messages is None):
        raise InvalidRequest("Send either `prompt` or `messages`.", field="prompt")
    said = request.messages if request.messages is not None else [{"role": "user", "content": request.prompt}]
    return [{"role": "system", "content": request.system}, *said] if request.system is not None else said


class _Heard:
    """Of all that a stream brings: the text of the first choice, and why it ended."""

    def __init__(self) -> None:
        self.finish: str | None = None
        self._texts: set[int] = set()

    def words(self, delta: Delta) -> bytes:
        """What one delta adds to the text."""
        match delta:
            case Began(part=Text(), at=at, choice=0):
                self._texts.add(at)
            case Added(text=text, at=at, choice=0) if at in self._texts:
                return text.encode()
            case Finished(finish=finish, choice=0):
                self.finish = finish
        return b""


async def _words(reply: ChatStream, heard: _Heard) -> AsyncGenerator[str, None]:
    """The words of a stream as they come; it is closed at the end."""
    carrier = Translation(_chat().read_events(), heard.words)
    try:
        async for piece in reply:
            if words := carrier.feed(piece):
                yield words.decode()
    finally:
        await reply.close()


def _response(reply: ChatReply | ChatStream, usage: Usage | None, text: str, metrics: QueryMetrics) -> QueryResponse:
    used = None if usage is None else _usage(usage)
    return QueryResponse(
        text=text, model=reply.model, provider=reply.provider, usage=used, metrics=metrics, notice=reply.notice
    )


def _usage(usage: Usage) -> QueryUsage:
    return QueryUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
        reasoning_tokens=usage.reasoning,
        exact=usage.exact,
    )


def _refused(reply: ChatReply | ChatStream) -> Exception:
    """A provider's own words about the caller's request, as an error."""
    if isinstance(reply, ChatReply) and reply.status != 200:
        return _dialect().read_fault(reply.status, {}, reply.body).error
    return UpstreamError("The provider did not answer in the form that was asked for.")


def _dialect() -> Dialect:
    dialect: Dialect = plugins.load("gimle.gateway.dialects", "openai").DIALECT
    return dialect


def _chat() -> Chat:
    return chat_of(_dialect())


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)


def _unknown(query: str) -> QueryNotFound:
    return QueryNotFound(f"There is no query {query!r}.", field="query")
