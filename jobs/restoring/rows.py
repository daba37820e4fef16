"""Rows of a backup into tables of a database in use, within a transaction that somebody else began and ends.

A table is filled, or its rows are put beside it and what differs is changed; either way it is compared with the backup.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from jobs.concurrency import Worker
from jobs.errors import Difference, UnsafeTarget
from jobs.postgres import changing
from jobs.postgres.connection import Connection
from jobs.postgres.content import Bag, BagTotal, InOrder, PartHash, copy_through
from jobs.postgres.copying import copy_in
from jobs.postgres.identifiers import TableName
from jobs.progress import OnProgress, Progress
from jobs.restoring.plan import ChangePlan, TableChange
from jobs.restoring.table_load import Bags, load_part
from jobs.results import TableTouched
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class Changing:
    """One restore at work: its plan, the session (which lives in the worker's thread), and where rows come from.

    `bags` gather what went in through partitioned tables, where rows find their partitions by themselves.
    """

    plan: ChangePlan
    worker: Worker
    connection: Connection
    repository: Repository
    on_progress: OnProgress
    bags: Bags


async def load(work: Changing) -> tuple[TableTouched, ...]:
    """Bring the rows of every table; what is to be replaced is emptied first."""
    emptied = await work.worker.run(_empty(work.connection, work.plan))
    total = work.plan.bytes_raw
    done = 0
    touched = []
    for number, change in enumerate(work.plan.changes):

        def loaded(count: int, change: TableChange = change) -> None:
            nonlocal done
            done += count
            work.on_progress(Progress("restoring", done, total, work.plan.manifest.id, str(change.into)))

        touched.append(
            await _merge(work, change, number, loaded) if change.staged else await _fill(work, change, emptied, loaded)
        )
    return tuple(touched)


async def _empty(connection: Connection, plan: ChangePlan) -> dict[TableName, int]:
    """Empty the tables to be replaced; return how many rows each had."""
    names = [one.into for one in plan.changes if one.how == "replace"]
    counts = {name: await changing.count_rows(connection, name) for name in names}
    await changing.empty(connection, names)
    return counts


async def _fill(
    work: Changing, change: TableChange, emptied: Mapping[TableName, int], loaded: Callable[[int], None]
) -> TableTouched:
    """Load a table that is empty."""
    into = change.into
    if change.through_root is not None:
        into = change.through_root
    # A frozen row wants its table to be made or emptied in this transaction, and a partitioned one cannot say so.
    frozen = change.how in {"create", "replace"} and change.through_root is None
    rows = await _copy_rows(work, change, into, frozen=frozen, loaded=loaded)
    return TableTouched(str(change.into), change.how, inserted=rows, deleted=emptied.get(change.into, 0))


async def _merge(work: Changing, change: TableChange, number: int, loaded: Callable[[int], None]) -> TableTouched:
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
        raise _not_equal(change.into)
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
    work: Changing, change: TableChange, into: TableName, *, frozen: bool, loaded: Callable[[int], None]
) -> int:
    if work.plan.rows is not None:
        rows = await work.worker.run(copy_in(work.connection, into, change.columns, _once(work.plan.rows.text)))
        loaded(len(work.plan.rows.text))
        return rows
    bag = Bag() if change.through_root is not None else None
    for part in change.stored.parts:
        if part.rows:
            await load_part(
                work.worker, work.connection, work.repository, change.stored, part, into, frozen=frozen, bag=bag
            )
            loaded(part.bytes)
    if bag is not None:
        work.bags[into] = work.bags.get(into, BagTotal()) + bag.total()
    return change.stored.rows


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def prove(work: Changing) -> None:
    """Read back what was loaded, and compare it with what the backup promises; raises `Difference`."""
    if work.plan.rows is not None:
        return
    for change in work.plan.changes:
        if change.staged or change.through_root is not None:
            continue
        check = InOrder([PartHash(part.rows, part.sha256) for part in change.stored.parts])
        await work.worker.run(copy_through(work.connection, change.into, change.columns, check))
        if not check.finished():
            raise _not_equal(change.into)
    for change in work.plan.changes:
        if change.through_root in work.bags:
            expected, bag = work.bags.pop(change.through_root), Bag()
            await work.worker.run(copy_through(work.connection, change.through_root, change.columns, bag, only=False))
            if bag.total() != expected:
                raise _not_equal(change.through_root)


def _not_equal(table: TableName) -> Difference:
    return Difference(
        f"{table} does not hold what the backup has after restoring; nothing was changed",
        "look for what changes rows as they are written; --into-schema puts the backup beside the table",
        (),
    )
