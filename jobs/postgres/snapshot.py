"""One moment of the database: locks first, then the snapshot that every session shares.

The other way round, a TRUNCATE or a rewriting ALTER in between would give an empty table and no error.
https://www.postgresql.org/docs/current/mvcc-caveats.html
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import NoReturn

import asyncpg

from jobs.postgres.catalogue import Chosen, Relation, Selection, ancestry, choose, read_relations
from jobs.postgres.connection import Connection, Source, connect, session
from jobs.postgres.errors import SESSION_FAULTS, ConnectionLost, Contended, MissingPrivilege, translated
from jobs.postgres.identifiers import TableName, qualified

_WATCH_SECONDS = 0.5

BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


@dataclass(frozen=True, slots=True)
class LockLimits:
    """How long we wait for our locks, how long anybody may wait on them before we give way, and how long a session may
    be silent before it counts as lost; seconds.
    """

    lock_timeout: float = 5.0
    give_way_after: float = 3.0
    lost_after: float = 30.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An exported snapshot: its id, whom it sees (`pg_current_snapshot()`), the insert LSN read after it, its time."""

    id: str
    xmin: int
    xmax: int
    in_progress: tuple[int, ...]
    lsn: str
    moment: datetime


@dataclass(frozen=True, slots=True)
class SnapshotSession:
    """The coordinator: the session that holds the locks and the snapshot, and what it saw."""

    connection: Connection
    snapshot: Snapshot
    relations: tuple[Relation, ...]
    chosen: Chosen
    limits: LockLimits
    _source: Source
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Connection]:
        """The session, for as long as the block runs; whoever watches it waits."""
        async with self._turn:
            yield self.connection

    async def watch(self) -> NoReturn:
        """Raise `Contended` once somebody has waited too long on our locks, `ConnectionLost` if the session ends.

        Waiters on any of Rowvault's sessions count: everybody behind them would stall too.
        """
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            waiter = await self._impatient()
            if waiter:
                raise Contended(
                    f"gave way on {waiter['relation']}: server pid {waiter['pid']} waited "
                    f"{waiter['seconds']:.0f} s for {waiter['mode']}",
                    "run it again when no schema change is under way",
                )

    async def confirm(self) -> None:
        """Raise `ConnectionLost` unless the session, and so its locks, lasted until now.

        Asked after copying: had it ended, a TRUNCATE could have emptied a table just before a worker came to it.
        """
        await self._impatient()

    async def make_durable(self) -> None:
        """Have the server flush all that the snapshot saw; `confirm` afterwards tells that it did not crash before.

        With `synchronous_commit = off` a crash takes back what was committed just before it, and gives its xids to
        others, whose rows would then look as old as those that were seen.
        """
        if await self._ask(_UNFLUSHED, self.snapshot.lsn) is None:
            return
        with translated("making durable what was backed up"):
            async with session(self._source, "flush") as connection:
                # A commit flushes all before it. Nobody need read the message.
                await connection.execute("SET synchronous_commit = local")
                await connection.execute("SELECT pg_catalog.pg_logical_emit_message(true, 'rowvault', '')")

    async def _impatient(self) -> asyncpg.Record | None:
        """Somebody who has waited too long on our locks."""
        # Without this, a transaction keeps seeing the sessions it saw first.
        await self._ask("SELECT pg_catalog.pg_stat_clear_snapshot()")
        return await self._ask(_WAITERS, self.limits.give_way_after)

    async def _ask(self, query: str, *values: object) -> asyncpg.Record | None:
        """The first row, one question at a time."""
        try:
            async with asyncio.timeout(self.limits.lost_after), self._turn:
                return await self.connection.fetchrow(query, *values)
        except SESSION_FAULTS as error:
            raise ConnectionLost(
                f"the session that holds the snapshot was lost: {str(error) or 'no answer'}",
                "nothing was committed; run the backup again, and see the server's log",
            ) from error


# What a standby replayed, it has flushed.
_UNFLUSHED = """
    SELECT WHERE CASE WHEN pg_catalog.pg_is_in_recovery() THEN false
                      ELSE pg_catalog.pg_current_wal_flush_lsn() < $1::text::pg_catalog.pg_lsn END
"""

_WAITERS = """
    WITH waiting AS (
        SELECT pid, relation, mode, EXTRACT(epoch FROM pg_catalog.clock_timestamp() - waitstart)::float8 AS seconds
          FROM pg_catalog.pg_locks WHERE NOT granted AND locktype = 'relation'
           AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
    ), ours AS (
        SELECT pg_catalog.array_agg(pid) AS pids FROM pg_catalog.pg_stat_activity
         WHERE datname = pg_catalog.current_database() AND application_name LIKE 'rowvault: %'
    )
    SELECT pid, relation::pg_catalog.regclass::text AS relation, mode, seconds FROM waiting, ours
     WHERE seconds > $1 AND pid <> ALL (pids) AND pg_catalog.pg_blocking_pids(pid) && pids LIMIT 1
"""


Choice = Callable[[tuple[Relation, ...]], Chosen]
"""Which of the database's relations are chosen."""


