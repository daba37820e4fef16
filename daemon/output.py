"""How results look: tables for people, one JSON document for scripts; progress goes to stderr."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass, replace
from datetime import datetime
from typing import Any

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from daemon.settings import SettingDescription
from jobs.catalogue import ListedBackup
from jobs.findings import Finding
from jobs.progress import OnProgress, Progress
from jobs.results import BackupResult, PlaceOutcome, Problem, VerifyResult
from storage.retention import KEPT

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
_PLAIN_SECONDS = 5.0

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
        console.print(shown)
        return
    console.print(Text(str(shown.title or ""), style="bold"))
    names = [str(column.header) for column in shown.columns]
    for cells in zip(*(column.cells for column in shown.columns), strict=True):
        _print_paragraph(names, [_text(cell) for cell in cells], console)


def _print_paragraph(names: Sequence[str], cells: Sequence[Text], console: Console) -> None:
    console.print(cells[0], style="bold")
    told = (Text(name, style="dim") + Text(" ") + cell for name, cell in zip(names, cells, strict=True) if cell)
    rest = Text(" · ").join(list(told)[1:])
    console.print(Padding(rest, (0, 0, 0, 4)), soft_wrap=False, no_wrap=False, overflow="fold")


def _text(cell: object) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))


def backup_document(result: BackupResult) -> dict[str, Any]:
    """A backup's result as JSON shows it."""
    document = asdict(result)
    verification, _ = document.pop("verification"), document.pop("checksums")
    document["problems"] = verification["problems"] if verification else []
    return document


def print_backup(result: BackupResult) -> None:
    """A backup's result for people."""
    shown = table("", "table", ">rows", ">COPY text", ">stored")
    for one in sorted(result.tables, key=lambda one: -one.bytes_raw):
        shown.add_row(
            Text(f"{one.schema}.{one.name}"), f"{one.rows:,}", as_bytes(one.bytes_raw), as_bytes(one.bytes_stored)
        )
    print_table(shown)
    out.print(Text(f"\nbackup {result.id}: ") + styled(result.state))
    for place in result.places:
        out.print(Text(f"  {place.name}: ") + styled(place.state) + Text(f" ({place.error})" if place.error else ""))
    out.print(f"  committed after {result.duration_seconds:.1f} s, verified in {result.verify_seconds:.1f} s")
    if result.verification:
        print_problems(result.verification.problems)
    print_warnings(result.warnings)


def print_warnings(warnings: Sequence[str]) -> None:
    """Sentences a person should read."""
    for warning in warnings:
        out.print(Text("  note: ", style="yellow") + Text(warning))


def print_problems(problems: Sequence[Problem]) -> None:
    """What verification found."""
    if not problems:
        return
    shown = table("problems", "place", "object", "kind", "expected", "found")
    for one in problems:
        shown.add_row(*(Text(str(cell)) for cell in (one.place, one.object, one.kind, one.expected, one.found)))
    print_table(shown)


def print_verification(result: VerifyResult) -> None:
    """One backup's verification."""
    out.print(Text(f"{result.id}: ") + styled(result.state) + Text("  ") + places_text(result.places))
    for place in result.places:
        if place.error:
            out.print(Text(f"  {place.name}: {place.error}"))
    print_problems(result.problems)
    print_warnings(result.notes)


def print_list(backups: Sequence[ListedBackup]) -> None:
    """The catalogue."""
    if not backups:
        out.print("no backups yet; take one with: rowvault backup")
        return
    shown = table("", "id", "kind", "state", ">rows", ">stored", "reaches", "tier", "until", "places", "label")
    for one in backups:
        label = Text(one.label) + Text(" kept" if one.kept else "", style="cyan")
        reaches = f"{one.recoverable_to:%Y-%m-%d %H:%M:%S}" if one.recoverable_to > one.created_at else ""
        shown.add_row(
            one.id, one.kind, styled(one.state), f"{one.rows:,}", as_bytes(one.bytes_stored), reaches,
            ", ".join(one.tiers), until_text(one.kept_until, one.reasons), places_text(one.places), label,
        )  # fmt: skip
    print_table(shown)


def until_text(until: datetime | None, reasons: Sequence[str]) -> Text:
    """Until when a backup surely stays; nothing where that is open."""
    if not reasons:
        return Text("may go", style="yellow")
    return Text("released" if KEPT in reasons else f"{until:%Y-%m-%d %H:%M}" if until else "")


def print_settings(described: Sequence[SettingDescription]) -> None:
    """Every setting."""
    shown = table("", "setting", "default", "meaning")
    for one in described:
        shown.add_row(Text(one.name), Text(one.default), Text(one.meaning))
    out.print(shown)


def print_findings(findings: Sequence[Finding]) -> None:
    """What the doctor found."""
    for finding in dict.fromkeys(replace(one, place=None) for one in findings):
        out.print(styled(finding.state) + Text(f"  {finding.check}: {finding.message}"))
        if finding.state != "ok" and finding.hint:
            out.print(Text("      to do: ", style="bold") + Text(finding.hint))


@contextmanager
def progress(*, quiet: bool) -> Iterator[OnProgress]:
    """Progress on stderr while the block runs: a bar on a terminal, else a line now and then; `quiet` for none."""
    if quiet or not err.is_terminal:
        yield _lines(quiet=quiet)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bars(*columns, console=err, transient=True) as bars:
        yield _bars(bars)


def _bars(bars: Bars) -> OnProgress:
    tasks: dict[str, TaskID] = {}

    def show(now: Progress) -> None:
        if now.phase not in tasks:
            for task in tasks.values():
                bars.update(task, visible=False)
            tasks[now.phase] = bars.add_task(now.phase, total=now.total or None)
        description = f"{now.phase} {now.table}" if now.table else now.phase
        bars.update(tasks[now.phase], completed=now.done, description=description)

    return show


def _lines(*, quiet: bool) -> OnProgress:
    said: dict[str, float] = {}

    def show(now: Progress) -> None:
        if not quiet and time.monotonic() > said.get(now.phase, -_PLAIN_SECONDS) + _PLAIN_SECONDS:
            said[now.phase] = time.monotonic()
            share = f" {100 * now.done // now.total} %" if now.total else ""
            err.print(Text(f"{now.phase}{share}"))

    return show
