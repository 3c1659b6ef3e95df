"""`gimle query` finds passages, `gimle ask` answers from them."""

import click

from gimle.client import Client
from gimle.interfaces.cli import options
from gimle.interfaces.cli.output import note, print_answer, print_json, print_passages

_top_k = click.option("--top-k", "-k", type=click.IntRange(1, 100), metavar="N", help="How many passages at most.")


@click.command()
@click.argument("query")
@options.collection
@_top_k
@click.option(
    "--mode",
    type=click.Choice(["hybrid", "lexical", "dense"]),
    default="hybrid",
    show_default=True,
    help="By words and meaning, by words, or by meaning.",
)
@options.as_json
@options.connected
def query_command(client: Client, query: str, collection: str, top_k: int | None, mode: str, as_json: bool) -> None:
    """Find the passages that fit QUERY best.

    \b
    Examples:
      gimle query "warranty period"
      gimle query "E-4711" --mode lexical -k 20
      gimle query "Kündigungsfrist" -c contracts --json | jq -r '.passages[].document_name'
    """
    found = client.search(query, collection, top_k=top_k or 6, mode=mode)
    if as_json:
        print_json(found)
        return
    print_passages(found["passages"])
    if not found["passages"]:
        note(f"Nothing in the collection {collection!r} fits.")
    if found["notice"]:
        note(f"Note: {found['notice']}")


@click.command()
@click.argument("question")
@options.collection
@_top_k
@click.option("--model", "-m", metavar="MODEL", help="The model that answers. Else the best one at hand.")
@options.as_json
@options.connected
def ask_command(
    client: Client, question: str, collection: str, top_k: int | None, model: str | None, as_json: bool
) -> None:
    """Answer QUESTION from the documents; every sentence names the passage it rests on.

    When the documents don't hold the answer, it says so: that is an answer too, and the exit code is 0.

    \b
    Examples:
      gimle ask "How long is the warranty?"
      gimle ask "Wie hoch ist der Mitgliedsbeitrag?" -c club
      gimle ask "Who signs contracts?" --model openai/gpt-5-mini --json | jq .citations
    """
    answer = client.ask(question, collection, top_k=top_k, model=model)
    if as_json:
        print_json(answer)
    else:
        print_answer(answer)