@asynccontextmanager
async def open_snapshot(
    source: Source, selection: Selection | Choice, limits: LockLimits
) -> AsyncIterator[SnapshotSession]:
    """Lock the chosen tables, then export a snapshot that is valid while the block runs.

    Raises `Contended` (another try may succeed), `NoSuchTable`, `MissingPrivilege`.
    """
    choice = partial(choose, selection=selection) if isinstance(selection, Selection) else selection
    connection = await connect(source, "snapshot")
    try:
        with translated("reading the catalogue"):
            first = await read_relations(connection)
        expected = choice(first)
        with translated("locking the tables"):
            await _lock(connection, _to_lock(expected, first), limits)
        with translated("taking the snapshot"):
            snapshot = await _export(connection)
            relations = await read_relations(connection)
        chosen = choice(relations)
        if _identities(chosen) != _identities(expected):
            raise Contended("tables came, went or changed names while they were locked", "run the backup again")
        yield SnapshotSession(connection, snapshot, relations, chosen, limits, source)
    finally:
        connection.terminate()


def _to_lock(chosen: Chosen, relations: tuple[Relation, ...]) -> list[Relation]:
    """The chosen tables and the partitioned tables above them."""
    by_oid = {relation.oid: relation for relation in relations}
    return list(dict.fromkeys(above for relation in chosen.relations for above in ancestry(relation, by_oid)))


async def _lock(connection: Connection, tables: list[Relation], limits: LockLimits) -> None:
    """Begin, and lock the tables; nothing here takes a snapshot yet. Raises `Contended`, `MissingPrivilege`."""
    await connection.execute(BEGIN)
    if not tables:
        return
    names = ", ".join(f"ONLY {qualified(relation.table)}" for relation in tables)
    milliseconds = round(limits.lock_timeout * 1000)
    await connection.execute(f"SET LOCAL lock_timeout = {milliseconds}")
    # Those who wait on the tables that are locked already must not wait for each of the others in turn.
    await connection.execute(f"SET LOCAL statement_timeout = {milliseconds}")
    try:
        await connection.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE")
    except (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError) as error:
        raise Contended(
            f"waited {limits.lock_timeout:g} s to lock {await _in_the_way(connection, tables)}",
            "run it again when no schema change is under way",
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise MissingPrivilege(
            f"the role may not read {await _unreadable(connection, tables) or 'everything chosen'}: {error}",
            "GRANT SELECT on it, and USAGE on its schema, to the role (rowvault doctor prints the SQL)",
        ) from error
    await connection.execute("SET LOCAL statement_timeout = 0")


async def _in_the_way(connection: Connection, tables: list[Relation]) -> str:
    """Which of the tables is locked by whom, unless that is over by now."""
    await connection.execute("ROLLBACK")
    row = await connection.fetchrow(
        """
        SELECT relation::bigint AS oid, pid FROM pg_catalog.pg_locks
         WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock' AND relation = ANY ($1::oid[])
           AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
         ORDER BY granted DESC LIMIT 1
        """,
        [relation.oid for relation in tables],
    )
    if row is None:
        return f"{len(tables)} tables"
    table = next(relation.table for relation in tables if relation.oid == row["oid"])
    return f"{table}, which server pid {row['pid']} holds or waits for"


async def _unreadable(connection: Connection, tables: list[Relation]) -> str:
    await connection.execute("ROLLBACK")
    rows = await connection.fetch(
        """
        SELECT c.oid::bigint FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1::oid[])
           AND NOT (pg_catalog.has_table_privilege(c.oid, 'SELECT')
                    AND pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE'))
        """,
        [relation.oid for relation in tables],
    )
    missing = {row["oid"] for row in rows}
    named = [str(relation.table) for relation in tables if relation.oid in missing]
    return ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")


def _identities(chosen: Chosen) -> set[tuple[int, TableName]]:
    return {(relation.oid, relation.table) for relation in chosen.relations}


async def _export(connection: Connection) -> Snapshot:
    identifier = await connection.fetchval("SELECT pg_catalog.pg_export_snapshot()")
    row = await connection.fetchrow(
        """
        SELECT pg_catalog.pg_current_snapshot()::text AS seen, pg_catalog.clock_timestamp() AS moment,
               CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                    ELSE pg_catalog.pg_current_wal_insert_lsn() END::text AS lsn
        """
    )
    xmin, xmax, running = row["seen"].split(":")
    in_progress = tuple(int(xid) for xid in running.split(",") if xid)
    return Snapshot(identifier, int(xmin), int(xmax), in_progress, row["lsn"], row["moment"])


async def join_snapshot(source: Source, snapshot_id: str, purpose: str) -> Connection:
    """Another session that sees exactly the exported snapshot."""
    connection = await connect(source, purpose)
    try:
        with translated("joining the snapshot"):
            await connection.execute(BEGIN)
            try:
                await connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot_id}'")
            except _NO_SNAPSHOT as error:
                raise ConnectionLost("the session that holds the snapshot was lost", "see the server's log") from error
    except BaseException:
        connection.terminate()
        raise
    return connection


# What the server says of a snapshot that is gone: 17 and newer, and before.
_NO_SNAPSHOT = (asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError)
