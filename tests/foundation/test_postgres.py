import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from gimle.foundation import postgres
from gimle.foundation.errors import Conflict
from gimle.foundation.postgres import Embedded

# A process of its own that starts the server, says where it is, and waits for its end.
_OWNER = """
import sys, time
from pathlib import Path
from gimle.foundation.postgres import Embedded
server = Embedded.start(Path(sys.argv[1]), durable=False)
print(server._process.pid, flush=True)
time.sleep(120)
"""


def _ask(url: str, sql: str) -> object:
    with psycopg.connect(url, autocommit=True) as conn:
        found = conn.execute(sql.encode()).fetchone()
    return None if found is None else found[0]


def _ended(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_it_starts_serves_stops_and_keeps_its_data(data_dir: Path) -> None:
    first = Embedded.start(data_dir, durable=False)
    with psycopg.connect(first.url, autocommit=True) as conn:
        conn.execute("create table kept (n int)")
        conn.execute("insert into kept values (7)")
        conn.execute("create extension vector")
    first.stop()
    assert postgres.running(data_dir) is None
    second = Embedded.start(data_dir, durable=False)
    try:
        assert _ask(second.url, "select n from kept") == 7
        assert postgres.running(data_dir) == second.url
    finally:
        second.stop()


def test_only_the_owner_gets_in(data_dir: Path) -> None:
    server = Embedded.start(data_dir, durable=False)
    try:
        home = data_dir / "postgres"
        for folder in (home, home / "cluster", home / "socket"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((data_dir / "postgres.password").stat().st_mode) == 0o600
        assert _ask(server.url, "show listen_addresses") == ""
        password = (data_dir / "postgres.password").read_text()
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            psycopg.connect(server.url.replace(password, "wrong"))
    finally:
        server.stop()


def test_the_modes_of_parent_folders_stay_as_they_are(data_dir: Path) -> None:
    before = stat.S_IMODE(data_dir.parent.stat().st_mode), stat.S_IMODE(Path.home().stat().st_mode)
    Embedded.start(data_dir, durable=False).stop()
    assert (stat.S_IMODE(data_dir.parent.stat().st_mode), stat.S_IMODE(Path.home().stat().st_mode)) == before


def test_a_second_owner_is_told(data_dir: Path) -> None:
    server = Embedded.start(data_dir, durable=False)
    try:
        with pytest.raises(Conflict, match=f"already runs on .* \\(process {os.getpid()}\\)"):
            Embedded.start(data_dir, durable=False)
    finally:
        server.stop()


def test_after_kill_9_of_the_owner_the_server_is_gone_and_the_directory_heals(data_dir: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", _OWNER, str(data_dir)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    server_pid = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert _ended(server_pid)
    again = Embedded.start(data_dir, durable=False)
    try:
        assert _ask(again.url, "select 1") == 1
    finally:
        again.stop()


def test_a_pid_file_that_names_a_stranger_is_cleared(data_dir: Path) -> None:
    Embedded.start(data_dir, durable=False).stop()
    stale = data_dir / "postgres" / "cluster" / "postmaster.pid"
    stale.write_text(f"{os.getppid()}\n{stale.parent}\n0\n5432\n{data_dir}/postgres/socket\n\n0 0\nready\n")
    assert postgres.running(data_dir) is None
    server = Embedded.start(data_dir, durable=False)
    try:
        assert _ask(server.url, "select 1") == 1
    finally:
        server.stop()


def test_a_long_path_gets_a_short_socket(data_dir: Path) -> None:
    deep = data_dir / ("x" * 80)
    data_dir.chmod(0o711)
    server = Embedded.start(deep, durable=False)
    try:
        assert _ask(server.url, "select 1") == 1
    finally:
        server.stop()
