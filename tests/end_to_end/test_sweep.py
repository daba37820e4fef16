"""Sweeping removes what interrupted runs left, and never what somebody has or needs."""

import json
import os
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.places.leasing import UNLISTING
from jobs.places.sweep import Swept, sweep
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import StoredObject, Unfinished, Upload
from storage.leases import Lease, list_leases
from storage.names import BACKUPS, KEPT, LEASES, MANIFESTS, VERIFICATIONS, data_object
from storage.objects import put
from storage.repository import Repository
from tests.conftest import Bucket
from tests.manifests import ID, OTHER_ID, backup_id, made_up
from tests.places import contents, s3_options, s3_place
from tests.storage.helpers import MIB, names, payload, unfinished

LONG_AGO = datetime.now(UTC) - timedelta(minutes=2)
STAYS = (
    "committed",
    "committed and half deleted",
    "manifest taken",
    "stray manifest",
    "live",
    "two leases",
    "unreadable lease",
)
GOES = ("begun", "lease expired")


async def plant(repository: Repository, backup: str, state: str) -> dict[str, bytes]:
    """Bring a backup into a state; return its objects."""
    made = made_up(backup)
    await made.write(repository.backend)
    match state:
        case "committed":
            await repository.commit(made.manifest)
        case "committed and half deleted":
            await repository.commit(made.manifest)
            await repository.backend.delete(list(made.objects)[:2])
        case "manifest taken":
            await repository.commit(made.manifest)
            await repository.record_verification(backup, "success", {})
            await repository.backend.delete([str(made.manifest.name())])
        case "stray manifest":
            await put(repository.backend, f"{MANIFESTS}{backup}~-~1~2~.json.old", b"")
        case "live":
            await repository.lease(backup, "full backup")
        case "lease expired":
            await plant_lease(repository, backup, LONG_AGO)
        case "two leases":
            await plant_lease(repository, backup, LONG_AGO)
            await repository.lease(backup, "off-site copy")
        case "unreadable lease":
            await put(repository.backend, f"{LEASES}{backup}~00000000.json", b"")
    return await contents(repository.backend, f"{BACKUPS}{backup}/")


async def plant_lease(repository: Repository, backup: str, expires: datetime) -> str:
    name = f"{LEASES}{backup}~ffffffff.json"
    await put(repository.backend, name, json.dumps({"expires_at": expires.isoformat()}).encode())
    return name


@given(st.lists(st.sampled_from(STAYS + GOES), max_size=8))
async def test_exactly_what_nobody_has_or_needs_is_removed(states: list[str]) -> None:
    repository = Repository("here", MemoryBackend())
    planted = {backup_id(number): state for number, state in enumerate(states)}
    objects = {backup: await plant(repository, backup, state) for backup, state in planted.items()}
    before = await contents(repository.backend, MANIFESTS)
    removed = (await sweep(repository)).removed
    assert await contents(repository.backend, MANIFESTS) == before
    for backup, state in planted.items():
        left = await contents(repository.backend, f"{BACKUPS}{backup}/")
        assert left == (objects[backup] if state in STAYS else {}), state
    assert removed == sum(len(objects[backup]) for backup, state in planted.items() if state in GOES)
    assert (await sweep(repository)).removed == 0


async def test_expired_leases_are_removed_and_live_ones_are_not() -> None:
    repository = Repository("here", MemoryBackend())
    expired = await plant_lease(repository, ID, LONG_AGO)
    lease = await repository.lease(ID, "verify")
    assert expired in await names(repository.backend, LEASES)
    await sweep(repository)
    assert await names(repository.backend, LEASES) == [lease.name]


