"""Providers: from files, settings and rows; kept apart by tenant; the same on all nodes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from tests.gateway.calls import ANNA, call, opened, provider, replied

from gimle.foundation.config import Settings
from gimle.foundation.db import Database
from gimle.foundation.errors import (
    ConfigError,
    Conflict,
    InvalidRequest,
    ModelNotFound,
    ProviderNotFound,
    Unavailable,
)
from gimle.gateway import sources
from gimle.gateway.gateway import Gateway
from gimle.gateway.types import Provider, ProviderCredentials, ProviderModel
from gimle.selection.registrations import Registrations
from gimle.selection.types import ModelSpec
from gimle.testing import Behaviour, Upstream
from gimle.trust.types import Principal

ACME = Provider(name="acme", base_url="http://127.0.0.1:9/v1", models=(ProviderModel(name="small"),))


@pytest.fixture
async def node(db: Database, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with opened(tmp_path, {}, db=db) as gateway:
        yield gateway


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.02)


def names(gateway: Gateway, tenant: str) -> list[str]:
    return [model.id for model in gateway.models(Principal(tenant, "key"))]


# -- rows


async def test_a_provider_serves_at_once_and_only_its_tenant(node: Gateway, tenants: tuple[str, str]) -> None:
    async with Upstream() as upstream:
        made = await node.catalog.create(
            tenants[0], msgspec.structs.replace(ACME, base_url=upstream.url, models=(ProviderModel(name="small"),))
        )
        assert (made.source, made.id is not None, made.created_at is not None) == ("database", True, True)
        assert replied(await node.chat(Principal(tenants[0], "key"), call("acme/small"))).status == 200
    for other in (tenants[1], "ten_unknown"):
        with pytest.raises(ModelNotFound):
            await node.chat(Principal(other, "key"), call("acme/small"))
        assert "acme/small" not in names(node, other)
        with pytest.raises(ProviderNotFound):
            node.catalog.get(other, "acme")
        with pytest.raises(ProviderNotFound):
            await node.catalog.status(other, "acme")


async def test_another_node_learns_of_it(node: Gateway, db: Database, tenants: tuple[str, str], tmp_path: Path) -> None:
    async with opened(tmp_path, {}, db=db) as other:
        await node.catalog.create(tenants[0], ACME)
        await eventually(lambda: "acme/small" in names(other, tenants[0]))
        await node.catalog.delete(tenants[0], "acme")
        await eventually(lambda: "acme/small" not in names(other, tenants[0]))


async def test_what_is_registered_is_known_to_all_nodes(
    node: Gateway, db: Database, tenants: tuple[str, str], tmp_path: Path
) -> None:
    await node.catalog.create(tenants[0], ACME)
    registry = Registrations(db)
    async with opened(tmp_path, {}, db=db) as other:
        await eventually(lambda: "acme/small" in names(other, tenants[0]))
        made = await registry.register(tenants[0], ModelSpec(provider="acme", name="large", tags=("approved",)))
        await eventually(lambda: all("acme/large" in names(each, tenants[0]) for each in (node, other)))
        assert "acme/large" not in names(other, tenants[1])
        await registry.forget(tenants[0], made.id)
        await eventually(lambda: "acme/large" not in names(other, tenants[0]))


async def test_a_node_that_starts_later_knows_it(
    node: Gateway, db: Database, tenants: tuple[str, str], tmp_path: Path
) -> None:
    await node.catalog.create(tenants[0], ACME)
    async with opened(tmp_path, {}, db=db) as later:
        assert later.catalog.get(tenants[0], "acme").models[0].name == "small"


async def test_two_of_one_name(node: Gateway, tenants: tuple[str, str]) -> None:
    await node.catalog.create(tenants[0], ACME)
    with pytest.raises(Conflict):
        await node.catalog.create(tenants[0], ACME)
    await node.catalog.create(tenants[1], ACME)


async def test_a_row_wins_over_a_packaged_provider(node: Gateway, tenants: tuple[str, str]) -> None:
    own = msgspec.structs.replace(ACME, name="openai")
    await node.catalog.create(tenants[0], own)
    assert node.catalog.get(tenants[0], "openai").base_url == ACME.base_url
    assert node.catalog.get(tenants[1], "openai").source == "packaged"
    await node.catalog.delete(tenants[0], "openai")
    assert node.catalog.get(tenants[0], "openai").source == "packaged"


async def test_an_update_changes_it(node: Gateway, tenants: tuple[str, str]) -> None:
    made = await node.catalog.create(tenants[0], ACME)
    more = msgspec.structs.replace(ACME, models=(ProviderModel(name="large"),))
    changed = await node.catalog.update(tenants[0], "acme", more)
    assert (changed.id, changed.models[0].name) == (made.id, "large")
    assert changed.updated_at is not None
    assert changed.created_at is not None
    assert changed.updated_at > changed.created_at
    with pytest.raises(ProviderNotFound):
        await node.catalog.update(tenants[1], "acme", more)
    with pytest.raises(InvalidRequest):
        await node.catalog.update(tenants[0], "other", more)


async def test_what_the_configuration_gives_is_changed_there(node: Gateway, tenants: tuple[str, str]) -> None:
    with pytest.raises(Conflict):
        await node.catalog.delete(tenants[0], "openai")
    with pytest.raises(ProviderNotFound):
        await node.catalog.delete(tenants[0], "nobody")


async def test_rows_can_not_be_crossed_in_the_database(node: Gateway, db: Database, tenants: tuple[str, str]) -> None:
    await node.catalog.create(tenants[0], ACME)
    async with db.tenant(tenants[1]) as conn:
        assert await (await conn.execute("select from provider")).fetchall() == []
        assert (await conn.execute("update provider set name = 'x'")).rowcount == 0
        assert (await conn.execute("delete from provider")).rowcount == 0
        with pytest.raises(psycopg.Error):
            await conn.execute(
                "insert into provider (id, tenant, name, spec) values ('prv_x', %s, 'x', '{}')", (tenants[0],)
            )
    with pytest.raises(psycopg.Error):
        async with db.shared() as conn:
            await conn.execute(
                "insert into provider (id, tenant, name, spec) values ('prv_x', %s, 'x', '{}')", (tenants[0],)
            )
    async with db.shared() as conn:
        assert (await conn.execute("delete from provider")).rowcount == 0


async def test_a_row_that_nobody_can_read_stops_nothing(
    node: Gateway, db: Database, tenants: tuple[str, str], tmp_path: Path
) -> None:
    await node.catalog.create(tenants[0], ACME)
    async with db.tenant(tenants[0]) as conn:
        await conn.execute(
            "insert into provider (id, name, spec) values ('prv_x', 'odd', '{\"from\": \"the future\"}')"
        )
    async with opened(tmp_path, {}, db=db) as later:
        assert "acme/small" in names(later, tenants[0])
        with pytest.raises(ProviderNotFound):
            later.catalog.get(tenants[0], "odd")


async def test_no_key_is_ever_stored(node: Gateway, db: Database, tenants: tuple[str, str]) -> None:
    await node.catalog.create(tenants[0], msgspec.structs.replace(ACME, api_key_env="ACME_API_KEY"))
    async with db.tenant(tenants[0]) as conn:
        spec = await (await conn.execute("select spec from provider")).fetchone()
    assert spec is not None
    assert spec["spec"]["api_key_env"] == "ACME_API_KEY"
    assert not {"key", "api_key"} & spec["spec"].keys()


@pytest.mark.parametrize(
    "change,field",
    [
        ({"name": "builtin"}, "name"),
        ({"name": "auto"}, "name"),
        ({"name": "local"}, "name"),
        ({"dialect": "klingon"}, "dialect"),
        ({"dialect": "../openai"}, "dialect"),
        ({"base_url": "ftp://example.com"}, "base_url"),
        ({"base_url": "file:///etc/passwd"}, "base_url"),
        ({"base_url": "https://user:pw@example.com/v1"}, "base_url"),
        ({"base_url": "https://example.com/v1?key=x"}, "base_url"),
        ({"base_url": "https://example.com/a b"}, "base_url"),
        ({"base_url": "https://[::1"}, "base_url"),
        ({"base_url": "http://x:99999"}, "base_url"),
        ({"base_url": ""}, "base_url"),
        ({"headers": {"Authorization": "Bearer x"}}, "headers"),
        ({"headers": {"x-api-key": "x"}}, "headers"),
        ({"headers": {"Host": "x"}}, "headers"),
        ({"headers": {"x": "a\r\nb: c"}}, "headers"),
        ({"headers": {"x y": "a"}}, "headers"),
        ({"api_key_env": "GIMLE_DATABASE__URL"}, "api_key_env"),
        ({"api_key_env": "PATH"}, "api_key_env"),
        ({"api_key_env": "GIMLE_KEY"}, "api_key_env"),
        ({"api_key_file": "/etc/shadow"}, "api_key_file"),
        ({"api_key_file": "../admin.key"}, "api_key_file"),
        ({"key_header": "host"}, "key_header"),
        ({"key_header": "x y"}, "key_header"),
        ({"query": {"api_key": "x"}}, "query"),
        ({"query": {"a b": "x"}}, "query"),
        ({"query": {"v": "1\r\n"}}, "query"),
        ({"model_path": "deployments/{model}"}, "model_path"),
        ({"model_path": "/../{model}"}, "model_path"),
        ({"model_path": "/{name}"}, "model_path"),
        ({"models": (ProviderModel(name="a"), ProviderModel(name="a"))}, "models"),
        ({"models": (ProviderModel(name="a", kind="embedding"),)}, "models"),
    ],
)
async def test_what_is_not_safe_is_refused(
    node: Gateway, tenants: tuple[str, str], change: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await node.catalog.create(tenants[0], msgspec.structs.replace(ACME, **change))
    assert raised.value.field == field
    assert {one.source for one in node.catalog.list(tenants[0])} == {"packaged"}


async def test_a_provider_goes_by_its_id_too(node: Gateway, tenants: tuple[str, str]) -> None:
    made = await node.catalog.create(tenants[0], ACME)
    assert made.id is not None
    assert node.catalog.get(tenants[0], made.id) == made
    with pytest.raises(ProviderNotFound):
        node.catalog.get(tenants[1], made.id)
    changed = await node.catalog.update(tenants[0], made.id, msgspec.structs.replace(ACME, any_model=True))
    assert changed.any_model
    await node.catalog.delete(tenants[0], made.id)
    with pytest.raises(ProviderNotFound):
        node.catalog.get(tenants[0], "acme")


async def test_a_key_has_a_place_and_is_never_told(
    node: Gateway, tenants: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_API_KEY", "sk-secret")
    await node.catalog.create(tenants[0], ACME)
    found = await node.catalog.place_key(tenants[0], "acme", ProviderCredentials(api_key_env="ACME_API_KEY"))
    assert found == ProviderCredentials(api_key_env="ACME_API_KEY", found=True)
    lost = await node.catalog.place_key(tenants[0], "acme", ProviderCredentials(api_key_file="acme"))
    assert (lost.api_key_env, lost.found) == (None, False)
    assert lost.reason is not None
    with pytest.raises(InvalidRequest):
        await node.catalog.place_key(tenants[0], "acme", ProviderCredentials(api_key_env="PATH"))
    with pytest.raises(ProviderNotFound):
        await node.catalog.place_key(tenants[1], "acme", ProviderCredentials())
    with pytest.raises(Conflict):
        await node.catalog.place_key(tenants[0], "openai", ProviderCredentials(api_key_env="ACME_API_KEY"))


async def test_what_a_provider_did_is_counted(tmp_path: Path) -> None:
    async with Upstream() as upstream, opened(tmp_path, {"counted": provider(upstream)}) as gateway:
        before = gateway.catalog.metrics(ANNA.tenant, "counted")
        upstream.plan.append(Behaviour(status=503, body=b"{}"))
        await gateway.chat(ANNA, call("counted/mock"))
        after = gateway.catalog.metrics(ANNA.tenant, "counted")
    assert (before.attempts, before.calls, before.seconds, before.faults) == (0, 0, None, {})
    assert (after.attempts, after.calls, after.faults) == (2, 1, {"upstream_error": 1})
    assert after.tokens_in > 0
    assert after.seconds is not None


async def test_azures_two_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its API of versions by name, and the older one with a path for each deployment and the version in the query."""
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "secret")
    async with Upstream() as upstream:
        old = {
            "base_url": upstream.url.removesuffix("/v1"),
            "api_key_env": "AZURE_OPENAI_API_KEY",
            "key_header": "api-key",
            "model_path": "/openai/deployments/{model}",
            "query": {"api-version": "2024-10-21"},
            "any_model": True,
        }
        async with opened(tmp_path, {"azure": {"base_url": upstream.url}, "older": old}) as gateway:
            await gateway.chat(ANNA, call("azure/my-gpt"))
            await gateway.chat(ANNA, call("older/my-gpt"))
    newer, older = upstream.received[0], upstream.received[1]
    assert newer.path == "/v1/chat/completions"
    assert older.path == "/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"
    assert [asked.headers["api-key"] for asked in (newer, older)] == ["secret", "secret"]
    assert "authorization" not in newer.headers


