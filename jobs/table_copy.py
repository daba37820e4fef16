"""Copies parts of tables into storage: COPY stream → hash, compress, hash (in a worker thread) → backend."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from jobs.concurrency import Handoff, Worker, task_group
from jobs.postgres.connection import Connection, Source
from jobs.postgres.copying import PAGES_PER_PART, PartPlan, RateLimit, batches, copy_out, lock_nowait
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


@dataclass(frozen=True, slots=True)
class _Copied:
    """What a worker hands over: the next block of a part, and with the part's last block its rows and plain digest."""

    part: PartPlan
    block: Block
    rows: int = 0
    plain: Digest | None = None


_Stream = Handoff[_Copied | None]


async def copy_tables(
    source: Source,
    snapshot_id: str,
    backup_id: str,
    parts: list[PartPlan],
    backend: Backend,
    options: CopyOptions,
    on_part: OnPart,
) -> None:
    """Copy all parts, each stream taking the next. `on_part` hears of each once all its objects are stored.

    A stream goes on copying while what it handed over is being stored.
    """
    waiting = iter(batches(parts))

    async def stream(number: int) -> None:
        handoff: _Stream = Handoff()
        async with _snapshot_worker(source, snapshot_id, number) as (worker, connection), task_group() as group:
            group.create_task(worker.run(_encode_all(connection, waiting, options, handoff)))
            while (first := await handoff.get()) is not None:
                on_part(first.part, await _store_part(backend, backup_id, first, handoff))

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


async def _encode_all(
    connection: Connection, waiting: Iterator[list[PartPlan]], options: CopyOptions, handoff: _Stream
) -> None:
    """In the worker's thread: copy parts until none is left, which None says."""
    limit = RateLimit(options.rate_limit / options.streams) if options.rate_limit else None
    for batch in waiting:
        await lock_nowait(connection, [part.table for part in batch], options.lost_after)
        for part in batch:
            await _encode(connection, part, options, limit, handoff)
    await handoff.put(None)


async def _encode(
    connection: Connection, part: PartPlan, options: CopyOptions, limit: RateLimit | None, handoff: _Stream
) -> None:
    """The sink is done with each chunk before it returns, so the next one comes larger."""
    encoder = Encoder(options.level, options.roll_at)

    async def sink(chunk: bytes) -> None:
        block = encoder.feed(chunk)
        if block is not None:
            await handoff.put(_Copied(part, block))
        if limit is not None:
            await limit.spend(len(chunk))

    rows = await copy_out(connection, part, sink, options.lost_after)
    block, plain = encoder.finish()
    await handoff.put(_Copied(part, block, rows, plain))


async def _store_part(backend: Backend, backup_id: str, first: _Copied, handoff: _Stream) -> Part:
    """Write a part, whose first block came already, as one object, or several where it rolls over."""
    part = first.part
    objects: list[StoredFile] = []
    copied: _Copied | None = first
    while True:
        assert copied is not None
        name = data_object(backup_id, part.table.schema, part.table.name, part.number, len(objects))
        last = await _store_object(backend, name, copied, handoff)
        assert last.block.ends is not None
        objects.append(StoredFile(name=name, bytes=last.block.ends.bytes, sha256=last.block.ends.sha256))
        if last.plain is not None:
            break
        copied = await handoff.get()
    return Part(
        number=part.number,
        first_page=part.first_page,
        end_page=part.end_page,
        rows=last.rows,
        bytes=last.plain.bytes,
        sha256=last.plain.sha256,
        objects=tuple(objects),
    )


async def _store_object(backend: Backend, name: str, first: _Copied, handoff: _Stream) -> _Copied:
    """Write one object; return what ended it."""
    upload = await backend.begin(name)
    try:
        copied = first
        await upload.append(copied.block.data)
        while copied.block.ends is None:
            following = await handoff.get()
            assert following is not None
            copied = following
            await upload.append(copied.block.data)
        await upload.commit()
        return copied
    finally:
        await upload.abort()


def parts_by_table(copied: list[tuple[PartPlan, Part]]) -> dict[TableName, list[Part]]:
    """The stored parts of each table."""
    tables: dict[TableName, list[Part]] = {}
    for plan, part in copied:
        tables.setdefault(plan.table, []).append(part)
    return tables
