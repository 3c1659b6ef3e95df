"""Fetching what a caller names, from real servers on the loopback address that play all tricks."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from gimle.foundation.addresses import Guard
from gimle.foundation.errors import PayloadTooLarge, UrlNotAllowed, UrlNotFetched
from gimle.foundation.fetching import Fetched, Fetcher, Resolve, resolve
from gimle.testing import Behaviour, Upstream

TLS = Path(__file__).parents[1] / "fixtures" / "tls"
HERE = "127.0.0.1"
PUBLIC = "93.184.215.14"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def server() -> AsyncIterator[Upstream]:
    async with Upstream(Behaviour(body=b"bees", headers={"content-type": "Text/Plain; charset=x"})) as server:
        yield server


def port_of(server: Upstream) -> int:
    return int(server.url.split(":")[2].split("/")[0])


def names(**known: Sequence[str]) -> Resolve:
    """A resolver that knows `files.test` and these; it leads all others to a public address."""

    async def look_up(host: str, port: int) -> Sequence[str]:
        if host == "gone.test":
            raise OSError(-2, "Name or service not known")
        if host.startswith("["):
            return [host]
        return known.get(host.replace(".", "_"), [HERE] if host == "files.test" else [PUBLIC])

    return look_up


def fetcher(server: Upstream, look_up: Resolve | None = None) -> Fetcher:
    allow = [f"files.test:{port_of(server)}", f"other.test:{port_of(server)}"]
    return Fetcher(Guard(allow), resolve=look_up or names(other_test=[HERE]), connect_seconds=1)


def url_of(server: Upstream, host: str = "files.test", path: str = "/a.png") -> str:
    return f"http://{host}:{port_of(server)}{path}"


async def got(server: Upstream, url: str | None = None, *, limit: int = 1000, seconds: float = 2.0) -> Fetched:
    async with fetcher(server) as fetching:
        return await fetching.fetch(url or url_of(server), seconds=seconds, limit=limit)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[str]:
    """A server that hands each connection to `serve`; the URL of a file on it, which is allowed by its address."""
    done = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await serve(reader, writer)
        await closed(writer)
        done.set()

    server = await asyncio.start_server(connected, HERE, 0)
    try:
        yield f"http://{HERE}:{server.sockets[0].getsockname()[1]}/a.png"
    finally:
        await asyncio.wait_for(done.wait(), 2)
        server.close()


async def fetched_from(serve: Serve, *, seconds: float = 2.0) -> Fetched:
    async with serving(serve) as url, Fetcher(Guard([url.split("/")[2]])) as fetching:
        return await fetching.fetch(url, seconds=seconds, limit=100_000)


async def test_what_a_url_names(server: Upstream) -> None:
    assert await got(server) == Fetched(url_of(server), "text/plain", b"bees")


async def test_nothing_is_sent_but_the_name_of_the_page(server: Upstream) -> None:
    await got(server, url_of(server, path="/a b.png?key=ä#fragment"))
    (asked,) = server.received
    assert (asked.method, asked.path, asked.body) == ("GET", "/a%20b.png?key=%C3%A4", b"")
    assert asked.headers == {
        "host": f"files.test:{port_of(server)}",
        "user-agent": "gimle",
        "accept": "*/*",
        "content-length": "0",
    }


async def test_a_name_is_looked_up_once_and_the_connection_goes_where_the_check_was(server: Upstream) -> None:
    """The second answer of a rebinding name server is never asked for."""
    answers = iter([[HERE], ["10.0.0.1"], [PUBLIC]])
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return next(answers)

    async with fetcher(server, rebinding) as fetching:
        assert (await fetching.fetch(url_of(server), seconds=2, limit=9)).body == b"bees"
    assert asked == ["files.test"]
    assert server.received[0].headers["host"] == f"files.test:{port_of(server)}"


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]"]
)
async def test_this_machine_by_any_name_is_closed(host: str) -> None:
    """With the system's own resolver, which understands all these."""
    async with Fetcher(Guard()) as fetching:
        with pytest.raises((UrlNotAllowed, UrlNotFetched)) as wrong:
            await fetching.fetch(f"http://{host}/", seconds=2, limit=9)
    if isinstance(wrong.value, UrlNotFetched):
        assert "There is no host" in wrong.value.message


async def test_one_private_address_among_public_ones_closes_the_name(server: Upstream) -> None:
    async with Fetcher(Guard(), resolve=names(mixed_test=[PUBLIC, "192.168.0.1"])) as fetching:
        with pytest.raises(UrlNotAllowed, match="public Internet") as wrong:
            await fetching.fetch("http://mixed.test/", seconds=2, limit=9)
    assert "192.168" not in wrong.value.message


async def test_a_name_that_nobody_knows(server: Upstream) -> None:
    with pytest.raises(UrlNotFetched, match=r"no host gone\.test"):
        await got(server, "http://gone.test/")


async def test_the_next_address_serves_where_the_first_does_not(server: Upstream) -> None:
    async with fetcher(server, names(files_test=["::1", HERE])) as fetching:
        assert (await fetching.fetch(url_of(server), seconds=2, limit=9)).body == b"bees"


