"""The pictures of a request, before a provider is told of them: checked, and fetched where it takes no URLs.

Most providers fetch a picture by its URL themselves. For one that takes bytes only, and for one in our own network,
whom no caller may send to our other machines, Gimle fetches it: once a call, however many providers are tried, and no
longer than the caller waits. What passes to a provider of the caller's own dialect is left to that provider to check.
"""

import asyncio
import binascii
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gimle.foundation.addresses import Guard
from gimle.foundation.config import GatewaySettings
from gimle.foundation.errors import GimleError, ImageTooLarge, InvalidImage, InvalidRequest, PayloadTooLarge, Unsayable
from gimle.foundation.fetching import Fetcher
from gimle.gateway.catalog import Access
from gimle.gateway.lanes import Call, Fetched, chat_of, needs_bytes
from gimle.gateway.neutral import Ask, Image, Part, ToolResult
from gimle.gateway.pixels import Shape, shape
from gimle.gateway.types import Provider

# Of one call: pictures at a time, all pictures, and their bytes.
_AT_ONCE = 4
_MOST = 64
_MOST_BYTES = 64 * 1024 * 1024
# Fields of parts in which engines take URLs.
_FOLLOWED = ("image_url", "video_url", "audio_url")
# What a request with such a field holds: JSON can also spell it in escapes.
_SHOWS = re.compile(rb'\\u00|(?:image|video|audio)_url"')
# In nearly all pictures, the header is in so many characters of base64.
_HEADER = 64 * 1024


class Pictures:
    """Looks at the pictures of calls. Raises `ConfigError` when the list of what may be fetched is not valid."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._fetches = settings.fetch_images
        self._seconds = settings.fetch_seconds
        self._limit = settings.image_mb * 1_000_000
        self._pixels = settings.image_megapixels * 1_000_000
        self._fetcher = Fetcher(Guard(settings.fetch_allow), connect_seconds=settings.connect_seconds)

    async def close(self) -> None:
        """Close the connections to servers of pictures."""
        await self._fetcher.close()

    async def ready(self, call: Call, access: Access, until: float) -> None:
        """Check the pictures of a call before a provider is told of them, and fetch those that it takes as bytes only.

        Raises, with the field of the caller's, `InvalidImage`, `ImageTooLarge`, `UrlNotAllowed` or `UrlNotFetched`, and
        `Unsayable` where the settings forbid to fetch.
        """
        bytes_only = needs_bytes(chat_of(access.dialect), access.provider)
        passes = access.provider.dialect == call.call.dialect
        if (passes and not bytes_only) or not _may_show(call):
            return
        pictures = [picture for turn in call.ask.turns for picture in _pictures(turn.parts)]
        if passes:
            _must_be_known(call, pictures)
        else:
            self._check(call, pictures)
        if bytes_only:
            urls = (picture.url for picture in pictures if picture.url and not _its_own(picture.url, access.provider))
            # Two providers may be asked at a time; the second waits for what the first has fetched.
            async with call.fetching:
                await self._fetch(call, list(dict.fromkeys(urls)), access.provider, until)

    def _check(self, call: Call, pictures: Iterable[Image]) -> None:
        for picture in pictures:
            if picture.data is not None:
                try:
                    found = self._checked(_shape(picture.data), len(picture.data) * 3 // 4)
                    # Some providers refuse a picture that is not what it is said to be.
                    if found.media_type != picture.media_type:
                        call.mislabelled[picture.data] = found.media_type
                except InvalidRequest as wrong:
                    wrong.field = place(call.call.body, picture.data)
                    raise

    async def _fetch(self, call: Call, urls: Sequence[str], provider: Provider, until: float) -> None:
        missing = [url for url in urls if url not in call.fetched]
        if not missing:
            return
        if not self._fetches:
            raise Unsayable(
                f"{provider.name} takes pictures as bytes, and Gimle may not fetch any.",
                field=place(call.call.body, missing[0]),
                hint="Send the picture as base64, or allow gateway.fetch_images.",
            )
        if len(urls) > _MOST:
            field = place(call.call.body, urls[_MOST])
            raise InvalidRequest(f"A request may name {_MOST} pictures by URL.", field=field)
        slots = asyncio.Semaphore(_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for url in missing:
                    group.create_task(self._one(call, url, slots, until))
        except ExceptionGroup as wrong:
            raise wrong.exceptions[0] from None

    async def _one(self, call: Call, url: str, slots: asyncio.Semaphore, until: float) -> None:
        try:
            async with slots:
                body = await self._body(url, until)
                found = self._checked(shape(body), len(body))
                if sum(len(each.data) for each in call.fetched.values()) * 3 // 4 + len(body) > _MOST_BYTES:
                    raise ImageTooLarge(f"The pictures of a request may have {_MOST_BYTES / 1e6:.0f} MB together.")
                call.fetched[url] = Fetched(found.media_type, b64encode(body).decode("ascii"))
        except GimleError as wrong:
            wrong.field = place(call.call.body, url)
            raise

    async def _body(self, url: str, until: float) -> bytes:
        left = until - asyncio.get_running_loop().time()
        try:
            return (await self._fetcher.fetch(url, seconds=min(self._seconds, left), limit=self._limit)).body
        except PayloadTooLarge:
            raise self._too_heavy() from None

    def _checked(self, found: Shape, size: int) -> Shape:
        if size > self._limit:
            raise self._too_heavy()
        if found.width * found.height > self._pixels:
            raise ImageTooLarge(
                f"The picture has {found.width} x {found.height} pixels; {self._pixels / 1e6:g} million may be sent."
            )
        return found

    def _too_heavy(self) -> ImageTooLarge:
        return ImageTooLarge(f"The picture has more than {self._limit / 1e6:g} MB.")


def by_url(ask: Ask) -> bool:
    """Whether a request names a picture by its URL."""
    return any(picture.url is not None for turn in ask.turns for picture in _pictures(turn.parts))


def place(body: Mapping[str, msgspec.Raw], said: str) -> str | None:
    """Where a URL, or the base64 of a data URL, stands in a caller's request: `messages[0].content[1].image_url`."""
    for field, value in _strings(body):
        if value == said or (value.startswith("data:") and value.endswith(said)):
            return field.removesuffix(".url").removesuffix(".data")
    return None


