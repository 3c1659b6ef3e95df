"""Whether a value fits a JSON schema, by the words of it that vendors take for structured answers. Pure.

A word that is not known here holds nothing against the value: this judges models, and must not be wrong about them.
"""

from collections.abc import Callable, Mapping
from typing import Any

Json = Any
Schema = Mapping[str, Json]

# Schemas that nest deeper, or that name themselves without end, fit.
_DEEPEST = 64

_TYPES: Mapping[str, Callable[[Json], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: not isinstance(value, bool) and isinstance(value, int | float) and value == int(value),
}


def fits(value: Json, schema: Json) -> bool:
    """Whether a value fits a schema."""
    return _fits(value, schema, schema, 0)


def _fits(value: Json, schema: Json, root: Json, depth: int) -> bool:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return True
    if isinstance(name := schema.get("$ref"), str):
        return _fits(value, _named(root, name), root, depth + 1)
    return (
        _of_type(value, schema.get("type"))
        and ("enum" not in schema or value in schema["enum"])
        and ("const" not in schema or value == schema["const"])
        and _of_some(value, schema, root, depth)
        and (not isinstance(value, dict) or _members(value, schema, root, depth))
        and (not isinstance(value, list) or _items(value, schema, root, depth))
    )


def _of_type(value: Json, wanted: Json) -> bool:
    names = [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else []
    known = [_TYPES[name] for name in names if isinstance(name, str) and name in _TYPES]
    return len(known) < len(names) or not known or any(holds(value) for holds in known)


def _of_some(value: Json, schema: Schema, root: Json, depth: int) -> bool:
    either = schema.get("anyOf", schema.get("oneOf"))
    every = schema.get("allOf", [])
    return (not isinstance(either, list) or any(_fits(value, one, root, depth + 1) for one in either)) and all(
        _fits(value, one, root, depth + 1) for one in every
    )


def _members(value: Mapping[str, Json], schema: Schema, root: Json, depth: int) -> bool:
    known = schema.get("properties", {})
    more = schema.get("additionalProperties", True)
    return all(name in value for name in schema.get("required", ())) and all(
        _fits(one, known.get(name, more), root, depth + 1) for name, one in value.items()
    )


def _items(value: list[Json], schema: Schema, root: Json, depth: int) -> bool:
    return all(_fits(one, schema.get("items", True), root, depth + 1) for one in value)


def _named(root: Json, name: str) -> Json:
    """What `#/$defs/name` stands for; True, which everything fits, where that is not here."""
    found = root
    for part in name.removeprefix("#").split("/")[1:]:
        found = found.get(part, True) if isinstance(found, dict) else True
    return found
