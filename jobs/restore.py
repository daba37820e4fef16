"""Brings a backup back: everything, tables, or the rows of one key; into an empty database or one in use.

A plan looks and decides, and changes nothing; `restore` carries it out. Everything that is needed from storage is
verified before the target is touched.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from jobs.postgres.connection import Source
from jobs.postgres.pooling import unpooled_session
from jobs.postgres.target import read_target
from jobs.postgres.tools import find_tools
from jobs.progress import OnProgress, no_progress
from jobs.restoring.aftercare import Statement, look_after
from jobs.restoring.change import plan_change
from jobs.restoring.choose_place import choose_whole
from jobs.restoring.empty import FillPlan, fill, plan_fill
from jobs.restoring.existing import restore_existing
from jobs.restoring.key import find_key, read_key
from jobs.restoring.plan import ChangePlan
from jobs.restoring.refusals import refuse_unfinished, refuse_what_is_lacking, refuse_without_room
from jobs.results import RestoreResult
from jobs.scope import Scope, chosen_tables
from jobs.temporary import temporary_folder
from storage.errors import Corrupt, StorageError
from storage.manifest import Manifest, StoredFile
from storage.repository import Repository

RestorePlan = FillPlan | ChangePlan


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """How a restore is carried out: parallel streams, where the client programs are, seconds to wait for a lock.

    `statements` are the application's own checks, run afterwards.
    """

    streams: int = 2
    pg_bin: Path | None = None
    lock_timeout: float = 5.0
    statements: tuple[Statement, ...] = ()


async def plan_restore(
    repositories: Sequence[Repository],
    manifest: Manifest,
    target: Source,
    scope: Scope,
    options: RestoreOptions,
    on_progress: OnProgress = no_progress,
) -> RestorePlan:
    """Look at the target and decide what will be done; raises `UnsafeTarget` if it would do harm.

    With a key the rows are looked for in the backup, too: `NotThere` if there are none.
    """
    tables = chosen_tables(manifest, scope.tables)
    async with unpooled_session(target, "restore") as connection:
        state = await read_target(connection, manifest.dump.schemas)
        refuse_unfinished(target, state)
        tools = partial(find_tools, max(state.major, _dump_major(manifest)), options.pg_bin)
        if scope.is_everything and not state.objects:
            refuse_what_is_lacking(manifest, target, state)
            refuse_without_room(target, state, sum(table.bytes_raw for table in manifest.tables))
            return plan_fill(manifest, target, state, await asyncio.to_thread(tools))
        wanted = await read_key(connection, tables, scope.key) if scope.key else None
        archive = schema_archive(repositories, manifest)
        plan = await plan_change(manifest, target, connection, state, scope, archive, tools)
    if plan.missing:
        refuse_what_is_lacking(manifest, target, state)
    if wanted is not None:
        plan = replace(plan, rows=await find_key(repositories, manifest, wanted, on_progress))
    refuse_without_room(target, state, plan.bytes_raw)
    return plan


def _dump_major(manifest: Manifest) -> int:
    return int(manifest.dump.tool.split()[1].split(".")[0])


@asynccontextmanager
async def schema_archive(repositories: Sequence[Repository], manifest: Manifest) -> AsyncIterator[Path]:
    """The schema archive in a temporary file, from the first place where it is whole."""
    with temporary_folder() as folder:
        path = folder / "schema.dump"
        path.write_bytes(await whole_object(repositories, manifest.dump.archive))
        yield path


async def whole_object(repositories: Sequence[Repository], stored: StoredFile) -> bytes:
    """The plain bytes of a small object from the first place where it is whole.

    Raises `Corrupt` if a place has another, else what a place raised.
    """
    failure: StorageError | None = None
    for repository in repositories:
        try:
            return await repository.file(stored)
        except StorageError as error:
            failure = error if failure is None or isinstance(error, Corrupt) else failure
    assert failure is not None
    raise failure


async def restore(
    plan: RestorePlan,
    repositories: Sequence[Repository],
    options: RestoreOptions,
    on_progress: OnProgress = no_progress,
) -> RestoreResult:
    """Verify what a plan needs, carry it out, and look after what was restored.

    An existing database is changed in one transaction or not at all; an empty one is emptied again on failure.
    """
    result = await _carry_out(plan, repositories, options, on_progress)
    if isinstance(plan, ChangePlan) and plan.scope.into_schema is not None:
        return result
    tables = plan.manifest.tables if isinstance(plan, FillPlan) else [change.stored for change in plan.changes]
    started = time.monotonic()
    one_row = isinstance(plan, ChangePlan) and plan.rows is not None
    views = () if one_row else plan.manifest.dump.schemas
    checks = await look_after(plan.target, tables, views, options.statements, on_progress)
    return replace(result, checks=checks, check_seconds=result.check_seconds + time.monotonic() - started)


async def _carry_out(
    plan: RestorePlan, repositories: Sequence[Repository], options: RestoreOptions, on_progress: OnProgress
) -> RestoreResult:
    if isinstance(plan, FillPlan):
        repository, _ = await choose_whole(repositories, plan.manifest.id, on_progress)
        return await fill(plan, repository, options.streams, on_progress)
    if plan.rows is not None:  # found in a pass that verified what it read
        repository = plan.rows.repository
    else:
        tables = {change.stored.oid for change in plan.changes}
        repository, _ = await choose_whole(repositories, plan.manifest.id, on_progress, tables)
    archive = schema_archive(repositories, plan.manifest)
    return await restore_existing(plan, repository, archive, options.lock_timeout, on_progress)
