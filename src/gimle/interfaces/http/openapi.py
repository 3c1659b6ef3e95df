"""The OpenAPI document: what Litestar knows of its routes, and what stands in `openapi.json` beside this file.

Litestar writes OpenAPI 3.1. The document that goes out is 3.0.3, since Swagger UI 4 and most generators of clients read
no 3.1; nothing of what our types say is lost by that.
"""

from importlib import resources
from typing import Any

import msgspec
from litestar import Litestar
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme, Tag

import gimle
from gimle.interfaces.http.exchange import dialect_of

Node = Any
Tree = dict[str, Any]

CONFIG = OpenAPIConfig(
    title="Gimle",
    version=gimle.__version__,
    description=(
        "One door to every model, and documents that answer with checked citations.\n\n"
        "`/v1` speaks OpenAI's dialect and Anthropic's: any client of theirs works with this address and a Gimle key. "
        '`/api/v1` is Gimle\'s own. Errors there are `{"error": {code, message, field, hint, request_id}}`, '
        'lists `{"items": [], "next": cursor}`; every answer carries `x-request-id`.'
    ),
    tags=[
        Tag("inference", "Models, in OpenAI's dialect or Anthropic's."),
        Tag("knowledge", "Documents in, grounded answers out."),
        Tag("jobs", "Work that takes longer than a request."),
        Tag("models", "Which models there are, and where they run."),
        Tag("costs", "What calls and storage have cost."),
        Tag("admin", "Tenants and keys; needs an admin key."),
        Tag("health", "Open to probes and scrapers."),
    ],
    components=Components(
        security_schemes={
            "bearer": SecurityScheme(type="http", scheme="bearer", description="A Gimle key: `gk_…`"),
            "header": SecurityScheme(type="apiKey", name="x-api-key", security_scheme_in="header"),
        }
    ),
    security=[{"bearer": []}, {"header": []}],
    use_handler_docstrings=True,
    render_plugins=[],
)

_ERRORS = {"openai": "OpenAIError", "anthropic": "AnthropicError", "gimle": "Error"}
_METHODS = frozenset({"get", "post", "put", "patch", "delete"})


def document(app: Litestar) -> bytes:
    """The whole document, as JSON."""
    tree = as_3_0(app.openapi_schema.to_schema())
    by_hand = msgspec.json.decode((resources.files(__package__) / "openapi.json").read_bytes(), type=Tree)
    merge(tree, by_hand)
    for path, operations in tree["paths"].items():
        for method in _METHODS & operations.keys():
            _add_errors(operations[method]["responses"], _ERRORS[dialect_of(path, {})])
    tree["openapi"] = "3.0.3"
    return msgspec.json.encode(tree)


def merge(into: Tree, tree: Tree) -> None:
    """Lay one tree over the other; what is no object replaces what was there."""
    for key, value in tree.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def as_3_0(node: Node) -> Node:
    """The same schema in the words of OpenAPI 3.0, which has `nullable` for the type `null`, and no `const`."""
    if isinstance(node, list):
        return [as_3_0(each) for each in node]
    if not isinstance(node, dict):
        return node
    plain = {key: as_3_0(value) for key, value in node.items() if key not in _REWRITTEN}
    for key in _REWRITTEN & node.keys():
        plain |= _rewritten(key, node[key])
    return plain


_REWRITTEN = frozenset({"type", "oneOf", "anyOf", "const", "exclusiveMinimum", "exclusiveMaximum", "examples"})


def _rewritten(key: str, value: Node) -> Tree:
    match key, value:
        case "type", list():
            return _typed([each for each in value if each != "null"], nullable="null" in value)
        case (("oneOf" | "anyOf"), list()):
            return _either(key, value)
        case "const", _:
            return {"enum": [value]}
        case (("exclusiveMinimum" | "exclusiveMaximum"), (int() | float())):
            return {key: True, key.removeprefix("exclusive").lower(): value}
        case "examples", [first, *_]:
            return {"example": first}
        case _:
            return {key: as_3_0(value)}


def _typed(types: list[str], *, nullable: bool) -> Tree:
    typed: Tree = {"type": types[0]} if len(types) == 1 else {"anyOf": [{"type": each} for each in types]}
    return typed | {"nullable": True} if nullable else typed


def _either(key: str, options: list[Tree]) -> Tree:
    real = [as_3_0(each) for each in options if each.get("type") != "null"]
    if len(real) == len(options):
        return {key: real}
    if len(real) == 1 and "$ref" not in real[0]:
        return {**real[0], "nullable": True}
    return {"allOf" if len(real) == 1 else key: real, "nullable": True}


def _add_errors(responses: Tree, schema: str) -> None:
    """Say on every operation how it fails; Litestar would describe its own error shape, which no caller ever sees."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    responses.pop("400", None)
    responses["4XX"] = {
        "description": "The caller's fault; `field` and `hint` say which and what to do.",
        "content": content,
    }
    responses["5XX"] = {
        "description": "Our fault, a provider's, or a part that is not available now.",
        "content": content,
    }
