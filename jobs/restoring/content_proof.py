"""Proves that tables hold exactly the rows of a backup, byte for byte: they are COPYed out and hashed again."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.concurrency import Worker, task_group
from jobs.postgres.connection import Connection, Source, connect
from jobs.postgres.content import Bag, BagTotal, InOrder, PartHash, copy_through
from jobs.postgres.identifiers import TableName
from jobs.progress import OnProgress, Progress
from jobs.restoring.table_load import Bags
from storage.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Promise:
    """What one table should hold: parts in order, or lines whatever their order, its partitions' among them."""

    table: TableName
    columns: tuple[str, ...]
    content: tuple[PartHash, ...] | BagTotal
    bytes: int


def promises(manifest: Manifest, bags: Bags) -> list[Promise]:
    """What every table of a backup should hold after it was loaded; `bags` are those that were loaded without order."""
    made: list[Promise] = []
    for table in manifest.tables:
        name = TableName(table.schema_name, table.name)
        place = TableName(table.load_into.schema_name, table.load_into.name) if table.load_into else name
        columns = tuple(column.name for column in table.columns if not column.generated)
        if place not in bags:
            parts = tuple(PartHash(part.rows, part.sha256) for part in table.parts)
            made.append(Promise(name, columns, parts, table.bytes_raw))
        elif all(other.table != place for other in made):
            made.append(Promise(place, columns, bags[place], table.bytes_raw))
    return sorted(made, key=lambda promise: -promise.bytes)


async def broken(target: Source, promised: Sequence[Promise], streams: int, on_progress: OnProgress) -> list[TableName]:
    """Those tables that do not hold what they should."""
    found: list[TableName] = []
    waiting = iter(promised)
    done = 0

    async def stream(number: int) -> None:
        nonlocal done
        async with Worker(f"prove-{number}") as worker:
            connection = await worker.open(connect(target, f"prove {number}"), Connection.terminate)
            for promise in waiting:
                if not await worker.run(_is_kept(connection, promise)):
                    found.append(promise.table)
                done += promise.bytes
                on_progress(Progress("comparing", done, sum(one.bytes for one in promised)))

    async with task_group() as group:
        for number in range(min(streams, len(promised))):
            group.create_task(stream(number))
    return sorted(found)


async def _is_kept(connection: Connection, promise: Promise) -> bool:
    """In a worker's thread: read one table."""
    if isinstance(promise.content, BagTotal):
        bag = Bag()
        await copy_through(connection, promise.table, promise.columns, bag, only=False)
        return bag.total() == promise.content
    check = InOrder(promise.content)
    await copy_through(connection, promise.table, promise.columns, check)
    return check.finished()
