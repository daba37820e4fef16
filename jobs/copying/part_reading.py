"""Reads one part of a table out of storage: opened in a thread, and known to be whole once it was read."""

import asyncio
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from storage.age import Keyring, NoIdentity
from storage.codecs import Tally, decompressed
from storage.errors import Corrupt
from storage.increments import AnyBackup, Log
from storage.manifest import Part
from storage.objects import BlockingReader
from storage.repository import Repository

T = TypeVar("T")


async def read_part(repository: Repository, part: Part | Log, take: Callable[[Iterator[bytes]], T]) -> T:
    """What `take`, which runs in a thread, makes of a part's plain bytes; it must go through all of it.

    Raises `Corrupt` if an object of the part is not what was backed up, `NotFound` if one is missing, `NoIdentity` if
    it is encrypted for others.
    """
    with opened_part(repository, part) as chunks:
        return await asyncio.to_thread(take, chunks)


@contextmanager
def opened_part(repository: Repository, part: Part | Log) -> Iterator[Iterator[bytes]]:
    """A part's plain bytes, for a thread to go through while the block runs on the loop. They raise as `read_part`."""
    readers = [BlockingReader(repository.backend.read(stored.name)) for stored in part.objects]
    text = _text(part, readers, repository.keyring)
    try:
        yield text
    finally:
        for reader in readers:
            reader.close()
        with suppress(ValueError):  # a thread is in the middle of it, and finds the reader closed
            text.close()


def _text(part: Part | Log, readers: Sequence[BlockingReader], keyring: Keyring) -> Generator[bytes, None, None]:
    """In the thread. What is stored was hashed, so what it decompresses to need not be."""
    for stored, reader in zip(part.objects, readers, strict=True):
        tally = Tally()
        try:
            yield from decompressed(stored.name, reader.fetch, tally, keyring)
        except NoIdentity:
            while keyring and (block := reader.fetch()):  # for whom it is may just be what is damaged
                tally.add(block)
            if not keyring or tally.digest().sha256 == stored.sha256:
                raise
        if tally.digest().sha256 != stored.sha256:
            raise Corrupt(f"{stored.name} is not what was backed up", "rowvault verify shows everything that is wrong")


def require_identity(repositories: Iterable[Repository], backups: Iterable[AnyBackup]) -> None:
    """Raise `NoIdentity` unless all that backups hold can be read: told before anything else is done."""
    for backup in backups:
        for repository in repositories:
            repository.require_identity(backup)
