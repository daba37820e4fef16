"""What is known of tables from the backups before: with that the next difference is compared."""

from dataclasses import dataclass
from datetime import datetime

from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from storage.errors import StorageError
from storage.increments import Incremental, TableDifference
from storage.manifest import Manifest, Part, Snapshot, Table
from storage.repository import Repository

MOST_TRANSACTIONS = 1 << 30
"""Row versions know 32 bits of their transaction: what is 2^31 older looks new."""


@dataclass(frozen=True, slots=True)
class KnownTable:
    """A table as of the last backup: how many rows it had, a list of its keys and what became of them since.

    Without `keys` nothing tells its rows apart.
    """

    rows: int
    keys: Part | None
    since: tuple[TableDifference, ...]


@dataclass(frozen=True, slots=True)
class Previous:
    """A full backup, and the newest of the differences that continue it, oldest first: no more than are needed."""

    base: Manifest
    steps: tuple[Incremental, ...]

    @property
    def id(self) -> str | None:
        """The last difference; None if the full backup is what comes before."""
        return self.steps[-1].id if self.steps else None

    @property
    def snapshot(self) -> Snapshot:
        """What the last backup saw."""
        beside = self.steps[-1].beside if self.steps else None
        return beside.snapshot if beside else self.base.snapshot

    @property
    def moment(self) -> datetime:
        """When that was."""
        beside = self.steps[-1].beside if self.steps else None
        return beside.moment if beside else self.base.created_at

    def known(self, table: Table) -> KnownTable:
        """What is known of one table."""
        known = KnownTable(table.rows, table.keys, ())
        for one in self._differences(table):
            known = KnownTable(one.rows, one.keys or known.keys, () if one.keys else (*known.since, one))
        return known

    def _differences(self, table: Table) -> list[TableDifference]:
        found = []
        for step in self.steps:
            assert step.beside is not None
            found += [one for one in step.beside.tables if one.oid == table.oid]
        return found


async def previous_backup(primary: Repository, base: Manifest) -> Previous | str:
    """What the next difference continues, or why nothing can be continued."""
    beside = [table for table in base.tables if not table.identity]
    for table in beside:
        generated = {column.name for column in table.columns if column.generated}
        if table.primary_key and table.keys is None and not generated & set(table.primary_key):
            return f"no list of the keys of {table.schema_name}.{table.name} is in the full backup"
    if not beside:
        return Previous(base, ())
    try:
        return Previous(base, await _needed(primary, base))
    except StorageError as error:  # verifying finds it; a full backup takes its place
        return f"an incremental backup before cannot be read: {error.message}"


async def _needed(primary: Repository, base: Manifest) -> tuple[Incremental, ...]:
    """The differences from the newest list of every table's keys on."""
    wanted = {table.oid for table in base.tables if table.keys is not None}
    newest = await _newest(primary, base)
    steps = [newest] if newest else []
    while steps and (beside := steps[0].beside) is not None and beside.previous is not None:
        wanted -= {table.oid for table in beside.tables if table.keys is not None}
        if not wanted:
            break
        steps.insert(0, await primary.incremental(beside.previous))
    return tuple(steps)


async def _newest(primary: Repository, base: Manifest) -> Incremental | None:
    for entry in (await primary.catalogue()).of_kind("incremental"):
        if entry.base == base.id:
            found = await primary.incremental(entry.id)
            if found.beside is not None:
                return found
    return None


async def too_old(connection: Connection, previous: Previous) -> str:
    """Why so many transactions ran since that old rows and new ones cannot be told apart; empty if they can."""
    with translated("reading which transaction is next"):
        now = await connection.fetchval(
            "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text"
        )
    passed = int(now) - previous.snapshot.xmin
    return f"{passed:,} transactions ran since the last backup" if passed > MOST_TRANSACTIONS else ""
