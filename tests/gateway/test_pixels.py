"""The shapes of pictures by their first bytes, whatever these are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.images import gif, jpeg, png, webp

from gimle.foundation.errors import InvalidImage
from gimle.gateway.pixels import Shape, shape

SIZES = st.integers(1, 16_000)
BEGINNINGS = (b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"GIF87a", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8 ", b"RIFF")


@given(SIZES, SIZES)
def test_each_format_tells_its_size(width: int, height: int) -> None:
    assert shape(png(width, height)) == Shape("image/png", width, height)
    assert shape(gif(width, height)) == Shape("image/gif", width, height)
    assert shape(jpeg(width, height)) == Shape("image/jpeg", width, height)
    assert shape(jpeg(width, height, frame=0xC2)) == Shape("image/jpeg", width, height)
    for kind in (b"VP8 ", b"VP8L", b"VP8X"):
        assert shape(webp(width, height, kind)) == Shape("image/webp", width, height)


def test_the_largest_that_a_format_can_say() -> None:
    assert shape(png(2**31 - 1, 2**31 - 1)).width == 2**31 - 1
    assert shape(webp(2**24, 2**24, b"VP8X")) == Shape("image/webp", 2**24, 2**24)
    assert shape(webp(2**14, 2**14, b"VP8L")) == Shape("image/webp", 2**14, 2**14)


def test_a_camera_puts_much_before_the_frame() -> None:
    # Markers within a segment are data.
    assert shape(jpeg(7, 5, before=b"\xff\xd8\xff\xc0\x00\x11" * 100_000)) == Shape("image/jpeg", 7, 5)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"BM" + b"\0" * 60, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"II*\0" + b"\0" * 60,
        b"\0\0\0 ftypheic" + b"\0" * 60, b"\0\0\0 ftypavif" + b"\0" * 60, b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 60,
        png(0, 5), png(5, 0), gif(0, 1), jpeg(5, 0), jpeg(0, 5), webp(0, 3), b"\xff\xd8\xff\xda\x00\x02", png()[:23],
        gif()[:9], webp()[:29], webp(kind=b"VP8L")[:24], webp(kind=b"VP8X")[:29], b"\xff\xd8" + b"\xff" * 5000,
        b"\xff\xd8\xff\xe0\x00\x00" * 5000,
    ],
)  # fmt: skip
def test_that_is_no_picture(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        shape(data)


@given(st.sampled_from(BEGINNINGS), st.binary(max_size=400))
def test_any_bytes_are_a_picture_or_none(begins: bytes, rest: bytes) -> None:
    try:
        found = shape(begins + rest)
    except InvalidImage:
        return
    assert found.width > 0
    assert found.height > 0


@given(
    st.sampled_from((png(), gif(), jpeg(before=b"x" * 99), webp(), webp(kind=b"VP8L"), webp(kind=b"VP8X"))), st.data()
)
def test_a_picture_that_is_cut_or_damaged_is_one_or_none(whole: bytes, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(whole)))
    at, byte = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    for damaged in (whole[:end], whole[:at] + bytes([byte]) + whole[at + 1 :]):
        try:
            shape(damaged)
        except InvalidImage:
            continue


def test_hostile_segments_cost_little() -> None:
    """A megabyte of the shortest segments is left after a thousand of them."""
    with pytest.raises(InvalidImage):
        shape(b"\xff\xd8\xff" + b"\xe0\x00\x02\xff" * 5_000_000)
