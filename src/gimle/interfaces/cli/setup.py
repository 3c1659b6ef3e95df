"""`gimle setup`: the weights that are not in the package, fetched once, with a bar."""

from pathlib import Path

import click
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gimle.foundation.config import Settings
from gimle.interfaces.cli import options
from gimle.interfaces.cli.output import err, print_json, say


@click.command()
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with the publisher's files of all-MiniLM-L6-v2, in place of their download.",
)
@options.as_json
@options.with_settings
def setup_command(settings: Settings, source: Path | None, as_json: bool) -> None:
    """Fetch the models that run inside Gimle (150 MB), check them and convert them. Does nothing when they are there.

    Until this has run, search goes by words alone and says so. `gimle up` runs it by itself.

    \b
    Examples:
      gimle setup
      gimle setup --from /srv/models/all-MiniLM-L6-v2
      GIMLE_ENGINES__WEIGHTS=/srv/weights gimle setup
    """
    folder = fetch(settings, source)
    if as_json:
        print_json({"weights": folder})
    else:
        say(f"The models are ready in {folder}.")


def fetch(settings: Settings, source: Path | None = None) -> str:
    """Install the weights where they belong, and return the folder. Raises `Unavailable` or `ConfigError`."""
    # Imported here, since numpy and ONNX Runtime come with it: `--help` shall not wait for them.
    from gimle.gateway import weights

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("Looking for the models", total=None)

        def show(done: int, total: int, phase: str) -> None:
            progress.update(bar, description=phase.capitalize(), completed=done, total=total or None)

        return str(weights.install(weights.default_folder(settings), show, source))
