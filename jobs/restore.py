"""Brings a backup back into an empty database: definitions, rows in parallel, then indexes and constraints.

Everything it needs is verified before the target is touched. The target carries a mark while it is unfinished, and what
was made is dropped again on failure.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.concurrency import alongside
from jobs.errors import Difference, UnsafeTarget
from jobs.leasing import leased_for_reading
from jobs.postgres.connection import Source, session
from jobs.postgres.ddl import archive_entries, restore_section
from jobs.postgres.errors import PostgresError
from jobs.postgres.identifiers import TableName
from jobs.postgres.lock import JobLock
from jobs.postgres.pooling import refuse_transaction_pooling
from jobs.postgres.target import (
    TargetState,
    empty_again,
    mark_finished,
    mark_unfinished,
    read_target,
    set_sequence,
)
from jobs.postgres.tools import Tools, find_tools
from jobs.progress import OnProgress, Progress, no_progress
from jobs.restore_entries import Entries, wanted_entries
from jobs.results import Problem, RestoreResult, TableOutcome
from jobs.table_load import load_tables
from jobs.verify import problems_of
from storage.errors import Corrupt, NotFound, StorageError
from storage.manifest import ForeignKeyOutside, Manifest
from storage.objects import get
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore will do, for a person to look at first. Making it changes nothing anywhere."""

    manifest: Manifest
    target: Source
    state: TargetState
    tools: Tools
    left_out: tuple[ForeignKeyOutside, ...]
    warnings: tuple[str, ...]


async def plan_restore(manifest: Manifest, target: Source, pg_bin: Path | None) -> RestorePlan:
    """Look at the target and decide whether the backup can go there; raises `UnsafeTarget` if not."""
    await refuse_transaction_pooling(target)
    async with session(target, "restore") as connection:
        state = await read_target(connection, manifest.dump.schemas)
    _refuse_unless_safe(manifest, target, state)
    tools = await asyncio.to_thread(find_tools, max(state.major, _dump_major(manifest)), pg_bin)
    left_out = tuple(key for key in manifest.not_covered.foreign_keys if key.references not in map(str, state.tables))
    return RestorePlan(manifest, target, state, tools, left_out, _warnings(manifest, state, left_out))


def _dump_major(manifest: Manifest) -> int:
    return int(manifest.dump.tool.split()[1].split(".")[0])


def _refuse_unless_safe(manifest: Manifest, target: Source, state: TargetState) -> None:
    if state.unfinished:
        raise UnsafeTarget(
            f"{target.where} holds an unfinished restore of {state.unfinished}",
            "drop that database and create it again, then restore",
        )
    if state.objects:
        shown = ", ".join(state.objects[:3]) + (", …" if len(state.objects) > 3 else "")
        raise UnsafeTarget(
            f"{target.where} is not empty: it holds {shown}", "create an empty database and restore into that"
        )
    source_major = manifest.source.server_version_num // 10_000
    if state.major < source_major:
        raise UnsafeTarget(
            f"{target.where} is PostgreSQL {state.major}, the backup comes from {source_major}",
            f"restore into PostgreSQL {source_major} or newer",
        )
    if missing := sorted(set(manifest.dump.roles) - state.roles):
        raise UnsafeTarget(
            f"{target.where} lacks roles that own or may use what is restored: {', '.join(missing)}",
            f"create them first; their definitions are in {manifest.dump.roles_sql.name}",
        )
    if missing := sorted(set(manifest.dump.servers) - state.servers):
        raise UnsafeTarget(
            f"{target.where} lacks foreign servers that foreign tables of the backup need: {', '.join(missing)}",
            "create them first (CREATE SERVER); a backup does not hold them, for their options may be secret",
        )
    wanted = {extension.name for extension in manifest.dump.extensions}
    if missing := sorted(wanted - state.available_extensions - state.existing_extensions):
        raise UnsafeTarget(
            f"{target.where} cannot have extensions of the backup: {', '.join(missing)}",
            "install their packages on that server",
        )


def _warnings(manifest: Manifest, state: TargetState, left_out: tuple[ForeignKeyOutside, ...]) -> tuple[str, ...]:
    warnings = [
        f"foreign key {key.name} of {key.schema_name}.{key.table} is left out: {key.references} is not in this backup"
        for key in left_out
    ]
    if state.widens_rights:
        warnings.append("default privileges of the target give rights on what is restored (\\ddp shows them)")
    warnings += [
        f"materialized view {view.schema_name}.{view.name} is empty until: REFRESH MATERIALIZED VIEW"
        for view in manifest.schema_only
        if view.kind == "materialized view"
    ]
    warnings += [
        f"table {table.schema_name}.{table.name} comes back without rows: they are not in this backup"
        for table in manifest.schema_only
        if table.kind == "table"
    ]
    return tuple(warnings)