async def test_records_and_marks_of_backups_that_are_no_more_are_removed() -> None:
    repository = Repository("here", MemoryBackend())
    for backup in (ID, OTHER_ID):
        await made_up(backup).commit(repository)
        await repository.record_verification(backup, "success", {})
        await repository.keep(backup, "")
    third = backup_id(3)
    await put(repository.backend, f"{VERIFICATIONS}{third}~failed.json", b"{}")
    await repository.lease(third, "off-site copy")
    await put(repository.backend, f"{KEPT}README", b"mine")
    await repository.backend.delete([str(made_up(ID).manifest.name()), *made_up(ID).objects])
    await sweep(repository)
    assert await names(repository.backend, KEPT) == [f"{KEPT}{OTHER_ID}.json", f"{KEPT}README"]
    assert await names(repository.backend, VERIFICATIONS) == [
        f"{VERIFICATIONS}{third}~failed.json",
        f"{VERIFICATIONS}{OTHER_ID}~success.json",
    ]
    assert await repository.begun() == {OTHER_ID}


async def test_what_was_verified_once_is_no_leftover_whoever_took_its_manifest() -> None:
    repository = Repository("here", MemoryBackend())
    await plant(repository, ID, "manifest taken")
    await repository.backend.create(f"{KEPT}{ID}.json", b"{}")
    before = await contents(repository.backend)
    assert await sweep(repository) == Swept(0, (ID,))
    assert await contents(repository.backend) == before


async def test_what_a_killed_prune_left_is_removed_though_it_was_verified() -> None:
    repository = Repository("here", MemoryBackend())
    await plant(repository, ID, "manifest taken")
    await plant_lease(repository, UNLISTING, LONG_AGO)
    assert (await sweep(repository)).orphaned == ()
    assert await names(repository.backend) == []


async def test_a_lease_on_one_backup_protects_no_other() -> None:
    repository = Repository("here", MemoryBackend())
    await plant(repository, ID, "begun")
    await plant(repository, OTHER_ID, "live")
    await sweep(repository)
    assert await repository.begun() == {OTHER_ID}


async def test_what_lies_there_and_is_no_backup_is_left_alone() -> None:
    repository = Repository("here", MemoryBackend())
    foreign = [f"{BACKUPS}README/a", f"{BACKUPS}{ID}.copy/b", f"{BACKUPS}c", "elsewhere/d"]
    for name in foreign:
        await put(repository.backend, name, b"mine")
    assert (await sweep(repository)).removed == 0
    assert await names(repository.backend) == sorted(foreign)


async def test_an_empty_repository_is_swept_without_being_made(tmp_path: Path) -> None:
    assert (await sweep(Repository("local", LocalBackend(tmp_path / "new")))).removed == 0
    assert not (tmp_path / "new").exists()


class Interrupted(MemoryBackend):
    """Lets a writer do its next step when the sweeper asks for something the so-manieth time."""

    def __init__(self, begins_at: int, commits_at: int) -> None:
        super().__init__()
        self._backup = made_up()
        self._steps = {begins_at: self._begin, commits_at: self._commit}
        self._asked = 0
        self._writing = False
        self._lease: Lease | None = None
        self._upload: Upload | None = None
        self.begun = self.committed = False

    async def _step(self) -> None:
        if not self._writing:
            self._asked += 1
            self._writing = True
            if self._asked in self._steps:
                await self._steps[self._asked]()
            self._writing = False

    async def _begin(self) -> None:
        self._lease = await Lease.take(self, ID, "full backup")
        await self._backup.write(self)
        self._upload = await self.begin(data_object(ID, "public", "more", 0, 0))
        self.begun = True

    async def _commit(self) -> None:
        if self.begun:
            assert self._upload is not None
            await self._upload.commit()
            await Repository("here", self).commit(self._backup.manifest)
            assert self._lease is not None
            await self._lease.release()
            self.committed = True

    async def finish(self) -> None:
        """Whatever was not done meanwhile."""
        self._writing = True
        if not self.begun:
            await self._begin()
        if not self.committed:
            await self._commit()

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        await self._step()
        async for found in super().list(prefix):
            yield found

    async def folders(self, prefix: str = "") -> AsyncIterator[str]:
        await self._step()
        async for found in super().folders(prefix):
            yield found

    async def unfinished(self, prefix: str = "") -> AsyncIterator[Unfinished]:
        await self._step()
        async for found in super().unfinished(prefix):
            yield found

    async def delete(self, names: Iterable[str]) -> None:
        await self._step()
        await super().delete(names)


