"""Models in a folder as `gimle models pull` leaves them, and a host over it."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gimle.foundation import plugins
from gimle.foundation.config import EngineSettings, Settings
from gimle.gateway.local import gguf
from gimle.gateway.local.host import Host
from gimle.gateway.local.store import RECORD, Store
from gimle.gateway.local.types import Facts, Installed

QUICK = EngineSettings(threads=1, context=1024, slots=2, start_seconds=20, memory_mb=2000)


def settings(data: Path, engines: EngineSettings = QUICK) -> Settings:
    """Settings of a machine that has 2 GB for models."""
    return Settings(data=data, engines=engines)


def place(data: Path, name: str, made: Path, *, engine: str = "llamacpp", facts: Facts | None = None) -> Path:
    """Install a file as a model of this name; where it is then."""
    folder = data / "models" / f".{name}"
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_bytes(made.read_bytes())
    installed = Installed(
        name=name,
        file="model.gguf",
        size=made.stat().st_size,
        sha256=hashlib.sha256(made.read_bytes()).hexdigest(),
        source="test",
        revision="main",
        digest="none",
        licence=None,
        accepted_at=None,
        installed_at=datetime.now(UTC),
        facts=facts or gguf.read(made),
        engine=engine,
    )
    (folder / RECORD).write_bytes(msgspec.json.encode(installed))
    return folder.rename(data / "models" / name) / "model.gguf"


@asynccontextmanager
async def hosting(given: Settings) -> AsyncIterator[Host]:
    """A host with the packaged engines."""
    package = "gimle.gateway.engines"
    modules = {name: plugins.load(package, name) for name in plugins.names(package)}
    engines = {name: module.SERVING for name, module in modules.items() if "SERVING" in vars(module)}
    host = Host(given, engines, Store(given))
    try:
        yield host
    finally:
        await host.close()
