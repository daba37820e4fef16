"""Copies parts of tables into storage: COPY stream → hash, compress, encrypt, hash (in a thread) → backend."""

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass

from zstandard import ZstdCompressor

from jobs.concurrency import Handoff, Worker, task_group
from jobs.copying.object_stream import Encoded, store_encoded, stored_file
from jobs.postgres.connection import Connection, Source
from jobs.postgres.copying import PAGES_PER_PART, PartPlan, RateLimit, batches, copy_out, lock_nowait
from jobs.postgres.identifiers import TableName
from jobs.postgres.snapshot import join_snapshot
from storage.age import Recipients, stored_name
from storage.backends.protocol import Backend
from storage.codecs import ROLL_AT, Encoder, compressor
from storage.manifest import Part, StoredFile
from storage.names import data_object


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """How tables are copied: parallel streams, zstd level, and bytes of COPY text a second over all (None: no cap).

    `pages_per_part` is about how much of a table one stream takes at a time, `roll_at` the stored bytes of one object,
    `lost_after` how many seconds the server may send nothing. `recipients` are those for whom all is encrypted.
    """

    streams: int = 2
    level: int = 1
    rate_limit: float | None = None
    pages_per_part: int = PAGES_PER_PART
    roll_at: int = ROLL_AT
    lost_after: float = 300.0
    recipients: Recipients | None = None

    def encoder(self, frames: ZstdCompressor | None = None) -> Encoder:
        """What makes stored bytes of plain ones; it must be finished or closed. See `compressor` for `frames`."""
        return Encoder(frames or compressor(self.level), self.roll_at, self.recipients)

    def named(self, name: str) -> str:
        """The name of an object, given what it would be called if it were plain."""
        return stored_name(name, self.recipients)


OnPart = Callable[[PartPlan, Part], None]


@dataclass(frozen=True, slots=True)
class _Copied:
    """What a worker hands over: the next block of a part."""

    part: PartPlan
    encoded: Encoded


# Small parts come finished, many at a time; of others come the blocks; None ends a stream.
_Stream = Handoff[_Copied | list[_Copied] | None]
GATHERED_BYTES = 1024 * 1024
# To write files takes the interpreter's lock from who copies, again and again: better many at once.
GATHERED_PARTS = 1000


async def copy_tables(
    source: Source,
    snapshot_id: str,
    backup_id: str,
    parts: list[PartPlan],
    backend: Backend,
    options: CopyOptions,
    on_part: OnPart,
) -> None:
    """Copy all parts, the small ones first, each stream taking the next. `on_part` hears of each once it is stored.

    A stream goes on copying while what it handed over is being stored. Streams of large parts have a thread each, for
    to compress and hash needs no interpreter. Those of small parts share one: threads would take the interpreter from
    each other after every few lines, and need twice as long.
    """

    async def stream(number: int, worker: Worker, waiting: Iterator[list[PartPlan]]) -> None:
        joining = join_snapshot(source, snapshot_id, f"copy {number}")
        connection = await worker.open(joining, Connection.terminate)
        handoff: _Stream = Handoff()
        async with task_group() as group:
            group.create_task(worker.run(_encode_all(connection, waiting, options, handoff)))
            while (copied := await handoff.get()) is not None:
                if isinstance(copied, list):
                    stored = await _store_small(backend, backup_id, copied, options)
                else:
                    stored = [(copied.part, await _store_part(backend, backup_id, copied, handoff, options))]
                for plan, part in stored:
                    on_part(plan, part)

    async def copy(together: list[list[PartPlan]], threads: int) -> None:
        waiting = iter(together)
        async with AsyncExitStack() as stack:
            workers = [await stack.enter_async_context(Worker(f"copy-{number}")) for number in range(threads)]
            async with task_group() as group:
                for number in range(min(options.streams, len(together))):
                    group.create_task(stream(number, workers[number % threads], waiting))

    small = batches([part for part in parts if part.is_small])
    large = batches([part for part in parts if not part.is_small])
    await copy(small, min(1, len(small)))
    await copy(large, min(options.streams, len(large)))


