"""One problem, three dialects; and the field at fault, read from what msgspec says."""

from typing import Annotated, Any

import msgspec
import pytest

from gimle.foundation.errors import ModelNotFound, RateLimitedError, UpstreamError
from gimle.interfaces.http import exchange, openapi, problems


def test_our_dialect_has_five_fields() -> None:
    error = ModelNotFound("There is no model 'x'.", field="model", hint="Try 'y'.")
    rendered = msgspec.json.decode(problems.render(problems.of_error(error), "gimle", "req_1"))
    assert rendered == {
        "error": {
            "code": "model_not_found",
            "message": "There is no model 'x'.",
            "field": "model",
            "hint": "Try 'y'.",
            "request_id": "req_1",
        }
    }


def test_openais_dialect_has_four_and_the_hint_ends_the_message() -> None:
    error = ModelNotFound("There is no model 'x'.", field="model", hint="Try 'y'.")
    rendered = msgspec.json.decode(problems.render(problems.of_error(error), "openai", "req_1"))
    assert rendered == {
        "error": {
            "message": "There is no model 'x'. Try 'y'.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


@pytest.mark.parametrize(
    "problem, kind",
    [
        (problems.of_error(RateLimitedError(after=3)), "rate_limit_error"),
        (problems.of_error(UpstreamError()), "server_error"),
        (problems.of_status(405), "invalid_request_error"),
    ],
)
def test_openai_knows_three_types(problem: problems.Problem, kind: str) -> None:
    assert msgspec.json.decode(problems.render(problem, "openai", ""))["error"]["type"] == kind


def test_a_rate_limit_says_when_to_come_again() -> None:
    assert problems.of_error(RateLimitedError(after=3)).retry_after == 3


def test_a_broken_stream_ends_with_an_event_of_its_dialect() -> None:
    problem = problems.of_error(UpstreamError("It broke."))
    assert problems.render_event(problem, "openai", "r").startswith(b'data: {"error":{"message":"It broke."')
    assert problems.render_event(problem, "gimle", "r").startswith(b"event: error\ndata: {")
    assert problems.render_event(problem, "openai", "r").endswith(b"}\n\n")


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    n: Annotated[int, msgspec.Meta(ge=1)]


class Outer(msgspec.Struct):
    many: list[Inner]


@pytest.mark.parametrize(
    "body, root, field",
    [
        (b"{", "", "body"),
        (b"[]", "", "body"),
        (b"{}", "", "many"),
        (b'{"many":1}', "", "many"),
        (b'{"many":[{"n":0}]}', "", "many[0].n"),
        (b'{"many":[{}]}', "", "many[0].n"),
        (b'{"many":[{"n":1,"x":2}]}', "", "many[0].x"),
        (b'{"many":[{"n":1,"x":2}]}', "gimle", "gimle.many[0].x"),
        (b"[]", "gimle", "gimle"),
    ],
)
def test_the_field_at_fault_is_named(body: bytes, root: str, field: str) -> None:
    with pytest.raises(msgspec.MsgspecError) as wrong:
        msgspec.json.decode(body, type=Outer)
    assert problems.not_valid(wrong.value, root).field == field


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        ({"type": ["string", "integer"]}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string", "nullable": True}),
        ({"oneOf": [{"$ref": "#/a"}, {"type": "null"}]}, {"allOf": [{"$ref": "#/a"}], "nullable": True}),
        (
            {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]},
            {"anyOf": [{"type": "string"}, {"type": "integer"}], "nullable": True},
        ),
        ({"const": 1}, {"enum": [1]}),
        ({"exclusiveMinimum": 0}, {"minimum": 0, "exclusiveMinimum": True}),
        ({"examples": ["a", "b"]}, {"example": "a"}),
        ({"examples": {"a": {"value": 1}}}, {"examples": {"a": {"value": 1}}}),
        ({"properties": {"x": {"const": "a"}}}, {"properties": {"x": {"enum": ["a"]}}}),
    ],
)
def test_a_schema_of_3_1_becomes_one_of_3_0(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert openapi.as_3_0(given) == expected


@pytest.mark.parametrize(
    "status, kind",
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (409, "conflict_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_anthropic_has_a_type_for_each_status(status: int, kind: str) -> None:
    rendered = msgspec.json.decode(problems.render(problems.of_status(status), "anthropic", "req_1"))
    assert (rendered["type"], rendered["error"]["type"], rendered["request_id"]) == ("error", kind, "req_1")


def test_anthropics_message_begins_with_the_field_and_ends_with_the_hint() -> None:
    error = ModelNotFound("There is no such one.", field="model", hint="Try 'y'.")
    rendered = msgspec.json.decode(problems.render(problems.of_error(error), "anthropic", "req_1"))
    assert rendered["error"]["message"] == "model: There is no such one. Try 'y'."
    assert rendered["error"]["details"] == {"error_code": "model_not_found", "field": "model"}


def test_the_path_tells_the_dialect_and_anthropics_header_where_they_share_one() -> None:
    theirs = {b"anthropic-version": b"2023-06-01"}
    assert exchange.dialect_of("/v1/messages/count_tokens", {}) == "anthropic"
    assert exchange.dialect_of("/v1/models", theirs) == "anthropic"
    assert exchange.dialect_of("/v1/models", {}) == "openai"
    assert exchange.dialect_of("/v1/chat/completions", theirs) == "openai"
    assert exchange.dialect_of("/api/v1/models", theirs) == "gimle"
