"""How good models are, as a source outside says: the same over HTTP and gRPC, with TLS and without."""

import asyncio
import math
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import msgspec
import pytest
import uvloop
from tests.gateway.quality_source import LARGE, SCHEMES, Source, serve
from tests.gateway.servers import TLS

from gimle.app import App
from gimle.foundation.config import Settings
from gimle.foundation.errors import ConfigError, UpstreamError, UpstreamTimeout
from gimle.foundation.outbound import Outbound
from gimle.gateway import opinions

MODELS = {"a/x", "b/y"}


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The authority of the tests is one of this machine's."""
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "server.pem"))


@pytest.fixture(params=SCHEMES)
async def source(request: pytest.FixtureRequest, trusted: None) -> AsyncIterator[Source]:
    async with serve(request.param) as serving:
        yield serving


async def asked(url: str, key: str | None = None) -> dict[str, float]:
    async with Outbound(2.0) as outbound:
        return await opinions.ask(outbound, url, key, MODELS)


async def test_a_source_is_asked_for_our_models_with_its_key(source: Source) -> None:
    source.metrics = [("a/x", 0.9), ("other/z", 0.1)]
    assert await asked(source.url, "secret") == {"a/x": 0.9}
    assert await asked(source.url) == {"a/x": 0.9}
    assert source.asked == [["a/x", "b/y"]] * 2
    assert source.keys == ["Bearer secret", None]


async def test_what_makes_no_sense_is_left_out(source: Source) -> None:
    source.metrics = [("a/x", 0.5), ("a/x", 1.5), ("a/x", -0.1), ("b/y", 0), ("b/y", 1)]
    assert await asked(source.url) == {"a/x": 0.5, "b/y": 1.0}


@pytest.mark.parametrize("source", ["grpc", "grpcs"], indirect=True)
async def test_what_only_grpc_can_say_makes_no_sense_either(source: Source) -> None:
    source.metrics = [("a/x", math.nan), ("b/y", math.inf)]
    assert await asked(source.url) == {}


@pytest.mark.parametrize("fault", ["unavailable", "unauthenticated", "unheard of", "garbled"])
async def test_a_source_that_fails_is_told_as_such(source: Source, fault: str) -> None:
    source.fault = fault
    with pytest.raises(UpstreamError, match="source of quality") as told:
        await asked(source.url)
    assert not isinstance(told.value, UpstreamTimeout)


async def test_a_quality_that_was_forgotten_is_not_0(source: Source) -> None:
    source.metrics = [("a/x", 0.9), ("b/y", None)]
    with pytest.raises(UpstreamError, match="as it should"):
        await asked(source.url)


