"""`gimle demo`: a newcomer's first minute. A Gimle of its own reads the example documents and answers three questions.

It goes through the same commands and the same HTTP interface as everybody else, in a data directory that is gone
afterwards; whatever happens, it stops what it started.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import IO, Any

import click
import msgspec

from gimle.client import Client
from gimle.foundation.children import bound
from gimle.foundation.config import Settings
from gimle.foundation.errors import ConfigError, GimleError, Unavailable
from gimle.interfaces.cli import options
from gimle.interfaces.cli.output import Json, bars, note, out, print_answer, print_json, say
from gimle.interfaces.cli.upload import follow, found, send

_START_SECONDS = 180
_STOP_SECONDS = 60
_LAST_LINES = 20


class Question(msgspec.Struct, frozen=True):
    """A line of questions.jsonl, as far as the demo needs it."""

    question: str
    language: str
    answerable: bool
    demo: bool = False


@click.command()
@click.option(
    "--examples",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("examples"),
    show_default=True,
    help="The folder with corpus/ and questions.jsonl.",
)
@options.as_json
@options.with_settings
def demo_command(settings: Settings, examples: Path, as_json: bool) -> None:
    """Show what Gimle does, with the example documents: it starts, reads, answers three questions, and stops.

    Nothing stays behind but the models that `gimle setup` fetches. Takes half a minute once they are there.

    \b
    Examples:
      gimle demo
      gimle demo --json | jq '.answers[].text'
    """
    questions = _questions(examples)
    begun = time.monotonic()
    with _interruptible(), _folder() as folder, _server(folder, settings) as (url, key), Client(url, key) as client:
        if not as_json:
            say(f"Gimle runs at {url}, with a data directory of its own in {folder}.")
        read = _upload(client, examples / "corpus")
        if not as_json:
            say(f"It has read {read} documents from {examples / 'corpus'}.")
        answers = [_ask(client, url, key, question, position) for position, question in enumerate(questions)]
        if as_json:
            print_json({"documents": read, "answers": answers})
        else:
            for answer in answers:
                _show(answer)
    if not as_json:
        _farewell(time.monotonic() - begun)


def _questions(examples: Path) -> list[Question]:
    file = examples / "questions.jsonl"
    if not file.is_file() or not (examples / "corpus").is_dir():
        raise ConfigError(
            f"The example documents are not in {examples.absolute()}.",
            field="examples",
            hint="Run this in a clone of the repository (`make demo`), or name the folder by --examples.",
        )
    lines = file.read_text("utf-8").splitlines()
    return [question for line in lines if line.strip() and (question := msgspec.json.decode(line, type=Question)).demo]


@contextmanager
def _interruptible() -> Iterator[None]:
    """A polite kill ends the demo as Ctrl-C does: with everything put away."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _folder() -> Iterator[Path]:
    # Not TemporaryDirectory: files of the database's own user go away with ours, and a late one is no reason to fail.
    folder = Path(tempfile.mkdtemp(prefix="gimle-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _server(folder: Path, settings: Settings) -> Iterator[tuple[str, str]]:
    """A `gimle up` in a process of its own, on a free port: its URL and its first key."""
    command = [sys.executable, "-m", "gimle", "up", "--json", "--port", "0", "--data", str(folder)]
    if settings.database.url is not None:
        command += ["--database-url", settings.database.url]
    log = (folder / "server.log").open("w+")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, start_new_session=True, text=True, preexec_fn=bound(signal.SIGTERM)
    )
    # `up` prints one document when it is ready; a start that hangs is ended, which ends the reading below too.
    watchdog = Timer(_START_SECONDS, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        ready = _document(iter(process.stdout.readline, ""), log)
        watchdog.cancel()
        yield ready["url"], Path(ready["key_file"]).read_text().strip()
    finally:
        watchdog.cancel()
        _end(process)
        log.close()


def _document(lines: Iterator[str], log: IO[str]) -> Json:
    """The JSON document at the head of a stream, read up to the line that closes it."""
    text = ""
    for line in lines:
        text += line
        if line.rstrip() == "}":
            document: Json = json.loads(text)
            return document
    log.seek(0)
    for line in deque(log, _LAST_LINES):
        note(line.rstrip())
    raise Unavailable("The demo's Gimle did not start.", hint="The lines above say why; `gimle doctor` explains more.")


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _upload(client: Client, corpus: Path) -> int:
    with bars() as progress:
        items = follow(client, send(client, dict(found([corpus])), "default", progress), progress)
    if failed := [item for item in items if item["error"]]:
        raise GimleError(f"{failed[0]['name']} could not be read: {failed[0]['error']}")
    return len(items)


def _ask(client: Client, url: str, key: str, question: Question, position: int) -> Json:
    """The first question goes through the official openai SDK where that is installed, the others through our API."""
    answer = _through_sdk(url, key, question.question) if position == 0 else None
    door = "POST /v1/chat/completions, with the openai SDK" if answer else "POST /api/v1/knowledge/ask"
    return {"question": question.question, "door": door, **(answer or client.ask(question.question))}


def _through_sdk(url: str, key: str, question: str) -> Json | None:
    try:
        import openai
    except ImportError:
        note("The openai SDK is not installed, so this question takes the other door.")
        return None
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as sdk:
        completion = sdk.chat.completions.create(
            model="auto",
            messages=[{"role": "user", "content": question}],
            extra_body={"gimle": {"collection": "default"}},
        )
    message: dict[str, Any] = completion.choices[0].message.model_dump()
    return {"text": message["content"], **message["gimle"]}


def _show(answer: Json) -> None:
    out.rule(style="dim")
    say(answer["question"], "bold")
    say(answer["door"], "dim")
    out.print()
    print_answer(answer)
    out.print()


def _farewell(seconds: float) -> None:
    out.rule(style="dim")
    say(f"That took {seconds:.0f} s, and everything that was started is stopped.", "green")
    say("Now with your own documents:")
    say("  .venv/bin/gimle up                        in one terminal: leave it running")
    say("  .venv/bin/gimle upload PATH…              in another")
    say('  .venv/bin/gimle ask "…"                   or `gimle chat -c default`')
    say("Read on in docs/tutorial/first-answer.md.")
