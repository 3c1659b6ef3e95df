"""All routes but the inference ones, on Litestar: what they share, and how the framework's errors become ours."""

from functools import cache
from typing import Any, Never, cast

from litestar import Litestar, Request
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException

from gimle.app import App
from gimle.interfaces.http import (
    admin,
    allowances,
    budgets,
    costs,
    health,
    jobs,
    knowledge,
    llm,
    local,
    openapi,
    pages,
    problems,
    queries,
    selection,
)
from gimle.interfaces.http.asgi import Asgi
from gimle.interfaces.http.exchange import Exchange, decode_utf8
from gimle.interfaces.http.problems import Problem
from gimle.trust.types import Principal

HANDLERS = (
    *knowledge.HANDLERS,
    *jobs.HANDLERS,
    *llm.HANDLERS,
    *local.HANDLERS,
    *queries.HANDLERS,
    *costs.HANDLERS,
    *budgets.HANDLERS,
    *allowances.HANDLERS,
    *selection.HANDLERS,
    *admin.HANDLERS,
    *health.HANDLERS,
    *pages.HANDLERS,
)


class Utf8Request(Request[Any, Any, State]):
    """A request whose JSON body is checked to be UTF-8 before anything reads it."""

    async def body(self) -> bytes:
        """The whole body. Raises `InvalidRequest` for text that is not UTF-8."""
        body = await super().body()
        if not self.headers.get("content-type", "").startswith("multipart/"):
            decode_utf8(body)
        return body


@cache
def litestar() -> Asgi:
    """The ASGI application for every path that is not an inference path.

    It answers for whichever house `asgi.run` gives it, so that a process with several of them builds it once.
    """
    served = Litestar(
        HANDLERS,
        dependencies=_dependencies(),
        exception_handlers={Exception: _to_the_edge, HTTPException: _to_the_edge},
        openapi_config=None,
        request_class=Utf8Request,
        # The exchange has counted the body already, against the limit of the path.
        request_max_body_size=None,
        logging_config=None,
    )
    # Litestar's types know each kind of message; ours are those of any ASGI application.
    return cast(Asgi, served)


def _dependencies() -> dict[str, Provide]:
    """What a handler may ask for by name: see `given`."""
    return {
        "rooms": Provide(_rooms, sync_to_thread=False),
        "exchange": Provide(_exchange, sync_to_thread=False),
        "principal": Provide(_principal, sync_to_thread=False),
        "api_document": Provide(_document, sync_to_thread=False),
    }


def problem_of(error: HTTPException) -> Problem:
    """What the framework refused, in our words."""
    match error.extra:
        case [{"message": str(message), "key": str(key)}, *_]:
            return _not_valid(message, key)
    if error.status_code == 404:
        return problems.of_status(404, "There is no such path.", hint="/openapi.json lists all paths.")
    if error.status_code == 405:
        return problems.of_status(405, "This path does not take this method.", hint="/openapi.json lists all paths.")
    if error.status_code == 400:
        return Problem(status=400, code="invalid_request", message=f"{error.detail}.", field="body")
    return problems.of_status(error.status_code, error.detail)


def _not_valid(message: str, key: str) -> Problem:
    if message == "'data'":
        message, key = "The body is missing", "body"
    named = problems.field_named_in(message)
    field = ".".join(part for part in (key if key != "data" else None, named) if part)
    if field and not named:
        message = f"{field}: {message}"
    return Problem(
        status=400,
        code="invalid_request",
        message=f"{message}.",
        field=field or "body",
        hint="/docs shows what this path takes.",
    )


def _to_the_edge(_request: Request[Any, Any, State], error: Exception) -> Never:
    """Errors are answered in one place only."""
    raise error


@cache
def _document() -> bytes:
    # A second application, which never serves: with its OpenAPI on, Litestar would serve pages of its own too.
    return openapi.document(
        Litestar(HANDLERS, dependencies=_dependencies(), openapi_config=openapi.CONFIG, logging_config=None)
    )


def _rooms(request: Request[Any, Any, State]) -> App:
    app: App = request.scope["state"]["rooms"]
    return app


def _exchange(request: Request[Any, Any, State]) -> Exchange:
    exchange: Exchange = request.scope["state"]["exchange"]
    return exchange


def _principal(request: Request[Any, Any, State]) -> Principal:
    """Who asks. The edge has let nobody without a key come as far as a path of `/api`."""
    exchange: Exchange = request.scope["state"]["exchange"]
    assert exchange.principal is not None
    return exchange.principal