def _strings(body: Mapping[str, msgspec.Raw]) -> Iterator[tuple[str, str]]:
    """All strings of a request and where they stand, in their order."""
    left: list[tuple[str, Any]] = [(name, msgspec.json.decode(raw)) for name, raw in body.items()][::-1]
    while left:
        field, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{field}.{name}", each) for name, each in reversed(value.items())]
        elif isinstance(value, list):
            left += [(f"{field}[{at}]", value[at]) for at in range(len(value) - 1, -1, -1)]
        elif isinstance(value, str):
            yield field, value


def _must_be_known(call: Call, pictures: Iterable[Image]) -> None:
    """Raise `InvalidRequest` for a URL that is no known picture's: vLLM looks for one in any part that has a uuid."""
    known = {picture.url for picture in pictures}
    for field, value in _strings(call.call.body):
        if field.removesuffix(".url").endswith(_FOLLOWED) and value not in known and not value.startswith("data:"):
            raise InvalidRequest("Only a picture may be named by its URL, in a part of its type.", field=field)


def _pictures(parts: Iterable[Part]) -> Iterator[Image]:
    for part in parts:
        if isinstance(part, Image):
            yield part
        elif isinstance(part, ToolResult):
            yield from _pictures(part.parts)


def _may_show(call: Call) -> bool:
    """Whether there may be pictures, or other parts by URL, which an engine may know though the dialect does not."""
    return "vision" in call.prompt.capabilities or any(_SHOWS.search(raw) for raw in call.call.body.values())


def _its_own(url: str, provider: Provider) -> bool:
    """Whether a URL means something to this provider alone, as that of a file which it holds."""
    try:
        parts, base = urlsplit(url), urlsplit(provider.base_url)
    except ValueError:
        return False
    named = parts.scheme not in ("http", "https", "data") or (parts.scheme, parts.netloc) == (base.scheme, base.netloc)
    return named and not provider.local


def _shape(data: str) -> Shape:
    """The shape of a picture in base64, of which no more is decoded than its header."""
    if len(data) > _HEADER:
        try:
            return shape(_decoded(data[:_HEADER]))
        except InvalidImage:
            # The header may be longer: a camera's, with previews and profiles in it.
            return shape(_decoded(data))
    return shape(_decoded(data))


def _decoded(data: str) -> bytes:
    try:
        return binascii.a2b_base64(data.encode("ascii"))
    except (binascii.Error, UnicodeEncodeError):
        raise InvalidImage("The picture is not valid base64.") from None
