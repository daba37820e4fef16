"""What is remembered of a job, made of its frozen result: an entry of the audit trail, rows of the verification log.

Pure functions but for `remember`, which writes both. No entry holds a secret or row data: of an error, only its kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from jobs.erase import EraseResult
from jobs.erasing.locks import StillLocked, by_place, last_until
from jobs.erasing.subject import Predicate
from jobs.export import ExportResult
from jobs.exporting.plan import ExportPlan
from jobs.postgres.connection import Source
from jobs.postgres.errors import PostgresError
from jobs.postgres.identifiers import TableName
from jobs.postgres.verification_log import LogRow, write_log
from jobs.prune import PruneResult
from jobs.results import BackupResult, DrillResult, PlaceOutcome, Problem, RestoreResult, State, VerifyResult
from jobs.scope import Scope
from jobs.sync import SyncResult
from storage.errors import StorageError
from storage.names import id_moment
from storage.repository import Repository
from storage.trail import Event, append


@dataclass(frozen=True, slots=True)
class Account:
    """What one job came to, as it is remembered; `outcome` is success, warning, failed or refused."""

    outcome: str
    backup: str | None = None
    details: dict[str, JsonValue] = field(default_factory=dict)
    rows: tuple[LogRow, ...] = ()


def account_of_backup(result: BackupResult) -> Account:
    """A backup, with a log row for each table."""
    details: dict[str, JsonValue] = {
        "kind": result.kind,
        "places": _places(result.places),
        "tables": len(result.tables),
        "rows": sum(table.rows for table in result.tables),
        "bytes_stored": sum(table.bytes_stored for table in result.tables),
        "verified": result.verification.state if result.verification else None,
        "not_proved": [*result.verification.not_proved] if result.verification else [],
    }
    return Account(result.state, result.id, details, _log_rows(result))


def account_of_verification(result: VerifyResult) -> Account:
    """A verification of a backup that was there already."""
    details: dict[str, JsonValue] = {
        "places": _places(result.places),
        "objects": result.objects,
        "problems": [*(f"{one.place}: {one.object}: {one.kind}" for one in result.problems[:_MOST_PROBLEMS])],
        "not_proved": [*result.not_proved],
    }
    return Account(result.state, result.id, details)


def account_of_restore(result: RestoreResult) -> Account:
    """A restore that was carried out."""
    details: dict[str, JsonValue] = {
        "target": result.target,
        "touched": len(result.touched),
        "inserted": sum(one.inserted for one in result.touched),
        "updated": sum(one.updated for one in result.touched),
        "deleted": sum(one.deleted for one in result.touched),
        "failed_checks": [*(one.name for one in result.checks if one.state == "failed")],
    }
    return Account("success" if result.as_it_should_be else "failed", result.id, details)


def account_of_export(result: ExportResult) -> Account:
    """An export that was made."""
    details: dict[str, JsonValue] = {
        "files": len(result.files),
        "rows": sum(file.rows for file in result.files),
        "bytes": sum(file.bytes for file in result.files),
    }
    return Account("success", result.id, details)


def export_details(plan: ExportPlan, out: Path) -> dict[str, JsonValue]:
    """What was to be exported: which columns were left out or masked and how, never what is in them."""
    tables = {str(one.name): one for one in plan.tables}
    return {
        "out": str(out.resolve()),
        "formats": [*plan.scope.formats],
        "tables": [*tables],
        "omitted": {name: [*one.omitted] for name, one in tables.items() if one.omitted},
        "masked": {name: {**one.masked} for name, one in tables.items() if one.masked},
    }


def account_of_drill(result: DrillResult) -> Account:
    """A drill, with a log row for each table that was proved, or one that says what was wrong."""
    wrong = "; ".join(f"{check.name}: {check.message}" for check in result.failures)
    details: dict[str, JsonValue] = {
        "server": result.server,
        "failed_checks": [*(check.name for check in result.failures)],
        "seconds": {one.name: round(one.seconds, 3) for one in result.scenarios},
        "not_proved": len(result.not_proved),
    }
    taken_at, now = id_moment(result.id), datetime.now(UTC)
    if wrong:
        rows = [LogRow(taken_at, result.id, None, "failed", None, None, None, now, wrong)]
    else:
        rows = [
            LogRow(
                backup_date=taken_at,
                backup_id=result.id,
                table=str(TableName(table.schema, table.name)),
                status="success",
                rows=table.rows,
                bytes=table.bytes_raw,
                checksum=None,
                verified_at=now,
                error=None,
            )
            for table in result.tables
        ]
    return Account(result.state, result.id, details, tuple(rows))


def account_of_erasure(result: EraseResult) -> Account:
    """An erasure: which manifests took the place of which, and what proves whom it was about to who knows it."""
    details: dict[str, JsonValue] = {
        "erasure": result.id,
        "subject": result.subject,
        "places": _places(result.places),
        "manifests": [
            {
                "place": one.place,
                "backup": one.backup,
                "revision": one.revision,
                "before": one.before,
                "after": one.after,
            }
            for one in result.revisions
        ],
        "damaged": [*(f"{one.backup} in {one.place}" for one in result.damaged)],
        "locked": {place: _until(locked) for place, locked in by_place(result.locked).items()},
    }
    return Account(result.state, None, details)


def _until(locked: Sequence[StillLocked]) -> JsonValue:
    until = last_until(locked)
    return {"objects": len(locked), "until": until.isoformat(timespec="seconds") if until else "a hold is lifted"}


def erasure_details(predicate: Predicate, children: str | None) -> dict[str, JsonValue]:
    """What an erasure was asked to do: which column it names, never the value."""
    return {
        "column": predicate.column,
        "tables": [*predicate.tables],
        "json_path": ".".join(predicate.path),
        "children": children,
    }


def account_of_sync(result: SyncResult) -> Account | None:
    """Places that were reconciled; nothing to remember where they were in step, or were only looked at."""
    lacking = [row for row in result.backups if row.done != "nothing"]
    if result.dry_run or not (lacking or result.marks or result.verified or result.damaged):
        return None
    details: dict[str, JsonValue] = {
        "check": result.check,
        "made_good": [*(f"{row.id} in {row.place}: {row.found}" for row in lacking if row.done == "made good")],
        "failed": [*(f"{row.id} in {row.place}: {row.found}" for row in lacking if row.done == "failed")],
        "left": sum(row.done == "left" for row in lacking),
        "whole_nowhere": [*result.damaged],
        "marks": result.marks,
        "bytes": sum(row.bytes for row in lacking if row.done == "made good"),
    }
    return Account(result.state, None, details)


def account_of_prune(result: PruneResult) -> Account | None:
    """What retention removed; nothing to remember where nothing was to be."""
    removed = result.doing("removed")
    if not removed and not result.failed:
        return None
    places = dict.fromkeys(row.place for row in removed)
    details: dict[str, JsonValue] = {
        "removed": {place: [row.id for row in removed if row.place == place] for place in places},
        "held_back": len(result.doing("hold back")),
        "failed": _places(result.failed),
        "bytes": sum(row.bytes_stored for row in removed),
    }
    return Account(result.state, None, details)


def scope_details(scope: Scope, target: str) -> dict[str, JsonValue]:
    """What a restore was asked to do: which columns a key names, never their values."""
    return {
        "target": target,
        "tables": [*scope.tables],
        "key": [*sorted(scope.key)],
        "mode": scope.mode,
        "into_schema": scope.into_schema,
    }


_MOST_PROBLEMS = 20


def _places(places: Sequence[PlaceOutcome]) -> dict[str, JsonValue]:
    return {place.name: place.state for place in places}


def _log_rows(result: BackupResult) -> tuple[LogRow, ...]:
    """A problem that is no table's own, in the manifest or the schema, is one of every table."""
    problems = result.verification.problems if result.verification else ()
    pending = next((place for place in result.places if place.state != "committed"), None)
    now = datetime.now(UTC)
    rows = []
    for table, checksum in zip(result.tables, result.checksums, strict=True):
        found = [one for one in problems if one.table in {None, f"{table.schema}.{table.name}"}]
        status, error = _status(found, pending)
        rows.append(
            LogRow(
                backup_date=result.created_at,
                backup_id=result.id,
                table=str(TableName(table.schema, table.name)),
                status=status,
                rows=table.rows,
                bytes=table.bytes_raw,
                checksum=checksum,
                verified_at=now,
                error=error,
            )
        )
    return tuple(rows)


