"""A download is resumed, checked and put in place at once, whatever happens to it on its way."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.gateway.local.fakehub import FakeHub, Trouble, standing

from gimle.foundation import download
from gimle.foundation.download import Patience, Progress, Source
from gimle.foundation.errors import (
    Conflict,
    CorruptDownload,
    DiskFull,
    Forbidden,
    NotFound,
    RateLimitedError,
    UpstreamError,
)
from gimle.foundation.outbound import Outbound

DATA = bytes(range(256)) * 12_000
SHA = hashlib.sha256(DATA).hexdigest()
PATIENCE = Patience(tries=3, pause_seconds=0.01, longest_pause_seconds=0.05, idle_seconds=1.0)


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with standing() as hub:
        hub.files["org/m"] = {"m.gguf": DATA}
        yield hub


class Fetch(NamedTuple):
    hub: FakeHub
    target: Path
    told: list[Progress]

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    async def __call__(self, token: str | None = None, size: int | None = len(DATA), sha: str | None = SHA) -> None:
        source = Source(url=f"{self.hub.url}/org/m/resolve/main/m.gguf", token=token, size=size, sha256=sha)
        async with Outbound(2.0) as outbound:
            found = await download.fetch(outbound, source, self.target, self.told.append, PATIENCE)
        assert found == download.Fetched(len(DATA), SHA)

    def left(self) -> list[str]:
        return sorted(file.name for file in self.target.parent.iterdir())


@pytest.fixture
def fetch(hub: FakeHub, tmp_path: Path) -> Fetch:
    return Fetch(hub, tmp_path / "to" / "m.gguf", [])


async def test_it_comes_whole_and_is_put_in_place(fetch: Fetch) -> None:
    await fetch()
    assert fetch.target.read_bytes() == DATA
    assert fetch.left() == ["m.gguf"]
    assert fetch.told[-1].done == fetch.told[-1].total == len(DATA)
    assert [progress.done for progress in fetch.told] == sorted(progress.done for progress in fetch.told)


async def test_a_cut_is_resumed_where_it_was(fetch: Fetch) -> None:
    fetch.hub.plan.extend([Trouble(cut=1_000_000), Trouble(cut=1_000_000)])
    await fetch()
    assert fetch.target.read_bytes() == DATA
    ranges = [asked.headers.get("range") for asked in fetch.hub.fetches]
    assert ranges == [None, "bytes=1000000-", "bytes=2000000-"]
    assert fetch.hub.sent == len(DATA)


async def test_another_run_resumes_what_the_first_has_left(fetch: Fetch) -> None:
    fetch.hub.plan.extend([Trouble(cut=1_500_000), *[Trouble(status=503)] * 4])
    with pytest.raises(UpstreamError, match="status 503"):
        await fetch()
    assert fetch.part.stat().st_size == 1_500_000
    fetch.hub.plan.clear()
    await fetch()
    assert fetch.hub.fetches[-1].headers["range"] == "bytes=1500000-"
    assert fetch.hub.sent == len(DATA)


async def test_bytes_that_were_changed_on_the_disk_are_found_out(fetch: Fetch) -> None:
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(b"x" * 1000)
    with pytest.raises(CorruptDownload):
        await fetch()
    assert fetch.left() == []


async def test_a_corrupt_file_of_the_same_size_is_refused(fetch: Fetch) -> None:
    fetch.hub.plan.append(Trouble(flip=True))
    with pytest.raises(CorruptDownload, match="is not the file that was asked for") as caught:
        await fetch()
    assert "deleted" in str(caught.value.hint)
    assert fetch.left() == []
    await fetch()


async def test_a_file_of_another_size_is_refused_before_it_comes(fetch: Fetch) -> None:
    with pytest.raises(CorruptDownload, match="were expected"):
        await fetch(size=17)
    assert fetch.part.stat().st_size == 0


async def test_a_missing_file_is_not_tried_again(fetch: Fetch) -> None:
    fetch.hub.files.clear()
    with pytest.raises(NotFound, match="has no such file"):
        await fetch()
    assert len(fetch.hub.fetches) == 1


async def test_a_part_that_is_too_long_is_begun_anew(fetch: Fetch) -> None:
    """416: without a size from elsewhere, only the server can say that there is no such part."""
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(DATA + b"more")
    await fetch(size=None)
    assert [asked.headers.get("range") for asked in fetch.hub.fetches] == [f"bytes={len(DATA) + 4}-", None]


async def test_a_server_that_knows_no_parts_sends_all_of_it(fetch: Fetch) -> None:
    fetch.hub.plan.extend([Trouble(cut=500_000), Trouble(whole=True)])
    await fetch()
    assert fetch.target.read_bytes() == DATA


async def test_a_file_that_changed_meanwhile_is_fetched_anew(fetch: Fetch) -> None:
    """Its digest is not known, so its mark on the server decides."""
    fetch.hub.files["org/m"]["m.gguf"] = b"old" * 500_000
    fetch.hub.plan.extend([Trouble(cut=700_000), *[Trouble(status=500)] * 4])
    with pytest.raises(UpstreamError):
        await fetch(size=None, sha=None)
    fetch.hub.files["org/m"]["m.gguf"] = DATA
    fetch.hub.plan.clear()
    await fetch(size=None, sha=None)


async def test_a_stall_is_a_cut(fetch: Fetch) -> None:
    fetch.hub.plan.append(Trouble(stall=100_000))
    await fetch()
    assert len(fetch.hub.fetches) == 2


async def test_a_slow_one_tells_its_rate_and_when_it_will_end(fetch: Fetch) -> None:
    fetch.hub.plan.append(Trouble(slow=0.015))
    await fetch()
    middle = [progress for progress in fetch.told if 0 < progress.done < len(DATA)]
    assert middle
    assert all(1e5 < progress.rate < 1e8 for progress in middle)
    assert all(progress.eta is not None and 0 < progress.eta < 30 for progress in middle)


async def test_a_token_goes_to_its_own_host_and_to_no_other(fetch: Fetch) -> None:
    async with standing() as cdn:
        cdn.files["org/m"] = {"m.gguf": DATA}
        fetch.hub.plan.append(Trouble(redirect=f"{cdn.url}/org/m/cdn/m.gguf"))
        await fetch(token="hf_secret")
        assert fetch.hub.fetches[0].headers["authorization"] == "bearer hf_secret"
        assert [asked.headers.get("authorization") for asked in cdn.fetches] == [None]


async def test_redirects_end_somewhere(fetch: Fetch) -> None:
    fetch.hub.plan.extend([Trouble(redirect="/org/m/resolve/main/m.gguf")] * 60)
    with pytest.raises(UpstreamError, match="in a circle"):
        await fetch()


async def test_a_gate_says_what_to_do(fetch: Fetch) -> None:
    fetch.hub.plan.append(Trouble(status=403))
    with pytest.raises(Forbidden) as caught:
        await fetch()
    assert "HF_TOKEN" in str(caught.value.hint)


async def test_who_is_told_to_wait_waits(fetch: Fetch) -> None:
    fetch.hub.plan.append(Trouble(status=429, headers=(("Retry-After", "0"),)))
    await fetch()
    fetch.target.unlink()
    fetch.hub.plan.extend([Trouble(status=429)] * 9)
    with pytest.raises(RateLimitedError):
        await fetch()


async def test_a_disk_without_room_is_not_filled(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(fetch.target.parent.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000_000))
    with pytest.raises(DiskFull, match="0.1 GB free"):
        await fetch()


async def test_two_do_not_fetch_the_same(fetch: Fetch) -> None:
    fetch.hub.plan.append(Trouble(slow=0.05))
    async with asyncio.TaskGroup() as group:
        first = group.create_task(fetch())
        while not fetch.hub.sent:
            await asyncio.sleep(0.01)
        with pytest.raises(Conflict, match="by another process"):
            await fetch()
        await first


async def test_a_folder_that_cannot_be_written_is_named(hub: FakeHub, tmp_path: Path) -> None:
    from gimle.foundation.errors import ConfigError

    (tmp_path / "to").write_text("a file")
    with pytest.raises(ConfigError, match=os.fspath(tmp_path)):
        await Fetch(hub, tmp_path / "to" / "m.gguf", [])()
