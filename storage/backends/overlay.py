"""Objects laid over a store without touching it: what has the given prefix is kept apart, the rest is the store's."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing

from storage.backends.protocol import Backend, Checksum, Locked, StoredObject, Unfinished, Upload


class Overlay:
    """`upper` holds everything below `prefix`, `lower` everything else."""

    def __init__(self, lower: Backend, upper: Backend, prefix: str) -> None:
        self._lower = lower
        self._upper = upper
        self._prefix = prefix

    def _of(self, name: str) -> Backend:
        return self._upper if name.startswith(self._prefix) else self._lower

    async def begin(self, name: str, *, sha256: str | None = None) -> Upload:
        """See `Backend.begin`."""
        return await self._of(name).begin(name, sha256=sha256)

    async def create(self, name: str, data: bytes) -> None:
        """See `Backend.create`."""
        await self._of(name).create(name, data)

    async def store(self, objects: Mapping[str, bytes]) -> None:
        """See `Backend.store`."""
        for name, data in objects.items():
            await self._of(name).store({name: data})

    def read(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """See `Backend.read`."""
        return self._of(name).read(name, offset)

    async def stat(self, name: str) -> StoredObject:
        """See `Backend.stat`."""
        return await self._of(name).stat(name)

    def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """See `Backend.list`: one of the two, as the prefix says."""
        return self._of(prefix).list(prefix)

    def folders(self, prefix: str = "") -> AsyncIterator[str]:
        """See `Backend.folders`: one of the two, as the prefix says."""
        return self._of(prefix).folders(prefix)

    async def delete(self, names: Iterable[str]) -> None:
        """See `Backend.delete`."""
        for name in names:
            await self._of(name).delete([name])

    async def purge(self, names: Iterable[str]) -> tuple[Locked, ...]:
        """See `Backend.purge`."""
        return tuple([locked for name in names for locked in await self._of(name).purge([name])])

    async def lock_of(self, name: str) -> Locked | None:
        """See `Backend.lock_of`."""
        return await self._of(name).lock_of(name)

    async def copy(self, name: str, to: str) -> None:
        """See `Backend.copy`; from one of the two to the other the bytes travel."""
        source, target = self._of(name), self._of(to)
        if source is target:
            await target.copy(name, to)
            return
        upload = await target.begin(to)
        try:
            async with aclosing(source.read(name)) as blocks:
                async for block in blocks:
                    await upload.append(block)
            await upload.commit()
        finally:
            await upload.abort()

    async def checksum(self, name: str) -> Checksum | None:
        """See `Backend.checksum`."""
        return await self._of(name).checksum(name)

    def unfinished(self, prefix: str = "") -> AsyncIterator[Unfinished]:
        """See `Backend.unfinished`: one of the two, as the prefix says."""
        return self._of(prefix).unfinished(prefix)

    async def discard(self, unfinished: Unfinished) -> None:
        """See `Backend.discard`."""
        await self._of(unfinished.name).discard(unfinished)

    async def settle(self) -> None:
        """See `Backend.settle`."""
        await self._upper.settle()
        await self._lower.settle()

    async def free_bytes(self) -> int | None:
        """See `Backend.free_bytes`: the room above, where writing goes."""
        return await self._upper.free_bytes()

    async def close(self) -> None:
        """See `Backend.close`: closes what is above; the store below belongs to somebody else."""
        await self._upper.close()
