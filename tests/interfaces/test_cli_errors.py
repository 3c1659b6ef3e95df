"""What the command line says when something is wrong, and the exit code that goes with it."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest

from gimle.foundation import postgres
from gimle.foundation.database_url import checked
from gimle.interfaces.cli.main import COMMANDS, cli, run

# A port on which nothing listens: the discard service's, which needs root to take.
NOBODY = "http://127.0.0.1:9"


class Stranger(BaseHTTPRequestHandler):
    """A web server that is not Gimle: whatever is asked, it answers as it was told to."""

    status, body = 200, b"<html>hello</html>"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def stranger() -> Iterator[tuple[str, type[Stranger]]]:
    """Its URL, and the class whose `status` and `body` it answers with."""

    class Told(Stranger):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Told)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Told
    server.shutdown()
    thread.join()
    server.server_close()


def error_of(capsys: pytest.CaptureFixture[str]) -> dict[str, str | None]:
    """The one error that stands as JSON on standard error."""
    taken = capsys.readouterr()
    assert taken.out == ""
    error: dict[str, str | None] = json.loads(taken.err)["error"]
    return error


def test_unreachable_server_ends_with_3_and_says_how_to_start_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["query", "warranty", "--url", NOBODY]) == 3
    taken = capsys.readouterr()
    assert f"Nothing answers at {NOBODY}" in taken.err
    assert "gimle up" in taken.err
    assert "Traceback" not in taken.err


def test_error_is_json_when_json_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ask", "why?", "--json", "--url", NOBODY]) == 3
    assert error_of(capsys)["code"] == "unreachable"


@pytest.mark.parametrize(
    "arguments",
    [["no-such-command"], ["ask"], ["upload"], ["upload", "/no/such/file"], ["query", "x", "--mode", "magic"]],
)
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    taken = capsys.readouterr()
    assert taken.err.startswith("Error: ")
    assert "--help" in taken.err


def test_wrong_setting_ends_with_2_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gimle.toml"
    file.write_text("[server]\nprot = 1\n")
    assert run(["models", "--config", str(file), "--json"]) == 2
    assert "server.prot" in str(error_of(capsys)["message"])


def test_another_program_on_the_port_is_recognised(
    stranger: tuple[str, type[Stranger]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, _ = stranger
    assert run(["models", "--url", url, "--json"]) == 1
    assert "doesn't speak as Gimle" in str(error_of(capsys)["message"])


def test_the_server_s_own_words_and_hint_are_shown(
    stranger: tuple[str, type[Stranger]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, told = stranger
    told.status = 404
    told.body = (
        b'{"error": {"code": "job_not_found", "message": "There is no job job_1.", "field": "job", "hint": "Look."}}'
    )
    assert run(["jobs", "show", "job_1", "--url", url, "--json"]) == 1
    assert error_of(capsys) == {"code": "job_not_found", "message": "There is no job job_1.", "hint": "Look."}


def test_missing_key_says_where_keys_are(
    stranger: tuple[str, type[Stranger]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, told = stranger
    told.status = 401
    told.body = b'{"error": {"code": "invalid_api_key", "message": "No valid API key was given.", "hint": "A header."}}'
    assert run(["jobs", "--url", url]) == 1
    assert "GIMLE_KEY" in capsys.readouterr().err


def test_an_empty_id_is_no_fault_of_gimle(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["jobs", "show", "", "--url", NOBODY, "--json"]) == 1
    assert error_of(capsys) == {"code": "client_error", "message": "No id was given.", "hint": None}


def test_a_key_that_is_no_key_is_refused_before_it_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--url", NOBODY, "--key", "gk_ü", "--json"]) == 1
    assert "key" in str(error_of(capsys)["message"])


@pytest.mark.parametrize("url", ["ftp://gimle", "gimle:8080", "http://["])
def test_an_address_that_is_none_gives_no_traceback(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--url", url, "--json"]) in (1, 3)
    assert error_of(capsys)["message"]


@pytest.mark.parametrize(
    "url, reason",
    [
        ("postgresql://gimle:gimle@db/gimle", "everybody tries"),
        ("postgresql://gimle:postgres@db/gimle", "everybody tries"),
        ("postgresql://gimle:k7%24x@db/gimle", "fewer than 12"),
    ],
)
def test_serve_refuses_a_weak_password(url: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--database-url", url, "--json"]) == 2
    error = error_of(capsys)
    assert reason in str(error["message"])
    assert url not in json.dumps(error)


@pytest.mark.parametrize("command, code", [("up", 2), ("doctor", 1)])
@pytest.mark.parametrize("data, why", [("file/data", "is no directory"), ("theirs/data", "and can't be written")])
def test_a_data_directory_that_cannot_be_used_says_whose_it_is(
    data: str, why: str, command: str, code: int,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "file").touch()
    (tmp_path / "theirs").mkdir()
    is_there = os.access
    # For root, who runs the tests in a container, nothing is closed.
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK and is_there(path, mode))
    assert run([command, "--data", str(tmp_path / data), "--json"]) == code
    taken = capsys.readouterr()
    told = taken.out + taken.err
    assert f"{(tmp_path / data).parent} " in told
    assert why in told
    assert "chown" in told


def test_doctor_says_what_it_may_not_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(data: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(data / "pgdata"))

    monkeypatch.setattr(postgres, "running", closed)
    assert run(["doctor", "--data", str(tmp_path), "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [each["detail"] for each in findings if each["state"] == "fail"] == [f"{tmp_path}/pgdata can't be read."]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:50%offsecretword@127.0.0.1/gimle",
        "postgresql+psycopg://u:offsecretword@127.0.0.1/gimle",
        "postgresql://u:off[secretword@127.0.0.1/gimle",
        "postgresql://u:off@secretword@127.0.0.1/gimle",
        "postgresql://u:off/secretword@127.0.0.1/gimle",
        "host=127.0.0.1 password=offsecretword",
    ],
)
@pytest.mark.parametrize("command, code", [("serve", 2), ("worker", 2), ("migrate", 2), ("doctor", 1)])
def test_a_database_url_that_cannot_be_read_shows_no_password(
    url: str, command: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, "--database-url", url, "--data", str(tmp_path), "--json"]) == code
    taken = capsys.readouterr()
    told = taken.out + taken.err
    assert "The database URL can't be read." in told
    assert "%25" in told
    assert "secretword" not in told


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:a%40b%2Fc%25@db/gimle",
        "postgres://u@h1:5432,h2:5433/gimle",
        "postgresql:///gimle?host=/home/u%40x/sockets&port=5433",
        "postgresql://u:p@[::1]:5432/gimle",
    ],
)
def test_a_database_url_that_can_be_read_is_taken(url: str) -> None:
    assert checked(url) == url


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_production_commands_need_a_database(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--data", str(tmp_path), "--json"]) == 2
    assert "GIMLE_DATABASE__URL" in str(error_of(capsys)["hint"])


def test_a_reader_that_has_left_gets_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "gimle", "doctor", "--json"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def found(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


SHOWN = [name for name in COMMANDS if not found(name).hidden]


@pytest.mark.parametrize("command", SHOWN)
def test_every_command_has_examples_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example" in shown
    assert f"gimle {command}" in shown
    inner = found(command)
    parts = list(vars(inner).get("commands", {command: inner}).values())
    for part in parts:
        assert any("--json" in parameter.opts for parameter in part.params), part.name
        assert "Example" in part.help, part.name
