"""Errors on the wire: one problem, three dialects.

Whatever goes wrong becomes a `Problem`; `/v1` says it as OpenAI does, or as Anthropic does where the path is theirs,
and everything else in Gimle's own shape.
"""

import math
from http import HTTPStatus
from typing import Literal

import msgspec

from gimle.foundation.errors import GimleError, InvalidRequest, RateLimitedError, TransientError

Dialect = Literal["openai", "anthropic", "gimle"]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong: the HTTP status, a code for programs, a sentence for people, the field at fault, and the fix.

    `limit` is how much is allowed, where a limit of ours is reached; `retry_after` is in seconds.
    """

    status: int
    code: str
    message: str
    field: str | None = None
    hint: str | None = None
    retry_after: float | None = None
    limit: int | None = None


CRASH = Problem(
    status=500,
    code="internal_error",
    message="Something went wrong inside Gimle.",
    hint="The log has the details under this request's id.",
)
STOPPING = Problem(
    status=503, code="stopping", message="This server is stopping.", hint="Try again in a moment.", retry_after=2.0
)


def of_error(error: GimleError) -> Problem:
    """The problem which one of our own errors stands for."""
    after = error.after if isinstance(error, RateLimitedError | TransientError) else None
    return Problem(
        status=error.status,
        code=error.code,
        message=error.message,
        field=error.field,
        hint=error.hint,
        retry_after=None if after == math.inf else after,
        limit=error.limit if isinstance(error, RateLimitedError) else None,
    )


def of_status(status: int, message: str | None = None, *, hint: str | None = None) -> Problem:
    """The problem which a bare HTTP status stands for: `405` becomes `method_not_allowed`."""
    phrase = HTTPStatus(status).phrase
    return Problem(status=status, code=phrase.lower().replace(" ", "_"), message=message or f"{phrase}.", hint=hint)


def not_valid(error: msgspec.MsgspecError, root: str = "") -> InvalidRequest:
    """A request that msgspec refused. Its message ends in the JSON path, from which the field takes its name."""
    message, at, path = str(error).partition(" - at `")
    field = path.rstrip("`").removeprefix("key in ").removeprefix("$").lstrip(".") if at else None
    if not isinstance(error, msgspec.ValidationError):
        return InvalidRequest(
            f"The body is not valid JSON: {message}.", field=root or "body", hint="Send UTF-8 encoded JSON."
        )
    at_fault = [part for part in (root, field, field_named_in(message)) if part]
    where = ".".join(at_fault).replace(".[", "[") or "body"
    said = f"{where}: {message}" if root or field else message
    return InvalidRequest(f"{said}.", field=where)


def field_named_in(message: str) -> str | None:
    """msgspec names a missing or unknown field in its message: ``Object missing required field `messages` ``."""
    before, _, rest = message.partition(" field `")
    return rest.rstrip("`") if rest and before.startswith("Object") else None


def render(problem: Problem, dialect: Dialect, request_id: str) -> bytes:
    """The body of the answer, as JSON."""
    if dialect == "openai":
        return msgspec.json.encode({"error": as_openai(problem)})
    if dialect == "anthropic":
        return msgspec.json.encode({"type": "error", "error": _as_anthropic(problem), "request_id": request_id})
    return msgspec.json.encode({"error": _as_gimle(problem, request_id)})


def render_event(problem: Problem, dialect: Dialect, request_id: str) -> bytes:
    """The last event of a stream that broke, so that nobody takes the break for the end."""
    data = render(problem, dialect, request_id)
    return b"data: " + data + b"\n\n" if dialect == "openai" else b"event: error\ndata: " + data + b"\n\n"


def _as_gimle(problem: Problem, request_id: str) -> dict[str, str | None]:
    return {
        "code": problem.code,
        "message": problem.message,
        "field": problem.field,
        "hint": problem.hint,
        "request_id": request_id,
    }


def _with_hint(problem: Problem) -> str:
    """The vendors' shapes have no place for a hint: it ends the message."""
    return f"{problem.message} {problem.hint}" if problem.hint else problem.message


def as_openai(problem: Problem) -> dict[str, str | None]:
    """A problem as OpenAI tells it."""
    kind = _openai_type(problem.status)
    return {"message": _with_hint(problem), "type": kind, "param": problem.field, "code": problem.code}


def _openai_type(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"


# The vendor's type for a status, as published; any other 4xx is an invalid request, any other 5xx the interface's.
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def _as_anthropic(problem: Problem) -> dict[str, object]:
    """Anthropic's messages begin with the field at fault; details are where its own codes stand."""
    said = _with_hint(problem)
    if problem.field is not None and problem.field not in said:
        said = f"{problem.field}: {said}"
    fallback = "invalid_request_error" if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR else "api_error"
    details = {"error_code": problem.code, "field": problem.field}
    return {"type": _ANTHROPIC_TYPES.get(problem.status, fallback), "message": said, "details": details}
