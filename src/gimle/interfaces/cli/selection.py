"""`gimle selection`: who would be chosen and why, and what another policy would have done with the calls of the log."""

import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import click
import msgspec

from gimle.client import Client
from gimle.foundation.errors import InvalidRequest
from gimle.interfaces.cli import options
from gimle.interfaces.cli.output import Json, note, print_json, say, table
from gimle.selection import policies, replay
from gimle.selection.replay import Interval, Logged, Report
from gimle.selection.types import Explanation

_policy = click.Choice(list(policies.POLICIES))
# What is worth more, in USD, is a slip of the pen.
_DEAREST = 1_000_000


def _number(_: click.Context, __: click.Parameter, value: float) -> float:
    if math.isnan(value):
        # Neither more nor less than any limit, so that it passes them all.
        raise click.BadParameter("nan is no number.")
    return value


@click.group()
def selection_command() -> None:
    """See which model is chosen, and judge policies by what happened.

    \b
    Examples:
      gimle selection choose "Why do bees swarm?"
      gimle selection show dec_0197…
      gimle selection replay --policy best-quality
    """


@selection_command.command("choose")
@click.argument("prompt")
@click.option("--model", default="auto", show_default=True, help="A model's name, or `auto:POLICY`.")
@click.option("--policy", type=_policy, help="By this policy instead of yours.")
@options.as_json
@options.connected
def choose_model(client: Client, prompt: str, model: str, policy: str | None, as_json: bool) -> None:
    """Show who would be tried for a prompt, and why. Nothing is sent to a model.

    \b
    Examples:
      gimle selection choose "Translate: good morning"
      gimle selection choose "Prove that 2 is prime." --policy cheapest --json
    """
    question = {"model": model, "prompt": prompt} | ({"policy": policy} if policy else {})
    _show(client.choose(question), as_json)


@selection_command.command("show")
@click.argument("decision")
@options.as_json
@options.connected
def show_decision(client: Client, decision: str, as_json: bool) -> None:
    """Show a decision that was made: the header `x-gimle-decision` of an answer begins with its id.

    \b
    Example:
      gimle selection show dec_0197…
    """
    found = client.decision(decision)
    if as_json:
        print_json(found)
    else:
        _show(found["decision"], as_json=False)


@selection_command.command("replay")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@click.option("--policy", "names", type=_policy, multiple=True, help="Judge this policy; may be given again.")
@click.option("--limit", type=click.IntRange(1), default=10_000, show_default=True, help="The newest so many.")
@click.option(
    "--worth",
    type=click.FloatRange(min=0, min_open=True, max=_DEAREST),
    callback=_number,
    default=0.01,
    show_default=True,
    help="What a perfect answer is worth, in USD.",
)
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Write the log here, a line each.")
@options.as_json
@options.connected
def replay_log(
    client: Client,
    file: Path | None,
    names: tuple[str, ...],
    limit: int,
    worth: float,
    save: Path | None,
    as_json: bool,
) -> None:
    """Judge policies by the server's log of decisions, or by a FILE that --save has written.

    A policy may replace the present one when it is surely better than it, and than always taking the best single model.

    \b
    Examples:
      gimle selection replay
      gimle selection replay --policy cheapest --worth 0.05
      gimle selection replay --save log.jsonl
    """
    log = _log(islice(client.decisions(), limit)) if file is None else _read(file)[:limit]
    if save is not None:
        save.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in log))
        note(f"{len(log)} decisions are in {save}.")
    reports = [replay.report(log, policies.named(name), worth * 1e9) for name in names or policies.POLICIES]
    if as_json:
        print_json({"reports": msgspec.to_builtins(reports)})
        return
    heads = ("policy", "value a call", "over the present one", "over the best single", "may replace it")
    table(heads, map(_line, reports), "There are no policies.")
    for one in reports:
        say(f"{one.policy}: {one.why}.")


def _log(found: "islice[Json]") -> list[Logged]:
    return [msgspec.convert(one, Logged, strict=False) for one in found]


def _read(file: Path) -> list[Logged]:
    try:
        return [msgspec.json.decode(line, type=Logged) for line in file.read_bytes().splitlines()]
    except msgspec.MsgspecError as wrong:
        raise InvalidRequest(f"{file} is not a log of decisions: {wrong}.", field="file") from None


def _line(one: Report) -> tuple[str, ...]:
    found = (one.target, one.over_present, one.over_single)
    return (one.policy, *map(_told, found), "yes" if one.promote else "no")


def _told(found: Interval) -> str:
    return f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def _show(decision: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        print_json(decision)
        return
    told = msgspec.convert(decision, Explanation, strict=False)
    say(f"{told.id}: {told.chosen or 'nobody'} by the policy {told.policy}" + (", to learn" if told.explored else ""))
    if told.complexity is not None:
        signs = ", ".join(f"{name} {part:+.2f}" for name, part in told.complexity.signs.items())
        say(f"The prompt looks {told.complexity.level} ({told.complexity.score:.2f}{': ' + signs if signs else ''}).")
    rows = (
        (one.model, f"{one.score or 0:.3f}", f"{one.propensity:.3f}", _usd(one.cost_nano), "; ".join(one.gates))
        for one in told.verdicts
    )
    table(("model", "score", "chance", "USD", "left out because"), rows, "There are no candidates.")


def _usd(nano: int | None) -> str:
    return "?" if nano is None else f"{nano / 1e9:.6f}"
