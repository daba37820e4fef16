"""Looks at everything a backup needs, before it is needed, and says of each finding what to do.

No check changes anything in the database; in each place one small object is written, read back and deleted.
"""

from collections.abc import Sequence
from pathlib import Path

from jobs.checks.database import DatabaseExam, examine_database
from jobs.checks.encryption import Encrypting, examine_newest, judge_keys
from jobs.checks.findings import Finding, Report, report_on
from jobs.checks.places import PlaceExam, check_binding, examine_place, judge_space, judge_step
from jobs.concurrency import task_group
from jobs.incrementals.taking import CaptureOptions
from jobs.postgres.catalogue import Selection
from jobs.postgres.connection import Source
from storage.repository import Repository

__all__ = ["Finding", "Report", "examine"]

PATIENCE = 20.0


async def examine(
    source: Source | None,
    selection: Selection,
    repositories: Sequence[Repository],
    pg_bin: Path | None = None,
    *,
    copy_jobs: int = 2,
    capture: CaptureOptions | None = None,
    encrypting: Encrypting | None = None,
    patience: float = PATIENCE,
) -> Report:
    """Examine the database and every place, the primary one first; what fails is a finding, never an error.

    Without a `source` the places are looked at all the same: the day the database is gone, the keys are to be tried.

    `copy_jobs` are the COPY streams to find room for, `patience` the seconds that one step with a place may take,
    `capture` says how changes are to be found, None where no incremental backup is scheduled; `encrypting` for whom
    backups are encrypted, and which identities are tried on the newest.
    """
    encrypting = encrypting or Encrypting()
    async with task_group() as group:
        examining = group.create_task(_examine_source(source, selection, pg_bin, copy_jobs, capture))
        places = [group.create_task(examine_place(repository, patience)) for repository in repositories]
    database, exams = examining.result(), [place.result() for place in places]
    findings = [*database.findings, *judge_keys(encrypting)]
    for exam in exams:
        findings += exam.findings + await _against(database, exam, patience)
        if exam.catalogue is not None:
            findings += await examine_newest(exam.repository, exam.catalogue, encrypting)
    return report_on([*findings, *judge_step(exams)])


async def _examine_source(
    source: Source | None, selection: Selection, pg_bin: Path | None, copy_jobs: int, capture: CaptureOptions | None
) -> DatabaseExam:
    if source is not None:
        return await examine_database(source, selection, pg_bin, copy_jobs, capture)
    hint = "set ROWVAULT_DATABASE_URL; to list, verify, export and restore backups it is not needed"
    return DatabaseExam([Finding("connection", "problem", "there is no database to back up", hint)])


async def _against(database: DatabaseExam, exam: PlaceExam, patience: float) -> list[Finding]:
    """What takes both ends to judge."""
    findings = judge_space(exam.place, exam.free_bytes, database.table_bytes)
    if database.lineage is not None and exam.catalogue is not None:
        findings += await check_binding(exam, database.lineage, patience)
    return findings
