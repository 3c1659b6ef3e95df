"""The documentation is code: links lead somewhere, commands and flags exist, Python and TOML blocks are valid.

A `gimle` or `make` line in a `bash` block is checked against the real command line and the real Makefile. A Python
block is compiled, and its imports from `gimle` and the SDKs are made. The generated pages of `docs/reference` are
compared with what would be written now.
"""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import pytest

from gimle.foundation.config import Settings
from gimle.interfaces.cli.main import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
KNOWN_LANGUAGES = {"bash", "python", "javascript", "toml", "yaml", "json", "text", "sql", "http", "mermaid"}


class Block(NamedTuple):
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield Block(page, text[: match.start()].count("\n") + 1, match[1], match[2])


BLOCKS = list(_blocks())


def _of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def _prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """The anchors that a forge makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert not broken


def test_each_block_says_its_language() -> None:
    unknown = [f"{block.place} {block.language!r}" for block in BLOCKS if block.language not in KNOWN_LANGUAGES]
    assert not unknown, f"Use one of {sorted(KNOWN_LANGUAGES)}:\n" + "\n".join(unknown)


def _calls(text: str, program: str) -> Iterator[list[str]]:
    """The words behind each call of a program in a shell block; pipes, redirections and assignments left out."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        for part in re.split(r"&&|\|\||[|;]", line):
            words = shlex.split(part.lstrip("$ "), comments=True)
            while words and re.match(r"\w+=", words[0]):
                words.pop(0)
            if words and words[0].rsplit("/", 1)[-1] == program:
                stop = next((n for n, word in enumerate(words) if word in (">", ">>", "<", "2>", "&")), len(words))
                yield words[1:stop]


def _command(words: list[str]) -> tuple[click.Command, list[str]]:
    """Walk down the groups; return the command and the words that are left for it."""
    command: click.Command = cli
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        if found is None:
            break
        command, rest = found, rest[1:]
    return command, rest


@pytest.mark.parametrize("block", _of("bash"), ids=lambda block: block.place)
def test_each_gimle_command_and_flag_exists(block: Block) -> None:
    for words in _calls(block.text, "gimle"):
        command, rest = _command(words)
        given = [word.split("=")[0] for word in rest if word.startswith("-") and word != "-"]
        if isinstance(command, click.Group) and not set(given) & {"--help", "-h", "--version"}:
            assert command.invoke_without_command or "list" in command.list_commands(click.Context(command)), (
                f"{block.place}: there is no command `gimle {' '.join(words)}`"
            )
        known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
        if isinstance(command, click.Group):
            listing = command.get_command(click.Context(command), "list")
            known |= {flag for option in (listing.params if listing else []) for flag in option.opts}
        strange = [flag for flag in given if flag not in known | {"--help", "-h"}]
        assert not strange, f"{block.place}: `gimle {' '.join(words)}` has no {strange}"


@pytest.mark.parametrize("block", _of("bash"), ids=lambda block: block.place)
def test_each_make_target_exists(block: Block) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for words in _calls(block.text, "make"):
        asked = [word for word in words if "=" not in word and not word.startswith("-")]
        assert set(asked) <= targets, f"{block.place}: no such target in {words}"


@pytest.mark.parametrize("block", _of("bash"), ids=lambda block: block.place)
def test_each_shell_block_is_valid_shell(block: Block) -> None:
    bash = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert bash.returncode == 0, f"{block.place}: {bash.stderr}"


@pytest.mark.parametrize("block", _of("python"), ids=lambda block: block.place)
def test_each_python_block_compiles_and_finds_its_imports(block: Block) -> None:
    tree = ast.parse(block.text, block.place)
    compile(block.text, block.place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] in ("gimle", "openai", "anthropic", "langchain_openai")
        ):
            module = importlib.import_module(node.module)
            absent = [alias.name for alias in node.names if alias.name not in dir(module)]
            assert not absent, f"{block.place}: {node.module} has no {absent}"


@pytest.mark.parametrize("block", _of("toml"), ids=lambda block: block.place)
def test_each_toml_block_is_valid(block: Block) -> None:
    tree = tomllib.loads(block.text)
    if "gimle.toml" in block.text:
        msgspec.convert({"data": "/srv/gimle"} | tree, Settings, strict=False, dec_hook=lambda kind, value: kind(value))


@pytest.mark.parametrize("block", _of("json"), ids=lambda block: block.place)
def test_each_json_block_is_valid(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_file_that_is_named_exists(page: Path) -> None:
    """`tests/conftest.py` and the like, in backticks: a map that is wrong is worse than none."""
    named = re.findall(r"`((?:src|tests|docs|scripts|bench|examples|deploy|proto)/[\w./-]+)`", page.read_text("utf-8"))
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing


def test_the_generated_pages_are_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, "scripts/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
