"""What is measured: each is started on a port of its own, answers one request, and is stopped at the end."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import msgspec

from gimle.foundation.postgres import Embedded

_HERE = Path(__file__).parent
_TICK = os.sysconf("SC_CLK_TCK")
_MODEL = "gpt-4o-mini"
_UP_SECONDS = 90
# On one core there is nothing to keep apart.
_APART = shutil.which("taskset") is not None and (os.cpu_count() or 1) > 1
GATEWAY_CORE = ["taskset", "-c", "0"] if _APART else []
LOAD_CORE = ["taskset", "-c", "1"] if _APART else []


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where requests go. `pid` is the process whose tree is counted, 0 for none."""

    name: str
    port: int
    model: str = _MODEL
    key: str = "sk-bench"
    pid: int = 0
    # A shorter window would end before the slowest has answered at all.
    least_seconds: float = 0.0

    def cpu(self) -> float:
        """Seconds of CPU that its processes have used."""
        return sum(sum(map(int, _stat(pid)[11:13])) for pid in _tree(self.pid)) / _TICK if self.pid else 0.0

    def peak(self) -> float:
        """The most memory that its processes held, in MB."""
        return _memory(self, "VmHWM:")


def resident(target: Target) -> float:
    """The memory that its processes hold, in MB."""
    return _memory(target, "VmRSS:")


def direct(upstream: int) -> Target:
    """The provider itself."""
    return Target(name="direct", port=upstream)


@contextmanager
def provider() -> Iterator[int]:
    """The port of a provider."""
    port = _free_port()
    with _running([*LOAD_CORE, sys.executable, str(_HERE / "mock.py"), str(port)]):
        _answers(Target(name="provider", port=port))
        yield port


@contextmanager
def floor(upstream: int) -> Iterator[Target]:
    """The least that a Python gateway can do."""
    port = _free_port()
    with _running([*GATEWAY_CORE, sys.executable, str(_HERE / "floor.py"), str(port), str(upstream)]) as pid:
        yield _answers(Target(name="floor", port=port, pid=pid))


@contextmanager
def nginx(upstream: int) -> Iterator[Target]:
    """A plain proxy with kept connections. Raises `FileNotFoundError` where it is not installed."""
    if shutil.which("nginx") is None:
        raise FileNotFoundError("nginx is not installed")
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        places = "".join(f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        Path(folder, "nginx.conf").write_text(f"""
            worker_processes 1; daemon off; pid {folder}/pid; error_log stderr error; user root;
            events {{ worker_connections 4096; }}
            http {{
              access_log off; keepalive_requests 100000000; {places}
              upstream up {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 100000000; }}
              server {{ listen 127.0.0.1:{port} backlog=2048; location / {{
                proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
              }} }}
            }}""")
        with _running([*GATEWAY_CORE, "nginx", "-c", f"{folder}/nginx.conf"]) as pid:
            yield _answers(Target(name="nginx", port=port, pid=pid))


@contextmanager
def gimle(upstream: int, workers: int = 1) -> Iterator[Target]:
    """Gimle as it is served, with a database of its own that is not counted."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        # PostgreSQL runs under an account of its own, which must reach its files.
        data.chmod(0o755)
        (data / "gimle.toml").write_text(
            f'[providers.mock]\nbase_url = "http://127.0.0.1:{upstream}/v1"\nlocal = true\n'
            f'[[providers.mock.models]]\nname = "{_MODEL}"\n'
        )
        database = Embedded.start(data)
        try:
            common = ["--database-url", database.url, "--data", folder, "--config", str(data / "gimle.toml")]
            command = [sys.executable, "-m", "gimle"]
            subprocess.run([*command, "migrate", *common], check=True, stdout=subprocess.DEVNULL)
            serve = [*command, "serve", "--port", str(port), "--workers", str(workers), *common]
            with _running(serve if workers > 1 else [*GATEWAY_CORE, *serve], log=data / "log") as pid:
                target = Target(name="gimle", port=port, model=f"mock/{_MODEL}", pid=pid)
                key = _appears(data / "admin.key")
                yield _answers(msgspec.structs.replace(target, key=key))
        finally:
            database.stop()


@contextmanager
def litellm(upstream: int, venv: Path) -> Iterator[Target]:
    """LiteLLM's proxy, one worker, without a database. Installs it when the environment is not there yet."""
    program = venv / "bin" / "litellm"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", "litellm[proxy]"], check=True)
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        served = {"model": f"openai/{_MODEL}", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "sk-up"}
        models = [{"model_name": _MODEL, "litellm_params": served}]
        # JSON is YAML too.
        config = json.dumps({"model_list": models, "general_settings": {"master_key": "sk-bench"}})
        Path(folder, "config.yaml").write_text(config)
        serve = [str(program), "--config", f"{folder}/config.yaml", "--host", "127.0.0.1", "--port", str(port)]
        with _running([*GATEWAY_CORE, *serve], log=Path(folder, "log"), settings=["LITELLM_MODE=PRODUCTION"]) as pid:
            yield _answers(Target(name="litellm", port=port, pid=pid, least_seconds=5.0))


# -- processes


@contextmanager
def _running(command: Sequence[str], *, log: Path | None = None, settings: Sequence[str] = ()) -> Iterator[int]:
    with (log or Path(os.devnull)).open("ab") as output:
        command = [*(["env", *settings] if settings else []), *command]
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _answers(target: Target) -> Target:
    """The target, once it answers. Raises `RuntimeError` when it does not within its time."""
    body = json.dumps({"model": target.model, "messages": [{"role": "user", "content": "Are you there?"}]})
    headers = {"authorization": f"Bearer {target.key}", "content-type": "application/json"}
    until, said = time.monotonic() + _UP_SECONDS, "nothing"
    while time.monotonic() < until:
        connection = HTTPConnection("127.0.0.1", target.port, timeout=5)
        try:
            connection.request("POST", "/v1/chat/completions", body, headers)
            answer = connection.getresponse()
            said = f"{answer.status} {answer.read(300)!r}"
            if answer.status == 200:
                return target
        except (OSError, HTTPException) as wrong:
            said = str(wrong)
        finally:
            connection.close()
        time.sleep(0.1)
    raise RuntimeError(f"{target.name} does not answer: {said}")


def _appears(file: Path) -> str:
    until = time.monotonic() + _UP_SECONDS
    while not file.exists() or not file.read_text().strip():
        if time.monotonic() > until:
            raise RuntimeError(f"{file.name} was not written")
        time.sleep(0.05)
    return file.read_text().strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _stat(pid: int) -> list[str]:
    """The fields behind the name in /proc/<pid>/stat; zeros for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["0"] * 20


def _tree(pid: int) -> list[int]:
    """A process and all that it has begun."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parents.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def _memory(target: Target, field: str) -> float:
    size = 0
    for pid in _tree(target.pid):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        size += sum(int(line.split()[1]) for line in lines if line.startswith(field))
    return size / 1024