# -- files and settings


def configured(folder: Path, **providers: dict[str, Any]) -> list[Provider]:
    return sources.configured(Settings(data=folder, providers=providers), {"builtin"})


def test_settings_patch_what_is_packaged(tmp_path: Path) -> None:
    openai = configured(tmp_path, openai={"base_url": "https://eu.example.com/v1"})[0]
    assert (openai.base_url, openai.source) == ("https://eu.example.com/v1", "settings")
    assert any(model.name == "text-embedding-3-small" for model in openai.models)


def test_files_in_the_data_directory_are_providers(tmp_path: Path) -> None:
    (tmp_path / "providers").mkdir()
    (tmp_path / "providers" / "acme.toml").write_text(
        'base_url = "http://127.0.0.1:9/v1"\n[[models]]\nname = "small"\n'
    )
    found = configured(tmp_path, other={"base_url": "http://127.0.0.1:8/v1"})
    assert [(one.name, one.source) for one in found][:2] == [("other", "settings"), ("acme", "file")]
    assert {one.source for one in found[2:]} == {"packaged"}


def test_what_is_packaged_for_this_machine_is_off_until_it_is_named(tmp_path: Path) -> None:
    by_name = {one.name: one for one in configured(tmp_path, ollama={}, vllm={"enabled": False})}
    assert by_name["ollama"].enabled
    assert not by_name["vllm"].enabled
    assert not by_name["lm-studio"].enabled


