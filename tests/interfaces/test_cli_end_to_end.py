"""The command line against a real server: a process of its own, an embedded PostgreSQL, a real data directory."""

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.interfaces.served import Told, Up, started, up

from gimle.client import Client, Refused
from gimle.foundation import postgres
from gimle.interfaces.cli.main import run

WARRANTY = """# Warranty

The warranty for the pump begins with the day of delivery. It lasts 30 months and covers the motor and the seals.

# Opening hours

The workshop opens at 9:00 on Saturdays.
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Up]:
    """One server for the whole file."""
    folder = Path(tempfile.mkdtemp(prefix="gimle-cli-"))
    with up(folder) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def gimle(server: Up, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command line against that server."""

    def call(*arguments: str) -> Told:
        code = run([*arguments, "--url", server.url, "--data", str(server.data)])
        taken = capsys.readouterr()
        assert "Traceback" not in taken.err
        return Told(code, taken.out, taken.err)

    return call


@pytest.fixture
def warranty(tmp_path: Path) -> Path:
    folder = tmp_path / "papers"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "warranty.md").write_text(WARRANTY)
    (folder / ".hidden").write_text("not to be sent")
    return folder


def test_the_first_key_is_closed_to_others(server: Up) -> None:
    assert stat.S_IMODE((server.data / "admin.key").stat().st_mode) == 0o600


def test_a_server_may_have_many_connections(server: Up) -> None:
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    assert soft == min(hard, 65_536)


def test_upload_query_ask(gimle: Any, warranty: Path) -> None:
    sent = gimle("upload", str(warranty), "--json")
    assert sent.code == 0, sent
    (item,) = sent.json["items"]
    assert (item["name"], item["status"], item["error"]) == ("deep/warranty.md", "done", None)

    found = gimle("query", "warranty of the pump", "--json").json
    assert "30 months" in found["passages"][0]["text"]

    answer = gimle("ask", "How long does the warranty for the pump last?", "--json").json
    assert answer["answered"]
    assert any("30 months" in citation["quote"] for citation in answer["citations"])

    shown = gimle("ask", "How long does the warranty for the pump last?")
    assert "[1]" in shown.out
    assert "warranty.md" in shown.out
    assert "30 months" in shown.out

    refused = gimle("ask", "Who won the chess championship of 1972?", "--json")
    assert refused.code == 0
    assert refused.json["answered"] is False
    assert refused.json["citations"] == []


def test_upload_into_a_new_collection_creates_it(gimle: Any, warranty: Path) -> None:
    sent = gimle("upload", str(warranty / "deep" / "warranty.md"), "-c", "pumps", "--json")
    assert sent.code == 0
    assert gimle("query", "warranty", "-c", "pumps", "--json").json["passages"]


def test_a_bad_file_fails_alone_with_its_reason(gimle: Any, warranty: Path) -> None:
    (warranty / "empty.txt").write_bytes(b"")
    (warranty / "broken.pdf").write_bytes(b"%PDF-1.7\nthis is no pdf")
    told = gimle("upload", str(warranty), "-c", "mixed", "--json")
    assert told.code == 1
    by_name = {item["name"]: item for item in told.json["items"]}
    assert by_name["empty.txt"]["error"]
    assert by_name["broken.pdf"]["error"]
    assert by_name["deep/warranty.md"]["error"] is None

    shown = gimle("upload", str(warranty / "empty.txt"))
    assert shown.code == 1
    assert "empty.txt" in shown.err


def test_unknown_collection_is_named(gimle: Any) -> None:
    told = gimle("query", "anything", "-c", "no-such")
    assert told.code == 1
    assert "no-such" in told.err


def test_jobs_are_listed_and_shown(gimle: Any, warranty: Path) -> None:
    sent = gimle("upload", str(warranty), "-c", "jobs", "--json").json["items"][0]
    assert sent["job"] in {job["id"] for job in gimle("jobs", "--json").json["items"]}
    assert gimle("jobs", "show", sent["job"], "--json").json["status"] == "done"
    assert sent["job"] in gimle("jobs", "--status", "done").out
    assert gimle("jobs", "show", "job_nobody").code == 1


def test_a_key_works_until_it_is_revoked(gimle: Any, server: Up) -> None:
    key = gimle("key", "create", "for a test", "--json").json
    with Client(server.url, key["token"]) as client:
        assert list(client.collections()) is not None
        assert gimle("key", "revoke", key["id"]).code == 0
        listed = {each["id"]: each for each in gimle("key", "--json").json["items"]}
        assert listed[key["id"]]["revoked_at"]
        with pytest.raises(Refused) as refused:
            for _ in range(200):  # The edge learns of it by a notification, within a second.
                list(client.collections())
        assert refused.value.status == 401


def test_a_tenant_sees_nothing_of_another(gimle: Any, server: Up, warranty: Path) -> None:
    assert gimle("upload", str(warranty), "--json").code == 0
    tenant = gimle("tenant", "create", "acme", "--json").json
    assert tenant["id"] in gimle("tenant").out
    secret = gimle("key", "create", "first", "--tenant", tenant["id"]).out.strip()
    with Client(server.url, secret) as client:
        assert list(client.collections()) == []
        assert client.search("warranty")["passages"] == []


def test_models_lists_the_one_that_is_always_there(gimle: Any) -> None:
    models = {(model["provider"], model["name"]): model for model in gimle("models", "--json").json["items"]}
    assert models["builtin", "extract"]["unavailable"] is None
    assert "builtin/extract" in gimle("models").out


