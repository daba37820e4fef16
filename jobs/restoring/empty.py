"""Fills an empty database from a backup: definitions, rows in parallel, then indexes and constraints.

The target carries a mark while it is unfinished, and what was made is dropped again on failure.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.concurrency import alongside
from jobs.errors import Difference, UnsafeTarget
from jobs.places.leasing import leased_for_reading
from jobs.postgres.connection import Source, session
from jobs.postgres.ddl import ArchiveEntry, archive_entries, restore_section
from jobs.postgres.errors import PostgresError
from jobs.postgres.identifiers import TableName
from jobs.postgres.lock import JobLock
from jobs.postgres.rights import forget_default_privileges, objects_with_rights
from jobs.postgres.target import TargetState, empty_again, mark_finished, mark_unfinished, set_sequence
from jobs.postgres.tools import Tools
from jobs.progress import OnProgress, Progress
from jobs.restoring.content_proof import broken, promises
from jobs.restoring.entries import Entries, wanted_entries
from jobs.restoring.refusals import lacking_tablespaces, without_tablespaces
from jobs.restoring.table_load import Bags, load_tables
from jobs.results import RestoreResult, TableOutcome, TableTouched
from jobs.temporary import temporary_folder
from storage.manifest import ForeignKeyOutside, Manifest
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class FillPlan:
    """What filling an empty database will do, for a person to look at first. Making it changes nothing anywhere."""

    manifest: Manifest
    target: Source
    state: TargetState
    tools: Tools
    left_out: tuple[ForeignKeyOutside, ...]
    warnings: tuple[str, ...]


def plan_fill(manifest: Manifest, target: Source, state: TargetState, tools: Tools) -> FillPlan:
    """What will be left out, and what a person should know."""
    left_out = tuple(key for key in manifest.not_covered.foreign_keys if key.references not in map(str, state.tables))
    return FillPlan(manifest, target, state, tools, left_out, _warnings(manifest, state, left_out))


def _warnings(manifest: Manifest, state: TargetState, left_out: tuple[ForeignKeyOutside, ...]) -> tuple[str, ...]:
    warnings = [
        f"foreign key {key.name} of {key.schema_name}.{key.table} is left out: {key.references} is not in this backup"
        for key in left_out
    ]
    warnings += [
        f"table {table.schema_name}.{table.name} comes back without rows: they are not in this backup"
        for table in manifest.schema_only
        if table.kind == "table"
    ]
    return (*warnings, *without_tablespaces(manifest, state))


async def fill(plan: FillPlan, repository: Repository, streams: int, on_progress: OnProgress) -> RestoreResult:
    """Carry out a plan from a place that was found whole. On failure the target is emptied again."""
    started = time.monotonic()
    manifest = plan.manifest
    lock = await JobLock.take(plan.target, "restore")
    try:
        async with alongside(lock.watch()), leased_for_reading(repository, manifest.id, "restore"), _marked(plan):
            bags = await _fill(plan, repository, streams, on_progress)
            filled = time.monotonic()
            await _prove(plan, bags, streams, on_progress)
    finally:
        await lock.release()
    return RestoreResult(
        id=manifest.id,
        target=plan.target.where,
        tables=tuple(
            TableOutcome(table.schema_name, table.name, table.rows, table.bytes_raw, table.bytes_stored)
            for table in manifest.tables
        ),
        touched=tuple(
            TableTouched(str(TableName(table.schema_name, table.name)), "create", inserted=table.rows)
            for table in manifest.tables
        ),
        duration_seconds=filled - started,
        check_seconds=time.monotonic() - filled,
        warnings=plan.warnings,
    )


@asynccontextmanager
async def _marked(plan: FillPlan) -> AsyncIterator[None]:
    """The target carries a mark while the block runs; if it fails, the target is emptied, and only then unmarked."""
    async with session(plan.target, "restore") as connection:
        await mark_unfinished(connection, plan.manifest.id)
    try:
        yield
    except BaseException as error:
        try:
            await asyncio.shield(_undo(plan))
        except PostgresError as trouble:
            raise UnsafeTarget(
                f"the restore failed ({error}), and {plan.target.where} could not be emptied again: {trouble}",
                "it is marked as unfinished: drop that database and create it again",
            ) from error
        raise
    async with session(plan.target, "restore") as connection:
        await mark_finished(connection)


async def _undo(plan: FillPlan) -> None:
    async with session(plan.target, "undo restore") as connection:
        await empty_again(connection, plan.manifest.dump.schemas, plan.state)
        await mark_finished(connection)


async def _fill(plan: FillPlan, repository: Repository, streams: int, on_progress: OnProgress) -> Bags:
    with temporary_folder() as folder:
        archive = folder / "schema.dump"
        archive.write_bytes(await repository.file(plan.manifest.dump.archive))
        entries = await _entries(plan, archive)
        on_progress(Progress("creating tables"))
        before = await _make_tables(plan, archive, entries)
        bags = await load_tables(plan.target, plan.manifest, repository, streams, on_progress)
        await _set_sequences(plan)
        on_progress(Progress("building indexes and constraints"))
        await _restore_definitions(plan, archive, "post-data", entries.making, streams)
        await _grant(plan, archive, entries, before)
        if entries.settling:
            await _restore_definitions(plan, archive, None, entries.settling, 1)
        return bags


async def _prove(plan: FillPlan, bags: Bags, streams: int, on_progress: OnProgress) -> None:
    """Raise `Difference` unless every table holds what the backup has, byte for byte."""
    if different := await broken(plan.target, promises(plan.manifest, bags), streams, on_progress):
        raise Difference(
            f"after restoring, {', '.join(map(str, different))} did not hold what the backup has; it was emptied again",
            "look for event triggers or settings of the target that change rows, and report this",
            (),
        )


async def _make_tables(plan: FillPlan, archive: Path, entries: Entries) -> frozenset[str]:
    """Make what rows need; return what was there before."""
    async with session(plan.target, "restore") as connection:
        before = await objects_with_rights(connection, plan.manifest.dump.schemas)
    await _restore_definitions(plan, archive, "pre-data", entries.making, 1)
    return before


async def _grant(plan: FillPlan, archive: Path, entries: Entries, before: frozenset[str]) -> None:
    """Give what was made the rights that it had, whatever default privileges the target has."""
    async with session(plan.target, "restore") as connection:
        await forget_default_privileges(connection, plan.manifest.dump.schemas, before)
    if entries.rights:
        await _restore_definitions(plan, archive, None, entries.rights, 1)


async def _restore_definitions(
    plan: FillPlan, archive: Path, section: str | None, entries: Sequence[ArchiveEntry], jobs: int
) -> None:
    tablespaces = not lacking_tablespaces(plan.manifest, plan.state)
    await restore_section(
        plan.tools, plan.target, plan.state.major, archive, section, entries, jobs, tablespaces=tablespaces
    )


async def _entries(plan: FillPlan, archive: Path) -> Entries:
    return wanted_entries(
        await archive_entries(plan.tools, archive),
        plan.manifest.dump.schemas,
        plan.state.existing_schemas,
        plan.state.existing_extensions,
        plan.left_out,
    )


async def _set_sequences(plan: FillPlan) -> None:
    async with session(plan.target, "restore") as connection:
        for sequence in plan.manifest.sequences:
            name = TableName(sequence.schema_name, sequence.name)
            await set_sequence(connection, name, int(sequence.last_value), sequence.is_called)
