"""Places for tests of what uses them: S3 opened with little patience, and faults planted in stored objects."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count

from jobs.results import ProblemKind
from storage.backends.factory import open_s3
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import Backend, Upload
from storage.backends.retrying import Patience
from storage.backends.s3 import S3Options
from storage.increments import AnyBackup
from storage.names import ARCHIVES, BACKUPS, id_kind, new_backup_id
from storage.objects import get, put
from storage.repository import Repository
from tests.conftest import Bucket

IMPATIENT = Patience(attempts=2, first_delay=0.01)
_prefixes = count(1)


def s3_options(bucket: Bucket, endpoint_url: str | None = None) -> S3Options:
    """A prefix of its own in the bucket, straight or by way of a proxy."""
    return S3Options(
        bucket.name,
        prefix=f"place-{next(_prefixes)}",
        endpoint_url=endpoint_url or bucket.endpoint_url,
        region=bucket.region,
        access_key_id=bucket.access_key,
        secret_access_key=bucket.secret_key,
        addressing_style="path",
        connect_seconds=2,
        silence_seconds=20,
    )


@asynccontextmanager
async def s3_place(options: S3Options) -> AsyncIterator[Repository]:
    """A repository in S3 that gives up soon."""
    backend = await open_s3(options, IMPATIENT)
    try:
        yield Repository("s3", backend)
    finally:
        await backend.close()


class ActsOn(MemoryBackend):
    """A place that does something first when it comes to an object of that name."""

    def __init__(self, name: str, act: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self._name, self._act = name, act

    async def begin(self, name: str, *, sha256: str | None = None) -> Upload:
        if name.endswith(self._name):
            await self._act()
        return await super().begin(name, sha256=sha256)


async def contents(backend: Backend, prefix: str = "") -> dict[str, bytes]:
    """Every object, whole."""
    return {stored.name: await get(backend, stored.name) async for stored in backend.list(prefix)}


async def backups_alike(one: Repository, other: Repository) -> bool:
    """Whether both places hold the same backups, byte for byte."""
    return await _backups(one) == await _backups(other)


async def _backups(repository: Repository) -> dict[str, bytes]:
    manifests = {entry.manifest for entry in (await repository.catalogue()).entries}
    objects = await contents(repository.backend)
    return {name: data for name, data in objects.items() if name in manifests or name.startswith((ARCHIVES, BACKUPS))}


async def date_ahead(place: Repository, backup: AnyBackup) -> str:
    """Let a backup be what it had been if the clock had run five years ahead; its id then."""
    moment = backup.created_at + timedelta(days=5 * 365)
    dated = new_backup_id(id_kind(backup.id), moment)
    text = backup.model_dump_json(by_alias=True).replace(backup.id, dated)
    for stored in backup.objects():
        await put(place.backend, stored.name.replace(backup.id, dated), await get(place.backend, stored.name))
    await place.commit(type(backup).model_validate_json(text).model_copy(update={"created_at": moment}))
    await place.record_verification(dated, "success", {})
    await place.backend.delete([str(backup.name()), *(one.name for one in backup.objects())])
    return dated


@dataclass(frozen=True)
class Planter:
    """Plants faults in one place's objects, past everything that would notice. `touched` is what it changed."""

    backend: Backend
    touched: set[str] = field(default_factory=set)

    async def flip(self, name: str, position: int | None = None) -> None:
        """Change one byte, in the middle unless said otherwise."""
        data = bytearray(await get(self.backend, name))
        data[len(data) // 2 if position is None else position] ^= 0x04
        await self.put(name, bytes(data))

    async def truncate(self, name: str) -> None:
        """Take the last byte away."""
        await self.put(name, (await get(self.backend, name))[:-1])

    async def empty(self, name: str) -> None:
        """Leave an object of no bytes."""
        await self.put(name, b"")

    async def delete(self, name: str) -> None:
        """Take the object away."""
        self.touched.add(name)
        await self.backend.delete([name])

    async def swap(self, name: str, other: str) -> None:
        """Let two objects change places."""
        one, two = await get(self.backend, name), await get(self.backend, other)
        await self.put(name, two)
        await self.put(other, one)

    async def put(self, name: str, data: bytes) -> None:
        """Leave other bytes."""
        self.touched.add(name)
        await put(self.backend, name, data)


Plant = Callable[[Planter, str], Awaitable[None]]
DAMAGES: dict[str, tuple[Plant, ProblemKind]] = {
    "first byte flipped": (lambda planter, name: planter.flip(name, 0), "sha256_stored"),
    "byte flipped": (Planter.flip, "sha256_stored"),
    "last byte flipped": (lambda planter, name: planter.flip(name, -1), "sha256_stored"),
    "truncated": (Planter.truncate, "size"),
    "emptied": (Planter.empty, "size"),
    "deleted": (Planter.delete, "missing"),
}
"""By name: how it is planted, and what verification calls it."""
