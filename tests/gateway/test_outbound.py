"""The HTTP client against servers that misbehave at the level of bytes."""

import asyncio
import gc
import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gateway.servers import TLS, endless, saying, serving

from gimle.foundation.connection import Connection
from gimle.foundation.errors import ConfigError, UpstreamError, UpstreamTimeout
from gimle.foundation.outbound import Outbound, Request
from gimle.testing import Behaviour, Upstream


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    async with Outbound(connect_seconds=1) as client:
        yield client


async def got(outbound: Outbound, url: str, limit: int = 10**6) -> bytes:
    return (await outbound.send(Request(method="GET", url=url), seconds=2, limit=limit)).body


@pytest.mark.parametrize("size", [0, 1, 100, 10**6])
async def test_a_body_with_a_length(outbound: Outbound, size: int) -> None:
    async with serving(saying(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size, b"a" * size)) as url:
        assert await got(outbound, url) == b"a" * size
        assert await got(outbound, url) == b"a" * size


async def test_a_body_in_chunks_whose_borders_fall_anywhere(outbound: Outbound) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = head + b"3;x=y\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nT: t\r\n\r\n"
    pieces = [answer[at : at + 1] for at in range(len(answer))]
    async with serving(saying(b"", *pieces)) as url:
        assert await got(outbound, url) == b"abc0123456789abcdef"


async def test_a_body_that_ends_with_the_connection(outbound: Outbound) -> None:
    async with serving(saying(b"HTTP/1.1 200 OK\r\n\r\n", b"all ", b"there is")) as url:
        assert await got(outbound, url) == b"all there is"


async def test_an_interim_answer_is_passed_over(outbound: Outbound) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    async with serving(saying(interim + b"HTTP/1.1 201 Made\r\ncontent-length: 2\r\n\r\nok")) as url:
        reply = await outbound.send(Request(url=url), seconds=2, limit=99)
    assert (reply.status, reply.body, "link" in reply.headers) == (201, b"ok", False)


