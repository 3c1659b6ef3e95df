"""The edge: where each request comes in, and the one place where any exception becomes an answer.

It finds out who asks, sends inference paths to `inference` and all others to Litestar, counts, and writes one line to
the log. No middleware: a stack of it costs more than the rest of the request.
"""

import asyncio
import time
import traceback

from litestar.exceptions import HTTPException

from gimle.app import App
from gimle.foundation import logs, telemetry
from gimle.foundation.errors import GimleError, InvalidRequest, Unauthorized
from gimle.interfaces.http import asgi, problems
from gimle.interfaces.http.access import AccessLog
from gimle.interfaces.http.exchange import ClientGone, Exchange, Limits, is_inference
from gimle.interfaces.http.inference import Inference
from gimle.interfaces.http.problems import Problem
from gimle.interfaces.http.routes import litestar, problem_of
from gimle.trust.keys import KeyRing
from gimle.trust.types import Principal

# nginx's number for a caller who left: it is seen in the log and the metrics only.
_CLIENT_GONE = 499


class Edge:
    """Answers every request of a server."""

    def __init__(self, app: App) -> None:
        self.limits = limits_of(app)
        self._ring = app.ring
        self._log = logs.get("http")
        self._access = AccessLog(app.settings.log)
        self._inference = Inference(app)
        self._app = app
        self._rest = litestar()

    async def answer(self, exchange: Exchange) -> None:
        """Answer one request. Never raises."""
        telemetry.HTTP_IN_FLIGHT.inc()
        try:
            if not exchange.path.isprintable():
                raise InvalidRequest("The path holds control characters.", field="path")
            if is_inference(exchange.path):
                exchange.principal = authenticate(exchange, self._ring)
                answer, held = self._inference.find(exchange)
                await answer(exchange, exchange.principal, held)
            else:
                if exchange.path.startswith("/api/"):
                    exchange.principal = authenticate(exchange, self._ring)
                await asgi.run(self._rest, exchange, self._app)
        except ClientGone:
            exchange.gone = True
        except asyncio.CancelledError:
            # Its caller has left, or the server is stopping and its grace is over.
            await exchange.fail(problems.STOPPING)
        except GimleError as error:
            await exchange.fail(problems.of_error(error))
        except Exception as error:
            await exchange.fail(self._met(error, exchange))
        finally:
            telemetry.HTTP_IN_FLIGHT.inc(-1)
            self._record(exchange)

    def close(self) -> None:
        """Write what the log still holds back."""
        self._access.flush()

    def _met(self, error: Exception, exchange: Exchange) -> Problem:
        """What the caller is told of an exception; one that nobody has foreseen is logged."""
        problem = _explained(error)
        if problem is problems.CRASH:
            # A pretty traceback would show local variables, and those hold callers' words and keys.
            trace = "".join(traceback.format_exception(error))
            self._log.error("crash", request_id=exchange.request_id, path=exchange.path, traceback=trace)
        return problem

    def _record(self, exchange: Exchange) -> None:
        """Count the request, and write its line. The query string stays out of both: people put secrets there."""
        seconds = time.perf_counter() - exchange.started
        left = exchange.gone and not exchange.complete
        status = _CLIENT_GONE if left else exchange.status
        telemetry.HTTP_REQUESTS.labels(exchange.route, exchange.method, str(status)).inc()
        telemetry.HTTP_SECONDS.labels(exchange.route).observe(seconds)
        if left:
            telemetry.HTTP_DISCONNECTS.labels(exchange.route).inc()
        self._access.write(exchange, status, seconds)


def limits_of(app: App) -> Limits:
    """The limits which the settings ask for."""
    megabyte = 1024 * 1024
    server = app.settings.server
    return Limits(body=server.max_body_mb * megabyte, upload=server.max_upload_mb * megabyte)


def authenticate(exchange: Exchange, ring: KeyRing) -> Principal:
    """Who asks. Takes `Authorization: Bearer` (OpenAI's way) or `x-api-key` (Anthropic's). Raises `Unauthorized`."""
    scheme, _, bearer = exchange.headers.get(b"authorization", b"").partition(b" ")
    token = bearer.strip() if scheme.lower() == b"bearer" else exchange.headers.get(b"x-api-key", b"")
    if not token:
        raise Unauthorized(
            "No API key was given.",
            field="authorization",
            hint="Send the header `Authorization: Bearer gk_…`; the first key lies in <data>/admin.key.",
        )
    principal = ring.principal(token.decode("latin-1"))
    if principal is None:
        raise Unauthorized(
            "This API key is not valid, or no longer.",
            field="authorization",
            hint="`gimle key` lists and creates keys.",
        )
    return principal


def _explained(error: BaseException) -> Problem:
    """What went wrong, found inside what a framework or a task group has put around it; else a crash."""
    if isinstance(error, GimleError):
        return problems.of_error(error)
    if isinstance(error, HTTPException):
        return problem_of(error)
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else [error.__cause__]
    for each in inner:
        if each is not None and (problem := _explained(each)) is not problems.CRASH:
            return problem
    return problems.CRASH
