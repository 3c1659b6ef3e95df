"""Where the weights lie, and what an install that fails leaves behind: nothing. No test downloads anything."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gimle.foundation.config import EngineSettings, Settings
from gimle.foundation.errors import ConfigError, Unavailable
from gimle.gateway import minilm, weights


def test_the_named_folder_wins(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, engines=EngineSettings(weights=str(tmp_path / "here")))
    assert weights.default_folder(settings) == tmp_path / "here"


def test_missing_weights_are_none(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, engines=EngineSettings(weights=str(tmp_path / "here")))
    assert weights.locate(settings) is None
    assert weights.tiktoken_folder(settings) is None


def test_a_failed_download_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(Unavailable) as caught:
        weights.install(tmp_path / "weights")
    assert "downloading token tables failed" in caught.value.message.lower()
    assert "gimle setup" in str(caught.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == [".weights.lock"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model hub on this machine; the folder of its files. No package index is to be had."""
    folder = tmp_path / "hub" / weights.HUB_MODEL / "resolve" / weights.HUB_REVISION
    folder.mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path / "hub"))
    threading.Thread(target=server.serve_forever).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    yield folder
    server.shutdown()
    server.server_close()


def test_without_the_wheel_the_files_come_from_the_hub(tmp_path: Path, hub: Path) -> None:
    for name in weights.SOURCES:
        (hub / name).write_bytes(name.encode() * 500_000)
    told: list[tuple[int, int, str]] = []
    folder = weights._original(tmp_path, lambda done, total, phase: told.append((done, total, phase)))
    for name in weights.SOURCES:
        assert (folder / name).read_bytes() == name.encode() * 500_000
    done, total, phase = told[-1]
    assert done == total == len("config.json") * 500_000
    assert phase == "downloading config.json"


def test_without_the_wheel_and_the_hub_both_reasons_are_told(tmp_path: Path, hub: Path) -> None:
    (hub / "model.safetensors").write_bytes(b"the others are missing")
    with pytest.raises(Unavailable, match=r"ownloading weights failed.*404"):
        weights._original(tmp_path, lambda *told: None)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ConfigError) as caught:
        weights.install(tmp_path / "file" / "weights")
    assert caught.value.field == "engines.weights"


def test_a_file_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("other", "utf-8")
    with pytest.raises(ConfigError, match="not the pinned file"):
        weights._check(tmp_path / "vocab.txt", weights.SOURCES["vocab.txt"])


def test_an_installed_folder_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "weights"
    (target / "tiktoken").mkdir(parents=True)
    for name in (minilm.MODEL_FILE, minilm.VOCAB_FILE, *(f"tiktoken/{rank}" for rank, _ in weights.RANKS.values())):
        (target / name).write_text("kept", "utf-8")
    phases: list[str] = []
    assert weights.install(target, lambda done, total, phase: phases.append(phase)) == target
    assert phases == ["ready"]
    assert (target / minilm.MODEL_FILE).read_text("utf-8") == "kept"


def test_the_locks_pin_by_hash_and_name_no_host() -> None:
    for lock in ("setup.lock", "tokens.lock", "weights.lock"):
        text = (weights.PACKAGE / lock).read_text("utf-8")
        packages = [line for line in text.splitlines() if "==" in line]
        assert packages
        assert text.count("--hash=sha256:") >= len(packages)
        assert "http" not in text


def test_the_converter_fails_loudly(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "gimle.gateway.minilm_convert",
        str(tmp_path),
        str(tmp_path),
        str(tmp_path / "x.onnx"),
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode != 0
    assert not (tmp_path / "x.onnx").exists()
