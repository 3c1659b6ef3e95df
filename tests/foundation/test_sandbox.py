"""The sandbox's parent survives anything, and says what happened. The child's function is `exec` or `eval`."""

import asyncio
import time
from pathlib import Path

import pytest

from gimle.foundation import sandbox
from gimle.foundation.sandbox import Limits, Outcome, Refusal

LIMITS = Limits(seconds=20, memory_mb=1024, output_mb=1)


async def run(source: str, limits: Limits = LIMITS, function: str = "builtins:exec") -> Outcome:
    return await sandbox.run(function, source.encode(), {}, limits)


async def test_a_result_comes_back_and_prints_do_not_mix_in() -> None:
    outcome = await run("[print('noise'), {'answer': 42, 'bytes': b'x'}][1]", function="builtins:eval")
    assert outcome == Outcome("done", value={"answer": 42, "bytes": b"x"})


async def test_arguments_reach_the_function() -> None:
    assert (await sandbox.run("builtins:int", b"2a", {"base": 16}, LIMITS)).value == 42
    assert (await sandbox.run("codecs:decode", b"f\xc3\xbcr", {"encoding": "utf-8"}, LIMITS)).value == "für"


async def test_a_refusal_keeps_its_code_message_and_hint() -> None:
    source = "from gimle.foundation.errors import UnreadableDocument as U\nraise U('Locked.', hint='Unlock it.')"
    outcome = await run(source)
    assert outcome == Outcome("refused", refusal=Refusal("unreadable_document", "Locked.", "Unlock it."))


@pytest.mark.parametrize(
    "source, ending, detail",
    [
        ("raise ValueError('broken inside')", "crash", "broken inside"),
        ("import os; os.kill(os.getpid(), 11)", "crash", "status -11"),
        ("import os; os._exit(3)", "crash", "status 3"),
        ("bytearray(8 << 30)", "memory", ""),
        ("import resource, ctypes; ctypes.CDLL(None).abort()", "crash", "status -6"),
        ("import tempfile; tempfile.TemporaryFile().write(bytes(3 << 20))", "crash", ""),
    ],
)
async def test_each_bad_end_has_its_name(source: str, ending: str, detail: str) -> None:
    outcome = await run(source)
    assert outcome.ending == ending
    assert detail in outcome.detail


async def test_too_much_output_is_cut_off() -> None:
    outcome = await run("b'x' * (3 << 20)", function="builtins:eval")
    assert outcome.ending == "output"


async def test_who_uses_up_his_processor_time_is_told_so() -> None:
    """Which may come before the time is up: two threads use twice as much of it."""
    outcome = await run("__import__('resource').getrlimit(0)", function="builtins:eval", limits=Limits(seconds=3))
    assert outcome.value == [3, 4]
    outcome = await run("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)")
    assert (outcome.ending, outcome.detail) == ("time", "processor time used up")


async def test_a_loop_is_stopped() -> None:
    began = time.monotonic()
    outcome = await run("while True: pass", limits=Limits(seconds=1))
    assert outcome.ending == "time"
    assert time.monotonic() - began < 10


async def test_no_secret_of_ours_is_in_the_childs_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIMLE_PROBE_KEY", "secret")
    outcome = await run("dict(__import__('os').environ)", function="builtins:eval")
    assert "GIMLE_PROBE_KEY" not in outcome.value
    assert "PATH" in outcome.value


NAP = """
import os, subprocess, sys, time
nap = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
open({file!r}, 'w').write(f'{{os.getpid()}} {{nap.pid}}.')
time.sleep(600)
"""


async def test_a_caller_that_leaves_takes_the_child_and_its_children_along(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(run(NAP.format(file=str(file)), limits=Limits(seconds=600)))
        while not (file.is_file() and file.read_text().endswith(".")):
            await asyncio.sleep(0.02)
        running.cancel()
    pids = [int(pid) for pid in file.read_text().rstrip(".").split()]
    async with asyncio.timeout(10):
        while any(_runs(pid) for pid in pids):
            await asyncio.sleep(0.02)


def _runs(pid: int) -> bool:
    """Whether a process still runs; one that has died and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
