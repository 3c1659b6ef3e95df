"""`gimle eval`: how well search finds, measured on a labelled set through the HTTP interface that all use."""

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import click
from rich.progress import Progress

from gimle.client import Client, ClientError
from gimle.interfaces.cli import options
from gimle.interfaces.cli.output import Json, bars, note, plain, print_json, say, table
from gimle.interfaces.cli.upload import Sent, follow

if TYPE_CHECKING:
    from gimle.knowledge.evaluation import Dataset, Entry, Scores

_BATCH = 100
# The most passages that one search gives. A document with several passages among them counts once.
_DEPTH = 100
_MEASURES = {"ndcg10": "nDCG@10", "recall10": "recall@10", "recall100": "recall@100", "mrr10": "MRR@10", "p1": "P@1"}
_MODES = click.Choice(["hybrid", "lexical", "dense"])


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--collection", "-c", metavar="NAME", help="Keep the documents in this collection, and use those it has.")
@click.option("--mode", type=_MODES, default="hybrid", show_default=True, help="How to search.")
@click.option("--vs", type=_MODES, help="Search this way too, and compare query by query.")
@options.as_json
@options.connected
def eval_command(
    client: Client, folder: Path, collection: str | None, mode: str, vs: str | None, as_json: bool
) -> None:
    """Measure search on the labelled set in FOLDER: nDCG@10, recall@10 and @100, MRR@10, P@1.

    The set has the BEIR layout: corpus.jsonl and queries.jsonl with _id, title and text; qrels/*.tsv with query-id,
    corpus-id and score under a header line. Its documents go into a collection that is deleted afterwards, unless
    --collection names one. The interval is where 95 % of 2000 resamples of the queries lie.

    \b
    Examples:
      gimle eval sets/scifact
      gimle eval sets/scifact -c scifact --vs lexical
      gimle eval sets/faq-de --mode lexical --json | jq .scores.hybrid.ndcg10
    """
    # numpy comes with it: `--help` shall not wait for that.
    from gimle.knowledge import evaluation

    data = evaluation.read_beir(folder)
    kept = collection or f"eval-{folder.resolve().name}-{secrets.token_hex(4)}"
    modes = [mode] if vs in (None, mode) else [mode, str(vs)]
    try:
        with bars() as progress:
            failed = _fill(client, data.corpus, kept, progress)
            runs = {each: _ask_all(client, data, kept, each, progress) for each in modes}
    finally:
        if collection is None:
            _forget(client, kept)
    scores = {each: evaluation.evaluate(found, data.qrels) for each, found in runs.items()}
    report = _report(data, scores, failed)
    if as_json:
        print_json(report)
    else:
        _print(report)


def _fill(client: Client, corpus: Sequence["Entry"], collection: str, progress: Progress) -> int:
    """Upload the corpus and wait until it is indexed, unless the collection has documents; the number that failed."""
    known = {each["name"]: each for each in client.collections()}
    if collection in known and known[collection]["documents"]:
        note(f"Using the {known[collection]['documents']} documents that {collection!r} has.")
        return 0
    if collection not in known:
        client.create_collection(collection)
    bar = progress.add_task("Sending ", total=len(corpus), phase="")
    sent = list[Sent]()
    for start in range(0, len(corpus), _BATCH):
        batch = corpus[start : start + _BATCH]
        for item in client.upload({_name(entry.id): _text(entry) for entry in batch}, collection):
            error = item["error"]
            sent.append(Sent(item["name"], item["job"], None, error["message"] if error else None))
        progress.advance(bar, len(batch))
    return sum(item["error"] is not None for item in follow(client, sent, progress))


def _ask_all(client: Client, data: "Dataset", collection: str, mode: str, progress: Progress) -> dict[str, list[str]]:
    """The ranking of each judged query: ids of documents, best first, each once."""
    queries = [query for query in data.queries if query.id in data.qrels]
    bar = progress.add_task(f"{mode.capitalize():<8}", total=len(queries), phase="")
    runs: dict[str, list[str]] = {}
    for query in queries:
        found = client.search(query.text, collection, top_k=_DEPTH, mode=mode)
        runs[query.id] = list(dict.fromkeys(_id(passage["document_name"]) for passage in found["passages"]))
        progress.advance(bar)
    return runs


def _forget(client: Client, collection: str) -> None:
    try:
        client.delete_collection(collection)
    except ClientError as failed:  # What stopped the measuring is told; this must not take its place.
        note(f"The collection {plain(collection)} is still there: {failed.message}")


def _report(data: "Dataset", scores: dict[str, "Scores"], failed: int) -> Json:
    from gimle.knowledge.evaluation import bootstrap

    first, *others = scores
    report: Json = {
        "documents": len(data.corpus),
        "failed_documents": failed,
        "queries": scores[first].queries,
        "scores": {mode: dict(_figures(found)) for mode, found in scores.items()},
    }
    for other in others:
        difference = bootstrap(scores[first].per_query, scores[other].per_query)
        report["difference"] = {
            "measure": "ndcg10", "of": first, "to": other,
            "mean": difference.mean, "low": difference.low, "high": difference.high,
        }  # fmt: skip
    return report


def _figures(scores: "Scores") -> Iterator[tuple[str, Any]]:
    from gimle.knowledge.evaluation import bootstrap

    values = {"ndcg10": scores.ndcg10, "recall10": scores.recall10, "recall100": scores.recall100}
    yield from (values | {"mrr10": scores.mrr10, "p1": scores.p1}).items()
    interval = bootstrap(scores.per_query)
    yield "ndcg10_interval", [interval.low, interval.high]


def _print(report: Json) -> None:
    say(f"{report['documents']} documents, {report['queries']} queries", "bold")
    if report["failed_documents"]:
        note(f"{report['failed_documents']} documents could not be read; they count as not found.", "yellow")
    lines = []
    for mode, found in report["scores"].items():
        low, high = found["ndcg10_interval"]
        lines.append((mode, *(f"{found[name]:.4f}" for name in _MEASURES), f"{low:.4f} … {high:.4f}"))
    table(("mode", *_MEASURES.values(), "nDCG@10, 95 %"), lines, "")
    if found := report.get("difference"):
        verdict = "more than chance" if found["low"] > 0 or found["high"] < 0 else "may be chance"
        say(
            f"{found['of']} - {found['to']}: {found['mean']:+.4f} nDCG@10, "
            f"95 % between {found['low']:+.4f} and {found['high']:+.4f} ({verdict})"
        )


def _name(entry: str) -> str:
    """A document's name for an id of the set, which may hold any character."""
    return f"{quote(entry, safe='')}.txt"


def _id(name: str) -> str:
    return unquote(name.removesuffix(".txt"))


def _text(entry: "Entry") -> bytes:
    return (f"{entry.title}\n\n{entry.text}" if entry.title else entry.text).encode()
