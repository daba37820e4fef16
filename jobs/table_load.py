"""Loads parts of tables from storage: backend → decompress, hash (in a worker thread) → COPY stream."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobs.concurrency import Worker, task_group
from jobs.postgres.connection import Connection, Source, connect
from jobs.postgres.copying import copy_in
from jobs.postgres.identifiers import TableName
from jobs.progress import OnProgress, Progress
from storage.codecs import Decoder, Digest, Tally
from storage.errors import Corrupt
from storage.manifest import Manifest, Part, Table
from storage.objects import BlockingReader
from storage.repository import Repository


async def load_tables(
    target: Source, manifest: Manifest, repository: Repository, streams: int, on_progress: OnProgress
) -> None:
    """Load every part of every table into the target, the largest first. Raises `Corrupt` if one is not what it was."""
    parts = [(table, part) for table in manifest.tables for part in table.parts if part.rows]
    parts.sort(key=lambda pair: -pair[1].bytes)
    total = sum(part.bytes for _, part in parts)
    done = 0
    waiting = iter(parts)

    async def stream(number: int) -> None:
        nonlocal done
        async with _loading_worker(target, number) as (worker, connection):
            for table, part in waiting:
                await _load_part(worker, connection, repository, table, part)
                done += part.bytes
                on_progress(
                    Progress("loaded", done, total, manifest.id, f"{table.schema_name}.{table.name}", part.number)
                )

    async with task_group() as group:
        for number in range(min(streams, len(parts))):
            group.create_task(stream(number))


@asynccontextmanager
async def _loading_worker(target: Source, number: int) -> AsyncIterator[tuple[Worker, Connection]]:
    async with Worker(f"load-{number}") as worker:
        yield worker, await worker.open(connect(target, f"load {number}"), Connection.terminate)


async def _load_part(worker: Worker, connection: Connection, repository: Repository, table: Table, part: Part) -> None:
    readers = [(stored.name, BlockingReader(repository.backend.read(stored.name))) for stored in part.objects]
    try:
        rows, plain = await worker.run(_decode_into(connection, table, readers))
    finally:
        for _, reader in readers:
            reader.close()
    if (rows, plain.sha256) != (part.rows, part.sha256):
        raise Corrupt(
            f"part {part.number} of {table.schema_name}.{table.name} changed since it was verified",
            "the target was emptied again; verify the backup and look at the storage",
        )


async def _decode_into(
    connection: Connection, table: Table, readers: list[tuple[str, BlockingReader]]
) -> tuple[int, Digest]:
    """In the worker's thread: decompress and send."""
    decoder = Decoder()

    async def chunks() -> AsyncIterator[bytes]:
        for name, reader in readers:
            for chunk in decoder.read(name, reader.fetch, Tally()):
                yield chunk

    columns = tuple(column.name for column in table.columns if not column.generated)
    place = table.load_into or table
    rows = await copy_in(connection, TableName(place.schema_name, place.name), columns, chunks())
    return rows, decoder.plain.digest()