def _status(found: Sequence[Problem], pending: PlaceOutcome | None) -> tuple[State, str | None]:
    if found:
        return "failed", "; ".join(f"{one.place}: {one.object}: {one.kind}" for one in found[:_MOST_PROBLEMS])
    if pending is not None:
        return "warning", f"{pending.name}: {pending.state}"
    return "success", None


async def remember(
    repositories: Sequence[Repository], log: Source | None, event: Event, rows: Sequence[LogRow]
) -> list[str]:
    """Write the trail's entry in every place, then the rows and the trail's head to `log`, where there is one.

    What could not be written is returned, a sentence each: a job is not undone because its record failed.
    """
    head, warnings = await _write_trail(repositories, event)
    if log is not None:
        try:
            await write_log(log, rows, head)
        except (PostgresError, TimeoutError) as error:
            hint = f" ({error.hint})" if isinstance(error, PostgresError) and error.hint else ""
            warnings.append(f"the verification log could not be written: {error}{hint}")
    return warnings


async def _write_trail(repositories: Sequence[Repository], event: Event) -> tuple[tuple[int, str] | None, list[str]]:
    """The new head, if there is one, and what went wrong."""
    try:
        appended = await append(repositories, event)
    except StorageError as error:
        return None, [f"the audit trail could not be written: {error.message}"]
    if appended is None:
        return None, []
    troubles = appended.troubles.items()
    warnings = [f"the audit trail is behind in {place} until the next entry: {why}" for place, why in troubles]
    return (appended.link.number, appended.link.sha256), warnings
