"""The wire against bytes of every kind: tricks, crawls, cuts, floods; and that nothing is left behind."""

import asyncio
import gc
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gimle.foundation.errors import GimleError
from gimle.interfaces.http import problems
from gimle.interfaces.http.exchange import ClientGone, Exchange, Limits
from gimle.interfaces.http.wire import HEAD_BYTES, Traffic, Wire

TLS = Path(__file__).parents[1] / "fixtures" / "tls" / "server.pem"
LIMITS = Limits(body=100_000, upload=100_000, idle_seconds=0.3, total_seconds=1.0)
Answer = Callable[[Exchange], Awaitable[None]]


class Quick(Wire):
    """A wire that loses its patience soon."""

    head_seconds = 0.3
    idle_seconds = 0.6
    stalled_seconds = 0.5


class Served(msgspec.Struct):
    """A wire on a port."""

    port: int
    traffic: Traffic
    tls: ssl.SSLContext | None = None

    async def say(self, *pieces: bytes, pause: float = 0.0, close: bool = False) -> bytes:
        """Send the pieces one after the other, and return all that comes until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls)
        try:
            for piece in pieces:
                if writer.transport.is_closing():
                    break
                writer.write(piece)
                await asyncio.sleep(pause)
            if close:
                writer.write_eof()
            async with asyncio.timeout(10):
                return await reader.read()
        except OSError:
            return b""
        finally:
            writer.close()


async def echo(exchange: Exchange) -> None:
    """Answer with what came, as the edge would."""
    try:
        body = await exchange.body()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in exchange.head.headers}
        told = {"method": exchange.method, "path": exchange.path, "headers": headers, "body": body.hex()}
        await exchange.reply(200, json.dumps(told).encode())
    except ClientGone:
        exchange.gone = True
    except GimleError as error:
        await exchange.fail(problems.of_error(error))


@asynccontextmanager
async def serving(answer: Answer = echo, tls: ssl.SSLContext | None = None) -> AsyncIterator[Served]:
    traffic = Traffic(answer, LIMITS)
    server = await asyncio.get_running_loop().create_server(lambda: Quick(traffic), "127.0.0.1", 0, ssl=tls)
    try:
        yield Served(server.sockets[0].getsockname()[1], traffic)
    finally:
        server.close()
        traffic.stop()
        traffic.cut()
        await traffic.tasks.close()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as running:
        yield running


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


# -- tricks with the borders of a request


SMUGGLED = (
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999999\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length : 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\nx: a\r\n folded\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\nx: a\rb: c\r\n\r\n",
    b"POST / HTTP/1.1\nhost: a\ncontent-length: 0\n\n",
    b"POST / HTTP/1.1\r\nhost: a\r\n: empty\r\n\r\n",
    b"POST /a b HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST / HTTP/2.0\r\nhost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\r\n\r\n\x00",
)


@pytest.mark.parametrize("request_bytes", SMUGGLED)
async def test_what_two_readers_could_read_differently_is_refused(served: Served, request_bytes: bytes) -> None:
    behind = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
    answer = await served.say(request_bytes + behind)
    assert statuses(answer) == [400], answer
    assert b"connection: close" in answer
    assert b"smuggled" not in answer


BAD_CHUNKS = (
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloX0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"zz\r\nhello\r\n0\r\n\r\n",
    b"\r\nhello\r\n0\r\n\r\n",
)


@pytest.mark.parametrize("chunks", BAD_CHUNKS)
async def test_chunks_that_are_none_end_the_connection(served: Served, chunks: bytes) -> None:
    head = b"POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    answer = await served.say(head + chunks + b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n")
    assert statuses(answer) == [400], answer
    assert b"smuggled" not in answer


async def test_a_trailer_is_no_header(served: Served) -> None:
    head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    answer = await served.say(head + b"2\r\nhi\r\n0\r\nauthorization: Bearer x\r\n\r\n")
    assert statuses(answer) == [200]
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (told["body"], "authorization" in told["headers"]) == (b"hi".hex(), False)


# -- many requests on one connection


def written(number: int, body: bytes, chunked: bool) -> bytes:
    head = b"POST /%d HTTP/1.1\r\nHost: a\r\n" % number
    if not chunked:
        return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    middle = len(body) // 2
    parts = [part for part in (body[:middle], body[middle:]) if part]
    framed = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=40), st.booleans()), min_size=1, max_size=12),
    st.lists(st.integers(min_value=1, max_value=60), min_size=1, max_size=30),
)
def test_requests_are_answered_in_order_wherever_the_borders_fall(
    asked: list[tuple[bytes, bool]], steps: list[int]
) -> None:
    whole = b"".join(written(number, body, chunked) for number, (body, chunked) in enumerate(asked))
    whole += b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    pieces: list[bytes] = []
    at = 0
    for turn in range(len(whole)):
        pieces.append(whole[at : at + steps[turn % len(steps)]])
        at += len(pieces[-1])

    async def run() -> bytes:
        async with serving() as served:
            return await served.say(*pieces)

    answers = asyncio.run(run()).split(b"HTTP/1.1 ")[1:]
    told = [json.loads(answer.partition(b"\r\n\r\n")[2]) for answer in answers]
    assert [each["path"] for each in told] == [*(f"/{n}" for n in range(len(asked))), "/last"]
    assert [each["body"] for each in told[:-1]] == [body.hex() for body, _ in asked]


TOKENS = (
    b"GET ", b"POST ", b"/v1/chat", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":",
    b"host: a", b"content-length: 3", b"content-length: 0", b"transfer-encoding: chunked", b"connection: close",
    b"connection: upgrade", b"upgrade: h2c", b"expect: 100-continue", b"abc", b"3\r\nabc\r\n", b"0\r\n\r\n", b"\xff",
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(TOKENS) | st.binary(max_size=8), max_size=25), st.booleans())
def test_noise_never_breaks_the_server(noise: list[bytes], at_once: bool) -> None:
    async def run() -> None:
        crashes: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: crashes.append(context))
        async with serving() as served:
            pieces = [b"".join(noise)] if at_once else noise
            answer = await served.say(*pieces, close=True)
            assert all(status in (200, 400, 408, 413, 431) for status in statuses(answer)), answer
            good = await served.say(b"GET /after HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            assert statuses(good) == [200]
        assert not crashes

    asyncio.run(run())


async def test_a_caller_who_sends_ahead_without_reading_has_to_wait() -> None:
    entered = asyncio.Event()
    leave = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        entered.set()
        await leave.wait()
        await echo(exchange)

    async with serving(slow) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        one = b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 1000 + b"\r\n\r\n"
        for _ in range(20_000):
            writer.write(one)
        await entered.wait()
        await asyncio.sleep(0.1)
        assert writer.transport.get_write_buffer_size() > 1_000_000, "The server must not take it all in."
        leave.set()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.transport.abort()


# -- sizes


@pytest.mark.parametrize("piece", [1000, HEAD_BYTES * 20])
async def test_a_header_of_a_megabyte_is_refused(served: Served, piece: int) -> None:
    head = b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 1_000_000 + b"\r\n\r\n"
    pieces = [head[at : at + piece] for at in range(0, len(head), piece)]
    assert statuses(await served.say(*pieces)) in ([431], []), "The refusal may be lost on one who is still writing."
    assert statuses(await served.say(b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * HEAD_BYTES)) == [431]


async def test_headers_without_number_are_refused(served: Served) -> None:
    answer = await served.say(b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 20_000 + b"\r\n")
    assert statuses(answer) == [431]


@pytest.mark.parametrize("path", [b"/", b"/early"])
async def test_trailers_without_end_are_not_read(path: bytes) -> None:
    async def some(exchange: Exchange) -> None:
        if exchange.path == "/early":
            await exchange.reply(401, b"{}")
        else:
            await echo(exchange)

    async with serving(some) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"POST %s HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\nx: " % path)
        sent = 0
        with suppress(ConnectionError):
            while sent < 50_000_000 and not reader.at_eof():
                writer.write(b"a" * 100_000)
                sent += 100_000
                await writer.drain()
        assert sent < 50_000_000
        writer.transport.abort()


async def test_a_body_over_the_limit_is_refused_while_it_comes(served: Served) -> None:
    head = b"POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"8000\r\n" + b"a" * 0x8000 + b"\r\n"
    answer = await served.say(head, *[chunk] * 20, b"0\r\n\r\n")
    assert statuses(answer) == [413]


async def test_a_refused_flood_is_not_read_for_ever(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000000\r\n\r\n")
    taken = 0
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(20):
            while True:
                writer.write(b"a" * 1_000_000)
                taken += 1
                await writer.drain()
    assert taken < 200
    writer.close()


# -- times


async def test_a_head_that_drips_is_given_up(served: Served) -> None:
    answer = await served.say(*[b"%c" % byte for byte in b"GET / HTTP/1.1\r\nhost: aaaaaaaaa"], pause=0.05)
    assert statuses(answer) in ([408], [])


async def test_a_body_that_stops_is_given_up(served: Served) -> None:
    answer = await served.say(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc")
    assert statuses(answer) == [408]


async def test_the_rest_of_a_refused_body_is_not_waited_for_long(served: Served) -> None:
    begun = asyncio.get_running_loop().time()
    answer = await served.say(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nabc")
    assert statuses(answer) == [413]
    assert asyncio.get_running_loop().time() - begun < 8


async def test_a_connection_that_says_nothing_more_is_closed(served: Served) -> None:
    begun = asyncio.get_running_loop().time()
    assert statuses(await served.say(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")) == [200]
    assert asyncio.get_running_loop().time() - begun < 3
    assert await served.say() == b""


# -- ends


async def test_half_a_connection_is_none(served: Served) -> None:
    half = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc"
    assert await served.say(half, pause=0.05, close=True) == b""
    assert not served.traffic.wires


async def test_who_leaves_ends_the_work_within_a_tenth_of_a_second() -> None:
    ended = asyncio.Event()

    async def work(exchange: Exchange) -> None:
        exchange.attend()
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    async with serving(work) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.sleep(0.1)
        writer.close()
        await asyncio.wait_for(ended.wait(), 0.1)


async def test_a_slow_reader_holds_the_writer_up() -> None:
    sent = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.begin(200, [])
        while not exchange.gone:
            await exchange.write(b"x" * 100_000)
            sent += 100_000

    async with serving(flood) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1000)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 20_000_000
        writer.transport.abort()


async def test_who_takes_nothing_at_all_is_cut_off() -> None:
    ended = asyncio.Event()

    async def flood(exchange: Exchange) -> None:
        exchange.attend()
        try:
            await exchange.begin(200, [])
            while not exchange.gone:
                await exchange.write(b"x" * 100_000)
        finally:
            ended.set()

    async with serving(flood) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1000)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        async with asyncio.timeout(10):
            await ended.wait()
        writer.transport.abort()


async def test_old_and_plain_callers_are_answered(served: Served) -> None:
    for version, extra in (("1.0", ""), ("1.0", "connection: keep-alive\r\n"), ("1.1", "connection: close\r\n")):
        answer = await served.say(f"GET / HTTP/{version}\r\nhost: a\r\n{extra}\r\n".encode())
        assert statuses(answer) == [200]
    upgrade = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n\r\n"
    assert statuses(await served.say(upgrade)) == [200]
    absolute = await served.say(b"GET http://a/b%20c?d HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert json.loads(absolute.partition(b"\r\n\r\n")[2])["path"] == "/b c"


@pytest.mark.parametrize("border", range(-60, 8, 3))
@pytest.mark.parametrize(
    "framing, body",
    [(b"content-length: 5", b"hello"), (b"transfer-encoding: chunked", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")],
)
async def test_who_would_rather_speak_http2_is_heard_out(
    served: Served, framing: bytes, body: bytes, border: int
) -> None:
    """Java's client asks so with each request, and sends the body along."""
    head = (
        b"POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n"
    )
    request = head + framing + b"\r\n\r\n" + body
    at = len(request) - len(body) + border
    answer = await served.say(request[:at], request[at:], pause=0.01)
    assert statuses(answer) == [200]
    assert bytes.fromhex(json.loads(answer.partition(b"\r\n\r\n")[2])["body"]) == b"hello"


