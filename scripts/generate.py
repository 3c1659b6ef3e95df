"""Writes what is read off something else: the settings, providers, commands and errors of `docs/reference` off the
code, and the messages of `gimle.foundation.protos` off the contracts in `proto/`.

python scripts/generate.py            write them
python scripts/generate.py --check    say which are out of date, and exit with 1 if any is
"""

import inspect
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import click
import msgspec
from grpc_tools import protoc

from gimle.foundation import config, errors
from gimle.gateway.types import Provider, ProviderModel, TokenPrice
from gimle.interfaces.cli.main import cli

ROOT = Path(__file__).parent.parent
REFERENCE = "docs/reference"
PROTOS = "src/gimle/foundation/protos"
NOTE = "<!-- Written by scripts/generate.py; run `make docs` after a change. -->\n"

SETTINGS_HEAD = """
# Settings

One setting can be given in four places. The first of these that names it wins: a flag of the command line, the
environment, the file `gimle.toml`, the default. An unknown key or a wrong value stops the start with a message that
names the key and where it came from.

```toml
# gimle.toml, in the working directory, or named by --config or GIMLE_CONFIG
data = "/srv/gimle"

[server]
port = 9000
```

The same from the environment: `GIMLE_SERVER__PORT=9000` (section, two underscores, key).
"""

PROVIDERS_HEAD = """
# Providers

A provider is a table `[providers.NAME]` in `gimle.toml`, a file `NAME.toml` in the folder `providers` of the data
directory, or made by `POST /api/v1/llm/providers`; see [how to add one](../how-to/add-a-provider.md). In a table of one
that Gimle knows already, only what differs need be given. Where a field has no words of its own, those above it are
about it too, or its name says it all.
"""

# Gimle sets these itself.
TOLD = ("source", "id", "created_at", "updated_at")

CLI_HEAD = """
# Command line

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 the server can't be reached. Every command takes `--json`
where its result is of use to a program.
"""

ERRORS_HEAD = """
# Errors

Every error says what is wrong, names the field at fault and the fix, and has a code for programs. It comes in the shape
of the dialect that was spoken, so that each vendor's SDK raises its own typed exception:

| Surface | Shape |
|---|---|
| `/v1/…` of OpenAI | `{"error": {"message", "type", "param", "code"}}`; the hint ends the message |
| `/v1/messages` | `{"type": "error", "error": {"type", "message"}, "request_id"}`; field and hint in the message |
| `/api/v1/…` | `{"error": {"code", "message", "field", "hint", "request_id"}}` |

A stream that breaks after its first words ends with an event of the same shape, never with an end that looks like
success. A provider's own refusal of a request passes as it came where it speaks the caller's dialect. `x-request-id` on
every answer is what to look for in the log; 429 and 503 carry `Retry-After` where a time is known.

| Code | Status | Meaning |
|---|---|---|
"""


def settings_page() -> str:
    """The page of all settings, a table for each section."""
    parts = [NOTE, SETTINGS_HEAD]
    single: list[msgspec.structs.FieldInfo] = []
    for field in msgspec.structs.fields(config.Settings):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            parts.append(_section(field.name, field.type))
        else:
            single.append(field)
    rows = "".join(_row(field.name, field) for field in single)
    purpose = _first_words(config.Settings)
    parts.insert(2, f"\n## Without a section\n\n{purpose}\n\n{_TABLE}{rows}")
    return "".join(parts)


_TABLE = "| Key | Environment | Kind | Default |\n|---|---|---|---|\n"


def _section(name: str, kind: type[msgspec.Struct]) -> str:
    rows = "".join(_row(f"{name}.{field.name}", field) for field in msgspec.structs.fields(kind))
    return f"\n## {name}\n\n{_first_words(kind)}\n\n{_TABLE}{rows}"


def _row(key: str, field: msgspec.structs.FieldInfo) -> str:
    kind = _kind(field.type)
    variable = "only in a file" if kind == "table" else f"`GIMLE_{key.upper().replace('.', '__')}`"
    return f"| `{key}` | {variable} | {kind} | {_default(field)} |\n"


