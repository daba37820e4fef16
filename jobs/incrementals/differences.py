"""An incremental backup by comparing, where changes are not captured: what became of all tables since the last one."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from jobs.concurrency import alongside
from jobs.incrementals.comparison import comparison
from jobs.incrementals.continuation import changed
from jobs.incrementals.difference_chain import Previous
from jobs.incrementals.table_difference import store_differences
from jobs.incrementals.taking import Taken, Taking
from jobs.postgres.catalogue import Chosen, Relation
from jobs.postgres.snapshot import Choice, SnapshotSession, open_snapshot
from storage.increments import Beside, Difference, TableDifference
from storage.manifest import Manifest, Table
from storage.names import new_backup_id


def beside_log(base: Manifest) -> list[Table]:
    """The tables that are not in the change log."""
    return [table for table in base.tables if not table.identity]


def these(tables: Sequence[Table]) -> Choice:
    """Chooses these tables of a database, wherever they are now."""
    wanted = {table.oid for table in tables}

    def choose(relations: tuple[Relation, ...]) -> Chosen:
        return Chosen(tuple(relation for relation in relations if relation.oid in wanted), ())

    return choose


async def compare(
    taking: Taking, session: SnapshotSession, previous: Previous, reasons: Mapping[int, str], backup_id: str
) -> Beside:
    """Store what became of the tables beside the change log; `reasons` say why each is.

    The caller watches the session.
    """
    stamps = taking.capture.stamps if taking.capture.method == "timestamp" else None
    tables = {
        table.oid: comparison(table, previous, reasons.get(table.oid, ""), stamps)
        for table in beside_log(previous.base)
    }
    return await store_differences(
        taking.source,
        session,
        previous,
        tables,
        backup_id,
        taking.ready.primary,
        taking.capture.copying,
        taking.on_progress,
    )


async def take_difference(taking: Taking, previous: Previous) -> Taken | str:
    """Store and commit what became of all tables; return why not, if tables changed meanwhile."""
    base = previous.base
    reasons = {table.oid: base.compared for table in base.tables}
    async with AsyncExitStack() as locks:
        session = await locks.enter_async_context(
            open_snapshot(taking.source, these(base.tables), taking.options.locks)
        )
        await locks.enter_async_context(alongside(session.watch()))
        moment = session.snapshot.moment
        backup_id = new_backup_id("incremental", moment)

        async def store() -> Difference | str:
            async with locks:  # nobody waits on our locks for what storage still has to do
                beside = await compare(taking, session, previous, reasons, backup_id)
                sequences = await taking.sequences(base)
                # Our locks are still held: what is seen now was so all the time.
                if why := await changed(taking.look, base):
                    return why
            return Difference(
                **taking.header(base, backup_id, moment),
                method="timestamp" if taking.capture.method == "timestamp" else "xmin",
                sequences=sequences,
                beside=beside,
                warnings=warnings(beside.tables),
            )

        return await taking.commit(backup_id, store, _nothing)


def warnings(tables: Sequence[TableDifference]) -> tuple[str, ...]:
    """What a person should know of tables that are not in the change log, a sentence each."""
    return tuple(
        f"{one.schema_name}.{one.name} {_WHAT_TO_KNOW[one.method]}: {one.reason}"
        for one in tables
        if one.method in _WHAT_TO_KNOW
    )


_WHAT_TO_KNOW = {
    "whole": "is copied whole whenever it changed",
    "timestamp": "is followed by a column, so that rows which changed without it are not seen,"
    " and a restore may fail where they break a unique or foreign key",
}


async def _nothing() -> None:
    return None
