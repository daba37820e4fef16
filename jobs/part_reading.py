"""Reads one part of a table out of storage: decompressed in a thread, and known to be whole once it was read."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from storage.codecs import Tally, decompressed
from storage.errors import Corrupt
from storage.increments import Log
from storage.manifest import Part
from storage.objects import BlockingReader
from storage.repository import Repository

T = TypeVar("T")


async def read_part(repository: Repository, part: Part | Log, take: Callable[[Iterator[bytes]], T]) -> T:
    """What `take`, which runs in a thread, makes of a part's plain bytes; it must go through all of it.

    Raises `Corrupt` if an object of the part is not what was backed up, `NotFound` if one is missing.
    """
    with opened_part(repository, part) as chunks:
        return await asyncio.to_thread(take, chunks)


@contextmanager
def opened_part(repository: Repository, part: Part | Log) -> Iterator[Iterator[bytes]]:
    """A part's plain bytes, for a thread to go through while the block runs on the loop. They raise as `read_part`."""
    readers = [BlockingReader(repository.backend.read(stored.name)) for stored in part.objects]
    try:
        yield _text(part, readers)
    finally:
        for reader in readers:
            reader.close()


def _text(part: Part | Log, readers: Sequence[BlockingReader]) -> Iterator[bytes]:
    """In the thread. What is stored was hashed, so what it decompresses to need not be."""
    for stored, reader in zip(part.objects, readers, strict=True):
        tally = Tally()
        yield from decompressed(stored.name, reader.fetch, tally)
        if tally.digest().sha256 != stored.sha256:
            raise Corrupt(f"{stored.name} is not what was backed up", "rowvault verify shows everything that is wrong")