async def choose_whole(
    repositories: Sequence[Repository], backup_id: str, on_progress: OnProgress = no_progress
) -> tuple[Repository, Manifest]:
    """The first place where every object of the backup is whole, read through to the end.

    Raises `Difference` with everything that was found if none is whole, what a place raised if none could be read,
    and `NotFound` if no place has it.
    """
    problems: list[Problem] = []
    failures: list[StorageError] = []
    for repository in repositories:
        try:
            manifest = await repository.manifest(backup_id)
            found = await problems_of(repository, manifest, on_progress)
        except StorageError as error:
            failures.append(error)
            continue
        if not found:
            return repository, manifest
        problems += found
    if problems or any(isinstance(failure, Corrupt) for failure in failures):
        raise Difference(
            f"backup {backup_id} is not whole in any place: {_first_problem(problems, failures)}",
            "choose an older one (rowvault list); rowvault verify shows everything that was found",
            tuple(problems),
        )
    raise next(
        (failure for failure in failures if not isinstance(failure, NotFound)),
        NotFound(f"no backup {backup_id} in any place", "list the backups with: rowvault list"),
    )


def _first_problem(problems: list[Problem], failures: list[StorageError]) -> str:
    if problems:
        return f"{problems[0].object} in {problems[0].place}: {problems[0].kind}"
    return next(failure.message for failure in failures if isinstance(failure, Corrupt))


async def restore(
    plan: RestorePlan, repository: Repository, streams: int, on_progress: OnProgress = no_progress
) -> RestoreResult:
    """Carry out a plan from a place that `choose_whole` found whole. On failure the target is emptied again."""
    started = time.monotonic()
    manifest = plan.manifest
    lock = await JobLock.take(plan.target, "restore")
    try:
        async with alongside(lock.watch()), leased_for_reading(repository, manifest.id, "restore"), _marked(plan):
            await _fill(plan, repository, streams, on_progress)
    finally:
        await lock.release()
    return RestoreResult(
        id=manifest.id,
        target=plan.target.where,
        tables=tuple(
            TableOutcome(table.schema_name, table.name, table.rows, table.bytes_raw, table.bytes_stored)
            for table in manifest.tables
        ),
        duration_seconds=time.monotonic() - started,
        warnings=plan.warnings,
    )


@asynccontextmanager
async def _marked(plan: RestorePlan) -> AsyncIterator[None]:
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


async def _undo(plan: RestorePlan) -> None:
    async with session(plan.target, "undo restore") as connection:
        await empty_again(connection, plan.manifest.dump.schemas, plan.state)
        await mark_finished(connection)


async def _fill(plan: RestorePlan, repository: Repository, streams: int, on_progress: OnProgress) -> None:
    with tempfile.TemporaryDirectory(prefix="rowvault-") as folder:
        archive = Path(folder) / "schema.dump"
        archive.write_bytes(await get(repository.backend, plan.manifest.dump.archive.name))
        entries = await _entries(plan, archive)
        on_progress(Progress("creating tables"))
        await _restore_definitions(plan, archive, "pre-data", entries.making, 1)
        await load_tables(plan.target, plan.manifest, repository, streams, on_progress)
        await _set_sequences(plan)
        on_progress(Progress("building indexes and constraints"))
        await _restore_definitions(plan, archive, "post-data", entries.making, streams)
        if entries.settling:
            await _restore_definitions(plan, archive, None, entries.settling, 1)


async def _restore_definitions(
    plan: RestorePlan, archive: Path, section: str | None, entries: Sequence[str], jobs: int
) -> None:
    await restore_section(plan.tools, plan.target, plan.state.major, archive, section, entries, jobs)


async def _entries(plan: RestorePlan, archive: Path) -> Entries:
    return wanted_entries(
        await archive_entries(plan.tools, archive),
        plan.manifest.dump.schemas,
        plan.state.existing_schemas,
        plan.state.existing_extensions,
        plan.left_out,
    )


async def _set_sequences(plan: RestorePlan) -> None:
    async with session(plan.target, "restore") as connection:
        for sequence in plan.manifest.sequences:
            name = TableName(sequence.schema_name, sequence.name)
            await set_sequence(connection, name, int(sequence.last_value), sequence.is_called)
