"""What all results are shown with: tables for people on stdout, one JSON document for scripts, errors on stderr."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jobs.results import PlaceOutcome

_STYLES = {
    "success": "green",
    "ok": "green",
    "committed": "green",
    "warning": "yellow",
    "pending": "yellow",
    "remove": "yellow",
    "removed": "yellow",
    "hold back": "cyan",
    "differs": "red",
    "failed": "red",
    "problem": "red",
    "unreachable": "red",
}

# In a pipe or a file nothing should be cut to the width of a terminal that is not there.
_WIDE = 1000

# Columns of a table are so far apart, and its last one may be folded down to this width.
_GAP = 2
_LEAST_LAST = 30


def _console(*, stderr: bool) -> Console:
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else _WIDE
    # Names and errors show as they are, whatever they hold: else `[/x]` is markup and `:key:` an emoji.
    return Console(stderr=stderr, width=width, soft_wrap=True, highlight=False, markup=False, emoji=False)


out = _console(stderr=False)
err = _console(stderr=True)


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(document, default=_plain, indent=1, ensure_ascii=False) + "\n")


def shallow(record: Any) -> dict[str, Any]:
    """A record as JSON shows it; what is in it becomes plain as it is written, for copies of thousands take a while."""
    return {one.name: getattr(record, one.name) for one in fields(record)}


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return shallow(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_error(error: Mapping[str, str]) -> None:
    """An error on stderr: what happened, then what to do."""
    err.print(Text("error: ", style="bold red") + Text(error["message"]))
    if error["hint"]:
        err.print(Text("  to do: ", style="bold") + Text(error["hint"]))


def warn(text: str) -> None:
    """Something that went wrong beside the work, on stderr."""
    err.print(Text("warning: ", style="yellow") + Text(text))


def as_bytes(count: int) -> str:
    """A size as people read it: powers of 1000."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def styled(word: str) -> Text:
    """A state in its colour."""
    return Text(word, style=_STYLES.get(word, ""))


def places_text(places: Sequence[PlaceOutcome]) -> Text:
    """The places of a backup, each in the colour of its state."""
    return Text(", ").join(Text(f"{place.name} ") + styled(place.state) for place in places)


def table(title: str, *columns: str) -> Table:
    """An empty table; columns that begin with `>` are flush right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        justify: JustifyMethod = "right" if column.startswith(">") else "left"
        made.add_column(column.removeprefix(">"), justify=justify, overflow="fold")
    return made


def print_table(shown: Table, console: Console = out) -> None:
    """A table, or a paragraph for each row on a terminal too narrow for it: ids and names are not to be cut."""
    *needed, last = (max(cell_len(_text(cell).plain) for cell in (one.header, *one.cells)) for one in shown.columns)
    if console.width >= sum(needed) + _GAP * len(needed) + min(last, _LEAST_LAST):
        if console.is_terminal:
            console.print(shown)
        else:
            _print_lines(shown, console)
        return
    console.print(Text(str(shown.title or ""), style="bold"))
    names = [str(column.header) for column in shown.columns]
    for cells in zip(*(column.cells for column in shown.columns), strict=True):
        _print_paragraph(names, [_text(cell) for cell in cells], console)


def _print_lines(shown: Table, console: Console) -> None:
    """A table for a file or a pipe: one long cell does not make every line as long with blanks."""
    with console.capture() as captured:
        console.print(shown)
    for line in captured.get().splitlines():
        console.print(Text(line.rstrip()))


def _print_paragraph(names: Sequence[str], cells: Sequence[Text], console: Console) -> None:
    console.print(cells[0], style="bold")
    told = (Text(name, style="dim") + Text(" ") + cell for name, cell in zip(names, cells, strict=True) if cell)
    rest = Text(" · ").join(list(told)[1:])
    console.print(Padding(rest, (0, 0, 0, 4)), soft_wrap=False, no_wrap=False, overflow="fold")


def _text(cell: object) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))


def print_warnings(warnings: Sequence[str]) -> None:
    """Sentences a person should read."""
    for warning in warnings:
        out.print(Text("  note: ", style="yellow") + Text(warning))
