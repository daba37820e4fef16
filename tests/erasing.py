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
from tests.conftest import CreateDatabase
from tests.following import Follower, Lines, following

BUILD = """
    CREATE TABLE people (id int PRIMARY KEY, mail text UNIQUE, note text);
    INSERT INTO people SELECT n, 'p' || n || '@example.org', 'note of person ' || n FROM generate_series(1, 300) n;
    CREATE TABLE parcels (id int PRIMARY KEY, person int REFERENCES people ON DELETE CASCADE, way text);
    INSERT INTO parcels SELECT n, 1 + n % 300, 'way ' || n FROM generate_series(1, 600) n;
    CREATE TABLE scans (id int PRIMARY KEY, parcel int REFERENCES parcels ON DELETE CASCADE, seen text);
    INSERT INTO scans SELECT n, n, 'scan ' || n FROM generate_series(1, 600) n;
    CREATE TABLE odd ("k=1" text, "K 2" int, mail text, PRIMARY KEY ("K 2", "k=1"));
    INSERT INTO odd VALUES (E'tab\there', 1, 'odd@example.org'), (E'tab\there', 2, 'even@example.org'),
                           ('\\N', 1, 'null@example.org'), ('', 1, 'empty@example.org');
    CREATE TABLE days (day date, n int, mail text, PRIMARY KEY (day, n)) PARTITION BY RANGE (day);
    CREATE TABLE days_2026 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE TABLE days_rest PARTITION OF days DEFAULT;
    INSERT INTO days SELECT '2025-12-01'::date + n, n, 'day' || n || '@example.org' FROM generate_series(1, 60) n;
    CREATE TABLE staff (id int PRIMARY KEY, boss int REFERENCES staff ON DELETE CASCADE, name text);
    INSERT INTO staff VALUES (1, NULL, 'one'), (2, 1, 'two'), (3, 2, 'three'), (4, 3, 'four'), (5, 1, 'five');
    CREATE TABLE keyless (mail text, v int); INSERT INTO keyless VALUES ('a@example.org', 1), ('b@example.org', 2);
    CREATE TABLE documents (id int PRIMARY KEY, body jsonb);
    INSERT INTO documents SELECT n, jsonb_build_object('who', jsonb_build_object('mail', 'd' || n || '@example.org'))
      FROM generate_series(1, 50) n;
"""
BEFORE = b"note of person 7\n", b"p7@example.org", b"moved7@example.org", b"note of person 7!"


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


async def followed(create_database: CreateDatabase) -> Follower:
    """A database whose changes are captured, with its first full backup."""
    made = following(await create_database(key="erase", build=BUILD))
    await made.begin()
    return made


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


def without(lines: Lines, table: str, *starts: bytes) -> Lines:
    """The same lines without the rows of a table that begin so."""
    return lines | {table: [line for line in lines[table] if not line.startswith(starts)]}