# -- redirects


def moved(location: str, status: int = 302) -> Behaviour:
    return Behaviour(status=status, headers={"location": location}, body=b"moved")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(server: Upstream, status: int) -> None:
    server.plan.append(moved("/b.png?x=1", status))
    found = await got(server)
    assert (found.url, found.body) == (url_of(server, path="/b.png?x=1"), b"bees")


async def test_a_redirect_to_another_host_is_a_new_url(server: Upstream) -> None:
    server.plan.append(moved(url_of(server, "other.test")))
    await got(server)
    assert [asked.headers["host"].split(":")[0] for asked in server.received] == ["files.test", "other.test"]


@pytest.mark.parametrize(
    "location",
    [
        "http://localhost/", "http://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/", "http://0/", "file:///etc/passwd", "http://user:word@files.test/", "http://files.test:22/",
        "http://inside.test/", "http://[::1", "gopher://127.0.0.1:6379/_FLUSHALL",
    ],
)  # fmt: skip
async def test_a_redirect_leads_nowhere_that_the_url_itself_may_not(server: Upstream, location: str) -> None:
    async def look_up(host: str, port: int) -> Sequence[str]:
        return await (names(inside_test=["10.9.9.9"]) if host.endswith(".test") else resolve)(host, port)

    server.plan.append(moved(location))
    async with fetcher(server, look_up) as fetching:
        with pytest.raises(UrlNotAllowed):
            await fetching.fetch(url_of(server), seconds=2, limit=9)
    assert len(server.received) == 1


async def test_redirects_end(server: Upstream) -> None:
    server.usual = moved("/again")
    with pytest.raises(UrlNotFetched, match="more than 3 times"):
        await got(server)
    assert len(server.received) == 4


# -- bodies


async def test_a_body_of_just_the_size_that_is_allowed(server: Upstream) -> None:
    assert (await got(server, limit=4)).body == b"bees"
    with pytest.raises(PayloadTooLarge):
        await got(server, limit=3)


async def test_a_body_that_says_that_it_is_too_large_is_not_read(server: Upstream) -> None:
    server.usual = Behaviour(body=b"", headers={"content-length": "9" * 15})
    with pytest.raises(PayloadTooLarge):
        await got(server)


async def test_a_body_without_end_is_left_at_the_limit() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            await writer.drain()

    with pytest.raises(PayloadTooLarge):
        await fetched_from(endless)


async def test_a_body_that_drips_is_left_when_the_time_is_over() -> None:
    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    with pytest.raises(UrlNotFetched):
        await fetched_from(dripping, seconds=0.2)


async def test_a_server_that_says_nothing(server: Upstream) -> None:
    server.usual = Behaviour(head_delay=30)
    with pytest.raises(UrlNotFetched):
        await got(server, seconds=0.1)
    await asyncio.wait_for(server.left.wait(), 5)


async def test_a_resolver_that_says_nothing(server: Upstream) -> None:
    async def silent(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async with fetcher(server, silent) as fetching:
        with pytest.raises(UrlNotFetched, match="within"):
            await fetching.fetch(url_of(server), seconds=0.05, limit=9)


async def test_a_bomb_is_refused_unopened(server: Upstream) -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    server.usual = Behaviour(body=bomb, headers={"content-encoding": "gzip"})
    with pytest.raises(UrlNotFetched, match="compressed"):
        await got(server, limit=10**6)


@pytest.mark.parametrize("status", [204, 206, 304, 400, 404, 500])
async def test_an_answer_that_is_no_success(server: Upstream, status: int) -> None:
    server.usual = Behaviour(status=status, body=b"")
    with pytest.raises(UrlNotFetched, match=str(status)):
        await got(server)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"])
async def test_an_answer_that_is_none(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    with pytest.raises(UrlNotFetched):
        await fetched_from(serve)


async def test_who_asks_and_leaves_takes_the_connection_along(server: Upstream) -> None:
    server.usual = Behaviour(head_delay=30)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(got(server, seconds=30))
        while not server.received:
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait_for(server.left.wait(), 5)
    assert asking.cancelled()


async def test_a_certificate_must_be_that_of_the_name() -> None:
    """The connection leads to an address, and the name is still what the server has to prove."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(TLS / "server.pem")
    named: list[str | None] = []
    tls.sni_callback = lambda connection, name, context: named.append(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()
        await closed(writer)

    server = await asyncio.start_server(serve, HERE, 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cafile=TLS / "server.pem")
    guard = Guard([f"{HERE}:{port}", f"files.test:{port}"])
    async with server, Fetcher(guard, resolve=names(**{HERE.replace(".", "_"): [HERE]}), tls=trusting) as fetching:
        assert (await fetching.fetch(f"https://{HERE}:{port}/", seconds=2, limit=9)).body == b"ok"
        with pytest.raises(UrlNotFetched, match="certificate"):
            await fetching.fetch(f"https://files.test:{port}/", seconds=2, limit=9)
    assert named == [None, "files.test"]