async def test_a_silent_source_is_not_waited_for(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opinions._SECONDS == 10.0
    monkeypatch.setattr(opinions, "_SECONDS", 0.2)
    source.fault = "silent"
    with pytest.raises(UpstreamTimeout):
        await asked(source.url)


async def test_an_answer_that_is_too_large_is_not_taken(source: Source) -> None:
    source.metrics = [("a" * LARGE, 0.5)]
    with pytest.raises(UpstreamError, match="larger than"):
        await asked(source.url)
    # Nor is one that swells: over HTTP we take nothing compressed, over gRPC it is refused when it is unpacked.
    source.compresses = True
    with pytest.raises(UpstreamError, match="larger than"):
        await asked(source.url)


async def test_nobody_gets_to_see_the_key_on_the_way(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    for exempt in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(exempt, raising=False)
    source.metrics = [("a/x", 0.9)]
    assert await asked(source.url, "secret") == {"a/x": 0.9}


async def test_a_key_can_not_smuggle_a_header(source: Source) -> None:
    with pytest.raises(ConfigError):
        await asked(source.url, "a\r\nb: c")
    assert not source.asked


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
async def test_a_source_with_a_certificate_that_nobody_vouches_for_is_not_asked(scheme: str) -> None:
    async with serve(scheme) as source:
        with pytest.raises(UpstreamError, match=r"(?i)certificate"):
            await asked(source.url, "secret")
    assert not source.asked


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_source_that_is_not_there(scheme: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UpstreamError, match="127.0.0.1"):
            await asked(f"{scheme}://127.0.0.1:{taken.getsockname()[1]}")


async def _on_the_loop_of_the_server() -> None:
    for scheme in ("http", "grpc"):
        async with serve(scheme) as source:
            source.metrics = [("a/x", 0.9)]
            assert await asked(source.url) == {"a/x": 0.9}


def test_it_works_on_the_loop_of_the_server() -> None:
    uvloop.run(_on_the_loop_of_the_server())


_ASKING = """
import asyncio, socket, sys, uvloop
from gimle.foundation.outbound import Outbound
from gimle.gateway import opinions

async def main():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        url = f"grpcs://127.0.0.1:{silent.getsockname()[1]}"
        asking = asyncio.ensure_future(opinions.ask(Outbound(), url, None, ["a/x"]))
        connection, _ = await asyncio.get_running_loop().sock_accept(silent)
        await (await asyncio.create_subprocess_exec(sys.executable, "-c", "")).wait()
        connection.send(b"HTTP/1.1 400 What?")
        connection.close()
    print((await asyncio.gather(asking, return_exceptions=True))[0].code)

uvloop.run(main())
"""


def _written(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What stands on the error output of a process that asks, by gRPC, a server which speaks something else."""
    for variable in ("GRPC_VERBOSITY", "GRPC_ENABLE_FORK_SUPPORT"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    asking = subprocess.run([sys.executable, "-c", _ASKING], capture_output=True, text=True, timeout=60, check=False)
    assert asking.stdout == "upstream_error\n"
    return asking.stderr


def test_grpc_keeps_out_of_our_log_and_of_our_children(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _written(monkeypatch) == ""
    said = _written(monkeypatch, GRPC_VERBOSITY="INFO")
    assert "Handshake failed" in said
    assert "fork" not in said


@pytest.mark.parametrize(
    "url",
    [
        "http://quality", "https://quality.example.org/metrics?of=gimle", "http://[::1]:8000/x",
        "grpc://quality:50051", "grpcs://quality.example.org:443", "grpc://10.0.0.1:1", "grpcs://[::1]:50051/",
    ],
)  # fmt: skip
def test_an_address_of_a_source(url: str) -> None:
    opinions.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "", "quality", "http://", "ftp://quality/", "unix:/run/quality", "grpc://", "grpc://quality", "grpc://quality:",
        "grpc://:50051", "grpc://user:word@quality:50051", "grpc://quality:50051/GetQualityMetrics", "grpc://a,b:1",
    ],
)  # fmt: skip
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        opinions.check(url)
    assert wrong.value.field == "selection.quality_url"
    assert "grpcs://" in (wrong.value.hint or "")


async def test_without_the_extra_the_start_stops_and_names_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    opinions.check("https://quality")
    with pytest.raises(ConfigError, match="grpcio") as wrong:
        await App.open(_heeding(settings, quality_url="grpc://quality:50051"))
    assert (wrong.value.field, wrong.value.hint) == ("selection.quality_url", "pip install 'gimle[grpc]'")


@pytest.mark.parametrize("source", ["http", "grpc"], indirect=True)
async def test_the_house_asks_its_source(source: Source, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUALITY_KEY", "secret")
    heeding = _heeding(settings, quality_url=source.url, quality_key_env="QUALITY_KEY", quality_seconds=0.01)
    async with await App.open(heeding) as app, asyncio.timeout(30):
        while len(source.asked) < 2:
            await source.heard.wait()
            source.heard.clear()
        everyones = {model.id for model in app.gateway.catalog.snapshot(None).registry.models}
    assert everyones
    assert set(source.asked[-1]) == everyones
    assert source.keys[-1] == "Bearer secret"


def _heeding(settings: Settings, **values: object) -> Settings:
    return msgspec.structs.replace(settings, selection=msgspec.structs.replace(settings.selection, **values))
