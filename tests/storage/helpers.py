"""What storage tests do again and again: write, read and list whole objects."""

import hashlib
import random
from collections.abc import AsyncIterator, Iterable
from functools import cache

from storage.backends.protocol import Backend, StoredObject, Unfinished

MIB = 1 << 20


@cache
def payload(size: int, seed: int = 0) -> bytes:
    """Some bytes that do not repeat, the same ones each time."""
    return random.Random(seed).randbytes(size)


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blocks_of(data: bytes, size: int = MIB) -> Iterable[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


async def store(backend: Backend, name: str, data: bytes, *, sha256: str | None = None, block: int = MIB) -> int:
    return await store_stream(backend, name, blocks_of(data, block), sha256=sha256)


async def store_stream(backend: Backend, name: str, blocks: Iterable[bytes], *, sha256: str | None = None) -> int:
    """Write an object as every caller does: whatever happens, `abort` comes last."""
    upload = await backend.begin(name, sha256=sha256)
    try:
        for block in blocks:
            await upload.append(block)
        return await upload.commit()
    finally:
        await upload.abort()


async def fetch(backend: Backend, name: str, offset: int = 0) -> bytes:
    return b"".join([block async for block in backend.read(name, offset)])


async def listed(backend: Backend, prefix: str = "") -> list[StoredObject]:
    return [found async for found in backend.list(prefix)]


async def names(backend: Backend, prefix: str = "") -> list[str]:
    return [found.name for found in await listed(backend, prefix)]


async def folders(backend: Backend, prefix: str = "") -> list[str]:
    return [found async for found in backend.folders(prefix)]


async def unfinished(backend: Backend, prefix: str = "") -> list[Unfinished]:
    return [found async for found in backend.unfinished(prefix)]


async def everything(found: AsyncIterator[object]) -> list[object]:
    return [one async for one in found]
