"""Large files from elsewhere: resumed where they broke off, checked to the last bit, and put in place all at once.

While it comes, a file is called `NAME.part`. A part that an earlier try has left is read and counted first, and only
the rest is asked for. A token goes to the host that it is for, and not to where that one redirects. A file whose size
or digest is not the expected one is deleted.
"""

import asyncio
import fcntl
import hashlib
import math
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlsplit

import msgspec

from gimle.foundation.errors import (
    ConfigError,
    Conflict,
    CorruptDownload,
    DiskFull,
    Forbidden,
    NotFound,
    RateLimitedError,
    UpstreamError,
)
from gimle.foundation.outbound import Incoming, Outbound, Request

# Left free on the disk, whatever is fetched.
_SPARE_BYTES = 256 << 20
_REDIRECTS = 5
_PIECE_BYTES = 1 << 22
_REPORT_SECONDS = 0.2
# The rate is that of the last seconds, older ones fading.
_RATE_SECONDS = 3.0
_FOUND = (301, 302, 303, 307, 308)
_RANGE = re.compile(r"^bytes (\d+)-\d+/(\d+|\*)$")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What to fetch. `token` is shown to the host of `url` alone; `size` in bytes and `sha256` where they are known."""

    url: str
    token: str | None = None
    size: int | None = None
    sha256: str | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is: bytes, bytes a second, and seconds until the end where both are known."""

    done: int
    total: int | None
    rate: float = 0.0
    eta: float | None = None


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How often it is tried again without a byte having come, after which pauses, and how long a silence may last."""

    tries: int = 6
    pause_seconds: float = 0.5
    longest_pause_seconds: float = 15.0
    idle_seconds: float = 30.0


class Fetched(msgspec.Struct, frozen=True):
    """What has come."""

    size: int
    sha256: str


Report = Callable[[Progress], None]


async def fetch(
    outbound: Outbound, source: Source, target: Path, report: Report, patience: Patience | None = None
) -> Fetched:
    """Have the file at `target`, whole.

    Raises `CorruptDownload`, `DiskFull`, `NotFound`, `Forbidden`, `Conflict` when another process fetches it, and
    `UpstreamError` when nothing comes any more: then what has come waits for the next try.
    """
    part = target.with_name(target.name + ".part")
    with _alone(part) as file:
        coming = _Coming(outbound, source, part, file, report, patience or Patience())
        await coming.read_what_is_there()
        await coming.fetch_the_rest()
        fetched = coming.checked()
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
        part.replace(target)
        coming.etag_file.unlink(missing_ok=True)
    return fetched


class _Coming:
    """One file on its way."""

    def __init__(
        self, outbound: Outbound, source: Source, part: Path, file: IO[bytes], report: Report, patience: Patience
    ) -> None:
        self.etag_file = part.with_name(part.name + ".etag")
        self._outbound = outbound
        self._source = source
        self._part = part
        self._file = file
        self._report = report
        self._patience = patience
        self._digest = hashlib.sha256()
        self._done = 0
        self._total = source.size
        self._reported = 0.0
        self._rate = _Rate()

    async def read_what_is_there(self) -> None:
        """Count in what an earlier try has left. Without digest and mark nobody could say whether it fits the rest."""
        if self._source.sha256 is None and not self.etag_file.exists():
            self._restart()
        self._file.seek(0)
        while piece := await asyncio.to_thread(self._file.read, _PIECE_BYTES):
            self._digest.update(piece)
            self._done += len(piece)
        if self._total is not None and self._done > self._total:
            self._restart()
        self._rate.begin(self._done)

    async def fetch_the_rest(self) -> None:
        """Ask until it is whole. Raises as `fetch` does."""
        tries = 0
        while self._total is None or self._done < self._total:
            before = self._done
            try:
                await self._ask()
                if self._total is None:
                    self._total = self._done
            except (UpstreamError, RateLimitedError) as error:
                tries = 0 if self._done > before else tries + 1
                if tries >= self._patience.tries:
                    raise
                pause = self._patience.pause_seconds * 2**tries
                if isinstance(error, RateLimitedError):
                    pause = max(pause, error.after)
                await asyncio.sleep(min(pause, self._patience.longest_pause_seconds))
        self._tell(now=math.inf)

    def checked(self) -> Fetched:
        """What it is. Raises `CorruptDownload` when it is not what was expected; then nothing of it is kept."""
        found, expected = self._digest.hexdigest(), self._source.sha256
        size = self._source.size
        if (expected is not None and found != expected) or (size is not None and self._done != size):
            self._part.unlink(missing_ok=True)
            self.etag_file.unlink(missing_ok=True)
            what = f"sha256 {found[:12]}…, {self._done} bytes"
            wanted = f"sha256 {(expected or '?')[:12]}…, {size} bytes"
            raise CorruptDownload(
                f"{self._part.stem} is not the file that was asked for: {what}; expected {wanted}.",
                hint="It was deleted. Try again; if it stays so, the mirror or the network changes files.",
            )
        return Fetched(self._done, found)

    # -- one request

    async def _ask(self) -> None:
        async with self._answer(self._source.url, _REDIRECTS) as incoming:
            if incoming.status == 416:
                # The part is longer than the file, or as long: then it was checked before, and was not the file.
                self._restart()
                raise UpstreamError("The part that was there does not belong to this file.")
            self._check_status(incoming)
            self._settle_where_it_begins(incoming)
            self._check_disk()
            while piece := await incoming.read(asyncio.get_running_loop().time() + self._patience.idle_seconds):
                await self._take(piece)
        if self._total is not None and self._done < self._total:
            raise UpstreamError("The download broke off.")

    @asynccontextmanager
    async def _answer(self, url: str, redirects: int) -> AsyncIterator[Incoming]:
        """The answer at the end of all redirects."""
        until = asyncio.get_running_loop().time() + self._patience.idle_seconds
        request = Request(method="GET", url=url, headers=self._headers(url))
        async with self._outbound.stream(request, until=until) as incoming:
            if incoming.status not in _FOUND:
                yield incoming
                return
            following = urljoin(url, incoming.headers.get("location", ""))
        if redirects == 0:
            raise UpstreamError(f"{urlsplit(url).hostname} redirects in a circle.")
        if url.startswith("https:") and not following.startswith("https:"):
            raise UpstreamError(f"{urlsplit(url).hostname} redirects to where nothing is encrypted.")
        async with self._answer(following, redirects - 1) as incoming:
            yield incoming

    def _headers(self, url: str) -> tuple[tuple[str, str], ...]:
        headers = [("accept-encoding", "identity")]
        if self._source.token is not None and _origin(url) == _origin(self._source.url):
            headers.append(("authorization", f"Bearer {self._source.token}"))
        if self._done:
            headers.append(("range", f"bytes={self._done}-"))
            with suppress(FileNotFoundError):
                # Should the file have changed meanwhile, all of it comes.
                headers.append(("if-range", self.etag_file.read_text("utf-8")))
        return tuple(headers)

    def _check_status(self, incoming: Incoming) -> None:
        status, host = incoming.status, urlsplit(self._source.url).hostname
        if status in (401, 403):
            raise Forbidden(
                f"{host} does not give this file to everybody.",
                hint="Agree to its terms on the hub, and give your token as HF_TOKEN.",
            )
        if status in (404, 410):
            raise NotFound(f"{host} has no such file: {urlsplit(self._source.url).path}.")
        if status == 429:
            after = incoming.headers.get("retry-after", "")
            raise RateLimitedError(f"{host} asks to wait.", after=float(after) if after.isdigit() else 1.0)
        if status not in (200, 206):
            raise UpstreamError(f"{host} answered with status {status}.")

    def _settle_where_it_begins(self, incoming: Incoming) -> None:
        """Find out whether the rest comes or all, and how much there is. Raises `UpstreamError` for anything else."""
        headers = incoming.headers
        if incoming.status == 206:
            told = _RANGE.match(headers.get("content-range", ""))
            if told is None or int(told[1]) != self._done:
                self._restart()
                raise UpstreamError("The server sent another part than was asked for.")
            total = None if told[2] == "*" else int(told[2])
        else:
            if self._done:
                self._restart()
            length = headers.get("content-length", "")
            total = int(length) if length.isdigit() else None
        if self._source.size is None:
            self._total = total
        elif total is not None and total != self._source.size:
            raise CorruptDownload(
                f"{self._part.stem} has {total} bytes there; {self._source.size} were expected.",
                hint="Another file lies under this name; name a revision.",
            )
        if (etag := headers.get("etag")) and not etag.startswith("W/"):
            self.etag_file.write_text(etag, "utf-8")

    def _check_disk(self) -> None:
        left = 0 if self._total is None else self._total - self._done
        free = shutil.disk_usage(self._part.parent).free
        if left + _SPARE_BYTES > free:
            raise DiskFull(
                f"{self._part.parent} has {free / 1e9:.1f} GB free; {(left + _SPARE_BYTES) / 1e9:.1f} GB are needed.",
                hint="Make room, or set engines.models to a folder on a larger disk.",
            )

    async def _take(self, piece: bytes) -> None:
        if self._total is not None and self._done + len(piece) > self._total:
            self._restart()
            raise UpstreamError("More came than there should be.")
        try:
            # Both let other tasks run while they work on a large piece.
            await asyncio.to_thread(self._keep, piece)
        except OSError as wrong:
            raise DiskFull(f"{self._part} can't be written: {wrong.strerror}.") from None
        self._done += len(piece)
        self._tell(time.monotonic())

    def _keep(self, piece: bytes) -> None:
        self._file.write(piece)
        self._digest.update(piece)

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._digest, self._done = hashlib.sha256(), 0
        self._rate.begin(0)

    def _tell(self, now: float) -> None:
        if now - self._reported < _REPORT_SECONDS:
            return
        self._reported = now
        rate = self._rate.seen(self._done)
        left = None if self._total is None else self._total - self._done
        eta = left / rate if left is not None and rate > 0 else None
        self._report(Progress(done=self._done, total=self._total, rate=rate, eta=eta))


class _Rate:
    """Bytes a second, of the last seconds."""

    def __init__(self) -> None:
        self._at = self._rate = 0.0
        self._done = 0

    def begin(self, done: int) -> None:
        self._at, self._done, self._rate = time.monotonic(), done, 0.0

    def seen(self, done: int) -> float:
        now = time.monotonic()
        passed = now - self._at
        if passed > 0:
            fresh = (done - self._done) / passed
            weight = 1.0 if self._rate == 0.0 else 1.0 - math.exp(-passed / _RATE_SECONDS)
            self._rate += (fresh - self._rate) * weight
            self._at, self._done = now, done
        return self._rate


@contextmanager
def _alone(part: Path) -> Iterator[IO[bytes]]:
    """The part, opened, and locked against another process that fetches the same."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("a+b")
    except OSError as refused:
        raise ConfigError(f"{part.parent} can't be written: {refused.strerror}.", field="engines.models") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"{part.stem} is being fetched by another process.", hint="Wait for that one.") from None
        yield file


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
