"""`gimle jobs`: what the server has to do, does and has done; and what to do about a job that failed."""

from itertools import islice

import click

from gimle.client import Client
from gimle.interfaces.cli import options
from gimle.interfaces.cli.output import Json, note, print_json, say, table, when

_job = click.argument("job")


@click.group(cls=options.ListFirst)
def jobs_command() -> None:
    """List jobs, look at one, and retry, cancel or discard it.

    \b
    Examples:
      gimle jobs                        the newest jobs
      gimle jobs --status failed
      gimle jobs show job_0197…
      gimle jobs retry job_0197…        run a failed job again
    """


@jobs_command.command("list")
@click.option(
    "--status",
    type=click.Choice(["queued", "running", "done", "failed", "cancelled"]),
    help="Only jobs in this state.",
)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
@options.as_json
@options.connected
def list_jobs(client: Client, status: str | None, limit: int, as_json: bool) -> None:
    """List jobs, newest first.

    \b
    Examples:
      gimle jobs list --status running
      gimle jobs list --status failed --json | jq -r '.items[].id'
    """
    jobs = list(islice(client.jobs(status), limit))
    if as_json:
        print_json({"items": jobs})
        return
    lines = ((j["id"], j["kind"], j["status"], _progress(j), j["attempts"], when(j["created_at"])) for j in jobs)
    table(("job", "kind", "status", "progress", "tries", "created"), lines, "There are no such jobs.")


@jobs_command.command("show")
@_job
@options.as_json
@options.connected
def show_job(client: Client, job: str, as_json: bool) -> None:
    """Show one job: how far it is, and why its attempts failed.

    \b
    Example:
      gimle jobs show job_0197…
    """
    _show(client.job(job), as_json)


@jobs_command.command("retry")
@_job
@options.as_json
@options.connected
def retry_job(client: Client, job: str, as_json: bool) -> None:
    """Run a failed job again.

    \b
    Example:
      gimle jobs retry job_0197…
    """
    _show(client.retry_job(job), as_json)


@jobs_command.command("cancel")
@_job
@options.as_json
@options.connected
def cancel_job(client: Client, job: str, as_json: bool) -> None:
    """Stop a job that waits or runs.

    \b
    Example:
      gimle jobs cancel job_0197…
    """
    _show(client.cancel_job(job), as_json)


@jobs_command.command("discard")
@_job
@options.as_json
@options.connected
def discard_job(client: Client, job: str, as_json: bool) -> None:
    """Remove a job that has failed, without running it again.

    \b
    Example:
      gimle jobs discard job_0197…
    """
    client.discard_job(job)
    if as_json:
        print_json({"id": job, "discarded": True})
    else:
        note(f"{job} is discarded.")


def _progress(job: Json) -> str:
    if not job["total"]:
        return str(job["phase"])
    return f"{job['phase']} {job['done']}/{job['total']}"


def _show(job: Json, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    say(f"{job['id']}  {job['kind']}  {job['status']}", "bold")
    say(f"  progress  {_progress(job)}")
    say(f"  tries     {job['attempts']}")
    for name in ("created", "started", "finished"):
        if stamp := when(job[f"{name}_at"]):
            say(f"  {name:<9} {stamp}")
    if job["error"]:
        say(f"  error     {job['error']['message']} ({job['error']['code']})", "red")