@pytest.mark.parametrize("begins_at", range(1, 9))
async def test_a_writer_that_comes_and_goes_while_sweeping_loses_nothing(begins_at: int) -> None:
    for commits_at in range(begins_at + 1, 12):
        backend = Interrupted(begins_at, commits_at)
        repository = Repository("here", backend)
        await sweep(repository)
        await backend.finish()
        there = await contents(backend, f"{BACKUPS}{ID}/")
        assert made_up().objects.items() <= there.items(), (begins_at, commits_at)
        assert (await repository.manifest(ID)).id == ID


async def begin_writing(repository: Repository, backup: str) -> Upload:
    """A large object of which some has been written."""
    upload = await repository.backend.begin(data_object(backup, "public", "Large", 0, 0))
    for number in range(20):
        await upload.append(payload(MIB, number))
    return upload


@pytest.fixture(params=["tmp_path", "bucket"])
def room(request: pytest.FixtureRequest) -> Path | Bucket:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture
async def place(room: Path | Bucket) -> AsyncIterator[Repository]:
    """Each kind of place that outlives a process."""
    if isinstance(room, Path):
        yield Repository("local", LocalBackend(room))
        return
    async with s3_place(s3_options(room)) as repository:
        yield repository


async def test_a_dead_writers_unfinished_objects_are_swept_and_a_live_ones_are_not(place: Repository) -> None:
    dead, live = await begin_writing(place, ID), await begin_writing(place, OTHER_ID)
    await plant_lease(place, ID, LONG_AGO)
    lease = await place.lease(OTHER_ID, "full backup")
    assert {one.name.split("/")[1] for one in await unfinished(place.backend)} == {ID, OTHER_ID}
    assert (await sweep(place)).removed == 1
    assert [one.name.split("/")[1] for one in await unfinished(place.backend)] == [OTHER_ID]
    assert await live.commit() == 20 * MIB
    await lease.release()
    for upload in (dead, live):
        await upload.abort()
    await sweep(place)
    assert await contents(place.backend, BACKUPS) == {}


def leave_temporary(root: Path, name: str, age: timedelta) -> Path:
    """What a writer that was killed leaves on disk."""
    path = root / f"{name}.tmp-0123456789abcdef"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    moment = (datetime.now(UTC) - age).timestamp()
    os.utime(path, (moment, moment))
    return path


SMALL = ("repository.json", f"keep/{ID}.json", f"{LEASES}{ID}~00000000.json")


@pytest.mark.parametrize("name", SMALL)
async def test_a_small_object_under_way_is_swept_once_nobody_can_still_be_writing_it(tmp_path: Path, name: str) -> None:
    place = Repository("local", LocalBackend(tmp_path))
    await made_up().commit(place)
    young = leave_temporary(tmp_path, name, timedelta(seconds=30))
    assert (await sweep(place)).removed == 0
    assert young.exists()
    old = leave_temporary(tmp_path, name, timedelta(seconds=61))
    assert (await sweep(place)).removed == 1
    assert not old.exists()


@pytest.mark.parametrize("kind", ["manifest", "verification"])
async def test_what_is_written_under_a_lease_is_its_backups(tmp_path: Path, kind: str) -> None:
    place = Repository("local", LocalBackend(tmp_path))
    names = {
        "manifest": [str(made_up(backup).manifest.name()) for backup in (ID, OTHER_ID)],
        "verification": [f"{VERIFICATIONS}{backup}~success.json" for backup in (ID, OTHER_ID)],
    }
    dead, live = (leave_temporary(tmp_path, name, timedelta(seconds=1)) for name in names[kind])
    await place.lease(OTHER_ID, "full backup")
    assert (await sweep(place)).removed == 1
    assert (dead.exists(), live.exists()) == (False, True)
    assert [lease.backup for lease in await list_leases(place.backend)] == [OTHER_ID]
