"""What a backup is compared with, and the backup itself: sides that know their tables and give their rows.

A side of live tables reads all of them at one moment, in a thread of its own.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from jobs.concurrency import Worker, alongside
from jobs.copying.part_reading import read_part
from jobs.errors import NotThere
from jobs.places.leasing import leased_for_reading
from jobs.postgres.catalogue import Chosen, Relation, Selection, TableShape, ancestry, choose, read_shapes
from jobs.postgres.connection import Connection, Source
from jobs.postgres.copying import PartPlan, Sink, copy_out, lock_nowait
from jobs.postgres.errors import NoSuchTable, translated
from jobs.postgres.identifiers import TableName, parse_table, qualified
from jobs.postgres.pooling import refuse_transaction_pooling
from jobs.postgres.snapshot import LockLimits, join_snapshot, open_snapshot
from jobs.row_buckets import Buckets, Layout, Rows
from jobs.scope import tables_by_name
from storage.codecs import Tally
from storage.errors import Corrupt, StorageError
from storage.manifest import Manifest, Part, Table
from storage.repository import Repository

LIVE = "live"
_LOST_AFTER = 300.0  # seconds that the server may send nothing

Leaves = Mapping[TableName, Sequence[TableName]]
"""The tables with rows that a name stands for: itself, or the leaves of a partitioned table."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A table's columns that hold data and their types, in order; its primary key, empty if it has none."""

    columns: Mapping[str, str]
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """The columns by which rows are compared, and those by which they are told apart."""

    columns: tuple[str, ...]
    key: tuple[str, ...]


OnBytes = Callable[[int], None]


class Side(Protocol):
    """One of two sides. `name` is what a person calls it."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def shapes(self) -> Mapping[TableName, Shape]:
        """The tables that it has, of those that are looked at."""

    @property
    def leaves(self) -> Leaves:
        """What each name stands for."""

    async def count(self, table: TableName) -> int:
        """How many rows it has."""

    async def parts(self, table: TableName, columns: Sequence[str], like: Sequence[Part]) -> Sequence[Part]:
        """The parts that it has; a live table is cut along the pages of others, `like` which its own may still be."""

    async def read(
        self, table: TableName, parts: Sequence[Part], compared: Compared, into: Buckets, on_bytes: OnBytes
    ) -> None:
        """Put a record of every row of these parts into buckets; `on_bytes` hears of each part."""


def tables_meant(texts: Sequence[str], *sides: Leaves) -> set[TableName]:
    """What a person's names mean on any of the sides; raises `NotThere`, `BadName`."""
    known = tuple({name for side in sides for name in side})
    meant: set[TableName] = set()
    for text in texts:
        try:
            name = parse_table(text, known)
        except LookupError as error:
            raise NotThere(f"there is no table {text} on either side", "names are case-sensitive") from error
        for side in sides:
            meant.update(side.get(name, ()))
    return meant


class BackupSide:
    """A backup, read from the first place where a table is whole."""

    def __init__(self, manifest: Manifest, places: Sequence[Repository]) -> None:
        self.name = manifest.id
        self.tables = {TableName(table.schema_name, table.name): table for table in manifest.tables}
        self.shapes = {name: _shape(table) for name, table in self.tables.items()}
        self.leaves: Leaves = {
            name: [TableName(table.schema_name, table.name) for table in tables]
            for name, tables in tables_by_name(manifest).items()
        }
        self._places = places

    async def count(self, table: TableName) -> int:
        """How many rows, by COPY's own count."""
        return self.tables[table].rows

    async def parts(self, table: TableName, _columns: Sequence[str], _like: Sequence[Part]) -> Sequence[Part]:
        """The parts as they were backed up."""
        return self.tables[table].parts

    async def read(
        self, table: TableName, parts: Sequence[Part], compared: Compared, into: Buckets, on_bytes: OnBytes
    ) -> None:
        """Raises `Corrupt` if what was backed up is in no place, else what the first place raised."""
        layout = Layout.of(list(self.shapes[table].columns), compared.columns, compared.key)
        failures: list[StorageError] = []
        for place in self._places:
            rows = Rows(layout, into)
            try:
                for part in parts:
                    await read_part(place, part, partial(_feed, rows))
                    on_bytes(part.bytes)
            except StorageError as error:
                failures.append(error)
                into.clear()
            else:
                return
        raise next((error for error in failures if isinstance(error, Corrupt)), failures[0])


def _feed(rows: Rows, text: Iterator[bytes]) -> None:
    for chunk in text:
        rows.feed(chunk)


@asynccontextmanager
async def backup_side(repositories: Sequence[Repository], manifest: Manifest) -> AsyncIterator[BackupSide]:
    """A backup, protected by leases in the places that have it while the block runs."""
    failures: list[StorageError] = []
    places: list[Repository] = []
    async with AsyncExitStack() as leases:
        for repository in repositories:
            try:
                await repository.find(manifest.id)
                await leases.enter_async_context(leased_for_reading(repository, manifest.id, "diff"))
                places.append(repository)
            except StorageError as error:
                failures.append(error)
        if not places:
            raise failures[0]
        yield BackupSide(manifest, places)


