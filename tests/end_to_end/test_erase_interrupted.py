"""Erasing that cannot be finished at once: every backup is whole all the same, and it is gone on with later."""

from collections.abc import Awaitable
from datetime import UTC, datetime

import pytest

from jobs.erase import EraseOptions, erase, resume
from jobs.erasing.checking import check, the_erasure
from jobs.erasing.subject import Predicate
from jobs.errors import UnsafeTarget
from jobs.progress import no_progress
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import Upload
from storage.erasures import read_erasures
from storage.errors import Corrupt, OutOfSpace
from storage.repository import Repository
from tests.conftest import CreateDatabase
from tests.erasing import (
    BEFORE,
    BUILD,
    Unreliable,
    erased,
    followed,
    objects_with,
    plan,
    require_verified,
    require_whole,
    without,
)
from tests.following import Follower, following
from tests.manifests import sound


@pytest.fixture
async def follower(create_database: CreateDatabase) -> Follower:
    return await followed(create_database)


class Full(MemoryBackend):
    """Has room for so many objects that are written anew."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    async def begin(self, name: str, *, sha256: str | None = None) -> Upload:
        if "/r1/" in name:
            self.room -= 1
            if self.room < 0:
                raise OutOfSpace("no room")
        return await super().begin(name, sha256=sha256)


async def test_a_full_disk_is_not_left_full(create_database: CreateDatabase) -> None:
    backend = Full(room=1)
    follower = following(await create_database(key="erase", build=BUILD), Repository("local", backend))
    await follower.begin()
    await follower.change("DELETE FROM people WHERE id = 7")
    made = await plan(follower, Predicate("id", "7", ("people",)), "cascade")
    with pytest.raises(OutOfSpace):
        await erase(made, follower.places, EraseOptions(), no_progress)
    await require_whole(follower.places)
    backend.room = 1000
    [finished] = await resume(follower.places, EraseOptions(), no_progress)
    assert finished.state == "success"
    assert await objects_with(follower.places, *BEFORE) == []


async def test_what_is_dated_in_the_future_is_not_passed_by(follower: Follower) -> None:
    await follower.change("DELETE FROM documents WHERE id = 9")
    later = sound("20990102T030405.678Z-full-0a1b2c")
    await later.commit(follower.primary)
    with pytest.raises(UnsafeTarget, match="dated in the future"):
        await plan(follower, Predicate("id", "9", ("documents",)))
    assert await read_erasures(follower.primary) == ()


async def test_what_nobody_can_look_through_for_want_of_its_manifest_stands_in_the_way(follower: Follower) -> None:
    await follower.change("DELETE FROM documents WHERE id = 9")
    done = await erased(follower, "id", "9", "documents")
    taken = sound("20200102T030405.678Z-full-0a1b2c")
    await taken.commit(follower.primary)
    await follower.primary.record_verification(taken.manifest.id, "success", {})
    await follower.primary.backend.delete([str(taken.manifest.name())])
    gone = f"the manifest of {taken.manifest.id} is gone from"
    with pytest.raises(Corrupt, match=f"nothing was erased: {gone}"):
        await plan(follower, Predicate("id", "9", ("documents",)))
    with pytest.raises(Corrupt, match=f"whether anything is left cannot be told: {gone}"):
        await check(follower.places, await the_erasure(follower.places, done.id), no_progress)
    with pytest.raises(Corrupt, match=f"what was begun cannot be finished: {gone}"):
        await resume(follower.places, EraseOptions(), no_progress)


async def test_what_is_locked_is_named_and_goes_later(create_database: CreateDatabase) -> None:
    backend, until = Unreliable(), datetime(2030, 1, 1, tzinfo=UTC)
    follower = following(await create_database(key="erase", build=BUILD), Repository("local", backend))
    base = await follower.begin()
    await follower.change("DELETE FROM documents WHERE id = 9")
    made = await plan(follower, Predicate("id", "9", ("documents",)))
    backend.locked_until = until
    result = await erase(made, follower.places, EraseOptions(), no_progress)
    assert (result.state, {one.until for one in result.locked}) == ("warning", {until})
    held = {f"local/{one.object}" for one in result.locked}
    assert set(await objects_with(follower.places, b"d9@example.org")) < held
    assert without(await follower.backed_up(wanted=base.id), "public.documents", b"9\t") == await follower.backed_up(
        wanted=base.id
    )
    [again] = await resume(follower.places, EraseOptions(), no_progress)
    assert (again.state, {f"local/{one.object}" for one in again.locked}) == ("warning", held)
    backend.locked_until = None
    [last] = await resume(follower.places, EraseOptions(), no_progress)
    assert (last.state, last.locked) == ("success", ())
    await require_whole(follower.places)
    assert await objects_with(follower.places, b"d9@example.org") == []


async def test_interrupted_anywhere_every_backup_is_whole_and_it_is_finished(create_database: CreateDatabase) -> None:
    backend = Unreliable()
    follower = following(await create_database(key="erase", build=BUILD), Repository("local", backend))
    await follower.begin()
    await follower.change("UPDATE documents SET body = '{}' WHERE id = 9", "DELETE FROM documents WHERE id = 9")
    made = await plan(follower, Predicate("id", "9", ("documents",)))
    before, killed = backend.snapshot(), 0
    while await _is_killed_after(killed, backend, erase(made, follower.places, EraseOptions(), no_progress)):
        await require_verified(follower.places)
        await resume(follower.places, EraseOptions(), no_progress)
        await require_whole(follower.places)
        there = await objects_with(follower.places, b"d9@example.org")
        assert bool(there) == (not await read_erasures(follower.primary))
        backend.restore(before)
        killed += 1
    assert killed > 20
    await require_whole(follower.places)


async def _is_killed_after(writes: int, backend: Unreliable, work: Awaitable[object]) -> bool:
    """Do the work, as a process that is no more after so many writes."""
    backend.writes_left = writes
    try:
        await work
    except ConnectionAbortedError:
        return True
    finally:
        backend.writes_left = None
    return False
