"""How results look: tables for people, one JSON document for scripts; progress goes to stderr."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from daemon.settings import SettingDescription
from jobs.catalogue import ListedBackup
from jobs.doctor import Report
from jobs.postgres.identifiers import TableName
from jobs.progress import OnProgress, Progress
from jobs.restore import RestorePlan
from jobs.restore_plan import SAYS, ChangePlan
from jobs.results import BackupResult, DrillResult, PlaceOutcome, Problem, RestoreResult, VerifyResult
from storage.manifest import Manifest

_STYLES = {
    "success": "green",
    "ok": "green",
    "committed": "green",
    "warning": "yellow",
    "pending": "yellow",
    "differs": "red",
    "failed": "red",
    "problem": "red",
    "unreachable": "red",
}
_PLAIN_SECONDS = 5.0

# In a pipe or a file nothing should be cut to the width of a terminal that is not there.
_WIDE = 1000


def _console(*, stderr: bool) -> Console:
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else _WIDE
    # Names and errors show as they are, whatever they hold: else `[/x]` is markup and `:key:` an emoji.
    return Console(stderr=stderr, width=width, soft_wrap=True, highlight=False, markup=False, emoji=False)


out = _console(stderr=False)
err = _console(stderr=True)


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(document, default=_plain, indent=1, ensure_ascii=False) + "\n")


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
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
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return made


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
    out.print(shown)
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
    out.print(shown)


def print_verification(result: VerifyResult) -> None:
    """One backup's verification."""
    out.print(Text(f"{result.id}: ") + styled(result.state) + Text("  ") + places_text(result.places))
    for place in result.places:
        if place.error:
            out.print(Text(f"  {place.name}: {place.error}"))
    print_problems(result.problems)


def print_list(backups: Sequence[ListedBackup]) -> None:
    """The catalogue."""
    if not backups:
        out.print("no backups yet; take one with: rowvault backup")
        return
    shown = table("", "id", "kind", "state", ">rows", ">stored", "places", "label")
    for one in backups:
        label = Text(one.label) + Text(" kept" if one.kept else "", style="cyan")
        shown.add_row(
            one.id, one.kind, styled(one.state), f"{one.rows:,}", as_bytes(one.bytes_stored), places_text(one.places),
            label,
        )  # fmt: skip
    out.print(shown)


def print_plan(plan: RestorePlan) -> None:
    """What a restore is about to do, a table a line."""
    shown = table(
        f"restore {plan.manifest.id} ({plan.manifest.created_at:%Y-%m-%d %H:%M:%S} UTC) into {plan.target.where}",
        "table", ">rows now", ">rows in the backup", ">COPY text", "what is done",
    )  # fmt: skip
    for one in _planned(plan):
        shown.add_row(
            Text(one["table"]), _known(one["rows_now"]), f"{one['rows']:,}", as_bytes(one["bytes_raw"]), one["does"]
        )
    err.print(shown)
    err.print(f"  it will take about {_estimate(plan)}")
    for warning in plan.warnings:
        err.print(Text("  note: ", style="yellow") + Text(warning))


