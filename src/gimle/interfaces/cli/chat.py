"""`gimle chat`: a conversation in the terminal, with a model or with the documents of a collection."""

import sys
from collections.abc import Iterator

import click

from gimle.client import Client, ClientError, Refused, Unreachable
from gimle.interfaces.cli import options
from gimle.interfaces.cli.output import Json, complain, note, out, plain, print_citations, print_json

# What is sent again with each question: enough for "and what about the second one?", small enough for any model.
_TURNS_KEPT = 12


@click.command()
@click.option("--collection", "-c", metavar="NAME", help="Answer from this collection, with citations.")
@click.option("--model", "-m", metavar="MODEL", help="The model. Else the best one at hand.")
@options.as_json
@options.connected
def chat_command(client: Client, collection: str | None, model: str | None, as_json: bool) -> None:
    """Talk with a model, or with --collection to your documents. /quit or Ctrl-D ends it.

    Reads one message a line, so it can be fed by a pipe; with --json it prints one JSON document a message.

    \b
    Examples:
      gimle chat -c default
      gimle chat --model openai/gpt-5-mini
      echo "How long is the warranty?" | gimle chat -c default --json
    """
    options.require_server(client)
    if not as_json:
        partner = f"the collection {collection!r}" if collection else model or "the best model at hand"
        note(f"Talking to {partner}. /quit ends it.")
    history = list[Json]()
    for message in messages(quiet=as_json):
        try:
            reply = _reply(client, message, history, collection, model, as_json)
        except Unreachable:
            raise
        except ClientError as failed:  # The conversation goes on: the next message may fare better.
            code = failed.code if isinstance(failed, Refused) else "client_error"
            complain(failed.message, failed.hint, code=code, as_json=as_json)
            continue
        history += [{"role": "user", "content": message}, {"role": "assistant", "content": reply}]
        del history[:-_TURNS_KEPT]


def messages(*, quiet: bool) -> Iterator[str]:
    """The lines that somebody types, or that come through a pipe."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not quiet
    while True:
        if interactive:
            try:
                line = input("> ")
            except EOFError:
                out.print()
                return
        else:
            line = sys.stdin.readline()
            if not line:
                return
        if line.strip() in ("/quit", "/exit"):
            return
        if line.strip():
            yield line.strip()


def _reply(
    client: Client, message: str, history: list[Json], collection: str | None, model: str | None, as_json: bool
) -> str:
    if collection is None:
        pieces = client.chat_stream([*history, {"role": "user", "content": message}], model or "auto")
        text = "".join(_shown(pieces, silent=as_json))
        if as_json:
            print_json({"question": message, "text": text})
        return text
    return _from_documents(client, message, tuple(history), collection, model, as_json)


def _from_documents(
    client: Client, question: str, history: tuple[Json, ...], collection: str, model: str | None, as_json: bool
) -> str:
    answer: Json = {}
    shown = list[str]()
    for event in client.ask_stream(question, collection, model=model, history=history):
        if event.name == "error":
            raise Refused(502, event.json()["error"])
        if event.name == "done":
            answer = event.json()
        elif event.name == "progress" and (piece := event.json().get("text")):
            shown += _shown(iter([piece, " "]), silent=as_json, end="")
    if not answer:
        raise ClientError("The answer broke off.", hint="Ask again.")
    if as_json:
        print_json({"question": question, **answer})
        return str(answer["text"])
    out.file.write("\n" if shown else f"{plain(answer['text'])}\n")
    print_citations(answer["citations"])
    out.print()
    return str(answer["text"])


def _shown(pieces: Iterator[str], *, silent: bool, end: str = "\n") -> list[str]:
    """Write the pieces as they come, and give them back."""
    written = list[str]()
    for piece in pieces:
        written.append(piece)
        if not silent:
            out.file.write(plain(piece))
            out.file.flush()
    if not silent:
        out.file.write(end)
    return written
