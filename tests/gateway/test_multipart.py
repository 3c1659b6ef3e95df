"""Forms: found where they stand, changed nowhere else, refused when they are broken."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.foundation.errors import InvalidRequest
from gimle.gateway.multipart import Form

KIND = 'multipart/form-data; boundary="b"'


def form(*fields: tuple[str, bytes], kind: str = KIND) -> Form:
    parts = [
        b"--b\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (name.encode(), data) for name, data in fields
    ]
    return Form(b"".join(parts) + b"--b--\r\n", kind)


def encoded(fields: dict[str, str], content: bytes, name: str = "speech.mp3") -> tuple[bytes, str]:
    """As httpx, and with it OpenAI's SDK, writes a form."""
    request = httpx.Request("POST", "http://x", data=fields, files={"file": (name, content, "audio/mpeg")})
    return request.read(), request.headers["content-type"]


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)
NAMES = st.sampled_from(["model", "language", "prompt", "response_format", "temperature"])


@given(st.dictionaries(NAMES, TEXTS), st.binary(max_size=300), TEXTS)
def test_every_field_is_found_and_only_the_model_changes(fields: dict[str, str], content: bytes, other: str) -> None:
    body, kind = encoded({"model": "whisper-1"} | fields, content)
    read = Form(body, kind)
    assert {name: read.text(name) for name in fields} == fields
    file = read.field("file")
    assert file is not None
    assert file.file
    assert body[file.start : file.end] == content
    for text in (other, "whisper-1", "b" * 300, fields.get("model", "whisper-1")):
        read.put("model", text)
        again = Form(read.body, kind)
        assert again.text("model") == text
        assert all(again.text(name) == value for name, value in fields.items() if name != "model")
        moved = again.field("file")
        assert moved == read.field("file")
        assert moved is not None
        assert read.body[moved.start : moved.end] == content
    assert read.body == body, "What was put back is as it was."


def test_what_looks_like_a_border_in_a_file_is_none() -> None:
    content = b"--b\n--bb\r\n--\r\n-b--"
    read = form(('name="file"; filename="a.bin"', content), ("name=model", b"whisper-1"))
    file = read.field("file")
    assert file is not None
    assert read.body[file.start : file.end] == content
    assert read.text("model") == "whisper-1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"--b--",
        b"--b\r\n",
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1',
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b',
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--",
        b"--b\r\nX: " + b"y" * 20_000 + b"\r\n\r\nx\r\n--b--",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 100 + b"--b--",
        b"no form at all",
    ],
)
def test_a_broken_form_is_refused(body: bytes) -> None:
    if body == b"--b--":
        assert Form(body, KIND).text("model") is None
        return
    with pytest.raises(InvalidRequest) as refused:
        Form(body, KIND)
    assert refused.value.field == "body"


@pytest.mark.parametrize("kind", ["", "application/json", "multipart/form-data", "multipart/form-data; boundary="])
def test_what_is_no_form_by_its_type_is_refused(kind: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        form(("name=model", b"x"), kind=kind)
    assert refused.value.field == "content-type"


def test_a_field_that_comes_twice_is_refused() -> None:
    """Two models would be one for us, and another for the provider."""
    read = form(("name=model", b"cheap"), ("name=model", b"dear"))
    with pytest.raises(InvalidRequest):
        read.text("model")


def test_a_text_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        form(("name=model", b"\xff\xfe")).text("model")


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    for begun in (b"", b"--b\r\n", b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n'):
        try:
            Form(begun + body, KIND).text("a")
        except InvalidRequest:
            continue