def _known(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


_BYTES_A_SECOND = 40e6  # of COPY text read, verified, loaded, indexed and compared, on a small machine


def _estimate(plan: RestorePlan) -> str:
    found = isinstance(plan, ChangePlan) and plan.rows is not None
    seconds = 0 if found else sum(one["bytes_raw"] for one in _planned(plan)) / _BYTES_A_SECOND
    return f"{max(1, round(seconds))} s" if seconds < 120 else f"{round(seconds / 60)} min"


def _planned(plan: RestorePlan) -> list[dict[str, Any]]:
    """A line for each table: what is there, what the backup has, what is done."""
    if isinstance(plan, ChangePlan):
        return [
            {
                "table": str(one.into),
                "schema": one.stored.schema_name,
                "name": one.stored.name,
                "how": one.how,
                "does": SAYS[one.how],
                "rows_now": one.rows_now,
                "rows": plan.rows.number if plan.rows else one.stored.rows,
                "bytes_raw": one.stored.bytes_raw,
                "children": [str(key.table) for key in one.children],
            }
            for one in plan.changes
        ]
    return [
        {
            "table": str(TableName(one.schema_name, one.name)),
            "schema": one.schema_name,
            "name": one.name,
            "how": "create",
            "does": SAYS["create"],
            "rows_now": 0,
            "rows": one.rows,
            "bytes_raw": one.bytes_raw,
            "children": [],
        }
        for one in plan.manifest.tables
    ]


def plan_document(plan: RestorePlan) -> dict[str, Any]:
    """What a restore would do, as JSON shows it."""
    return {
        "id": plan.manifest.id,
        "target": plan.target.where,
        "dry_run": True,
        "tables": _planned(plan),
        "warnings": list(plan.warnings),
    }


def print_manifest(manifest: Manifest) -> None:
    """One backup for people; `--json` shows everything."""
    source, snapshot = manifest.source, manifest.snapshot
    lines = {
        "backup": f"{manifest.id} ({manifest.kind})",
        "label": manifest.label,
        "reason": manifest.reason,
        "moment": f"{manifest.created_at:%Y-%m-%d %H:%M:%S.%f} UTC, LSN {snapshot.lsn}, xmin {snapshot.xmin}",
        "source": f"{source.database}, PostgreSQL {source.server_version}, system {source.system_identifier}",
        "schema": f"{', '.join(manifest.dump.schemas)}, by {manifest.dump.tool}",
        "size": f"{manifest.rows:,} rows, {as_bytes(manifest.bytes_stored)} in {len(list(manifest.objects()))} objects",
    }
    for name, text in lines.items():
        if text:
            out.print(Text(f"{name:>8}  ", style="bold") + Text(text))
    shown = table("", "table", ">rows", ">COPY text", ">stored", ">parts")
    for one in manifest.tables:
        name = f"{one.schema_name}.{one.name}"
        sizes = (as_bytes(one.bytes_raw), as_bytes(one.bytes_stored), str(len(one.parts)))
        shown.add_row(Text(name), f"{one.rows:,}", *sizes)
    out.print(shown)
    for only in manifest.schema_only:
        out.print(Text(f"  definition only: {only.kind} {only.schema_name}.{only.name}"))
    for name in manifest.not_covered.tables:
        out.print(Text(f"  not covered: table {name}"))
    print_warnings(manifest.warnings)


def print_settings(described: Sequence[SettingDescription]) -> None:
    """Every setting."""
    shown = table("", "setting", "default", "meaning")
    for one in described:
        shown.add_row(Text(one.name), Text(one.default), Text(one.meaning))
    out.print(shown)


def print_restore(result: RestoreResult) -> None:
    """What a restore came to."""
    shown = table("", "table", ">added", ">changed", ">removed")
    for one in result.touched:
        shown.add_row(Text(one.table), f"{one.inserted:,}", f"{one.updated:,}", f"{one.deleted:,}")
    out.print(shown)
    out.print(f"restored {result.id} into {result.target} in {result.duration_seconds:.1f} s")
    for check in result.checks:
        said = Text(f": {check.message}" if check.message else "")
        out.print(Text("  ") + styled(check.state) + Text(f"  {check.name}") + said)
    print_warnings(result.warnings)


def restore_document(result: RestoreResult) -> dict[str, Any]:
    """A restore's result as JSON shows it."""
    document = asdict(result)
    if not result.as_it_should_be:
        document["error"] = {"message": "restored, but a check failed", "hint": "see checks"}
    return document


def print_drill(result: DrillResult) -> None:
    """What a drill came to."""
    shown = table(f"drill of {result.id} on {result.server or 'no server'}", "", "check", "found")
    for check in result.checks:
        shown.add_row(styled(check.state), Text(check.name), Text(check.message))
    out.print(shown)
    for unproved in result.not_proved:
        out.print(Text("  not proved: ", style="yellow") + Text(unproved))
    for place in result.places:
        if place.error:
            out.print(Text(f"  the report is not in {place.name}: {place.error}"))
    out.print(Text("drill: ") + styled(result.state) + Text(f" in {result.duration_seconds:.1f} s"))


def drill_document(result: DrillResult) -> dict[str, Any]:
    """A drill's result as JSON shows it."""
    document = asdict(result)
    if result.failures:
        what = "; ".join(f"{check.name}: {check.message}" for check in result.failures)
        document["error"] = {"message": f"the drill failed: {what}", "hint": "see checks"}
    return document


def print_report(report: Report) -> None:
    """What the doctor found."""
    for finding in report.findings:
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