async def _encode_all(
    connection: Connection, waiting: Iterator[list[PartPlan]], options: CopyOptions, handoff: _Stream
) -> None:
    """In the worker's thread: copy parts until none is left, which None says."""
    frames = compressor(options.level)
    limit = RateLimit(options.rate_limit / options.streams) if options.rate_limit else None
    small: list[_Copied] = []
    gathered = 0
    for batch in waiting:
        await lock_nowait(connection, [part.table for part in batch], options.lost_after)
        for part in batch:
            copied = await _encode(connection, part, options, frames, limit, handoff)
            if copied is not None:
                small.append(copied)
                gathered += len(copied.encoded.block.data)
            if len(small) == GATHERED_PARTS or gathered >= GATHERED_BYTES:
                await handoff.put(small)
                small, gathered = [], 0
    if small:
        await handoff.put(small)
    await handoff.put(None)


async def _encode(
    connection: Connection,
    part: PartPlan,
    options: CopyOptions,
    frames: ZstdCompressor,
    limit: RateLimit | None,
    handoff: _Stream,
) -> _Copied | None:
    """Copy one part and hand its blocks over; one that makes a single block is returned instead.

    The sink is done with each chunk before it returns, so the next one comes larger.
    """
    single = True
    with closing(options.encoder(frames)) as encoder:

        async def sink(chunk: bytes) -> None:
            nonlocal single
            block = encoder.feed(chunk)
            if block is not None:
                single = False
                await handoff.put(_Copied(part, Encoded(block)))
            if limit is not None:
                await limit.spend(len(chunk))

        rows = await copy_out(connection, part.query, str(part), sink, options.lost_after)
        last = _Copied(part, Encoded(*encoder.finish(), rows))
    if single:
        return last
    await handoff.put(last)
    return None


async def _store_small(
    backend: Backend, backup_id: str, copied: list[_Copied], options: CopyOptions
) -> list[tuple[PartPlan, Part]]:
    """Write parts that are one block each."""
    names = [_named(backup_id, one.part, 0, options) for one in copied]
    await backend.store({name: one.encoded.block.data for name, one in zip(names, copied, strict=True)})
    return [
        (one.part, _stored_part(one.part, one.encoded, [stored_file(name, one.encoded)]))
        for name, one in zip(names, copied, strict=True)
    ]


async def _store_part(backend: Backend, backup_id: str, first: _Copied, handoff: _Stream, options: CopyOptions) -> Part:
    """Write a part, whose first block came already, as one object, or several where it rolls over."""
    part = first.part

    async def next_encoded() -> Encoded:
        copied = await handoff.get()
        assert isinstance(copied, _Copied)
        return copied.encoded

    def name(piece: int) -> str:
        return _named(backup_id, part, piece, options)

    last, objects = await store_encoded(backend, name, first.encoded, next_encoded)
    return _stored_part(part, last, objects)


def _named(backup_id: str, part: PartPlan, piece: int, options: CopyOptions) -> str:
    return options.named(data_object(backup_id, part.table.schema, part.table.name, part.number, piece))


def _stored_part(plan: PartPlan, last: Encoded, objects: list[StoredFile]) -> Part:
    assert last.plain is not None
    return Part(
        number=plan.number,
        first_page=plan.first_page,
        end_page=plan.end_page,
        rows=last.rows,
        bytes=last.plain.bytes,
        sha256=last.plain.sha256,
        objects=tuple(objects),
    )


def parts_by_table(copied: list[tuple[PartPlan, Part]]) -> dict[TableName, list[Part]]:
    """The stored parts of each table."""
    tables: dict[TableName, list[Part]] = {}
    for plan, part in copied:
        tables.setdefault(plan.table, []).append(part)
    return tables
