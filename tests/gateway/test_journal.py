"""The journal: what was appended is there, whole or not at all, whoever dies and however the disk fails."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.gateway import journal
from gimle.gateway.journal import Journal, abandoned, framed, frames

MB = 1024 * 1024
records = st.lists(st.binary(max_size=300), max_size=20)
salts = st.integers(0, 2**32 - 1)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """A disk that is full: no file may grow beyond this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def taken_over(root: Path) -> list[bytes]:
    found = []
    for left in abandoned(root):
        found += list(left.records())
        left.close(delete=True)
    return found


@given(records, salts)
def test_what_is_framed_is_read(written: list[bytes], salt: int) -> None:
    data = b"".join(framed(record, salt) for record in written)
    found = frames(data, salt)
    assert (found.records, found.end, found.damaged) == (written, len(data), 0)


@given(records, salts, st.data())
def test_a_cut_takes_the_last_frame_alone(written: list[bytes], salt: int, data: st.DataObject) -> None:
    whole = b"".join(framed(record, salt) for record in written)
    found = frames(whole[: data.draw(st.integers(0, len(whole)))], salt)
    assert found.records == written[: len(found.records)]
    assert found.end == sum(len(framed(record, salt)) for record in found.records)


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=10), salts, st.data())
def test_damage_takes_what_it_hits(written: list[bytes], salt: int, data: st.DataObject) -> None:
    framed_each = [framed(record, salt) for record in written]
    hit = data.draw(st.integers(0, len(written) - 1))
    at = data.draw(st.integers(0, len(framed_each[hit]) - 1))
    bad = bytearray(framed_each[hit])
    bad[at] ^= data.draw(st.integers(1, 255))
    found = frames(b"".join([*framed_each[:hit], bytes(bad), *framed_each[hit + 1 :]]), salt)
    others = [*written[:hit], *written[hit + 1 :]]
    assert found.records == others


@given(st.binary(max_size=2000), salts)
def test_noise_is_never_a_record(noise: bytes, salt: int) -> None:
    assert frames(noise, salt).records == []


@given(st.binary(max_size=50), salts, salts)
def test_a_text_that_looks_like_a_frame_is_none(inner: bytes, salt: int, other: int) -> None:
    if salt != other:
        outer = framed(framed(inner, other), salt)
        assert frames(outer[1:], salt).records == []


def test_a_living_writer_keeps_its_journal(tmp_path: Path) -> None:
    own = Journal.open(tmp_path, MB)
    own.append(b"mine")
    assert taken_over(tmp_path) == []
    own.close(delete=False)
    assert taken_over(tmp_path) == [b"mine"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_taken_over_and_not_posted_stays(tmp_path: Path) -> None:
    own = Journal.open(tmp_path, MB)
    own.append(b"one")
    own.close(delete=False)
    (left,) = abandoned(tmp_path)
    assert list(abandoned(tmp_path)) == []
    left.close(delete=False)
    assert taken_over(tmp_path) == [b"one"]


def test_a_killed_writer_leaves_all_that_it_has_appended(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from gimle.gateway.journal import Journal
journal = Journal.open(Path({str(tmp_path)!r}), {MB})
for number in range(20_000):
    journal.append(b"%d" % number)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -9
    assert taken_over(tmp_path) == [b"%d" % number for number in range(20_000)]


def test_a_full_disk_takes_whole_records_only(tmp_path: Path) -> None:
    own = Journal.open(tmp_path, MB)
    own.append(b"before")
    size = own.segments[0].size
    with files_up_to(size + 20), pytest.raises(OSError, match="File too large"):
        own.append(b"x" * 100)
    assert own.segments[0].path.stat().st_size == size
    own.append(b"after")
    own.close(delete=False)
    assert taken_over(tmp_path) == [b"before", b"after"]


def test_a_segment_that_could_not_begin_leaves_nothing(tmp_path: Path) -> None:
    own = Journal.open(tmp_path, MB)
    for _ in range(3):
        with files_up_to(4), pytest.raises(OSError, match="File too large"):
            own.rotate()
    assert len(own.segments) == 1
    own.rotate()
    own.append(b"x")
    own.close(delete=False)
    assert taken_over(tmp_path) == [b"x"]


def test_it_is_bounded(tmp_path: Path) -> None:
    own = Journal.open(tmp_path, 40_000)
    with pytest.raises(OSError, match="limit"):
        for _ in range(1000):
            own.append(b"x" * 100)
    size = sum(segment.path.stat().st_size for segment in own.segments)
    assert 30_000 < size < 50_000
    # What is posted makes room.
    while own.segments[0].unread():
        pass
    own.delete(own.segments[0])
    own.append(b"again")
    own.close(delete=True)
    assert list(tmp_path.iterdir()) == []


def test_what_was_appended_is_read_once_and_in_order(tmp_path: Path) -> None:
    own = Journal.open(tmp_path, 64 * MB)
    written = [b"%d" % number * 20 for number in range(30_000)]
    for record in written:
        own.append(record)
    found: list[bytes] = []
    for segment in own.segments:
        while more := segment.unread():
            found += more
    assert found == written
    assert own.size == 0
    own.close(delete=True)


def test_the_rest_of_a_deletion_is_cleared_away(tmp_path: Path) -> None:
    half = tmp_path / "0123456789abcdef"
    half.mkdir()
    (half / "00000001.log").write_bytes(b"GIMLEJ1\n")
    assert taken_over(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_no_file_of_another_kind_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "0123456789abcdef"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "00000001.log").write_bytes(b"something else" + framed(b"x", 0))
    assert taken_over(tmp_path) == []


def test_a_record_has_a_limit() -> None:
    assert frames(framed(b"x" * journal.LARGEST_RECORD, 1), 1).records
