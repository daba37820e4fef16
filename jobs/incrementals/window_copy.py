"""Copies a window of the change log into storage.

COPY stream → count, hash, compress, encrypt, hash (in a thread) → backend.
"""

from contextlib import closing

from jobs.concurrency import Handoff, Worker, task_group
from jobs.copying.object_stream import Encoded, store_encoded
from jobs.copying.table_copy import CopyOptions
from jobs.postgres.change_log import WindowTally, window_query
from jobs.postgres.connection import Connection, Source, connect
from jobs.postgres.copying import copy_out
from jobs.postgres.window_frames import Fresh
from storage.backends.protocol import Backend
from storage.increments import Log
from storage.names import log_object


async def copy_window(
    source: Source, slot: str, end: int, backup_id: str, backend: Backend, options: CopyOptions, tally: WindowTally
) -> Log:
    """Store everything that the slot holds up to an LSN; the slot stays where it is. `tally` counts what passes by."""
    handoff: Handoff[Encoded] = Handoff()
    async with Worker("changes") as worker:
        connection = await worker.open(connect(source, "changes"), Connection.terminate)
        async with task_group() as group:
            group.create_task(worker.run(_encode(connection, slot, end, options, tally, handoff)))
            last, objects = await store_encoded(
                backend, lambda piece: options.named(log_object(backup_id, piece)), await handoff.get(), handoff.get
            )
    assert last.plain is not None
    return Log(messages=last.rows, bytes=last.plain.bytes, sha256=last.plain.sha256, objects=tuple(objects))


async def _encode(
    connection: Connection, slot: str, end: int, options: CopyOptions, tally: WindowTally, handoff: Handoff[Encoded]
) -> None:
    """In the worker's thread: copy the window and hand its blocks over."""
    fresh = Fresh(tally.start)
    with closing(options.encoder()) as encoder:

        async def send(chunk: bytes) -> None:
            block = encoder.feed(chunk)
            if block is not None:
                await handoff.put(Encoded(block))

        async def sink(chunk: bytes) -> None:
            tally.feed(chunk)
            await send(fresh.feed(chunk))

        what = f"the changes of slot {slot}"
        messages = await copy_out(connection, window_query(slot, end), what, sink, options.lost_after, "binary")
        tally.finish()
        await send(fresh.finish())
        await handoff.put(Encoded(*encoder.finish(), messages - fresh.left_out))
