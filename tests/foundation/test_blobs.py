"""Objects by content: whole or not there, one tenant can't name another's, damage is noticed."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from gimle.foundation.blobs import Blobs
from gimle.foundation.errors import NotFound, PermanentError

TENANT = "ten_" + "0" * 32
OTHER = "ten_" + "1" * 32


async def test_what_is_put_comes_back_and_is_kept_once(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    names = await asyncio.gather(*(blobs.put(TENANT, b"lamp") for _ in range(8)))
    assert set(names) == {hashlib.sha256(b"lamp").hexdigest()}
    assert await blobs.get(TENANT, names[0]) == b"lamp"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [names[0]]


async def test_delete_takes_it_away_and_may_be_repeated(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    name = await blobs.put(TENANT, b"lamp")
    await blobs.delete(TENANT, name)
    await blobs.delete(TENANT, name)
    assert not await blobs.exists(TENANT, name)
    with pytest.raises(NotFound):
        await blobs.get(TENANT, name)


async def test_another_tenant_does_not_see_it(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    name = await blobs.put(TENANT, b"lamp")
    with pytest.raises(NotFound):
        await blobs.get(OTHER, name)
    await blobs.delete(OTHER, name)
    assert await blobs.get(TENANT, name) == b"lamp"


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "", "A" * 64, "a" * 63 + "\n"])
async def test_a_name_that_is_no_hash_names_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound):
        await Blobs(tmp_path).get(TENANT, name)
    with pytest.raises(NotFound):
        await Blobs(tmp_path).get("../x", "a" * 64)


async def test_damage_is_noticed_and_mended_by_another_put(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    name = await blobs.put(TENANT, b"lamp")
    file = next(path for path in tmp_path.rglob(name))
    file.write_bytes(b"la")
    with pytest.raises(PermanentError, match="damaged"):
        await blobs.get(TENANT, name)
    await blobs.put(TENANT, b"lamp")
    assert await blobs.get(TENANT, name) == b"lamp"
