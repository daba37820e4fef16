"""Erasing in tests: a database that is followed, whose subjects are erased; what is left of them anywhere."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from jobs.erase import EraseOptions, EraseResult, erase
from jobs.erasing.plan import ErasePlan, drained, plan_erasure
from jobs.erasing.subject import Children, Predicate
from jobs.places.one_database import answering
from jobs.postgres.connection import session
from jobs.progress import no_progress
from jobs.verify import verify_backup
from storage.age import SEALED
from storage.backends.memory import MemoryBackend, _Stored
from storage.backends.protocol import Locked, StoredObject, Upload
from storage.codecs import Tally, decompressed
from storage.errors import Unavailable
from storage.objects import get
from storage.repository import Repository
from tests.following import Follower


class Unreliable(MemoryBackend):
    """In memory; it `fails`, or, as a process that was killed, writes nothing more after `writes_left`.

    What is there is `locked_until` then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.locked_until: datetime | None = None
        self.writes_left: int | None = None

    def snapshot(self) -> Mapping[str, _Stored]:
        """What it holds."""
        return dict(self._state.objects)

    def restore(self, objects: Mapping[str, _Stored]) -> None:
        """Hold that again, and nothing else."""
        self._state.objects.clear()
        self._state.objects.update(objects)

    def _write(self) -> None:
        if self.fails:
            raise Unavailable("it does not answer")
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left < 0:
                raise ConnectionAbortedError

    async def begin(self, name: str, *, sha256: str | None = None) -> Upload:
        self._write()
        return _Counted(await super().begin(name, sha256=sha256), self._write)

    async def create(self, name: str, data: bytes) -> None:
        self._write()
        await super().create(name, data)

    async def store(self, objects: Mapping[str, bytes]) -> None:
        self._write()
        await super().store(objects)

    async def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._write()
            await super().delete([name])

    async def purge(self, names: Iterable[str]) -> tuple[Locked, ...]:
        if self.locked_until is not None:
            return tuple(Locked(name, "1", self.locked_until) for name in names)
        await self.delete(names)
        return ()

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        if self.fails:
            raise Unavailable("it does not answer")
        async for stored in super().list(prefix):
            yield stored


@dataclass(frozen=True)
class _Counted:
    """An upload whose end is a write."""

    upload: Upload
    write: Callable[[], None]

    async def append(self, block: bytes) -> None:
        await self.upload.append(block)

    async def commit(self) -> int:
        self.write()
        return await self.upload.commit()

    async def abort(self) -> None:
        await self.upload.abort()


async def plan(follower: Follower, predicate: Predicate, children: Children | None = None) -> ErasePlan:
    """What an erasure would do, everything stored that was committed before."""
    taken = await follower.take()
    until = await drained(follower.source, await follower.primary.backup(taken.id))
    there = await answering(follower.places)
    async with session(follower.source, "erase") as connection:
        return await plan_erasure(connection, there, predicate, children, until, no_progress)


async def erased(
    follower: Follower, column: str, value: str, *tables: str, children: Children | None = None, path: str = ""
) -> EraseResult:
    """Erase, as the command does; every backup must be whole then."""
    predicate = Predicate(column, value, tables, tuple(path.split(".")) if path else ())
    result = await erase(await plan(follower, predicate, children), follower.places, EraseOptions(), no_progress)
    await require_whole(follower.places)
    return result


async def require_verified(places: Sequence[Repository]) -> None:
    """Every backup is whole in every place."""
    for place in places:
        for entry in (await place.catalogue()).entries:
            assert (await verify_backup([place], entry.id)).state == "success"


async def require_whole(places: Sequence[Repository]) -> None:
    """Every backup is whole in every place, and nothing lies there that belongs to none."""
    await require_verified(places)
    for place in places:
        catalogue = await place.catalogue()
        assert not catalogue.superseded
        for entry in catalogue.entries:
            listed = {stored.name for stored in (await place.backup(entry.id)).objects()}
            assert {stored.name async for stored in place.objects(entry.id)} == listed


async def objects_with(places: Sequence[Repository], *texts: bytes) -> list[str]:
    """The names of all objects, decrypted and decompressed, that hold any of these bytes."""
    found = []
    for place in places:
        async for stored in place.backend.list():
            data = await get(place.backend, stored.name)
            plain = _plain(place, stored.name, data)
            if any(text in plain for text in texts):
                found.append(f"{place.place}/{stored.name}")
    return found


def _plain(place: Repository, name: str, data: bytes) -> bytes:
    if not name.removesuffix(SEALED).endswith(".zst"):
        return place.keyring.open(name, data) if name.endswith(SEALED) else data
    blocks = iter((data, b""))
    return b"".join(decompressed(name, lambda: next(blocks, b""), Tally(), place.keyring))
