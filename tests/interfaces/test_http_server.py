"""The server as a whole: it takes a port, says so, and stops in an orderly way."""

import asyncio
import json
import os
import signal
import socket
import ssl
from pathlib import Path

import httpx
import msgspec
import pytest
from tests.interfaces import vendor
from tests.interfaces.serving import serving

from gimle.app import App
from gimle.foundation.config import Settings
from gimle.foundation.errors import ConfigError
from gimle.interfaces import server
from gimle.testing import WORDS, Behaviour, Upstream

TLS = Path(__file__).parents[1] / "fixtures" / "tls" / "server.pem"

HELLO = {"model": "stand/mock", "messages": [{"role": "user", "content": "x"}]}


def test_a_port_in_use_is_named_with_the_way_out() -> None:
    with server.listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError) as refused:
        server.listen("127.0.0.1", taken.getsockname()[1])
    assert refused.value.field == "server.port"
    assert "--port" in (refused.value.hint or "")


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ConfigError) as refused:
        server.listen("192.0.2.1", 0)
    assert refused.value.field in ("server.host", "server.port")
    with pytest.raises(ConfigError):
        server.listen("no.such.host.invalid", 0)


def test_the_listening_socket_says_that_it_is_tcp() -> None:
    """Otherwise asyncio leaves Nagle's delay on, and streams stall for 40 ms an event."""
    with server.listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def secured(app: App, tls_cert: str | None, tls_key: str | None) -> Settings:
    server_settings = msgspec.structs.replace(app.settings.server, tls_cert=tls_cert, tls_key=tls_key)
    return msgspec.structs.replace(app.settings, server=server_settings)


async def test_it_speaks_tls_with_the_certificate_of_the_settings(app: App) -> None:
    ready, stop = asyncio.Event(), asyncio.Event()
    with server.listen("127.0.0.1", 0) as listening:
        url = server.url_of(listening, secure=True)
        async with asyncio.TaskGroup() as group:
            settings = secured(app, str(TLS), str(TLS))
            group.create_task(server.serve(app, settings, ready.set, listening=listening, stop=stop))
            await ready.wait()
            async with httpx.AsyncClient(base_url=url, verify=ssl.create_default_context(cafile=TLS)) as http:
                assert (await http.get("/health/startup")).json() == {"status": "started"}
            with pytest.raises(httpx.ConnectError, match="certificate"):
                async with httpx.AsyncClient(base_url=url) as strict:
                    await strict.get("/health/startup")
            with pytest.raises(httpx.TransportError):
                async with httpx.AsyncClient(base_url=url.replace("https", "http")) as plain:
                    await plain.get("/health/startup")
            stop.set()


@pytest.mark.parametrize(
    "cert,key,field",
    [
        (str(TLS), None, "server.tls_key"),
        (None, str(TLS), "server.tls_cert"),
        ("/nowhere.pem", str(TLS), "server.tls_cert"),
        (str(TLS), __file__, "server.tls_cert"),
    ],
)
async def test_a_certificate_that_can_not_be_used_is_named(
    app: App, cert: str | None, key: str | None, field: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        await server.serve(app, secured(app, cert, key), lambda: None, stop=asyncio.Event())
    assert refused.value.field == field


async def test_a_signal_stops_it_after_what_runs_has_ended(app: App, tenants: tuple[str, str]) -> None:
    ready = asyncio.Event()
    with server.listen("127.0.0.1", 0) as listening:
        url = server.url_of(listening)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(server.serve(app, app.settings, ready.set, listening=listening))
            await ready.wait()
            async with httpx.AsyncClient(base_url=url) as http:
                assert (await http.get("/health/startup")).json() == {"status": "started"}
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(10):
                await running
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))


async def test_a_request_in_flight_is_answered_while_the_server_stops(
    app: App, tenants: tuple[str, str], upstream: Upstream
) -> None:
    async with asyncio.TaskGroup() as group, serving(app, tenants[0]) as served:
        await served.provide(vendor.provider(upstream))
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        body = json.dumps(HELLO).encode()
        # The head and half of the body have come when the stop begins.
        writer.write(served.head("POST", "/v1/chat/completions", len(body)) + body[:10])
        await asyncio.sleep(0.2)

        async def finish() -> bytes:
            await asyncio.sleep(0.5)
            writer.write(body[10:])
            return await reader.read()

        finishing = group.create_task(finish())
    assert finishing.result().startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_stream_that_outlives_the_grace_ends_with_a_typed_error(
    app: App, tenants: tuple[str, str], upstream: Upstream
) -> None:
    async with asyncio.TaskGroup() as group, serving(app, tenants[0], grace_seconds=1) as served:
        await served.provide(vendor.provider(upstream))
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        upstream.plan.append(Behaviour(chunks=1_000_000_000))
        body = json.dumps({**HELLO, "stream": True}).encode()
        writer.write(served.head("POST", "/v1/chat/completions", len(body)) + body)
        await reader.readuntil(WORDS[0].encode())
        rest = group.create_task(reader.read())
    assert b'"code":"stopping"' in rest.result()[-400:]
    assert b"[DONE]" not in rest.result()
    await asyncio.wait_for(upstream.left.wait(), 5)
    writer.close()
