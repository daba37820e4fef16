"""How backups and their verification look, and the catalogue."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.text import Text

from daemon.output.console import as_bytes, out, places_text, print_table, print_warnings, styled, table
from jobs.places.catalogue import ListedBackup
from jobs.postgres.identifiers import TableName
from jobs.results import BackupResult, Problem, VerifyResult
from storage.retention import KEPT


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
        name = str(TableName(one.schema, one.name))
        shown.add_row(Text(name), f"{one.rows:,}", as_bytes(one.bytes_raw), as_bytes(one.bytes_stored))
    print_table(shown)
    out.print(Text(f"\nbackup {result.id}: ") + styled(result.state))
    for place in result.places:
        out.print(Text(f"  {place.name}: ") + styled(place.state) + Text(f" ({place.error})" if place.error else ""))
    out.print(f"  committed after {result.duration_seconds:.1f} s, verified in {result.verify_seconds:.1f} s")
    if result.verification:
        print_problems(result.verification.problems)
    print_warnings(result.warnings)


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
