"""`/openapi.json`: every route is described, with an example of what it takes, and nothing else is."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.interfaces.http import pages
from gimle.interfaces.http.inference import Inference
from gimle.interfaces.http.routes import HANDLERS

Tree = dict[str, Any]
Operation = tuple[str, str]


@pytest.fixture
async def served(app: App, tenants: tuple[str, str]) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running:
        yield running


@pytest.fixture
async def document(served: Served) -> Tree:
    told: Tree = (await served.http.get("/openapi.json")).json()
    return told


def operations(document: Tree) -> dict[Operation, Tree]:
    """What is described, by method and path."""
    return {
        (method.upper(), path): operation
        for path, described in document["paths"].items()
        for method, operation in described.items()
    }


async def test_it_describes_every_route_there_is_and_no_other(document: Tree, app: App) -> None:
    inference = {(route.method, route.path) for route in Inference(app).routes}
    rest = {
        (str(method), path.replace(":str}", "}"))
        for handler in HANDLERS
        if handler not in pages.HANDLERS
        for path in handler.paths
        for method in handler.http_methods
    }
    described = set(operations(document))
    assert {one for one in described if one[1].startswith("/v1/")} == inference
    assert {one for one in described if not one[1].startswith("/v1/")} == {
        (method, path) for method, path in rest if method != "HEAD"
    }


async def test_each_operation_says_what_it_does_and_how_it_fails(document: Tree) -> None:
    assert document["openapi"].startswith("3.0")
    names = [operation["operationId"] for operation in operations(document).values()]
    assert len(names) == len(set(names))
    for (_, path), operation in operations(document).items():
        assert operation["summary"], path
        assert operation["description"], path
        assert operation["tags"], path
        assert {"4XX", "5XX"} <= operation["responses"].keys(), path


async def test_each_body_of_a_model_call_has_an_example(document: Tree) -> None:
    for (_, path), operation in operations(document).items():
        if path.startswith(("/v1/", "/api/v1/llm/query")) and "requestBody" in operation:
            taken = operation["requestBody"]["content"]
            # A form holds a file, of which there is no example worth reading.
            assert "multipart/form-data" in taken or "example" in taken["application/json"], path


async def test_every_reference_leads_somewhere(document: Tree) -> None:
    for reference in _references(document):
        node = document
        for name in reference.removeprefix("#/").split("/"):
            assert name in node, reference
            node = node[name]


def _references(node: object) -> list[str]:
    if isinstance(node, list):
        return [found for each in node for found in _references(each)]
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for each in node.values() for found in _references(each)]
    return []
