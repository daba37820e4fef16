"""Loads tables from storage: backend → decrypt, decompress, hash (in a worker thread) → COPY stream.

A table goes in whole, its parts in order, in the transaction that empties it: so its rows can be written frozen, and
lie in the order they came. One much larger than a stream's share goes in by parts, each by the stream that is free.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import dataclass

from jobs.concurrency import Worker, task_group
from jobs.postgres.connection import Connection, Source, connect
from jobs.postgres.content import Bag, BagTotal
from jobs.postgres.copying import copy_in, truncate_only
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName
from jobs.progress import OnProgress, Progress
from storage.age import Keyring
from storage.codecs import Decoder, Digest, Tally
from storage.errors import Corrupt
from storage.manifest import Manifest, Part, Table
from storage.objects import BlockingReader
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class Load:
    """What one stream loads at a time: a whole table in order, or some of its parts."""

    table: Table
    parts: tuple[Part, ...]
    in_order: bool

    @property
    def bytes(self) -> int:
        """Bytes of COPY text."""
        return sum(part.bytes for part in self.parts)

    @property
    def into(self) -> TableName:
        """The table that its rows are COPYed to."""
        place = self.table.load_into or self.table
        return TableName(place.schema_name, place.name)


UNEVEN = 1.5  # streams that end apart cost less than rows without order, which have to be compared one by one


def plan_loads(tables: Sequence[Table], streams: int) -> list[Load]:
    """The loads of all tables that have rows, the largest first, so that the streams end at about the same time."""
    share = sum(table.bytes_raw for table in tables) / max(1, streams)
    most = UNEVEN * share
    loads: list[Load] = []
    for table in tables:
        parts = tuple(part for part in table.parts if part.rows)
        if table.load_into is None and (len(parts) < 2 or table.bytes_raw <= most):
            loads += [Load(table, parts, in_order=True)] if parts else []
        else:
            loads += [Load(table, (part,), in_order=False) for part in parts]
    return sorted(loads, key=lambda load: -load.bytes)


Bags = dict[TableName, BagTotal]
"""Of each table whose rows went in without order: the hash of all its lines, by the table they were COPYed to."""


async def load_tables(
    target: Source, manifest: Manifest, repository: Repository, streams: int, on_progress: OnProgress
) -> Bags:
    """Load every part of every table into empty tables. Raises `Corrupt` if one is not what it was."""
    loads = plan_loads(manifest.tables, streams)
    total = sum(load.bytes for load in loads)
    done = 0
    bags: Bags = {}
    waiting = iter(loads)

    async def stream(number: int) -> None:
        nonlocal done
        async with _loading_worker(target, number) as (worker, connection):
            for load in waiting:
                bag = await _carry_out(worker, connection, repository, load)
                if bag is not None:
                    bags[load.into] = bags.get(load.into, BagTotal()) + bag
                done += load.bytes
                on_progress(Progress("loaded", done, total, manifest.id, str(load.into), load.parts[0].number))

    async with task_group() as group:
        for number in range(min(streams, len(loads))):
            group.create_task(stream(number))
    return bags


@asynccontextmanager
async def _loading_worker(target: Source, number: int) -> AsyncIterator[tuple[Worker, Connection]]:
    async with Worker(f"load-{number}") as worker:
        yield worker, await worker.open(connect(target, f"load {number}"), Connection.terminate)


async def _carry_out(worker: Worker, connection: Connection, repository: Repository, load: Load) -> BagTotal | None:
    if not load.in_order:
        bag = Bag()
        await load_part(worker, connection, repository, load.table, load.parts[0], load.into, bag=bag)
        return bag.total()
    await worker.run(_begin(connection, load.into))
    for part in load.parts:
        await load_part(worker, connection, repository, load.table, part, load.into, frozen=True)
    await worker.run(_commit(connection, load.into))
    return None


async def _begin(connection: Connection, table: TableName) -> None:
    with translated(f"loading {table}"):
        await connection.execute("BEGIN")
        await truncate_only(connection, [table])


async def _commit(connection: Connection, table: TableName) -> None:
    with translated(f"loading {table}"):
        await connection.execute("COMMIT")


async def load_part(
    worker: Worker,
    connection: Connection,
    repository: Repository,
    table: Table,
    part: Part,
    into: TableName,
    *,
    frozen: bool = False,
    bag: Bag | None = None,
) -> None:
    """Load one part of a table into a table, by a session in the worker's thread; `bag` gets its lines as well.

    `frozen`: rows are written as VACUUM FREEZE would leave them, in the transaction that made or emptied `into`.
    """
    columns = tuple(column.name for column in table.columns if not column.generated)
    readers = [(stored.name, BlockingReader(repository.backend.read(stored.name))) for stored in part.objects]
    try:
        rows, plain = await worker.run(
            _decode_into(connection, into, columns, readers, repository.keyring, bag, frozen=frozen)
        )
    finally:
        for _, reader in readers:
            reader.close()
    if (rows, plain.sha256) != (part.rows, part.sha256):
        raise Corrupt(
            f"part {part.number} of {table.schema_name}.{table.name} changed since it was verified",
            "nothing was restored; verify the backup and look at the storage",
        )


async def _decode_into(
    connection: Connection,
    into: TableName,
    columns: tuple[str, ...],
    readers: list[tuple[str, BlockingReader]],
    keyring: Keyring,
    bag: Bag | None,
    *,
    frozen: bool,
) -> tuple[int, Digest]:
    """In the worker's thread: decompress and send."""
    decoder = Decoder(keyring)

    async def chunks() -> AsyncGenerator[bytes, None]:
        for name, reader in readers:
            with closing(decoder.read(name, reader.fetch, Tally())) as text:
                for chunk in text:
                    if bag is not None:
                        bag.feed(chunk)
                    yield chunk

    async with aclosing(chunks()) as text:
        rows = await copy_in(connection, into, columns, text, frozen=frozen)
    return rows, decoder.plain.digest()
