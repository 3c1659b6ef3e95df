"""The pure parts of the command line and of the client: events, names, terminal text, settings of the caller."""

import os
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.client import Client, Event, _lines, events
from gimle.foundation import config
from gimle.interfaces.cli import options
from gimle.interfaces.cli.doctor import Finding, _vector
from gimle.interfaces.cli.output import bars, place, plain, shorten
from gimle.interfaces.cli.serve import weak_password
from gimle.interfaces.cli.upload import by_name, found, send


def test_events_are_read_as_the_standard_says() -> None:
    lines = [": ping", "", "event: progress", "data: {", "data: }", "id: 7", "", "data:bare", "", "data: broken off"]
    assert list(events(iter(lines))) == [Event("progress", "{\n}"), Event("message", "bare")]


SENT = st.tuples(st.sampled_from(["progress", "done"]), st.text("abc: {}\x85\u2028ü", min_size=1))


@given(st.lists(SENT), st.integers(1, 9), st.sampled_from(["\n", "\r\n"]))
def test_events_come_back_as_they_were_sent(sent: list[tuple[str, str]], size: int, end: str) -> None:
    stream = "".join(f"event: {name}{end}data: {data}{end}{end}" for name, data in sent).encode()
    pieces = (stream[start : start + size] for start in range(0, len(stream), size))
    assert [tuple(event) for event in events(_lines(pieces))] == sent


@given(st.text())
def test_nothing_that_is_shown_can_steer_the_terminal(text: str) -> None:
    shown = plain(text)
    assert not any(ord(letter) < 0x20 and letter not in "\n\t" or 0x7F <= ord(letter) < 0xA0 for letter in shown)
    assert "\u202e" not in shown


def test_plain_keeps_what_people_write() -> None:
    assert plain("Müller & Söhne\t„§ 7“\n[1] ✓") == "Müller & Söhne\t„§ 7“\n[1] ✓"


@given(st.text(min_size=1), st.integers(2, 50))
def test_shortened_text_is_never_longer_than_asked(text: str, width: int) -> None:
    assert len(shorten(text, width)) <= width


def test_a_place_names_what_there_is() -> None:
    assert place({"document_name": "a.pdf", "page": 3, "heading": None}) == "a.pdf, page 3"
    assert place({"document_name": "b.md", "page": None, "heading": "Fees > Late"}) == "b.md, Fees > Late"


def test_files_of_a_folder_keep_their_path_and_hidden_ones_stay(tmp_path: Path) -> None:
    for name in ("a/x.md", "b/x.md", ".git/config", "b/.secret", "y.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [name for name, _ in found([tmp_path])] == ["a/x.md", "b/x.md", "y.txt"]
    assert dict(found([tmp_path / "y.txt"])) == {"y.txt": tmp_path / "y.txt"}


def test_files_of_one_name_are_refused_and_one_file_twice_is_sent_once(tmp_path: Path) -> None:
    for name in ("a/readme.md", "b/readme.md"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    one, two = tmp_path / "a", tmp_path / "b"
    assert by_name(found([one, one / "readme.md"])) == {"readme.md": one / "readme.md"}
    for paths in ([one, two], [one / "readme.md", two / "readme.md"]):
        with pytest.raises(click.UsageError) as refused:
            by_name(found(paths))
        assert all(str(folder / "readme.md") in refused.value.message for folder in (one, two))


def test_a_name_that_is_not_utf_8_is_that_file_s_reason(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"b\xff.txt")
    file.write_text("words")
    with bars() as progress, Client("http://127.0.0.1:9") as client:
        (sent,) = send(client, by_name(found([tmp_path])), "default", progress)
    assert (sent.name, sent.reason) == ("b?.txt", "Its name is not UTF-8.")
    assert plain(file.name) == "b.txt"


@pytest.mark.parametrize(
    "url, weak",
    [
        ("postgresql://gimle:kH3_9sLq-2mWz7aPb@db/gimle", False),
        ("postgresql://gimle@db/gimle", False),
        ("postgresql://app:PostgreS@db/gimle", True),
        ("postgresql://averylongusername:averylongusername@db/gimle", True),
        ("postgresql://gimle:short@db/gimle", True),
    ],
)
def test_weak_passwords_are_told_apart(url: str, weak: bool) -> None:
    assert (weak_password(url) is not None) is weak


@pytest.mark.parametrize("version, state", [("0.8.5", "ok"), ("0.8.4", "ok"), ("0.8.3", "warn"), (None, "fail")])
def test_doctor_knows_the_faults_of_old_pgvectors(version: str | None, state: str) -> None:
    finding: Finding = _vector(version)
    assert finding.state == state
    assert (finding.todo is None) is (state == "ok")


def test_the_server_is_looked_for_where_the_settings_say(tmp_path: Path) -> None:
    file = tmp_path / "gimle.toml"
    file.write_text('[server]\nhost = "0.0.0.0"\nport = 9000\n')
    settings = config.load({"config": file, "data": str(tmp_path)}, environ={})
    assert options.server_url(settings) == "http://127.0.0.1:9000"
    assert options.server_url(settings, "https://gimle.example.org") == "https://gimle.example.org"


def test_the_key_is_the_given_one_or_the_data_directory_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config.load({"data": str(tmp_path)}, environ={})
    assert options.api_key(settings) is None
    (tmp_path / "admin.key").write_text("gk_file\n")
    assert options.api_key(settings) == "gk_file"
    monkeypatch.setenv("GIMLE_KEY", "gk_environment")
    assert options.api_key(settings) == "gk_environment"
    assert options.api_key(settings, "gk_flag") == "gk_flag"
