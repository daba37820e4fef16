"""Erasing from backups that are damaged: it says what is in the way, and what helps."""

import pytest

from jobs.archive import ArchiveOptions, archive
from jobs.erase import EraseOptions, erase, resume
from jobs.erasing.checking import check, the_erasure
from jobs.erasing.plan import check_subject
from jobs.erasing.subject import Predicate
from jobs.errors import NotThere
from jobs.postgres.connection import session
from jobs.progress import no_progress
from jobs.removal import remove
from jobs.sync import SyncOptions, sync
from storage.backends.memory import MemoryBackend
from storage.erasures import read_erasures
from storage.errors import Corrupt
from storage.repository import Repository
from tests.conftest import CreateDatabase
from tests.erasing import BEFORE, BUILD, erased, followed, objects_with, plan, require_whole
from tests.following import Follower, following
from tests.places import Planter
from tests.round_trip import memory


@pytest.fixture
async def follower(create_database: CreateDatabase) -> Follower:
    return await followed(create_database)


async def test_a_damaged_backup_is_in_the_way_and_what_helps_is_said(follower: Follower) -> None:
    [base] = (await follower.primary.catalogue()).entries
    await follower.change("UPDATE people SET mail = 'moved7@example.org' WHERE id = 7")
    await follower.change("DELETE FROM people WHERE id = 7")
    await Planter(follower.primary.backend).flip(await people_of(follower.primary, base.id))
    with pytest.raises(Corrupt, match="people") as raised:
        await erased(follower, "mail", "p7@example.org", "people", children="null")
    assert raised.value.hint.endswith(f"goes with: rowvault prune {base.id}")
    assert await read_erasures(follower.primary) == ()
    await follower.full()
    await remove(follower.places, [base.id])
    with pytest.raises(NotThere, match="no backup has a row"):
        await erased(follower, "mail", "p7@example.org", "people", children="null")
    assert await objects_with(follower.places, *BEFORE) == []


async def test_damage_is_named_at_once_and_what_another_place_has_whole_is_told_apart(
    create_database: CreateDatabase,
) -> None:
    places = Repository("local", MemoryBackend()), Repository("s3", MemoryBackend())
    follower = following(await create_database(key="erase", build=BUILD), *places)
    first, second, third = await follower.begin(), await follower.full(), await follower.full()
    await follower.change("DELETE FROM people WHERE id = 7")
    for place, backups in ((places[0], (first, second)), (places[1], (first,))):
        for backup in backups:
            await Planter(place.backend).flip(await people_of(place, backup.id))
    for place in places:
        await Planter(place.backend).truncate(await place.find(third.id))
    with pytest.raises(Corrupt, match="nothing was erased") as raised:
        await plan(follower, Predicate("id", "7", ("people",)), "cascade")
    assert raised.value.hint.endswith(f"rowvault prune {third.id}")
    await remove(places, [third.id])
    with pytest.raises(Corrupt, match="nothing was erased") as raised:
        await plan(follower, Predicate("id", "7", ("people",)), "cascade")
    assert first.id in raised.value.message
    assert second.id in raised.value.message
    assert raised.value.hint.startswith("rowvault sync --check read")
    assert raised.value.hint.endswith(f"rowvault prune {first.id}")
    await remove(places, [first.id])
    await sync(places, SyncOptions("read"))
    await erased(follower, "id", "7", "people", children="cascade")
    assert await objects_with(places, *BEFORE) == []


async def people_of(place: Repository, backup_id: str) -> str:
    [name] = [one.name async for one in place.objects(backup_id) if "/data/public/people/" in one.name]
    return name