class LiveSide:
    """Tables of a database, as one snapshot sees them. `connection` lives in the worker's thread."""

    name = LIVE

    def __init__(
        self, worker: Worker, connection: Connection, leaves: Leaves, shapes: Mapping[TableName, Shape]
    ) -> None:
        self.leaves = leaves
        self.shapes = shapes
        self._worker = worker
        self._connection = connection

    async def count(self, table: TableName) -> int:
        """How many rows, counted."""
        return await self._worker.run(self._count(table))

    async def _count(self, table: TableName) -> int:
        await lock_nowait(self._connection, [table], _LOST_AFTER)
        with translated(f"counting the rows of {table}"):
            count: int = await self._connection.fetchval(f"SELECT count(*) FROM ONLY {qualified(table)}")
        return count

    async def parts(self, table: TableName, columns: Sequence[str], like: Sequence[Part]) -> Sequence[Part]:
        """Parts of the same pages, hashed as they are now; without any to be like, the whole table as one."""
        if not like:
            return [Part(number=0, first_page=None, end_page=None, rows=0, bytes=0, sha256="", objects=())]
        return [await self._worker.run(self._hashed(table, columns, part)) for part in like]

    async def _hashed(self, table: TableName, columns: Sequence[str], part: Part) -> Part:
        tally = Tally()

        async def sink(chunk: bytes) -> None:
            tally.add(chunk)

        rows = await self._copy(table, columns, part, sink)
        now = tally.digest()
        return part.model_copy(update={"rows": rows, "bytes": now.bytes, "sha256": now.sha256, "objects": ()})

    async def read(
        self, table: TableName, parts: Sequence[Part], compared: Compared, into: Buckets, on_bytes: OnBytes
    ) -> None:
        """Raises what COPY raises: `Contended`, `ConnectionLost`, `MissingPrivilege`."""
        rows = Rows(Layout.of(compared.columns, compared.columns, compared.key), into)

        async def sink(chunk: bytes) -> None:
            rows.feed(chunk)

        for part in parts:
            await self._worker.run(self._copy(table, compared.columns, part, sink))
            on_bytes(part.bytes)

    async def _copy(self, table: TableName, columns: Sequence[str], part: Part, sink: Sink) -> int:
        await lock_nowait(self._connection, [table], _LOST_AFTER)
        plan = PartPlan(table, part.number, tuple(columns), part.first_page, part.end_page, part.bytes)
        return await copy_out(self._connection, plan.query, str(plan), sink, _LOST_AFTER)


@asynccontextmanager
async def live_side(
    source: Source, backup: BackupSide, selection: Selection, texts: Sequence[str], limits: LockLimits
) -> AsyncIterator[LiveSide]:
    """The tables that `texts` name, else the backup's and those that the settings choose now, locked while it runs.

    Raises `Contended` once somebody waits on the locks for too long.
    """
    await refuse_transaction_pooling(source)
    choice = partial(_choose_live, backup=backup, selection=selection, texts=texts)
    async with open_snapshot(source, choice, limits) as session, Worker("diff") as worker:
        with translated("reading the catalogue"):
            shapes = await read_shapes(session.connection, [one.oid for one in session.chosen.relations])
        joining = join_snapshot(source, session.snapshot.id, "diff")
        connection = await worker.open(joining, Connection.terminate)
        there = {one.table: _shape(shapes[one.oid]) for one in session.chosen.relations}
        async with alongside(session.watch()):
            yield LiveSide(worker, connection, _leaves(session.relations), there)
            await session.confirm()


def _choose_live(
    relations: tuple[Relation, ...], backup: BackupSide, selection: Selection, texts: Sequence[str]
) -> Chosen:
    if texts:
        wanted = tables_meant(texts, backup.leaves, _leaves(relations))
    else:
        wanted = {*backup.tables, *_selected(relations, selection)}
    there = (one for one in relations if one.has_rows and not one.of_extension and one.table in wanted)
    return Chosen(tuple(there), ())


def _leaves(relations: tuple[Relation, ...]) -> Leaves:
    """What each name in a database stands for."""
    by_oid = {relation.oid: relation for relation in relations}
    leaves: dict[TableName, list[TableName]] = {}
    for relation in relations:
        if relation.has_rows and not relation.of_extension:
            for above in ancestry(relation, by_oid):
                leaves.setdefault(above.table, []).append(relation.table)
    return leaves


def _selected(relations: tuple[Relation, ...], selection: Selection) -> Iterator[TableName]:
    """What the settings choose now. A pattern that matches nothing is no error: its table may be what was lost."""
    each = [replace(selection, tables=(pattern,)) for pattern in selection.tables] or [selection]
    for one in each:
        with suppress(NoSuchTable):
            yield from (relation.table for relation in choose(relations, one).relations)


def _shape(table: Table | TableShape) -> Shape:
    columns = {column.name: column.type for column in table.columns if not column.generated}
    return Shape(columns, tuple(table.primary_key))
