"""Carries out a restore into a database that has something in it: all in one transaction, or not at all.

Until COMMIT nobody sees any of it, and whatever ends the session before undoes it. What is restored is read back and
compared with the backup inside the transaction.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.concurrency import Worker, alongside
from jobs.errors import Difference, UnsafeTarget
from jobs.leasing import leased_for_reading
from jobs.postgres import changing
from jobs.postgres.connection import Connection, Source, connect
from jobs.postgres.content import InOrder, PartHash, copy_through
from jobs.postgres.copying import copy_in
from jobs.postgres.ddl import ArchiveEntry, entries_as_sql
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName, qualified, quote
from jobs.postgres.live_tables import (
    LiveTable,
    read_live_foreign_keys,
    read_live_tables,
    read_owned_sequences,
)
from jobs.postgres.lock import JobLock
from jobs.postgres.rights import forget_default_privileges, objects_with_rights
from jobs.postgres.target import set_sequence
from jobs.progress import OnProgress, Progress
from jobs.restore_change import ChangePlan, TableChange
from jobs.restore_entries import without_owner
from jobs.results import RestoreResult, TableOutcome, TableTouched
from jobs.table_load import load_part
from storage.manifest import Sequence as StoredSequence
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class _Changing:
    """One restore at work: its plan, the session (which lives in the worker's thread), and where rows come from."""

    plan: ChangePlan
    worker: Worker
    connection: Connection
    repository: Repository
    on_progress: OnProgress


async def restore_existing(
    plan: ChangePlan,
    repository: Repository,
    archive: Path,
    lock_timeout: float,
    on_progress: OnProgress,
) -> RestoreResult:
    """Carry out a plan from a place whose objects were found whole. On any failure the target is as it was."""
    started = time.monotonic()
    lock = await JobLock.take(plan.target, "restore")
    try:
        async with (
            alongside(lock.watch()),
            leased_for_reading(repository, plan.manifest.id, "restore"),
            _session(plan.target) as (worker, connection),
        ):
            work = _Changing(plan, worker, connection, repository, on_progress)
            touched = await _in_one_transaction(work, archive, lock_timeout)
    finally:
        await lock.release()
    return RestoreResult(
        id=plan.manifest.id,
        target=plan.target.where,
        tables=tuple(
            TableOutcome(
                one.stored.schema_name, one.stored.name, one.stored.rows, one.stored.bytes_raw, one.stored.bytes_stored
            )
            for one in plan.changes
        ),
        touched=touched,
        duration_seconds=time.monotonic() - started,
        warnings=plan.warnings,
    )


@asynccontextmanager
async def _session(target: Source) -> AsyncIterator[tuple[Worker, Connection]]:
    async with Worker("restore") as worker:
        yield worker, await worker.open(connect(target, "restore"), Connection.terminate)


async def _in_one_transaction(work: _Changing, archive: Path, lock_timeout: float) -> tuple[TableTouched, ...]:
    plan, run, connection = work.plan, work.worker.run, work.connection
    there = [change.live for change in plan.changes if change.live is not None and change.how != "beside"]
    definitions = await _definitions(plan, archive)
    await run(_begin(connection, plan, lock_timeout))
    work.on_progress(Progress("making what is missing", backup=plan.manifest.id))
    await run(_make(connection, plan, definitions))
    await run(changing.quieten(connection, there))
    await run(changing.drop_foreign_keys(connection, plan.keys_inside))
    await run(changing.empty(connection, [one.into for one in plan.changes if one.how == "replace"]))
    touched = await _load(work)
    work.on_progress(Progress("building indexes and constraints", backup=plan.manifest.id))
    await run(_set_sequences(connection, plan))
    for text in (definitions.after, definitions.attaching):
        await run(_execute(connection, text, "making indexes, constraints, triggers and policies"))
    await run(changing.add_foreign_keys(connection, plan.keys_inside))
    await run(changing.waken(connection, there))
    work.on_progress(Progress("comparing with the backup", backup=plan.manifest.id))
    await _prove(work)
    await run(_finish(connection, plan, there))
    return touched


@dataclass(frozen=True, slots=True)
class _Definitions:
    """SQL for what the target lacks: before the rows, rights, after the rows, and joining partitions at the end."""

    before: str
    rights: str
    after: str
    attaching: str


async def _definitions(plan: ChangePlan, archive: Path) -> _Definitions:
    """A partition joins its parent last: with its own indexes made, the parent's do not make others."""

    def having(*beginnings: str) -> list[ArchiveEntry]:
        return [entry for entry in plan.missing if entry.text.startswith(beginnings)]

    apart = {entry.number for entry in having("ACL ", "TABLE ATTACH ", "INDEX ATTACH ")}
    rest = [entry for entry in plan.missing if entry.number not in apart]
    return _Definitions(
        before=await entries_as_sql(plan.tools, archive, "pre-data", rest),
        rights=await entries_as_sql(plan.tools, archive, None, having("ACL ")),
        after=await entries_as_sql(plan.tools, archive, "post-data", rest),
        attaching=await entries_as_sql(plan.tools, archive, None, having("TABLE ATTACH "))
        + await entries_as_sql(plan.tools, archive, None, having("INDEX ATTACH ")),
    )


async def _begin(connection: Connection, plan: ChangePlan, lock_timeout: float) -> None:
    """Lock the tables, and see that they still are what the plan was made for."""
    with translated("beginning the restore"):
        await connection.execute("BEGIN")
    whole = [one.into for one in plan.changes if one.how == "replace"]
    in_place = [one.into for one in plan.changes if one.staged]
    await changing.lock_for_change(connection, whole, in_place, lock_timeout)
    names = [TableName(one.stored.schema_name, one.stored.name) for one in plan.changes]
    live = await read_live_tables(connection, names)
    keys = await read_live_foreign_keys(connection, [oid for one in live.values() for oid in one.line])
    touched = {oid for one in live.values() for oid in one.line}
    children = {key for key in keys if key.table_oid not in touched}
    planned = {one.live.table: one.live for one in plan.changes if one.live is not None}
    if live != planned or children != {key for one in plan.changes for key in one.children}:
        raise UnsafeTarget("the target's tables changed since they were looked at", "run the restore again")


async def _make(connection: Connection, plan: ChangePlan, definitions: _Definitions) -> None:
    schemas = plan.manifest.dump.schemas
    before = await objects_with_rights(connection, schemas)
    await _execute(connection, definitions.before, "making what is missing")
    if definitions.before:
        await forget_default_privileges(connection, schemas, before)
    await _execute(connection, definitions.rights, "granting rights")
    if plan.scope.into_schema is not None:
        with translated(f"making schema {plan.scope.into_schema}"):
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(plan.scope.into_schema)}")
            for change in plan.changes:
                columns = ", ".join(
                    f"{quote(column.name)} {column.type}" for column in change.stored.columns if not column.generated
                )
                await connection.execute(f"CREATE TABLE {qualified(change.into)} ({columns})")


