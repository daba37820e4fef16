"""Copies parts of tables into storage: COPY stream → hash, compress, hash (in a worker thread) → backend."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from jobs.concurrency import Handoff, Worker, task_group
from jobs.postgres.connection import Connection, Source
from jobs.postgres.copying import PAGES_PER_PART, PartPlan, RateLimit, copy_out, lock_nowait
from jobs.postgres.identifiers import TableName
from jobs.postgres.snapshot import join_snapshot
from storage.backends.protocol import Backend
from storage.codecs import ROLL_AT, Block, Digest, Encoder
from storage.manifest import Part, StoredFile
from storage.names import data_object


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """How tables are copied: parallel streams, zstd level, and bytes of COPY text a second over all (None: no cap).

    `pages_per_part` is about how much of a table one stream takes at a time, `roll_at` the stored bytes of one object,
    `lost_after` how many seconds the server may send nothing.
    """

    streams: int = 2
    level: int = 1
    rate_limit: float | None = None
    pages_per_part: int = PAGES_PER_PART
    roll_at: int = ROLL_AT
    lost_after: float = 300.0


OnPart = Callable[[PartPlan, Part], None]


async def copy_tables(
    source: Source,
    snapshot_id: str,
    backup_id: str,
    parts: list[PartPlan],
    backend: Backend,
    options: CopyOptions,
    on_part: OnPart,
) -> None:
    """Copy all parts, each stream taking the next. `on_part` hears of each once all its objects are stored."""
    waiting = iter(parts)

    async def stream(number: int) -> None:
        async with _snapshot_worker(source, snapshot_id, number) as (worker, connection):
            for part in waiting:
                copied = await _copy_part(worker, connection, part, backup_id, backend, options)
                on_part(part, copied)

    async with task_group() as group:
        for number in range(min(options.streams, len(parts))):
            group.create_task(stream(number))


@asynccontextmanager
async def _snapshot_worker(source: Source, snapshot_id: str, number: int) -> AsyncIterator[tuple[Worker, Connection]]:
    async with Worker(f"copy-{number}") as worker:
        connection = await worker.run(join_snapshot(source, snapshot_id, f"copy {number}"))
        try:
            yield worker, connection
        finally:
            worker.call_soon(connection.terminate)


async def _copy_part(
    worker: Worker,
    connection: Connection,
    part: PartPlan,
    backup_id: str,
    backend: Backend,
    options: CopyOptions,
) -> Part:
    handoff: Handoff[Block] = Handoff()
    async with task_group() as group:
        copying = group.create_task(worker.run(_encode(connection, part, options, handoff)))
        objects = await _store(backend, backup_id, part, handoff)
    rows, plain = copying.result()
    return Part(
        number=part.number,
        first_page=part.first_page,
        end_page=part.end_page,
        rows=rows,
        bytes=plain.bytes,
        sha256=plain.sha256,
        objects=tuple(objects),
    )


async def _encode(
    connection: Connection, part: PartPlan, options: CopyOptions, handoff: Handoff[Block]
) -> tuple[int, Digest]:
    """In the worker's thread: the sink is done with each chunk before it returns, so the next one comes larger."""
    encoder = Encoder(options.level, options.roll_at)
    limit = RateLimit(options.rate_limit / options.streams) if options.rate_limit else None

    async def sink(chunk: bytes) -> None:
        block = encoder.feed(chunk)
        if block is not None:
            await handoff.put(block)
        if limit is not None:
            await limit.spend(len(chunk))

    await lock_nowait(connection, part.table)
    rows = await copy_out(connection, part, sink, options.lost_after)
    block, plain = encoder.finish()
    await handoff.put(block)
    return rows, plain


async def _store(backend: Backend, backup_id: str, part: PartPlan, handoff: Handoff[Block]) -> list[StoredFile]:
    """Write what comes over as one object, or several where it rolls over."""
    objects: list[StoredFile] = []
    while True:
        name = data_object(backup_id, part.table.schema, part.table.name, part.number, len(objects))
        block = await _store_object(backend, name, handoff)
        assert block.ends is not None
        objects.append(StoredFile(name=name, bytes=block.ends.bytes, sha256=block.ends.sha256))
        if block.last:
            return objects


async def _store_object(backend: Backend, name: str, handoff: Handoff[Block]) -> Block:
    upload = await backend.begin(name)
    try:
        while True:
            block = await handoff.get()
            await upload.append(block.data)
            if block.ends is not None:
                await upload.commit()
                return block
    finally:
        await upload.abort()


def parts_by_table(copied: list[tuple[PartPlan, Part]]) -> dict[TableName, list[Part]]:
    """The stored parts of each table."""
    tables: dict[TableName, list[Part]] = {}
    for plan, part in copied:
        tables.setdefault(plan.table, []).append(part)
    return tables
