"""Gemini's own form of a schema (OpenAPI's, with types in capitals) as JSON schema, which the others speak."""

from typing import Any

from gimle.gateway.neutral import Json

_SIZES = ("minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength")
_WITHOUT = ("propertyOrdering", "nullable", "example")


def json_schema(schema: Json) -> Json:
    """The same as JSON schema. The order of properties and the example, which JSON schema has no word for, are lost."""
    return {name: _value(name, value) for name, value in _nullable(schema).items() if name not in _WITHOUT}


def _nullable(schema: Json) -> Json:
    if schema.get("nullable") is not True or not isinstance(schema.get("type"), str):
        return schema
    enum = {"enum": [*schema["enum"], None]} if isinstance(schema.get("enum"), list) else {}
    return {**schema, "type": [schema["type"], "null"], **enum}


def _value(name: str, value: Any) -> Any:
    if name == "type":
        return [str(one).lower() for one in value] if isinstance(value, list) else str(value).lower()
    # A 64-bit number is a string in Google's JSON.
    if name in _SIZES and isinstance(value, str) and value.isdecimal():
        return int(value)
    if name == "items" and isinstance(value, dict):
        return json_schema(value)
    if name == "properties" and isinstance(value, dict):
        return {key: json_schema(inner) if isinstance(inner, dict) else inner for key, inner in value.items()}
    if name == "anyOf" and isinstance(value, list):
        return [json_schema(inner) if isinstance(inner, dict) else inner for inner in value]
    return value