async def _execute(connection: Connection, text: str, doing: str) -> None:
    if text:
        with translated(doing):
            await connection.execute("SET LOCAL check_function_bodies = off")
            await connection.execute(text)


async def _load(work: _Changing) -> tuple[TableTouched, ...]:
    total = work.plan.bytes_raw if work.plan.rows is None else len(work.plan.rows.text)
    done = 0
    touched = []
    for number, change in enumerate(work.plan.changes):

        def loaded(count: int, change: TableChange = change) -> None:
            nonlocal done
            done += count
            work.on_progress(Progress("restoring", done, total, work.plan.manifest.id, str(change.into)))

        touched.append(await (_merge if change.staged else _fill)(work, change, number, loaded))
    return tuple(touched)


async def _fill(work: _Changing, change: TableChange, _number: int, loaded: Callable[[int], None]) -> TableTouched:
    """Load a table that is empty."""
    into = change.into
    frozen = change.how in {"create", "replace"}
    if change.stored.load_into is not None and change.how != "beside":
        into = TableName(change.stored.load_into.schema_name, change.stored.load_into.name)
        frozen = False  # the server wants the partition itself for that
    rows = await _copy_rows(work, change, into, frozen=frozen, loaded=loaded)
    return TableTouched(
        str(change.into), change.how, inserted=rows, deleted=change.rows_now if change.how == "replace" else 0
    )


async def _merge(work: _Changing, change: TableChange, number: int, loaded: Callable[[int], None]) -> TableTouched:
    """Load a table's rows beside it, then change what differs."""
    assert change.live is not None
    run, connection = work.worker.run, work.connection
    stage = await run(changing.make_stage(connection, number, change.live, change.columns))
    staged_as = TableName(await run(_temporary_schema(connection)), stage.name.partition(".")[2])
    await _copy_rows(work, change, staged_as, frozen=False, loaded=loaded)
    await run(changing.settle_stage(connection, stage))
    await run(_refuse_harm(connection, change, stage))
    deleted = await run(changing.delete_extra(connection, stage)) if change.how == "change" else 0
    if work.plan.rows is not None:  # foreign keys are in force: what is referred to within these rows is there first
        inserted = await run(changing.insert_missing(connection, stage))
        updated = await run(changing.update_changed(connection, stage)) if change.how != "insert" else 0
    else:
        updated = await run(changing.update_changed(connection, stage)) if change.how != "insert" else 0
        inserted = await run(changing.insert_missing(connection, stage))
    unequal = await run(changing.differences(connection, stage)) if change.how != "insert" else 0
    if unequal:
        raise _not_equal(change)
    return TableTouched(str(change.into), change.how, inserted, updated, deleted)