def test_chat_takes_lines_from_a_pipe(server: Up, gimle: Any, warranty: Path) -> None:
    assert gimle("upload", str(warranty), "-c", "chat", "--json").code == 0
    command = [
        sys.executable,
        "-m",
        "gimle",
        "chat",
        "-c",
        "chat",
        "--json",
        "--url",
        server.url,
        "--data",
        str(server.data),
    ]
    told = subprocess.run(
        command,
        input="How long does the warranty last?\n/quit\nnever read\n",
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(told.stdout)
    assert "30 months" in answer["text"]


def test_eval_measures_a_small_set(gimle: Any, tmp_path: Path, server: Up) -> None:
    texts = {
        "a/1": "The warranty lasts thirty months.",
        "b": "Bees gather nectar in spring.",
        "c": "The tram leaves at noon.",
    }
    asked = {
        "q1": ("how long is the warranty", "a/1"),
        "q2": ("what do bees gather", "b"),
        "q3": ("when leaves the tram", "c"),
    }
    (tmp_path / "qrels").mkdir()
    lines = [json.dumps({"_id": name, "title": "", "text": text}) for name, text in texts.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    (tmp_path / "queries.jsonl").write_text("\n".join(json.dumps({"_id": q, "text": a[0]}) for q, a in asked.items()))
    judged = [f"{query}\t{document}\t1" for query, (_, document) in asked.items()]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))

    report = gimle("eval", str(tmp_path), "--vs", "lexical", "--json").json
    assert report["failed_documents"] == 0
    assert report["scores"]["hybrid"]["p1"] == 1.0
    assert report["scores"]["lexical"]["ndcg10"] == 1.0
    assert report["difference"]["mean"] == 0.0
    with Client(server.url, server.key) as client:
        assert not [each for each in client.collections() if each["name"].startswith("eval-")]


def test_doctor_is_content_with_a_running_server(gimle: Any, server: Up, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["doctor", "--json", "--data", str(server.data)])
    findings = {each["check"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["database"]["state"] == "ok"
    assert findings["migrations"]["state"] == "ok"
    assert findings["pgvector"]["state"] == "ok"
    assert code == 0 or findings["server"]["state"] == "fail"  # Port 8080 may be anybody's on this machine.


def test_doctor_finds_an_exposed_key(server: Up, capsys: pytest.CaptureFixture[str]) -> None:
    file = server.data / "admin.key"
    file.chmod(0o644)
    try:
        assert run(["doctor", "--data", str(server.data)]) == 1
    finally:
        file.chmod(0o600)
    assert f"chmod 600 {file}" in capsys.readouterr().out


def test_a_second_up_on_the_same_data_directory_says_so(server: Up) -> None:
    command = [sys.executable, "-m", "gimle", "up", "--port", "0", "--no-setup", "--data", str(server.data)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "already runs on" in second.stderr
    assert str(server.process.pid) in second.stderr
    assert "Traceback" not in second.stderr


def test_kill_9_heals_and_ctrl_c_is_clean(data_dir: Path, warranty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with up(data_dir) as first:
        arguments = ["--url", first.url, "--data", str(data_dir)]
        assert run(["upload", str(warranty), "--json", *arguments]) == 0
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(10)
    assert first.process.returncode == -signal.SIGKILL
    with up(data_dir) as second:
        assert second.key == first.key
        capsys.readouterr()
        assert run(["query", "warranty", "--json", "--url", second.url, "--data", str(data_dir)]) == 0
        assert "30 months" in capsys.readouterr().out
        database = int((data_dir / "postgres" / "cluster" / "postmaster.pid").read_text().split("\n")[0])
    assert second.process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(database, 0)


def test_serve_and_worker_share_the_database_of_another(server: Up, gimle: Any, tmp_path: Path) -> None:
    url = postgres.running(server.data)
    assert url is not None
    for name in ("serve", "worker"):
        (tmp_path / name).mkdir()
    shared = ["--database-url", url]
    with (
        started(tmp_path / "worker", "worker", "--slots", "1", *shared) as (worker, ready),
        up(tmp_path / "serve", *shared, command="serve") as second,
    ):
        assert ready == {"slots": 1}
        assert second.key == "", "The database has an admin key already."
        with Client(second.url, server.key) as client:
            assert client.ready()
            listed = gimle("jobs", "--limit", "9999", "--json").json["items"]
            assert [each["id"] for each in client.jobs()] == [each["id"] for each in listed]
    assert second.process.returncode == 0
    assert worker.returncode == 0


def test_up_serves_by_words_when_the_models_can_not_be_had(
    data_dir: Path, warranty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GIMLE_ENGINES__WEIGHTS", "/proc/gimle/weights")
    with started(data_dir, "up", "--port", "0") as (_, ready):
        where = ["--url", ready["url"], "--data", str(data_dir), "--json"]
        assert run(["upload", str(warranty), *where]) == 0
        capsys.readouterr()
        assert run(["query", "how long is the warranty", *where]) == 0
        found = json.loads(capsys.readouterr().out)
    assert "30 months" in found["passages"][0]["text"]
    assert found["notice"]
    assert "gimle setup" in (data_dir / "up.log").read_text()


@pytest.mark.full
def test_the_demo_ends_well_and_leaves_nothing() -> None:
    before = set(Path(tempfile.gettempdir()).glob("gimle-demo-*"))
    done = subprocess.run(
        [sys.executable, "-m", "gimle", "demo"], capture_output=True, text=True, timeout=300, check=False,
        cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[1]") >= 2
    assert "gimle up" in done.stdout
    assert set(Path(tempfile.gettempdir()).glob("gimle-demo-*")) == before
