"""Fetches what a caller's URL names, and nothing that a caller must not reach through us.

A name is looked up once, each of its addresses is checked, and the connection goes to exactly such an address, so that
a name which leads elsewhere a moment later leads nowhere. A redirect is a new URL, with all checks anew. Nothing is
sent but the name of the page: no key, no cookie, nothing of the caller's. Bytes are counted as they come, and
compressed ones are refused, since nobody knows how large they become.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Self

import msgspec

from gimle.foundation.addresses import Guard, Place, joined
from gimle.foundation.errors import PayloadTooLarge, UpstreamError, UrlNotAllowed, UrlNotFetched
from gimle.foundation.outbound import Incoming, Outbound, Request

# The addresses of a host at a port.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_REDIRECTS = 3
_MOVED = (301, 302, 303, 307, 308)
# Of a host with many addresses, so many are tried.
_ADDRESSES = 3
# At a time in this process, so that slow servers can't hold all the memory and threads.
_AT_ONCE = 32


class Fetched(msgspec.Struct, frozen=True):
    """What came, from which URL after all redirects, and of which type its server says it is (perhaps wrongly)."""

    url: str
    media_type: str
    body: bytes


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, as the system knows them. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class Fetcher:
    """Fetches within a guard. It has connections of its own: no slow server of files takes those to providers."""

    def __init__(
        self,
        guard: Guard,
        *,
        resolve: Resolve = resolve,
        connect_seconds: float = 5.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = guard
        self._resolve = resolve
        self._outbound = Outbound(connect_seconds, connections=_AT_ONCE, tls=tls)
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, url: str, *, seconds: float, limit: int) -> Fetched:
        """What a URL names: at most `limit` bytes, within `seconds` for all redirects together.

        Raises `UrlNotAllowed`, `UrlNotFetched`, or `PayloadTooLarge` when there are more bytes.
        """
        until = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(until), self._slots:
                return await self._followed(url, until, limit)
        except TimeoutError:
            raise UrlNotFetched(f"The URL did not give all of its content within {seconds:g} s.") from None
        except UpstreamError as error:
            raise UrlNotFetched(f"The URL could not be fetched: {error.message}") from None

    async def close(self) -> None:
        """Close the connections that nobody uses."""
        await self._outbound.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _followed(self, url: str, until: float, limit: int) -> Fetched:
        for _ in range(_REDIRECTS + 1):
            place = self._guard.place(url)
            answer = await self._asked(place, until, limit)
            if isinstance(answer, Fetched):
                return answer
            url = joined(place.url, answer)
        raise UrlNotFetched(f"The URL redirects more than {_REDIRECTS} times.")

    async def _asked(self, place: Place, until: float, limit: int) -> Fetched | str:
        """What a place answers, or the location that it redirects to."""
        *others, last = (await self._addresses(place))[:_ADDRESSES]
        for address in others:
            # Another address of the same host may answer.
            with suppress(UpstreamError):
                return await self._answer(place, address, until, limit)
        return await self._answer(place, last, until, limit)

    async def _addresses(self, place: Place) -> Sequence[str]:
        try:
            addresses = await self._resolve(place.host, place.port)
        except (OSError, UnicodeError):
            addresses = ()
        if not addresses:
            raise UrlNotFetched(f"There is no host {place.host}.")
        self._guard.check(place, addresses)
        return addresses

    async def _answer(self, place: Place, address: str, until: float, limit: int) -> Fetched | str:
        request = Request(method="GET", url=place.url, address=address)
        async with self._outbound.stream(request, until=until) as incoming:
            headers = incoming.headers
            if incoming.status in _MOVED and "location" in headers:
                return _text(headers["location"])
            if incoming.status != 200:
                raise UrlNotFetched(f"{place.host} answers {incoming.status}.")
            if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
                raise UrlNotFetched(f"{place.host} sends compressed content, which was not asked for.")
            body = await _body(incoming, headers, limit)
            return Fetched(place.url, headers.get("content-type", "").partition(";")[0].strip().lower(), body)


async def _body(incoming: Incoming, headers: Mapping[str, str], limit: int) -> bytes:
    told = headers.get("content-length", "")
    if told.isdecimal() and int(told[:20]) > limit:
        raise _too_large(limit)
    pieces: list[bytes] = []
    size = 0
    while piece := await incoming.read():
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
    return b"".join(pieces)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"What the URL names is larger than {limit / 1e6:g} MB.")


def _text(location: str) -> str:
    """A location in Unicode: headers come as Latin-1, and servers write UTF-8."""
    try:
        return location.encode("latin-1").decode("utf-8")
    except UnicodeError:
        raise UrlNotAllowed("The redirect does not lead to a valid URL.") from None