async def test_damage_of_other_tables_is_not_in_the_way(follower: Follower) -> None:
    made = await archive(follower.places, ArchiveOptions(formats=("csv",)))
    assert made is not None
    await follower.change("DELETE FROM people WHERE id = 7")
    planter = Planter(follower.primary.backend)
    damaged = [one.name async for one in planter.backend.list() if "/data/public/scans/" in one.name]
    for name in damaged:
        await planter.flip(name)
    made_plan = await plan(follower, Predicate("mail", "p7@example.org", ("people",)), "null")
    assert {"scans" in one for one in made_plan.not_looked_through} == {True}
    result = await erase(made_plan, follower.places, EraseOptions(), no_progress)
    assert result.state == "success"
    [note] = result.notes
    assert note.startswith(f"{made.id} in memory: its exports could not be made again: ")
    for name in damaged:
        await planter.flip(name)
    assert await objects_with(follower.places, b"p7@example.org") == []


async def test_what_turns_out_to_be_damaged_does_not_keep_the_rest_from_being_erased(follower: Follower) -> None:
    [first, second] = (await follower.primary.catalogue()).entries[-1].id, (await follower.full()).id
    await follower.change("DELETE FROM people WHERE id = 7")
    made = await plan(follower, Predicate("mail", "p7@example.org", ("people",)), "null")
    await Planter(follower.primary.backend).flip(await people_of(follower.primary, first))
    result = await erase(made, follower.places, EraseOptions(), no_progress)
    assert (result.state, [one.backup for one in result.damaged]) == ("warning", [first])
    assert second in {one.backup for one in result.revisions}
    [again] = await resume(follower.places, EraseOptions(), no_progress)
    assert (again.state, again.damaged) == ("warning", result.damaged)
    await remove(follower.places, [first])
    [last] = await resume(follower.places, EraseOptions(), no_progress)
    assert (last.state, last.damaged) == ("success", ())
    assert await objects_with(follower.places, b"p7@example.org") == []


@pytest.mark.parametrize("mended", [False, True])
async def test_a_damaged_copy_gets_the_revision_of_the_place_that_has_it_whole(
    create_database: CreateDatabase, mended: bool
) -> None:
    places = Repository("local", MemoryBackend()), Repository("s3", MemoryBackend())
    follower = following(await create_database(key="erase", build=BUILD), *places)
    base = await follower.begin()
    await follower.change("DELETE FROM people WHERE id = 7")
    made = await plan(follower, Predicate("mail", "p7@example.org", ("people",)), "null")
    await Planter(places[0].backend).flip(await people_of(places[0], base.id))
    result = await erase(made, places, EraseOptions(), no_progress)
    assert (result.state, [(one.place, one.backup) for one in result.damaged]) == ("warning", [("local", base.id)])
    if mended:
        await sync(places, SyncOptions("read"))
    [last] = await resume(places, EraseOptions(), no_progress)
    assert (last.state, last.damaged) == ("success", ())
    assert await objects_with(places, b"p7@example.org") == []
    await require_whole(places)


async def test_where_it_cannot_be_told_whether_anything_is_left_that_is_what_is_said(follower: Follower) -> None:
    await follower.change("DELETE FROM people WHERE id = 7")
    done = await erased(follower, "id", "7", "people", children="cascade")
    newest = (await follower.primary.catalogue()).entries[0]
    await Planter(follower.primary.backend).truncate(newest.manifest)
    erasure = await the_erasure(follower.places, done.id)
    with pytest.raises(Corrupt, match="whether anything is left cannot be told: ") as raised:
        await check(follower.places, erasure, no_progress)
    assert newest.id in raised.value.message


async def test_damage_of_the_newest_backup_in_one_place_is_told_as_any_other(create_database: CreateDatabase) -> None:
    places = memory(), Repository("other", MemoryBackend())
    follower = following(await create_database(key="erase", build=BUILD), *places)
    full = await follower.begin()
    await Planter(places[1].backend).truncate(await places[1].find(full.id))
    async with session(follower.source, "erase") as connection:
        with pytest.raises(Corrupt, match="nothing was erased") as raised:
            await check_subject(connection, places, Predicate("id", "7", ("people",)), None)
    assert raised.value.hint.startswith("rowvault sync --check read")
