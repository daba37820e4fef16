"""Writes a stored stream anew with other bytes: read, changed, compressed in a thread, stored by the loop."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from jobs.copying.part_reading import opened_part
from jobs.copying.table_copy import CopyOptions
from storage.backends.protocol import Backend, Upload
from storage.codecs import Block, Digest, Encoder
from storage.errors import Unavailable
from storage.increments import Log
from storage.manifest import Part, StoredFile
from storage.repository import Repository

Change = Callable[[Iterator[bytes]], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What was stored: the plain bytes, how many lines they have, and the objects; none where there was nothing."""

    plain: Digest
    lines: int
    objects: tuple[StoredFile, ...]


async def rewrite(
    repository: Repository,
    target: Backend,
    part: Part | Log,
    change: Change,
    name: Callable[[int], str],
    options: CopyOptions,
    *,
    empty: bool,
) -> Rewritten:
    """Store what `change` makes of a part under the names of its pieces; where it makes nothing, only if `empty`."""
    writer = _Writer(target, lambda piece: options.named(name(piece)), asyncio.get_running_loop())
    try:
        with opened_part(repository, part) as chunks, closing(options.encoder()) as encoder:
            return await asyncio.to_thread(_run, change(chunks), encoder, writer, empty)
    finally:
        await writer.abort()


def _run(chunks: Iterator[bytes], encoder: Encoder, writer: "_Writer", empty: bool) -> Rewritten:
    lines = 0
    for chunk in chunks:
        lines += chunk.count(b"\n")
        if (block := encoder.feed(chunk)) is not None:
            writer.write(block)
    block, plain = encoder.finish()
    if plain.bytes or empty:
        writer.write(block)
    return Rewritten(plain, lines, tuple(writer.objects))


class _Writer:
    """Lets the thread write blocks as objects by way of the loop, one after the other."""

    def __init__(self, backend: Backend, name: Callable[[int], str], loop: asyncio.AbstractEventLoop) -> None:
        self.objects: list[StoredFile] = []
        self._backend = backend
        self._name = name
        self._loop = loop
        self._upload: Upload | None = None
        self._ended = False

    def write(self, block: Block) -> None:
        """In the thread: returns once it is stored, so that no more than one block waits."""
        asyncio.run_coroutine_threadsafe(self._write(block), self._loop).result()

    async def _write(self, block: Block) -> None:
        if self._ended:
            raise Unavailable("the writing of an object was given up")
        name = self._name(len(self.objects))
        if self._upload is None:
            self._upload = await self._backend.begin(name)
        await self._upload.append(block.data)
        if block.ends is not None:
            await self._upload.commit()
            self._upload = None
            self.objects.append(StoredFile(name=name, bytes=block.ends.bytes, sha256=block.ends.sha256))

    async def abort(self) -> None:
        """Forget what was not committed."""
        self._ended = True
        if self._upload is not None:
            await self._upload.abort()
