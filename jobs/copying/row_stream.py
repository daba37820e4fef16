"""Stores what a query gives as COPY text.

COPY stream → sieve, hash, compress, encrypt, hash (in a thread) → backend.
"""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from jobs.concurrency import Handoff, Worker, task_group
from jobs.copying.object_stream import Encoded, store_encoded
from jobs.copying.table_copy import CopyOptions
from jobs.postgres.connection import Connection
from jobs.postgres.copying import copy_out
from storage.backends.protocol import Backend
from storage.manifest import Part

NO_ROWS = Part(
    number=0, first_page=None, end_page=None, rows=0, bytes=0, sha256=hashlib.sha256().hexdigest(), objects=()
)
"""No rows at all: nothing is stored of them."""


class Sieve(Protocol):
    """Makes other lines of those that come."""

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        """Lines for what came, in pieces."""

    def finish(self) -> Iterable[bytes]:
        """Lines that are left once all came, in pieces."""


class AllOfThem:
    """Lets every line through. Implements `Sieve`."""

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        """See `Sieve.feed`."""
        return (chunk,)

    def finish(self) -> Iterable[bytes]:
        """See `Sieve.finish`."""
        return ()


@dataclass(frozen=True, slots=True)
class RowStream:
    """A session in a worker thread, and where what it copies goes."""

    worker: Worker
    connection: Connection
    backend: Backend
    options: CopyOptions

    async def store(self, query: str, what: str, name: Callable[[int], str], sieve: Sieve) -> Part:
        """Store what a query, which may sort, gives through the sieve; `NO_ROWS` if that is nothing."""
        handoff: Handoff[Encoded] = Handoff()
        async with task_group() as group:
            group.create_task(self.worker.run(self._encode(query, what, sieve, handoff)))
            first = await handoff.get()
            if first.plain is not None and not first.plain.bytes:
                return NO_ROWS
            last, objects = await store_encoded(
                self.backend, lambda piece: self.options.named(name(piece)), first, handoff.get
            )
        assert last.plain is not None
        return NO_ROWS.model_copy(
            update={
                "rows": last.rows,
                "bytes": last.plain.bytes,
                "sha256": last.plain.sha256,
                "objects": tuple(objects),
            }
        )

    async def _encode(self, query: str, what: str, sieve: Sieve, handoff: Handoff[Encoded]) -> None:
        """In the worker's thread. Lines are counted by their ends, since not all that COPY counted go on."""
        rows = 0
        with closing(self.options.encoder()) as encoder:

            async def send(pieces: Iterable[bytes]) -> None:
                nonlocal rows
                for lines in pieces:
                    rows += lines.count(b"\n")
                    if (block := encoder.feed(lines)) is not None:
                        await handoff.put(Encoded(block))

            async def sink(chunk: bytes) -> None:
                await send(sieve.feed(chunk))

            await copy_out(self.connection, query, what, sink, self.options.lost_after, sorts=True)
            await send(sieve.finish())
            await handoff.put(Encoded(*encoder.finish(), rows))