async def test_what_is_off_says_so_and_how_to_switch_it_on(tmp_path: Path) -> None:
    async with opened(tmp_path, {}) as gateway:
        with pytest.raises(Unavailable) as raised:
            await gateway.chat(ANNA, call("ollama/qwen3:8b"))
        status = await gateway.catalog.status(ANNA.tenant, "ollama")
    assert "switched off" in raised.value.message
    assert raised.value.hint is not None
    assert "[providers.ollama]" in raised.value.hint
    assert (status.available, status.reason) == (False, "it is switched off")


async def test_auto_does_not_trip_over_what_does_not_run(tmp_path: Path) -> None:
    """A server on this machine that is named and not started: the next best answers."""
    away = {"base_url": "http://127.0.0.1:9/v1", "models": [{"name": "qwen3:8b"}]}
    async with opened(tmp_path, {"ollama": away}) as gateway:
        reply = replied(await gateway.chat(ANNA, call("auto")))
    assert (reply.provider, reply.attempts) == ("builtin", 2)


@pytest.mark.parametrize(
    "fields,said",
    [
        ({}, "base_url"),
        ({"base_url": 7}, "base_url"),
        ({"base_url": "http://x", "api_key": "sk-1"}, "api_key"),
        ({"base_url": "ftp://x"}, "providers.acme.base_url"),
        ({"base_url": "http://x", "models": [{"name": "a b"}]}, "models"),
    ],
)
def test_a_wrong_setting_stops_the_start(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(tmp_path, acme=fields)


def test_a_file_that_is_no_toml_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "providers").mkdir()
    (tmp_path / "providers" / "acme.toml").write_text("base_url = ")
    with pytest.raises(ConfigError, match=r"acme\.toml"):
        configured(tmp_path)


