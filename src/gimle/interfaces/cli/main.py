"""The command `gimle`: its parts, and the one place where a failure becomes a line, a hint and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 the server can't be reached, 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from gimle import __version__
from gimle.client import ClientError, Refused, Unreachable
from gimle.foundation.errors import ConfigError, GimleError
from gimle.interfaces.cli.options import JSON_ASKED
from gimle.interfaces.cli.output import complain, err

# Which file holds which command. Only the file of the command that runs is imported, so that `gimle --help` is instant.
COMMANDS = {
    "up": "serve",
    "serve": "serve",
    "worker": "serve",
    "member": "serve",
    "migrate": "serve",
    "setup": "setup",
    "doctor": "doctor",
    "demo": "demo",
    "upload": "upload",
    "query": "knowledge",
    "ask": "knowledge",
    "chat": "chat",
    "jobs": "jobs",
    "models": "models",
    "selection": "selection",
    "key": "admin",
    "tenant": "admin",
    "eval": "eval",
}

# What to do about the server's errors at a terminal, where the server's own hint is for those who write a program.
_HINTS = {
    "invalid_api_key": "Give a key by --key or GIMLE_KEY; `gimle up` leaves the first one in the data directory.",
    "collection_not_found": "`gimle upload PATH… -c NAME` makes a collection and fills it.",
}


class _Lazy(click.Group):
    """A group whose commands lie in files of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"gimle.interfaces.cli.{COMMANDS[cmd_name]}")
        command: click.Command = vars(module)[f"{cmd_name}_command"]
        return command


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gimle")
def cli() -> None:
    """Gimle: your documents answer questions, and every model stands behind one API.

    \b
    Begin with:
      gimle up                     start it here; leave it running
      gimle upload handbook.pdf    give it documents
      gimle ask "How long is the warranty?"

    Every command has examples in its --help, and --json for programs.
    Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 the server can't be reached.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code."""
    asked_json = False
    try:
        with cli.make_context("gimle", list(sys.argv[1:] if arguments is None else arguments)) as context:
            try:
                cli.invoke(context)
            finally:
                asked_json = bool(context.meta.get(JSON_ASKED, False))
    except (KeyboardInterrupt, click.Abort):
        err.print("Stopped.")
        return 130
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as wrong:
        return _usage(wrong, as_json=asked_json)
    except BrokenPipeError:  # The reader, such as `head`, has gone: nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # What is left to flush goes nowhere.
        return 1
    except Exception as failed:
        return _failure(failed, as_json=asked_json)
    return 0


def main() -> None:
    """The entry point of the console script."""
    sys.exit(run())


def _usage(wrong: click.ClickException, *, as_json: bool) -> int:
    context = wrong.ctx if isinstance(wrong, click.UsageError) else None
    hint = f"{context.command_path} --help shows what it takes." if context else None
    complain(wrong.format_message(), hint, code="usage", as_json=as_json)
    return wrong.exit_code


def _failure(failed: Exception, *, as_json: bool) -> int:
    match failed:
        case Unreachable():
            complain(failed.message, failed.hint, code="unreachable", as_json=as_json)
            return 3
        case Refused():
            complain(_with_field(failed), _HINTS.get(failed.code, failed.hint), code=failed.code, as_json=as_json)
        case ClientError():
            complain(failed.message, failed.hint, code="client_error", as_json=as_json)
        case GimleError():
            complain(failed.message, failed.hint, code=failed.code, as_json=as_json)
            return 2 if isinstance(failed, ConfigError) else 1
        case OSError():
            message = f"{failed.filename}: {failed.strerror}" if failed.filename else str(failed)
            complain(message, None, code="io", as_json=as_json)
        case _:
            hint = "This is a fault in Gimle. `gimle doctor --json` gives what a report of it needs."
            complain(f"{type(failed).__name__}: {failed}", hint, code="internal_error", as_json=as_json)
    return 1


def _with_field(refused: Refused) -> str:
    """The server's message; with the field's name, where the message alone does not say what it is about."""
    if refused.field is None or refused.field in refused.message or refused.code != "invalid_request":
        return refused.message
    return f"{refused.field}: {refused.message}"
