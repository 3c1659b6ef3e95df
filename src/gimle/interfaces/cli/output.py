"""What a person reads, and what a program reads: tables, citations and progress, or one JSON document.

Results go to standard output, everything else to standard error, so that `gimle … --json | jq` always works. Text that
came from documents or models is shown with its control characters removed: it must not steer the terminal.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

# C0 and C1 controls, but for tab and newline; the marks that turn the direction of writing around; and surrogates, as
# they stand in a file name that is not UTF-8: they can't be written.
_UNSAFE = {
    code: None
    for code in (
        *range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)
    )
}  # fmt: skip
for _kept in "\n\t":
    del _UNSAFE[ord(_kept)]


# Where there is no terminal, nobody is helped by folding a table at 80 columns.
_WIDTH_IN_FILES = 200


def plain(value: object) -> str:
    """Text without anything that a terminal would obey."""
    return str(value).translate(_UNSAFE)


def say(text: object = "", style: str = "") -> None:
    """A line on standard output, as it stands: no markup is read in it."""
    out.print(Text(plain(text)), style=style)


def note(text: object, style: str = "dim") -> None:
    """A line on standard error: progress and hints."""
    err.print(Text(plain(text)), style=style)


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    out.file.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")
    out.file.flush()


def complain(message: str, hint: str | None, *, code: str, as_json: bool) -> None:
    """An error: one line and a hint, or the same as JSON, on standard error."""
    if as_json:
        error = {"code": code, "message": message, "hint": hint}
        err.file.write(json.dumps({"error": error}, ensure_ascii=False) + "\n")
        return
    err.print(Text.assemble(("Error: ", "bold red"), plain(message)))
    if hint:
        err.print(Text.assemble(("Hint:  ", "bold"), plain(hint)))


def table(columns: Sequence[str], lines: Iterable[Sequence[object]], empty: str) -> None:
    """Rows under headings; `empty` is said when there are none."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        # The first column is what one copies into the next command.
        drawn.add_column(column, overflow="fold", no_wrap=position == 0)
    for line in lines:
        drawn.add_row(*(Text(plain("" if cell is None else cell)) for cell in line))
    if drawn.row_count:
        console = out if out.is_terminal else Console(file=out.file, width=_WIDTH_IN_FILES)
        console.print(drawn, soft_wrap=False)
    else:
        note(empty)


def when(stamp: str | None) -> str:
    """An RFC 3339 time in the reader's own zone, to the second."""
    if not stamp:
        return ""
    return datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def place(found: Mapping[str, Any]) -> str:
    """Where a passage or a citation stands: document, page, heading."""
    parts = [found["document_name"]]
    if found.get("page"):
        parts.append(f"page {found['page']}")
    if found.get("heading"):
        parts.append(found["heading"])
    return ", ".join(parts)


def print_answer(answer: Mapping[str, Any]) -> None:
    """An answer, then its citations."""
    say(answer["text"], "" if answer["answered"] else "yellow")
    print_citations(answer["citations"])
    if answer.get("notice"):
        note(f"Note: {answer['notice']}")


def print_citations(citations: Sequence[Mapping[str, Any]]) -> None:
    """Numbered: the place, and under it the quote word by word."""
    for citation in citations:
        out.print()
        out.print(Text.assemble((f"[{citation['n']}] ", "bold cyan"), (plain(place(citation)), "bold")))
        out.print(Text(f"    “{' '.join(plain(citation['quote']).split())}”", style="italic"))


def print_passages(passages: Sequence[Mapping[str, Any]]) -> None:
    """Passages, best first: score and place, and under it the text, shortened."""
    for number, passage in enumerate(passages, 1):
        out.print(
            Text.assemble(
                (f"{number}. ", "bold cyan"), (plain(place(passage)), "bold"), (f"  {passage['score']:.3f}", "dim")
            )
        )
        out.print(Text("   " + shorten(plain(passage["text"]), 300)))


def shorten(text: str, width: int) -> str:
    """The text on one line, cut at a word, with an ellipsis where it was cut."""
    words = " ".join(text.split())
    if len(words) <= width:
        return words
    return words[: width - 1].rsplit(" ", 1)[0] + "…"


def bars() -> Progress:
    """Progress bars on standard error; where that is no terminal, nothing is drawn but the last state."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[phase]}", style="dim", markup=False),
        TimeElapsedColumn(),
        console=err,
    )
