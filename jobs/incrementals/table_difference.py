"""What became of tables since an earlier backup, as of one snapshot: rows that were written, keys that are gone.

A table whose rows nothing tells apart is copied whole, if anything in it changed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from jobs.chains.replay import Rows
from jobs.chains.sorted_keys import KeySieve, Step, known_keys, lines_of
from jobs.copying.part_reading import opened_part, require_identity
from jobs.copying.row_stream import AllOfThem, RowStream
from jobs.copying.table_copy import CopyOptions
from jobs.describe import describe_snapshot
from jobs.errors import Unexplained
from jobs.incrementals.comparison import Comparison
from jobs.incrementals.difference_chain import KnownTable, Previous
from jobs.incrementals.key_lists import row_stream, store_keys
from jobs.postgres.connection import Source
from jobs.postgres.copying import lock_nowait
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName, column_list, qualified
from jobs.postgres.snapshot import SnapshotSession
from jobs.postgres.written import (
    count_query,
    marked_keys_query,
    written_rows_query,
)
from jobs.progress import OnProgress, Progress
from storage.increments import Beside, TableDifference
from storage.manifest import Part, Table
from storage.names import TableList, data_object, list_object
from storage.repository import Repository

RENEW_AFTER = 24
"""Differences after which a table's list of keys is stored anew, so that not ever more must be read to continue."""


async def store_differences(
    source: Source,
    session: SnapshotSession,
    previous: Previous,
    tables: Mapping[int, Comparison],
    backup_id: str,
    repository: Repository,
    options: CopyOptions,
    on_progress: OnProgress,
) -> Beside:
    """Store what became of the tables with these oids, which the session has locked; the caller watches it.

    Raises `Unexplained` if a table does not fit what is known of it, `Contended` if somebody has one of its locks,
    `NoIdentity` if rows of a table changed and the list of its keys cannot be opened: which are gone is not known then.
    """
    found: list[TableDifference] = []
    async with row_stream(source, session.snapshot.id, "difference", repository.backend, options) as stream:
        chosen = [table for table in previous.base.tables if table.oid in tables]
        # All at once: who waits for one of them only later is no reason to begin again.
        names = [TableName(table.schema_name, table.name) for table in chosen]
        await stream.worker.run(lock_nowait(stream.connection, names, options.lost_after))
        for table in chosen:
            name = f"{table.schema_name}.{table.name}"
            on_progress(Progress("comparing", len(found), len(tables), backup_id, name, counted=True))
            how, known = tables[table.oid], previous.known(table)
            one = _OneTable(stream, repository, backup_id, table, how, known, previous)
            found.append(await one.difference())
        await session.make_durable()
        await session.confirm()
    return Beside(
        previous=previous.id,
        moment=session.snapshot.moment,
        snapshot=describe_snapshot(session.snapshot),
        tables=tuple(found),
    )


@dataclass(frozen=True, slots=True)
class _OneTable:
    """A table that is compared with what is known of it."""

    stream: RowStream
    repository: Repository
    backup_id: str
    table: Table
    how: Comparison
    known: KnownTable
    previous: Previous

    @property
    def encoding(self) -> str:
        return self.previous.base.source.encoding

    @property
    def name(self) -> TableName:
        return TableName(self.table.schema_name, self.table.name)

    @property
    def columns(self) -> list[str]:
        return [column.name for column in self.table.columns if not column.generated]

    async def difference(self) -> TableDifference:
        """What became of it; nothing is stored if no row was written and none is gone."""
        rows, fresh = await self.stream.worker.run(self._count())
        same = TableDifference(
            schema_name=self.name.schema,
            name=self.name.name,
            oid=self.table.oid,
            method=self.how.method,
            reason=self.how.reason,
            rows=rows,
            changes=0,
        )
        # A column may be wrong of a row that came, so that it makes up for one that went.
        if not fresh and rows == self.known.rows and self.how.method != "timestamp":
            return same
        if self.known.keys is None:
            whole = await self._whole()
            return same.model_copy(update={"parts": (whole,), "changes": whole.rows})
        return await self._changed(same, self.known.keys)

    async def _count(self) -> tuple[int, int]:
        """How many rows there are, and how many were written."""
        with translated(f"counting the rows of {self.name}"):
            row = await self.stream.connection.fetchrow(count_query(self.name, self.how.written))
        return row["rows"], row["written"]

    async def _whole(self) -> Part:
        query = f"SELECT {column_list(self.columns)} FROM ONLY {qualified(self.name)}"
        name = partial(data_object, self.backup_id, self.name.schema, self.name.name, 0)
        return await self.stream.store(query, str(self.name), name, AllOfThem())

    async def _changed(self, same: TableDifference, listed: Part) -> TableDifference:
        require_identity((self.repository,), (self.previous.base, *self.previous.steps))
        added = await self.stream.store(
            written_rows_query(self.name, self.columns, self.table.primary_key, self.encoding, self.how.written),
            f"what was written in {self.name}",
            self._named("added"),
            AllOfThem(),
        )
        with ExitStack() as reading:
            sieve = KeySieve(str(self.name), self._known_keys(listed, reading))
            query = marked_keys_query(self.name, self.table.primary_key, self.encoding, self.how.written)
            removed = await self.stream.store(query, f"the keys of {self.name}", self._named("removed"), sieve)
        if (sieve.keys, sieve.written, sieve.known) != (same.rows, added.rows, self.known.rows):
            raise Unexplained(
                f"{self.name} does not fit what was backed up of it: {sieve.known} of {self.known.rows} keys are known",
                "a full backup has it; report this",
            )
        return same.model_copy(
            update={
                "changes": sieve.removed + sieve.fresh,
                "removed": removed if removed.rows else None,
                "added": added if added.rows else None,
                "keys": await self._renewed(),
            }
        )

    async def _renewed(self) -> Part | None:
        """A list of all keys, if it is time for one."""
        if len(self.known.since) < RENEW_AFTER:
            return None
        return await store_keys(self.stream, self.backup_id, self.name, self.table.primary_key, self.encoding)

    def _named(self, what: TableList) -> Callable[[int], str]:
        return partial(list_object, self.backup_id, what, self.name.schema, self.name.name)

    def _known_keys(self, listed: Part, reading: ExitStack) -> Iterator[bytes]:
        """The keys that the table had at the last backup, out of storage; for a thread, while what it reads is open."""

        def lines(part: Part | None) -> Iterator[bytes]:
            if part is None:
                return iter(())
            return lines_of(reading.enter_context(opened_part(self.repository, part)))

        rows = Rows(self.table, self.table.primary_key)
        steps = [Step(lines(one.removed), map(rows.key_of, lines(one.added))) for one in self.known.since]
        return known_keys(lines(listed), steps)
