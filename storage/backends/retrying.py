"""Tries again what a store could not do just now: the one place where anything about storage is retried.

Backends only classify: `Unavailable` is worth another try, everything else is raised as it is.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from storage.backends.protocol import Backend, Checksum, Locked, StoredObject, Unfinished, Upload
from storage.backends.waiting import in_streams
from storage.errors import Unavailable

T = TypeVar("T")
STORE_STREAMS = 4  # each waits for the network and the store


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long one step is tried: exponential backoff with full jitter.

    The n-th pause is chosen at random up to `first_delay * 2 ** (n - 1)`, at most `longest_delay`; no try begins later
    than `total` after the first one failed. All in seconds. A read or a listing that got on begins anew.
    Source: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """

    attempts: int = 8
    first_delay: float = 0.5
    longest_delay: float = 15.0
    total: float = 120.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random


class Retrying:
    """Any backend, with patience. Implements `Backend`."""

    def __init__(self, backend: Backend, patience: Patience | None = None) -> None:
        self.impatient = backend
        """The backend itself, for whoever wants its first answer."""
        self._backend = backend
        self._patience = patience or Patience()

    async def begin(self, name: str, *, sha256: str | None = None) -> Upload:
        """See `Backend.begin`."""
        upload = await _again(self._patience, lambda: self._backend.begin(name, sha256=sha256))
        return _RetryingUpload(upload, self._patience)

    async def create(self, name: str, data: bytes) -> None:
        """See `Backend.create`."""
        await _again(self._patience, lambda: self._backend.create(name, data))

    async def store(self, objects: Mapping[str, bytes]) -> None:
        """See `Backend.store`. Each is tried again by itself: of a thousand, one or other may fail every time."""
        waiting = iter(objects.items())

        async def stream() -> None:
            for name, data in waiting:
                await _again(self._patience, partial(self._backend.store, {name: data}))

        await in_streams(STORE_STREAMS, stream)

    async def read(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """See `Backend.read`; goes on where it broke off, which in an object replaced meanwhile is in the new one."""
        tries = _Tries(self._patience)
        while True:
            try:
                async with aclosing(self._backend.read(name, offset)) as blocks:
                    async for block in blocks:
                        offset += len(block)
                        tries = _Tries(self._patience)
                        yield block
            except Unavailable as error:
                await tries.pause(error)
            else:
                return

    async def stat(self, name: str) -> StoredObject:
        """See `Backend.stat`."""
        return await _again(self._patience, lambda: self._backend.stat(name))

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """See `Backend.list`; begins again after a failure, and passes over what was shown."""
        tries, last = _Tries(self._patience), ""
        while True:
            try:
                async for found in self._backend.list(prefix):
                    if found.name > last:
                        tries, last = _Tries(self._patience), found.name
                        yield found
            except Unavailable as error:
                await tries.pause(error)
            else:
                return

    async def folders(self, prefix: str = "") -> AsyncIterator[str]:
        """See `Backend.folders`."""
        for folder in await _again(self._patience, lambda: _all(self._backend.folders(prefix))):
            yield folder

    async def delete(self, names: Iterable[str]) -> None:
        """See `Backend.delete`."""
        wanted = tuple(names)
        await _again(self._patience, lambda: self._backend.delete(wanted))

    async def purge(self, names: Iterable[str]) -> tuple[Locked, ...]:
        """See `Backend.purge`."""
        wanted = tuple(names)
        return await _again(self._patience, lambda: self._backend.purge(wanted))

    async def lock_of(self, name: str) -> Locked | None:
        """See `Backend.lock_of`."""
        return await _again(self._patience, lambda: self._backend.lock_of(name))

    async def copy(self, name: str, to: str) -> None:
        """See `Backend.copy`."""
        await _again(self._patience, lambda: self._backend.copy(name, to))

    async def checksum(self, name: str) -> Checksum | None:
        """See `Backend.checksum`."""
        return await _again(self._patience, lambda: self._backend.checksum(name))

    async def unfinished(self, prefix: str = "") -> AsyncIterator[Unfinished]:
        """See `Backend.unfinished`."""
        for one in await _again(self._patience, lambda: _all(self._backend.unfinished(prefix))):
            yield one

    async def discard(self, unfinished: Unfinished) -> None:
        """See `Backend.discard`."""
        await _again(self._patience, lambda: self._backend.discard(unfinished))

    async def settle(self) -> None:
        """See `Backend.settle`."""
        await _again(self._patience, self._backend.settle)

    async def free_bytes(self) -> int | None:
        """See `Backend.free_bytes`."""
        return await _again(self._patience, self._backend.free_bytes)

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._backend.close()


class _RetryingUpload:
    """An upload whose steps are tried again; giving up is not."""

    def __init__(self, upload: Upload, patience: Patience) -> None:
        self._upload = upload
        self._patience = patience

    async def append(self, block: bytes) -> None:
        await _again(self._patience, lambda: self._upload.append(block))

    async def commit(self) -> int:
        return await _again(self._patience, self._upload.commit)

    async def abort(self) -> None:
        await self._upload.abort()


class _Tries:
    """The tries of one step."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._failed = 0
        self._until: float | None = None

    async def pause(self, error: Unavailable) -> None:
        """Wait before the next try. Raises the error anew once patience is at its end."""
        patience = self._patience
        now = patience.clock()
        self._until = now + patience.total if self._until is None else self._until
        self._failed += 1
        delay = patience.chance() * min(patience.longest_delay, patience.first_delay * 2 ** (self._failed - 1))
        if self._failed >= patience.attempts or now + delay > self._until:
            raise Unavailable(f"{error.message} (tried {self._failed} times)", error.hint) from error
        await patience.sleep(delay)


async def _again(patience: Patience, step: Callable[[], Awaitable[T]]) -> T:
    tries = _Tries(patience)
    while True:
        try:
            return await step()
        except Unavailable as error:
            await tries.pause(error)


async def _all(found: AsyncIterator[T]) -> list[T]:
    return [one async for one in found]
