"""Whole objects and streams, over any backend."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import Future
from contextlib import aclosing

from storage.backends.protocol import Backend
from storage.codecs import Digest, Tally
from storage.errors import Unavailable


async def get(backend: Backend, name: str) -> bytes:
    """A small object's bytes. Raises `NotFound`."""
    return b"".join([block async for block in backend.read(name)])


async def put(backend: Backend, name: str, data: bytes) -> None:
    """Store a small object, replacing an older one; it is durable, name and all, once this returns."""
    upload = await backend.begin(name)
    try:
        await upload.append(data)
        await upload.commit()
    finally:
        await upload.abort()
    await backend.settle()


async def transfer(source: Backend, target: Backend, name: str, sha256: str, to: str | None = None) -> int:
    """Copy one object from store to store, under its name or another.

    Raises `Corrupt`, leaving nothing, if its bytes do not hash to `sha256`.
    """
    upload = await target.begin(to or name, sha256=sha256)
    try:
        async with aclosing(source.read(name)) as blocks:
            async for block in blocks:
                await upload.append(block)
        return await upload.commit()
    finally:
        await upload.abort()


async def digest_of(backend: Backend, name: str, part_bytes: int = 0) -> tuple[Digest, str]:
    """What an object that is read to its end hashes to; and the SHA-256 of the SHA-256s of its parts of that size.

    Raises `NotFound`.
    """
    whole, parts = Tally(), _Parts(part_bytes)
    async with aclosing(backend.read(name)) as blocks:
        async for block in blocks:
            await asyncio.to_thread(_add, block, whole, parts)
    return whole.digest(), parts.sha256()


def _add(block: bytes, whole: Tally, parts: "_Parts") -> None:
    whole.add(block)
    parts.add(block)


class _Parts:
    """Hashes bytes as a store does that was given them in parts; not at all for parts of no bytes."""

    def __init__(self, part_bytes: int) -> None:
        self._left = self._part_bytes = part_bytes
        self._part = hashlib.sha256()
        self._all = hashlib.sha256()

    def add(self, block: bytes) -> None:
        rest = memoryview(block) if self._part_bytes else memoryview(b"")
        while rest:
            taken = rest[: self._left]
            self._part.update(taken)
            self._left -= len(taken)
            rest = rest[len(taken) :]
            if not self._left:
                self._end()

    def sha256(self) -> str:
        if self._left < self._part_bytes:
            self._end()
        return self._all.hexdigest()

    def _end(self) -> None:
        self._all.update(self._part.digest())
        self._part, self._left = hashlib.sha256(), self._part_bytes


class BlockingReader:
    """Lets a worker thread pull the blocks of an object that the event loop reads.

    Made on the loop; `fetch` is called in the thread; `close`, on the loop, wakes a thread that waits.
    """

    def __init__(self, blocks: AsyncIterator[bytes]) -> None:
        self._blocks = blocks
        self._loop = asyncio.get_running_loop()
        self._waiting: Future[bytes] | None = None
        self._closed = False

    def fetch(self) -> bytes:
        """The next block, or none at the end. Raises what reading the object raises."""
        if self._closed:
            raise Unavailable("the reading of an object was given up")
        self._waiting = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
        try:
            return self._waiting.result()
        except FutureCancelled as error:
            raise Unavailable("the reading of an object was given up") from error

    def close(self) -> None:
        """Give up: a waiting `fetch` raises."""
        self._closed = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def _next(self) -> bytes:
        return await anext(self._blocks, b"")
