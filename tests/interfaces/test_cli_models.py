"""`gimle models`: fetched from a hub on this machine, shown, chosen, removed; no server runs."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from tests.gateway.local import tiny
from tests.gateway.local.fakehub import FakeHub, Trouble, standing
from tests.gateway.local.installed import place
from tests.gateway.local.test_pull import CLOSED, SHA, TINY, known
from tests.interfaces.served import Told

from gimle.foundation import machine
from gimle.foundation.machine import Memory
from gimle.gateway.local import manifest
from gimle.interfaces.cli.main import run

Gimle = Callable[..., Told]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A hub in a thread of its own: a command has its own loop."""
    begun, ended = threading.Event(), threading.Event()
    stands: list[FakeHub] = []

    async def stand() -> None:
        async with standing() as hub:
            hub.files["org/tiny-gguf"] = {"Tiny-Q4_0.gguf": TINY}
            stands.append(hub)
            begun.set()
            while not ended.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(stand()))
    thread.start()
    begun.wait()
    yield stands[0]
    ended.set()
    thread.join()


@pytest.fixture
def gimle(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Gimle]:
    monkeypatch.setenv("GIMLE_ENGINES__HUB", hub.url)
    monkeypatch.setenv("GIMLE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Told:
        code = run(["models", *arguments])
        said = capsys.readouterr()
        return Told(code, said.out, said.err)

    yield call
    # A command sets the process's logging up, here for streams that end with the test.
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()


def test_a_model_is_pulled_shown_and_removed(gimle: Gimle) -> None:
    pulled = gimle("pull", "hf:org/tiny-gguf/Tiny-Q4_0.gguf", "--name", "tiny")
    assert pulled.code == 0
    assert "local/tiny is ready" in pulled.out
    assert SHA[:12] in pulled.out
    assert "apache-2.0" in pulled.err
    shown = gimle("show", "tiny", "--json").json
    assert (shown["installed"], shown["sha256"]) == (True, SHA)
    assert "tiny" in gimle("show").out
    removed = gimle("remove", "tiny", "--json").json
    assert removed == {"name": "tiny", "removed": True, "freed": len(TINY)}
    assert gimle("remove", "tiny").code == 1


def test_pull_gives_programs_one_document(gimle: Gimle) -> None:
    said = gimle("pull", "hf:org/tiny-gguf/Tiny-Q4_0.gguf", "--json")
    assert said.json["digest"] == "hub"
    assert said.json["facts"]["architecture"] == "llama"


def test_terms_are_shown_and_must_be_agreed_to(gimle: Gimle, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, licence=CLOSED)
    refused = gimle("pull", "tiny")
    assert refused.code == 1
    assert "https://example.com/terms" in refused.err
    assert "--accept-licence" in refused.err
    assert gimle("pull", "tiny", "--accept-licence").code == 0
    assert gimle("show", "tiny", "--json").json["accepted_at"]


def test_a_corrupt_download_is_an_error(gimle: Gimle, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    hub.plan.append(Trouble(flip=True))
    said = gimle("pull", "tiny", "--json")
    assert said.code == 1
    assert json.loads(said.err.splitlines()[-1])["error"]["code"] == "corrupt_download"


def test_a_file_for_which_nobody_vouches_is_named_so(gimle: Gimle, hub: FakeHub) -> None:
    address = f"{hub.url}/org/tiny-gguf/resolve/main/Tiny-Q4_0.gguf"
    assert "Nobody vouches" in gimle("pull", address).err
    assert "Nobody" not in gimle("pull", address, "--name", "checked", "--sha256", SHA).err
    assert gimle("pull", address, "--name", "other", "--sha256", "0" * 64).code == 1


def test_auto_takes_what_fits(gimle: Gimle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: Memory(16 << 30, 5 << 30))
    monkeypatch.setattr(machine, "cores", lambda: 8.0)
    said = gimle("auto", "--dry-run")
    assert "5.4 GB of memory are free, for 8 processors: bonsai-8b, 1.16 GB to fetch." in said.err
    assert gimle("auto", "--dry-run", "--json").json["model"] == "bonsai-8b"
    monkeypatch.setattr(machine, "memory", lambda: Memory(1 << 29, 1 << 28))
    assert "builtin/extract" in gimle("auto").err
    monkeypatch.setattr(machine, "memory", lambda: Memory(16 << 30, 5 << 30))
    known(monkeypatch)
    assert "local/tiny is ready" in gimle("auto").out


def test_what_can_be_fetched_is_listed_with_its_faults(gimle: Gimle) -> None:
    said = gimle("show")
    assert "llama-3-8b-instruct" in said.out
    assert "not offered" in said.out
    assert gimle("show", "--json").json["known"][0]["name"] == manifest.DEFAULT
    assert "Built with Meta Llama 3" in gimle("show", "llama-3-8b-instruct").out
    assert gimle("show", "bitnet-2b-4t").out.startswith("bitnet-2b-4t: not offered\n")
    assert gimle("show", "nothing").code == 1


def test_a_model_answers_in_the_terminal(gimle: Gimle, hub: FakeHub, tmp_path: Path) -> None:
    hub.files["org/tiny-gguf"]["Tiny-Q4_0.gguf"] = tiny.scripted(tmp_path / "scripted.gguf").read_bytes()
    assert gimle("pull", "hf:org/tiny-gguf/Tiny-Q4_0.gguf", "--name", "tiny").code == 0
    assert gimle("run", "tiny", "Hello?").out.strip() == tiny.SAYS
    assert gimle("run", "tiny", "Hello?", "--json").json == {"question": "Hello?", "text": tiny.SAYS}
    assert gimle("run", "other").code == 1


def test_ctrl_c_at_the_prompt_ends_it_at_once(tmp_path: Path) -> None:
    place(tmp_path, "tiny", tiny.scripted(tmp_path / "tiny.gguf"))
    keys, terminal = os.openpty()
    command = [sys.executable, "-m", "gimle", "models", "run", "tiny", "--data", str(tmp_path)]
    talking = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE)
    try:
        assert talking.stderr is not None
        told = b""
        while not told.endswith(b"> "):
            assert (letter := talking.stderr.read(1)), told
            told += letter
        talking.send_signal(signal.SIGINT)
        _, rest = talking.communicate(timeout=10)
    finally:
        talking.kill()
        os.close(keys)
        os.close(terminal)
    assert (talking.returncode, rest) == (130, b"Stopped.\n")