async def test_headers_that_come_twice_are_joined(outbound: Outbound) -> None:
    async with serving(saying(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\ncontent-length: 0\r\n\r\n")) as url:
        reply = await outbound.send(Request(url=url), seconds=2, limit=99)
    assert reply.headers["x-a"] == "1, 2"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\na: b\r\n folded: c\x00\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
async def test_an_answer_that_is_cut_or_tricked_with_is_an_error(outbound: Outbound, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with serving(serve) as url:
        with pytest.raises(UpstreamError):
            await got(outbound, url)


async def test_a_head_without_end_is_refused(outbound: Outbound) -> None:
    async with serving(
        saying(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n", *[b"x: " + b"a" * 50_000 + b"\r\n"] * 20)
    ) as url:
        with pytest.raises(UpstreamError, match="too large|not valid"):
            await got(outbound, url)


async def test_a_body_over_the_limit_is_not_read_on(outbound: Outbound) -> None:
    async with Upstream(Behaviour(body=b"a" * 5_000_000)) as upstream:
        with pytest.raises(UpstreamError, match="larger than"):
            await got(outbound, upstream.url, limit=100_000)


async def test_a_silent_server_is_left(outbound: Outbound) -> None:
    async with Upstream(Behaviour(head_delay=30)) as upstream:
        with pytest.raises(UpstreamTimeout):
            await outbound.send(Request(url=upstream.url), seconds=0.2, limit=9)
        await asyncio.wait_for(upstream.left.wait(), 5)


async def test_a_silent_server_is_not_asked_again_where_its_connection_was_kept(outbound: Outbound) -> None:
    async with Upstream() as upstream:
        await got(outbound, upstream.url)
        upstream.usual = Behaviour(head_delay=30)
        with pytest.raises(UpstreamTimeout, match="nothing came within"):
            await outbound.send(Request(url=upstream.url), seconds=0.2, limit=9)
        assert (len(upstream.received), upstream.connections) == (2, 1)


async def test_a_connection_that_the_server_has_closed_is_replaced(outbound: Outbound) -> None:
    """The server says keep-alive and closes all the same, as servers do when a connection was idle for long."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()

    async with serving(serve) as url:
        for _ in range(20):
            assert await got(outbound, url) == b"ok"


@pytest.mark.parametrize("after, received", [(0.0, 3), (0.5, 2)])
async def test_what_a_server_has_worked_on_is_not_sent_once_more(
    outbound: Outbound, monkeypatch: pytest.MonkeyPatch, after: float, received: int
) -> None:
    monkeypatch.setattr("gimle.foundation.outbound._STALE_SECONDS", 0.25)
    taken = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        while await reader.readuntil(b"\r\n\r\n"):
            taken += 1
            if taken > 1:
                await asyncio.sleep(after)
                return
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with serving(serve) as url:
        assert await got(outbound, url) == b"ok"
        with pytest.raises(UpstreamError):
            await got(outbound, url)
    assert taken == received


async def test_connections_that_nobody_asks_for_again_are_closed(
    outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as servers:
        answer = saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        urls = [await servers.enter_async_context(serving(answer)) for _ in range(5)]
        for url in urls[:4]:
            assert await got(outbound, url) == b"ok"
        monkeypatch.setattr("gimle.foundation.outbound._IDLE_SECONDS", 0.05)
        await asyncio.sleep(0.1)
        assert await got(outbound, urls[4]) == b"ok"
        assert [str(origin) for origin in outbound._idle] == [urls[4].removeprefix("http://")]


async def test_a_host_in_other_letters_is_asked_for_by_its_ascii_name(outbound: Outbound) -> None:
    with pytest.raises(UpstreamError, match=r"xn--r8jz45g\.test"):
        await got(outbound, "http://例え.test/")


async def test_what_nobody_asked_for_is_never_taken_for_an_answer(outbound: Outbound) -> None:
    """A server that answers twice must not have its second answer taken for that of the next request."""
    one = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"
    async with serving(saying(one + b"one" + one + b"two")) as url:
        for _ in range(3):
            with suppress(UpstreamError):
                assert await got(outbound, url) == b"one"


async def test_a_large_request_is_sent_whole(outbound: Outbound) -> None:
    async with Upstream() as upstream:
        body = b"x" * 20_000_000
        await outbound.send(Request(url=upstream.url, body=body), seconds=10, limit=10**6)
        assert upstream.received[0].body == body


async def test_no_more_connections_than_allowed() -> None:
    async with Outbound(connections=3) as outbound, Upstream(Behaviour(head_delay=0.02)) as upstream:
        most = 0

        async def one() -> None:
            nonlocal most
            await outbound.send(Request(url=upstream.url), seconds=5, limit=10**6)
            most = max(most, upstream.open_streams)

        async with asyncio.TaskGroup() as group:
            for _ in range(12):
                group.create_task(one())
        assert upstream.connections == 3
        assert most <= 3


async def test_a_hundred_megabytes_without_a_line_are_not_gathered(outbound: Outbound) -> None:
    block = b"%x\r\n%b\r\n" % (1 << 16, b"a" * (1 << 16))
    async with serving(lambda r, w: endless(r, w, block)) as url:
        with pytest.raises(UpstreamError, match="larger than 100 MB"):
            await outbound.send(Request(url=url), seconds=20, limit=10**8)


async def test_a_provider_that_never_ends_is_left_when_the_time_is_over(outbound: Outbound) -> None:
    """Something comes all the time, but the call as a whole has its end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\n.\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serving(serve) as url:
        with pytest.raises(UpstreamTimeout):
            await outbound.send(Request(url=url), seconds=0.3, limit=10**8)


async def test_chunks_that_hold_nothing_do_not_keep_a_call_alive(outbound: Outbound) -> None:
    """Chunk extensions without end: bytes come, but nothing of the body."""
    async with serving(lambda r, w: endless(r, w, b"1;" + b"x" * 10_000)) as url:
        with pytest.raises(UpstreamError):
            await outbound.send(Request(url=url), seconds=0.5, limit=10**6)


async def test_a_redirect_is_an_answer_and_not_followed(outbound: Outbound) -> None:
    """So a loop of redirects ends at the first one, and no key goes to where it leads."""
    async with Upstream(Behaviour(status=302, headers={"location": "/again"})) as upstream:
        reply = await outbound.send(Request(url=upstream.url), seconds=2, limit=10**6)
        assert reply.status == 302
        assert len(upstream.received) == 1


async def test_a_bomb_of_gzip_stays_as_small_as_it_came(outbound: Outbound) -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    async with serving(saying(head, bomb)) as url:
        assert await got(outbound, url) == bomb


async def test_the_moment_of_a_wait_can_be_moved(outbound: Outbound) -> None:
    async with Upstream(Behaviour(stall_after=1)) as upstream:
        loop = asyncio.get_running_loop()
        asked = Request(url=f"{upstream.url}/chat/completions", body=b'{"stream": true}')
        async with outbound.stream(asked, until=loop.time() + 5) as incoming:
            assert await incoming.read()
            begun = loop.time()
            with pytest.raises(UpstreamTimeout, match="within 0.2 s"):
                await incoming.read(loop.time() + 0.2)
            assert loop.time() - begun < 4
        await asyncio.wait_for(upstream.left.wait(), 5)


async def test_a_server_that_reads_nothing_is_left(outbound: Outbound) -> None:
    async def serve(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async with serving(serve) as url:
        with pytest.raises(UpstreamTimeout):
            await outbound.send(Request(url=url, body=b"x" * 50_000_000), seconds=0.3, limit=9)


async def test_who_waits_for_a_free_connection_is_told_in_time() -> None:
    async with Outbound(connections=1) as outbound, Upstream(Behaviour(head_delay=30)) as upstream:
        loop = asyncio.get_running_loop()

        async def one() -> None:
            with pytest.raises(UpstreamTimeout):
                await outbound.send(Request(url=upstream.url), seconds=0.3, limit=9)

        begun = loop.time()
        await asyncio.gather(*(one() for _ in range(3)))
        assert loop.time() - begun < 10


async def test_a_turn_that_nobody_takes_is_the_next_one_s() -> None:
    async with Outbound(connections=1) as outbound, Upstream() as upstream:
        request = Request(url=upstream.url)
        async with asyncio.TaskGroup() as group:
            async with outbound.stream(request):
                sends = (outbound.send(request, seconds=5, limit=10**6) for _ in range(2))
                leaving, staying = (group.create_task(send) for send in sends)
                await asyncio.sleep(0)
            # The first of the two has been given its turn, and has not run since.
            leaving.cancel()
        assert staying.result().status == 200
        assert (await outbound.send(request, seconds=5, limit=10**6)).status == 200


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(min_value=1, max_value=40))
def test_whatever_a_server_says_is_an_answer_or_a_fault_of_it(noise: bytes, step: int) -> None:
    pieces = [noise[at : at + step] for at in range(0, len(noise), step)]
    for head in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"):
        asyncio.run(_ask_noise([head, *pieces]))


async def _ask_noise(pieces: list[bytes]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)

    async with serving(serve) as url, Outbound(connect_seconds=1) as outbound:
        with suppress(UpstreamError):
            await outbound.send(Request(url=url), seconds=2, limit=10**6)


async def test_nothing_is_left_behind(outbound: Outbound) -> None:
    """Calls that end in every way leave no task, and no connection but those that serve again."""
    tasks = len(asyncio.all_tasks())
    gc.collect()
    before = [each for each in gc.get_objects() if isinstance(each, Connection)]
    ways = (
        Behaviour(),
        Behaviour(hang_up=True),
        Behaviour(head_delay=9),
        Behaviour(status=500),
        Behaviour(stall_after=1),
    )
    for way in ways:
        async with Upstream(way) as upstream:
            asked = Request(url=f"{upstream.url}/chat/completions", body=b'{"stream": true}')
            calls = [outbound.send(asked, seconds=0.2, limit=10**6) for _ in range(20)]
            await asyncio.gather(*calls, return_exceptions=True)
    await outbound.close()
    await asyncio.sleep(0.1)
    gc.collect()
    assert len(asyncio.all_tasks()) == tasks
    assert len([each for each in gc.get_objects() if isinstance(each, Connection)]) == len(before)


@pytest.mark.parametrize(
    "url",
    ["ftp://x/", "http://", "//x/", "http://h:99999/", "http://h/a b", "http://h/\r\nx: y", "http://[::1", "file:///x"],
)
async def test_an_address_that_is_none(outbound: Outbound, url: str) -> None:
    with pytest.raises(ConfigError):
        await got(outbound, url)


@pytest.mark.parametrize("header", [("x\r\ny", "z"), ("x", "a\r\ny: z"), ("x", "a\nb"), ("x", "a\0b"), ("", "a")])
async def test_a_header_can_not_smuggle_another(outbound: Outbound, header: tuple[str, str]) -> None:
    with pytest.raises(ConfigError):
        await outbound.send(Request(url="http://127.0.0.1:9/", headers=(header,)), seconds=1, limit=9)


async def test_a_server_with_a_certificate_that_nobody_vouches_for(outbound: Outbound) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(TLS / "server.pem")
    async with serving(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"), tls) as url:
        with pytest.raises(UpstreamError, match="certificate"):
            await got(outbound, url)


async def test_a_server_with_a_certificate() -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(TLS / "server.pem")
    trusting = ssl.create_default_context(cafile=TLS / "server.pem")
    answer = saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    async with serving(answer, tls) as url, Outbound(tls=trusting) as outbound:
        assert await got(outbound, url) == b"ok"
        assert await got(outbound, url) == b"ok"


async def _on_any_loop() -> None:
    """Keep-alive, chunks, a large body, back-pressure, a cut, TLS: what depends on the loop's own transports."""
    event = b'data: {"choices":[]}' + b" " * 60_000 + b"\n\n"
    async with Outbound(connect_seconds=1) as outbound, Upstream() as upstream:
        asked = Request(url=f"{upstream.url}/chat/completions", body=b'{"stream": true}')
        for _ in range(3):
            assert b"[DONE]" in (await outbound.send(asked, seconds=5, limit=10**6)).body
        large = Request(url=upstream.url, body=b"x" * 5_000_000)
        assert (await outbound.send(large, seconds=10, limit=10**6)).status == 200
        assert upstream.connections == 1
        upstream.plan.append(Behaviour(events=(event,) * 1000))
        async with outbound.stream(asked) as incoming:
            await incoming.read()
            before = -1
            while before != upstream.sent:
                before = upstream.sent
                await asyncio.sleep(0.1)
            assert upstream.sent < 30_000_000
        await asyncio.wait_for(upstream.left.wait(), 5)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(TLS / "server.pem")
    trusting = ssl.create_default_context(cafile=TLS / "server.pem")
    answer = saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    async with serving(answer, tls) as url, Outbound(tls=trusting) as outbound, Outbound() as strict:
        assert await got(outbound, url) == b"ok"
        with pytest.raises(UpstreamError, match="certificate"):
            await got(strict, url)


def test_it_works_on_the_loop_of_the_server() -> None:
    uvloop.run(_on_any_loop())


def test_it_works_on_the_loop_of_the_tests() -> None:
    asyncio.run(_on_any_loop())
