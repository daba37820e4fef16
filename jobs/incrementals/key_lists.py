"""Stores the sorted list of a table's keys, by which rows that go are found where the change log does not tell."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from jobs.concurrency import Worker
from jobs.copying.row_stream import AllOfThem, RowStream
from jobs.copying.table_copy import CopyOptions
from jobs.postgres.connection import Connection, Source
from jobs.postgres.copying import lock_nowait
from jobs.postgres.identifiers import TableName
from jobs.postgres.snapshot import join_snapshot
from jobs.postgres.written import keys_query
from storage.backends.protocol import Backend
from storage.manifest import Part
from storage.names import list_object

OnList = Callable[[Part], None]


@asynccontextmanager
async def row_stream(
    source: Source, snapshot_id: str, purpose: str, backend: Backend, options: CopyOptions
) -> AsyncIterator[RowStream]:
    """A session of its own on the snapshot, in a thread of its own."""
    async with Worker(purpose) as worker:
        connection = await worker.open(join_snapshot(source, snapshot_id, purpose), Connection.terminate)
        yield RowStream(worker, connection, backend, options)


async def store_keys(stream: RowStream, backup_id: str, table: TableName, key: Sequence[str], encoding: str) -> Part:
    """Store the list of one table, which is locked already."""
    name = partial(list_object, backup_id, "keys", table.schema, table.name)
    return await stream.store(keys_query(table, key, encoding), f"the keys of {table}", name, AllOfThem())


async def store_key_lists(
    source: Source,
    snapshot_id: str,
    backup_id: str,
    keys: Sequence[tuple[TableName, Sequence[str]]],
    encoding: str,
    backend: Backend,
    options: CopyOptions,
    on_list: OnList,
) -> dict[TableName, Part]:
    """Store the lists of tables with these keys, one after the other; `on_list` hears of each that is stored."""
    lists: dict[TableName, Part] = {}
    if not keys:
        return lists
    async with row_stream(source, snapshot_id, "keys", backend, options) as stream:
        for table, key in keys:
            await stream.worker.run(lock_nowait(stream.connection, [table], options.lost_after))
            lists[table] = await store_keys(stream, backup_id, table, key, encoding)
            on_list(lists[table])
    return lists
