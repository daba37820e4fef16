"""`rowvault history`: a line a version and what changed in it for people, JSON for scripts."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from rich.text import Text

from daemon.app import App
from daemon.outcomes import DONE
from daemon.output.console import out, print_json, print_warnings
from daemon.output.diff import as_shown
from daemon.output.progress import progress
from jobs.history import History, Row, Version, history
from jobs.postgres.identifiers import readable

LONGEST = 60


async def show_history(app: App, table: str, key: Mapping[str, str], *, as_json: bool) -> int:
    """Tell the history of the row that a person means, and say the exit code."""
    source = app.source if app.settings.database_url is not None else None
    with progress(quiet=as_json) as on_progress:
        found = await history(app.repositories, table, key, source, on_progress)
    if as_json:
        print_json(history_document(found))
    else:
        print_history(found)
    return DONE


def history_document(found: History) -> dict[str, Any]:
    """A row's history as JSON shows it."""
    return {
        "table": str(found.table),
        "key": found.key,
        "versions": list(found.versions),
        "reaches": found.reaches,
        "notes": found.notes,
    }


def print_history(found: History) -> None:
    """A row's history for people."""
    out.print(Text(f"{found.table} {_key(found.key)}", style="bold"))
    row: Row | None = None
    for version in found.versions:
        out.print(Text(_when(version), style="bold") + Text(f"  {_what(version)}"))
        for line in _changes(version, row):
            out.print(Text(f"    {line}"))
        row = version.row
    count = len(found.versions)
    out.print(f"{count} {'version' if count == 1 else 'versions'}; the backups reach to {_time(found.reaches)}")
    point = "--at-lsn LSN" if any(version.lsn for version in found.versions) else "BACKUP"
    out.print(Text(f"bring one back: rowvault restore {point} --table {found.table} --key … --to DSN"))
    print_warnings(found.notes)


def _when(version: Version) -> str:
    if version.after is not None:
        return f"between {_time(version.after)} and {_time(version.at)}"
    return _time(version.at)


def _time(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="microseconds").replace("+00:00", "Z")


def _what(version: Version) -> str:
    words: list[str] = [version.kind]
    if version.moved_from is not None:
        words.append(f"moved from {_key(version.moved_from)}")
    if version.moved_to is not None:
        words.append(f"moved to {_key(version.moved_to)}")
    if version.row is None and version.lsn is None:
        words.append("gone")
    if version.lsn is not None:
        words += [f"transaction {version.xid}", f"LSN {version.lsn}"]
    words.append(f"in {version.backup}")
    if version.passing:
        words.append("never seen by others: the same transaction changed it again")
    return ", ".join(words)


def _changes(version: Version, before: Row | None) -> Iterator[str]:
    for column in version.changed:
        new = _value(version.row, column)
        old = f"{_value(before, column)} → " if before is not None and version.row is not None else ""
        yield f"{readable(column)}: {old}{new}"


def _value(row: Row | None, column: str) -> str:
    if row is None or column not in row:
        return "no such column"
    value = row[column]
    if value is None:
        return "NULL"
    text = as_shown(value) if value != "NULL" else '"NULL"'
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _key(key: Row) -> str:
    return " ".join(f"{readable(column)}={_value(key, column)}" for column in key)
