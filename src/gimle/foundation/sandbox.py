"""Run one function on bytes that nobody vouches for, in a child process that can harm only itself.

The child has limits on memory, processor time, wall time, open files and output, writes no core, dies with its parent
and is killed with all that it started. Whatever it does, the parent gets an `Outcome`.
"""

import asyncio
import importlib
import os
import resource
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from typing import Any, Literal

import msgspec

from gimle.foundation.children import bind
from gimle.foundation.config import child_environment
from gimle.foundation.errors import GimleError

Ending = Literal["done", "refused", "time", "memory", "output", "crash"]

_KEPT_OF_STDERR = 4096
# Exit statuses by which the child tells what it met, beside 0.
_OUT_OF_MEMORY = 17
_REFUSED = 18


class Limits(msgspec.Struct, frozen=True):
    """What a child may use. `seconds` is wall time, and processor time too; `memory_mb` is address space."""

    seconds: float = 120.0
    memory_mb: int = 2048
    output_mb: int = 256


class Refusal(msgspec.Struct, frozen=True):
    """A `GimleError` that the function raised on purpose: its code, message and hint."""

    code: str
    message: str
    hint: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """How a child ended: `value` is the function's result when "done", `refusal` what it raised when "refused".

    "time", "memory" and "output" name the limit which it hit, "crash" is any other end; `detail` is a line for the log.
    """

    ending: Ending
    value: Any = None
    refusal: Refusal | None = None
    detail: str = ""


class _Task(msgspec.Struct, frozen=True):
    function: str
    data: bytes
    arguments: dict[str, Any]
    limits: Limits
    parent: int


async def run(function: str, data: bytes, arguments: dict[str, Any], limits: Limits) -> Outcome:
    """Call `function` ("package.module:name") as `name(data, **arguments)` in a child.

    The result must be encodable as MessagePack. Never raises for what the child does; when the caller is cancelled, the
    child is killed first.
    """
    task = msgspec.msgpack.encode(_Task(function, data, arguments, limits, os.getpid()))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", f"from {__name__} import child; child()",
        stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True, env=child_environment(),
    )  # fmt: skip
    try:
        async with asyncio.timeout(limits.seconds):
            output, errors = await _talk(child, task, limits.output_mb << 20)
    except TimeoutError:
        return Outcome("time", detail=f"killed after {limits.seconds:g} s")
    finally:
        await _end(child)
    return _outcome(child.returncode or 0, output, errors, limits.output_mb << 20)


async def _talk(child: Process, task: bytes, most: int) -> tuple[bytes, bytes]:
    async with asyncio.TaskGroup() as group:
        group.create_task(_feed(child, task))
        output = group.create_task(_results(child, most))
        errors = group.create_task(_tail(child))
    await child.wait()
    return output.result(), errors.result()


async def _feed(child: Process, task: bytes) -> None:
    assert child.stdin is not None
    # A child that dies before it has read everything breaks the pipe; its exit status tells why.
    with suppress(BrokenPipeError, ConnectionResetError):
        child.stdin.write(task)
        await child.stdin.drain()
    child.stdin.close()


async def _results(child: Process, most: int) -> bytes:
    """All that comes back, or one byte more than `most`: then the child is killed, and the rest is read and dropped."""
    assert child.stdout is not None
    kept = bytearray()
    while block := await child.stdout.read(1 << 16):
        if len(kept) > most:
            continue
        kept += block
        if len(kept) > most:
            _kill(child)
    return bytes(kept)


async def _tail(child: Process) -> bytes:
    assert child.stderr is not None
    kept = bytearray()
    while block := await child.stderr.read(1 << 16):
        kept += block
        del kept[:-_KEPT_OF_STDERR]
    return bytes(kept)


def _kill(child: Process) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


async def _end(child: Process) -> None:
    """Kill what is left of the child's process group, also what it started itself, and take in its status."""
    _kill(child)
    # The public API waits until every pipe has ended; a pipe that nobody reads any more, or that a grandchild holds
    # open, would let it wait for ever.
    child._transport.close()  # type: ignore[attr-defined] # It is private, and there is no other way.
    await child.wait()


def _outcome(status: int, output: bytes, errors: bytes, most: int) -> Outcome:
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    detail = lines[-1] if lines else f"exit status {status}"
    if len(output) > most:
        return Outcome("output", detail=f"more than {most >> 20} MB came back")
    if status == 0:
        return Outcome("done", value=msgspec.msgpack.decode(output))
    if status == _REFUSED:
        return Outcome("refused", refusal=msgspec.msgpack.decode(output, type=Refusal))
    if status == -signal.SIGXCPU:
        return Outcome("time", detail="processor time used up")
    # A native library that can't allocate aborts the process, and says so on its way.
    if status == _OUT_OF_MEMORY or (status == -signal.SIGABRT and b"memory allocation" in errors):
        return Outcome("memory", detail=detail)
    return Outcome("crash", detail=detail)


def child() -> None:
    """The child's whole life: limit itself, read the task, call the function, write the result, leave."""
    results = os.dup(1)
    os.dup2(2, 1)  # What the function prints must not get into the result.
    task = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Task)
    _limit(task.parent, task.limits)
    try:
        module, _, name = task.function.partition(":")
        value = vars(importlib.import_module(module))[name](task.data, **task.arguments)
        status, result = 0, msgspec.msgpack.encode(value)
    except GimleError as refused:
        status, result = _REFUSED, msgspec.msgpack.encode(Refusal(refused.code, refused.message, refused.hint))
    except MemoryError:
        status, result = _OUT_OF_MEMORY, b""
    with os.fdopen(results, "wb") as pipe:
        pipe.write(result)
    # Threads of a native library may still run; nobody waits for them.
    os._exit(status)


def _limit(parent: int, limits: Limits) -> None:
    bind(parent, signal.SIGKILL)
    seconds = max(1, int(limits.seconds))
    _lower(resource.RLIMIT_CORE, 0)
    # At the first of the two the child is told why it ends; with one for both it would be killed without a word.
    _lower(resource.RLIMIT_CPU, seconds, seconds + 1)
    _lower(resource.RLIMIT_AS, limits.memory_mb << 20)
    _lower(resource.RLIMIT_FSIZE, limits.output_mb << 20)
    _lower(resource.RLIMIT_NOFILE, 256)


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    _, highest = resource.getrlimit(kind)
    hard = soft if hard is None else hard
    if highest != resource.RLIM_INFINITY:
        soft, hard = min(soft, highest), min(hard, highest)
    resource.setrlimit(kind, (soft, hard))
