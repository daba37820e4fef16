"""Carries out a restore into a database that has something in it: all in one transaction, or not at all.

Until COMMIT nobody sees any of it, and whatever ends the session before undoes it. What is restored is read back and
compared with the backup inside the transaction.
"""

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from jobs.concurrency import Worker, alongside
from jobs.errors import Difference, UnsafeTarget
from jobs.places.leasing import leased_for_reading
from jobs.postgres import changing
from jobs.postgres.connection import Connection, Source, connect
from jobs.postgres.errors import Contended, Violation, translated
from jobs.postgres.identifiers import TableName
from jobs.postgres.live_constraints import read_live_foreign_keys
from jobs.postgres.live_sequences import advance_sequence, read_free_sequences, read_owned_sequences
from jobs.postgres.live_tables import LiveTable, read_live_tables, read_roots
from jobs.postgres.lock import JobLock
from jobs.postgres.target import set_sequence
from jobs.progress import OnProgress, Progress
from jobs.restoring.entries import without_owner
from jobs.restoring.making import Definitions, definitions_to_make, execute, make
from jobs.restoring.plan import ChangePlan
from jobs.restoring.rows import Changing, load, prove
from jobs.results import RestoreResult, TableOutcome, TableTouched
from storage.manifest import Sequence as StoredSequence
from storage.repository import Repository


async def restore_existing(
    plan: ChangePlan,
    repository: Repository,
    archive: AbstractAsyncContextManager[Path],
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
            work = Changing(plan, worker, connection, repository, on_progress, {})
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
        warnings=plan.lasting,
    )


@asynccontextmanager
async def _session(target: Source) -> AsyncIterator[tuple[Worker, Connection]]:
    async with Worker("restore") as worker:
        yield worker, await worker.open(connect(target, "restore"), Connection.terminate)


async def _in_one_transaction(
    work: Changing, archive: AbstractAsyncContextManager[Path], lock_timeout: float
) -> tuple[TableTouched, ...]:
    plan, run, connection = work.plan, work.worker.run, work.connection
    definitions = await definitions_to_make(plan, archive)
    try:
        return await _change(work, definitions, lock_timeout)
    except Contended as error:
        names = [one.into for one in plan.changes]
        holders = await run(changing.who_holds(connection, names))
        raise _kept_waiting(error, holders) from error
    except Violation as error:
        raise _violated(plan, error) from error


async def _change(work: Changing, definitions: Definitions, lock_timeout: float) -> tuple[TableTouched, ...]:
    plan, run, connection = work.plan, work.worker.run, work.connection
    there = [change.live for change in plan.changes if change.live is not None and change.how != "beside"]
    await run(changing.begin(connection, lock_timeout))
    await run(_lock(connection, plan))
    there += await run(_roots_in_the_way(connection, plan, there))
    work.on_progress(Progress("making what is missing", backup=plan.manifest.id))
    await run(make(connection, plan, definitions))
    await run(changing.quieten(connection, there))
    await run(changing.take_away(connection, plan.aside))
    touched = await load(work)
    work.on_progress(Progress("comparing with the backup", backup=plan.manifest.id))
    await prove(work)
    work.on_progress(Progress("building indexes and constraints", backup=plan.manifest.id))
    await run(_set_sequences(connection, plan))
    await run(changing.settle(connection))
    for text in definitions.after:
        await run(execute(connection, text, "making indexes, constraints, triggers and policies"))
    await run(changing.add_again(connection, plan.aside))
    await run(changing.waken(connection, there))
    await run(_finish(connection, plan, there))
    return touched


async def _roots_in_the_way(connection: Connection, plan: ChangePlan, there: Sequence[LiveTable]) -> list[LiveTable]:
    """Partitioned tables whose own triggers rows would meet, or whose row security would hide what partitions hold."""
    met = {change.through_root for change in plan.changes}
    return [root for root in await read_roots(connection, there) if root.table in met or root.filtered]


def _kept_waiting(error: Contended, holders: Sequence[str]) -> UnsafeTarget:
    by = f"; {'; '.join(holders)}" if holders else ""
    return UnsafeTarget(f"{error.message}{by}; nothing was changed", "run it again once they have ended")


def _violated(plan: ChangePlan, error: Violation) -> UnsafeTarget:
    """What to do about rows of a backup that do not go with the rest of the database."""
    hint = "restore what it belongs to along with it (--table), or use --into-schema to look at the rows first"
    if error.foreign:
        parents = {str(key.references) for key in plan.keys if key.name == error.constraint}
        hint = f"restore {' or '.join(sorted(parents)) or 'the table it refers to'} along with it (--table)"
    elif children := {str(key.table) for one in plan.changes if one.how == "change" for key in one.children}:
        # Row by row, two rows cannot swap a value that must be unique.
        hint = f"restore {', '.join(sorted(children))} along with it (--table): then it is emptied and filled"
    return UnsafeTarget(f"{error.message}; nothing was changed", hint)


async def _lock(connection: Connection, plan: ChangePlan) -> None:
    """Lock the tables, and see that they still are what the plan was made for."""
    whole = [one.into for one in plan.changes if one.how == "replace"]
    in_place = [one.into for one in plan.changes if one.staged]
    await changing.lock_for_change(connection, whole, in_place)
    names = [TableName(one.stored.schema_name, one.stored.name) for one in plan.changes]
    live = await read_live_tables(connection, names)
    keys = await read_live_foreign_keys(connection, [oid for one in live.values() for oid in one.line])
    planned = {one.live.table: one.live for one in plan.changes if one.live is not None}
    if live != planned or keys != plan.keys:
        raise UnsafeTarget("the target's tables changed since they were looked at", "run the restore again")


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
    sequences = await read_owned_sequences(connection, sorted(oids))
    if plan.scope.is_everything:
        sequences += await read_free_sequences(connection, list(stood))
    for sequence in sequences:
        at = _used(stood.get(sequence.sequence), sequence.increment)
        await advance_sequence(connection, sequence, at)


def _used(stored: StoredSequence | None, increment: int) -> int | None:
    """The last value that a sequence had given out when the backup was taken."""
    if stored is None:
        return None
    return int(stored.last_value) - (0 if stored.is_called else increment)


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