async def test_who_asks_first_is_told_to_go_on(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hi")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_header_of_an_answer_can_not_hold_another() -> None:
    refused: list[str] = []

    async def answer(exchange: Exchange) -> None:
        try:
            await exchange.reply(200, b"", [(b"x", b"a\r\nset-cookie: b")])
        except ValueError as wrong:
            refused.append(str(wrong))
        await exchange.reply(200, b"ok")

    async with serving(answer) as served:
        said = await served.say(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert refused
    assert b"set-cookie" not in said


async def test_a_head_has_no_body(served: Served) -> None:
    answer = await served.say(b"HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: " in answer


async def _nothing_is_left() -> None:
    """Thousands of connections that end in every way leave neither task nor socket nor connection behind."""
    async with serving() as served:
        tasks = len(asyncio.all_tasks())
        good = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        ways = (good, b"", b"GET / HT", b"\x00", b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc")
        for _ in range(40):
            await asyncio.gather(*(served.say(way, close=True) for way in ways * 5))
        await asyncio.sleep(0.8)
        assert not served.traffic.wires
        assert len(asyncio.all_tasks()) == tasks
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, Exchange | Wire)]


def test_nothing_is_left_behind_on_the_loop_of_the_server() -> None:
    uvloop.run(_nothing_is_left())


def test_nothing_is_left_behind_on_the_loop_of_the_tests() -> None:
    asyncio.run(_nothing_is_left())


# -- TLS


async def _over_tls() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS)
    async with serving(tls=context) as served:
        assert await served.say(b"GET / HTTP/1.1\r\n\r\n") == b"", "Plain HTTP gets no answer on a secure port."
        served.tls = ssl.create_default_context(cafile=TLS)
        body = b"x" * 90_000
        head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        answer = await served.say(head + body)
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["body"] == body.hex()


def test_tls_on_the_loop_of_the_server() -> None:
    uvloop.run(_over_tls())


def test_tls_on_the_loop_of_the_tests() -> None:
    asyncio.run(_over_tls())