def test_a_key_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "acme").write_text("sk-1234\n")
    assert sources.key_of(msgspec.structs.replace(ACME, api_key_file="acme"), tmp_path) == ("sk-1234", None)
    key, missing = sources.key_of(msgspec.structs.replace(ACME, api_key_file="nobody"), tmp_path)
    assert key is None
    assert missing is not None
    assert sources.key_of(ACME, tmp_path) == (None, None)


async def test_names_that_are_not_listed_pass_where_the_provider_is_open(tmp_path: Path) -> None:
    async with Upstream() as upstream, opened(tmp_path, {"mock": {**provider(upstream), "any_model": True}}) as gateway:
        await gateway.chat(ANNA, call("mock/meta/newest-7b"))
        assert upstream.received[0].json["model"] == "meta/newest-7b"
        for odd in ("mock/", "mock/a b", "mock/a\x00b", "mock/" + "x" * 300):
            with pytest.raises(ModelNotFound):
                await gateway.chat(ANNA, call(odd))


# -- status


async def test_the_status_of_a_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCK_API_KEY", "sk-secret")
    async with Upstream() as upstream:
        providers = {"mock": {**provider(upstream), "api_key_env": "MOCK_API_KEY"}}
        async with opened(tmp_path, providers) as gateway:
            status = await gateway.catalog.status(ANNA.tenant, "mock")
            assert (status.available, status.models, status.reason) == (True, 2, None)
            assert status.latency_ms is not None
            assert upstream.received[0].headers["authorization"] == "Bearer sk-secret"
            upstream.plan.append(Behaviour(status=401, body=b'{"error":{"message":"bad key sk-secret"}}'))
            status = await gateway.catalog.status(ANNA.tenant, "mock")
            assert not status.available
            assert "sk-secret" not in str(status)
            upstream.plan.append(Behaviour(body=b"<html>"))
            assert not (await gateway.catalog.status(ANNA.tenant, "mock")).available


async def test_the_status_of_a_provider_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with opened(tmp_path, {}) as gateway:
        status = await gateway.catalog.status(ANNA.tenant, "openai")
    assert not status.available
    assert status.reason == "the environment variable OPENAI_API_KEY is not set"


async def test_nobody_listens_there(tmp_path: Path) -> None:
    async with opened(tmp_path, {"acme": {"base_url": "http://127.0.0.1:9/v1"}}) as gateway:
        status = await gateway.catalog.status(ANNA.tenant, "acme")
    assert not status.available
    assert status.reason is not None