def _kind(annotation: Any) -> str:
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    plain |= {Decimal: "number", date: "day"}
    if annotation in plain:
        return plain[annotation]
    if get_origin(annotation) is Annotated:
        kind, meta = get_args(annotation)
        bounds = (("above", meta.gt), ("at least", meta.ge), ("at most", meta.le))
        return _kind(kind) + "".join(f", {word} {bound:g}" for word, bound in bounds if bound is not None)
    options = [option for option in get_args(annotation) if option is not type(None)]
    if options and all(isinstance(option, str) for option in options):
        return " or ".join(f"`{option}`" for option in options)
    if options[1:] == [Ellipsis]:
        return "list of text" if options[0] is str else "list of tables"
    if len(options) == 1:
        return _kind(options[0])
    return "table"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.name == "data":
        return "`$XDG_DATA_HOME/gimle`; as root `/var/lib/gimle`"
    if field.default is None or field.default is msgspec.NODEFAULT:
        return "none"
    return f"`{msgspec.json.encode(field.default).decode()}`"


def _first_words(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").replace("\n", " ")


def providers_page() -> str:
    """The page of a provider's fields, of its models' and of their prices', with the comments that stand above them."""
    schemas = (_schema("A provider", Provider), _schema("A model", ProviderModel), _schema("A price", TokenPrice))
    return "".join([NOTE, PROVIDERS_HEAD, *schemas])


_FIELDS = "| Field | Kind | Default | What it is |\n|---|---|---|---|\n"


def _schema(heading: str, kind: type[msgspec.Struct]) -> str:
    said = _comments(kind)
    rows = "".join(
        f"| `{field.name}` | {_kind(field.type)} | {_schema_default(field)} | {said.get(field.name, '')} |\n"
        for field in msgspec.structs.fields(kind)
        if field.name not in TOLD
    )
    return f"\n## {heading}\n\n{_first_words(kind)}\n\n{_FIELDS}{rows}"


def _comments(kind: type) -> dict[str, str]:
    """What is said in the comment above each field that has one."""
    said, comment = dict[str, str](), list[str]()
    for line in map(str.strip, inspect.getsource(kind).splitlines()):
        if line.startswith("# "):
            comment.append(line.removeprefix("# "))
        elif comment:
            said[line.partition(":")[0]] = " ".join(comment).replace("<data>/secrets", "`<data>/secrets`")
            comment = []
    return said


def _schema_default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "must be given"
    return _default(field) if field.default_factory is msgspec.NODEFAULT else "empty"


def cli_page() -> str:
    """The page of all commands: for each its usage, purpose, options and examples, as `--help` prints them."""
    return "".join([NOTE, CLI_HEAD, *_commands(cli, "gimle", None)])


def _commands(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent, max_content_width=100, terminal_width=100)
    yield f"\n## {context.command_path}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for child in sorted(command.list_commands(context)):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from _commands(found, child, context)


def errors_page() -> str:
    """The page of all errors: code, status and meaning, in the order of the tree."""
    rows = "".join(
        f"| `{kind.code}` | {kind.status} | {_first_words(kind)} |\n"
        for kind in _tree(errors.GimleError)
        if kind is not errors.ConfigError
    )
    return f"{NOTE}{ERRORS_HEAD}{rows}"


def _tree(kind: type[errors.GimleError]) -> Iterator[type[errors.GimleError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def messages() -> dict[str, str]:
    """The code of all contracts, and its types: file -> text. The services need none: a call names its method."""
    contracts = [file.relative_to(ROOT / "proto").as_posix() for file in sorted((ROOT / "proto").rglob("*.proto"))]
    with tempfile.TemporaryDirectory() as folder:
        wanted = [f"--proto_path={ROOT / 'proto'}", f"--python_out={folder}", f"--pyi_out={folder}"]
        if protoc.main(["protoc", *wanted, *contracts]):
            sys.exit("The contracts in proto/ can't be read.")
        return {f"{PROTOS}/{file.name}": file.read_text("utf-8") for file in sorted(Path(folder).rglob("*_pb2.py*"))}


def everything() -> dict[str, str]:
    """All that is written here: path from the root -> text."""
    pages = {
        "settings.md": settings_page(),
        "providers.md": providers_page(),
        "cli.md": cli_page(),
        "errors.md": errors_page(),
    }
    return {f"{REFERENCE}/{name}": text for name, text in pages.items()} | messages()


def _same(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text("utf-8") == text


def main() -> None:
    """Write everything, or only check it."""
    if sys.argv[1:] == ["--check"]:
        old = [path for path, text in everything().items() if not _same(ROOT / path, text)]
        print("\n".join(f"{path} is out of date: run `make docs`" for path in old))
        sys.exit(bool(old))
    for path, text in everything().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, "utf-8")
        print(path)


if __name__ == "__main__":
    main()