async def _temporary_schema(connection: Connection) -> str:
    name: str = await connection.fetchval(
        "SELECT nspname FROM pg_catalog.pg_namespace WHERE oid = pg_catalog.pg_my_temp_schema()"
    )
    return name


async def _refuse_harm(connection: Connection, change: TableChange, stage: changing.Stage) -> None:
    """A child outside the restore must neither lose its parent nor be changed along with it."""
    for key in change.children:
        if change.how == "change" and (orphans := await changing.orphans_to_be(connection, stage, key)):
            raise UnsafeTarget(
                f"{orphans} rows of {key.table} refer to rows of {change.into} that the backup does not have",
                f"restore {key.table} along with it (--table), or use --mode upsert, which deletes nothing",
            )
        follows = change.how in {"change", "upsert"} and key.on_update in {"c", "n", "d"}
        if follows and (moved := await changing.keys_to_move(connection, stage, key)):
            raise UnsafeTarget(
                f"{moved} rows of {change.into} would change what {key} refers to, and so change {key.table}",
                f"restore {key.table} along with it (--table), or use --mode insert-missing",
            )


async def _copy_rows(
    work: _Changing, change: TableChange, into: TableName, *, frozen: bool, loaded: Callable[[int], None]
) -> int:
    if work.plan.rows is not None:
        rows = await work.worker.run(copy_in(work.connection, into, change.columns, _once(work.plan.rows.text)))
        loaded(len(work.plan.rows.text))
        return rows
    for part in change.stored.parts:
        if part.rows:
            await load_part(work.worker, work.connection, work.repository, change.stored, part, into, frozen=frozen)
            loaded(part.bytes)
    return change.stored.rows


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _set_sequences(connection: Connection, plan: ChangePlan) -> None:
    """A sequence that was made stands where it stood; no other stays behind the restored rows, or behind that."""
    made = {without_owner(entry.text, plan.state.roles) for entry in plan.missing}
    for one in plan.manifest.sequences:
        if f"SEQUENCE {one.schema_name} {one.name}" in made:
            name = TableName(one.schema_name, one.name)
            await set_sequence(connection, name, int(one.last_value), one.is_called)
    stood = {TableName(one.schema_name, one.name): one for one in plan.manifest.sequences}
    live = await read_live_tables(connection, [one.into for one in plan.changes if one.how != "beside"])
    oids = {oid for one in live.values() for oid in one.line}
    for sequence in await read_owned_sequences(connection, sorted(oids)):
        at = _used(stood.get(sequence.sequence), sequence.increment)
        await changing.advance_sequence(connection, sequence, at)


def _used(stored: StoredSequence | None, increment: int) -> int | None:
    """The last value that a sequence had given out when the backup was taken."""
    if stored is None:
        return None
    return int(stored.last_value) - (0 if stored.is_called else increment)


async def _prove(work: _Changing) -> None:
    """Read back what was loaded, and compare it with what the backup promises."""
    if work.plan.rows is not None:
        return
    for change in work.plan.changes:
        if change.staged or change.stored.load_into is not None:
            continue
        check = InOrder([PartHash(part.rows, part.sha256) for part in change.stored.parts])
        await work.worker.run(copy_through(work.connection, change.into, change.columns, check))
        if not check.finished():
            raise _not_equal(change)


def _not_equal(change: TableChange) -> Difference:
    return Difference(
        f"{change.into} does not hold what the backup has after restoring; nothing was changed",
        "look for what changes rows as they are written; --into-schema puts the backup beside the table",
        (),
    )


async def _finish(connection: Connection, plan: ChangePlan, there: Iterable[LiveTable]) -> None:
    """See that definitions are as before, and commit."""
    before = {one.table: one for one in there}
    after = await read_live_tables(connection, list(before))
    if after != before:
        changed = ", ".join(str(name) for name in before if after.get(name) != before[name])
        raise UnsafeTarget(f"{changed} would not be as before but for its rows; nothing was changed", "report this")
    made = await read_live_tables(connection, [one.into for one in plan.changes if one.how == "create"])
    for change in plan.changes:
        if change.into in made and change.stored.row_security and not made[change.into].row_security:
            raise Difference(f"{change.into} would come back without row security; nothing was changed", "", ())
    with translated("committing the restore"):
        await connection.execute("COMMIT")
