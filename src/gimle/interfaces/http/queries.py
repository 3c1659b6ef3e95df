"""`/api/v1/llm/query`: model calls in Gimle's own shape, to be fetched later or streamed at once."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from litestar import Response, get, post
from litestar.params import JSONBody
from litestar.response import Stream

from gimle.gateway.notices import Notice
from gimle.gateway.queries import Begun, QueryRequest, QueryResponse, QueryStatus
from gimle.interfaces.http import sse
from gimle.interfaces.http.given import Caller, IdempotencyKey, InFlight, PathText, Rooms
from gimle.interfaces.http.surface import purpose

_BASE = "/api/v1/llm/query"


@post(_BASE, summary="Send a query", tags=["models"], status_code=202)
async def send_query(
    rooms: Rooms,
    principal: Caller,
    exchange: InFlight,
    data: JSONBody[QueryRequest],
    idempotency_key: IdempotencyKey = None,
) -> Response[QueryStatus]:
    """Take in a call of a model, which a durable job makes: fetch the answer when it is done. `job` cancels it."""
    query = await rooms.queries.submit(principal, data, idempotency_key, purpose(exchange))
    status = await rooms.queries.status(principal, query)
    return Response(status, status_code=202, headers={"location": f"{_BASE}/{query}/status"})


@get(f"{_BASE}/{{id:str}}/status", summary="Show how far a query is", tags=["models"])
async def query_status(rooms: Rooms, principal: Caller, id: PathText) -> QueryStatus:
    """How far a query is, and what went wrong."""
    return await rooms.queries.status(principal, id)


@get(f"{_BASE}/{{id:str}}/result", summary="Fetch the answer to a query", tags=["models"])
async def query_result(rooms: Rooms, principal: Caller, id: PathText) -> QueryResponse:
    """The answer; 409 while there is none, or when there will be none."""
    return await rooms.queries.result(principal, id)


@post(f"{_BASE}/stream", summary="Stream a query", tags=["models"], status_code=200)
async def stream_query(rooms: Rooms, principal: Caller, exchange: InFlight, data: JSONBody[QueryRequest]) -> Stream:
    """Server-sent events: `progress` with words as they come, then `done` with the whole answer, which is not kept.

    `notice` comes first where another model answers than the one that was asked for.
    """
    answer = rooms.queries.stream(principal, data, purpose(exchange))
    exchange.attend()
    begun = await anext(answer)
    assert isinstance(begun, Begun)
    return sse.stream(_events(begun.notice, answer), dict(begun.told))


async def _events(
    notice: Notice | None, answer: AsyncGenerator[Begun | str | QueryResponse, None]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(answer):
        if notice is not None:
            yield sse.event("notice", notice)
        async for told in answer:
            if isinstance(told, QueryResponse):
                yield sse.event("done", told)
            else:
                yield sse.event("progress", {"phase": "answering", "text": told})


HANDLERS = (send_query, query_status, query_result, stream_query)
