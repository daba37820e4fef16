"""Erasing where a place was away or cannot say: nothing erased comes back out of it, and it is gone through later."""

from dataclasses import replace

import pytest

from jobs.as_of import opened
from jobs.chains.points import At
from jobs.erase import EraseOptions, erase, resume
from jobs.erasing.subject import Predicate
from jobs.errors import UnsafeTarget
from jobs.history import history
from jobs.progress import no_progress
from jobs.sync import SyncOptions, sync
from storage.backends.memory import MemoryBackend
from storage.erasures import read_erasures
from storage.errors import Corrupt
from storage.repository import OtherSource, Repository
from tests.conftest import CreateDatabase
from tests.erasing import BUILD, Unreliable, objects_with, plan, require_whole, without
from tests.following import following
from tests.keys import new_key
from tests.places import Planter
from tests.round_trip import memory


async def test_what_a_place_still_holds_that_was_away_is_left_out_until_it_was_gone_through(
    create_database: CreateDatabase,
) -> None:
    away = Unreliable()
    follower = following(await create_database(key="erase", build=BUILD), memory(), Repository("s3", away))
    base = await follower.begin()
    moment, before = await follower.now(), await follower.lines()
    await follower.change("UPDATE documents SET body = '{}' WHERE id = 9", "DELETE FROM documents WHERE id = 9")
    away.fails = True
    made = await plan(follower, Predicate("id", "9", ("documents",)))
    result = await erase(made, follower.places, EraseOptions(), no_progress)
    assert result.state == "warning"
    away.fails = False
    [_, s3] = follower.places
    assert await objects_with([s3], b"d9@example.org")
    alone = replace(follower, places=(s3,))
    assert await alone.backed_up(wanted=base.id) == before
    assert "rowvault erase --resume" in (await follower.take()).warnings[0]
    assert await alone.backed_up(wanted=base.id) == without(before, "public.documents", b"9\t")
    assert await alone.backed_up(At(moment)) == without(before, "public.documents", b"9\t")
    with pytest.raises(UnsafeTarget, match="may still hold rows of erasure"):
        await history([s3], "documents", {"id": "9"})
    [finished] = await resume(follower.places, EraseOptions(), no_progress)
    assert finished.state == "success"
    assert await objects_with(follower.places, b"d9@example.org") == []
    await require_whole(follower.places)
    async with opened([s3], base.id) as found:
        assert (found.manifest.revision, found.erased) == (1, ())
    assert [one.state for place in follower.places for one in await read_erasures(place)] == ["done", "done"]


async def test_that_a_ledger_could_not_be_read_is_said_of_whatever_is_restored(create_database: CreateDatabase) -> None:
    """The copy that an erasure did not reach is all there is on the day when the place that knows of it is away."""
    local, s3 = Unreliable(), Unreliable()
    places = Repository("local", local), Repository("s3", s3)
    follower = following(await create_database(key="erase", build=BUILD), *places)
    base = await follower.begin()
    await follower.change("DELETE FROM documents WHERE id = 9")
    s3.fails = True
    await erase(await plan(follower, Predicate("id", "9", ("documents",))), places, EraseOptions(), no_progress)
    s3.fails, local.fails = False, True
    for point in (None, At(base.created_at)):
        async with opened(places, base.id, point) as found:
            [warning] = found.warnings
            assert warning.startswith("local could not say what was erased (it does not answer): ")
    told = await history(places, "documents", {"id": "8"})
    assert [note for note in told.notes if note.startswith("local could not say what was erased")]
    local.fails = False
    async with opened(places[::-1], base.id) as found:
        assert [erasure.id for erasure in await read_erasures(places[0])] == list(found.erased)


async def test_an_entry_that_can_be_read_in_no_place_is_missed(create_database: CreateDatabase) -> None:
    away = Unreliable()
    places = Repository("local", MemoryBackend()), Repository("s3", away)
    follower = following(await create_database(key="erase", build=BUILD), *places)
    base = await follower.begin()
    await follower.change("DELETE FROM documents WHERE id = 9")
    away.fails = True
    await erase(await plan(follower, Predicate("id", "9", ("documents",))), places, EraseOptions(), no_progress)
    away.fails = False
    [name] = [one.name async for one in places[0].backend.list("erasures/")]
    await Planter(places[0].backend).truncate(name)
    with pytest.raises(Corrupt, match="cannot be read"):
        async with opened(places, base.id):
            pass


async def test_a_place_that_was_away_gets_the_revisions_that_another_has(create_database: CreateDatabase) -> None:
    """Sealed again they would be other bytes under the same names, and reconciling would mix them."""
    key, away = new_key(), Unreliable()
    places = Repository("local", MemoryBackend(), key.keyring), Repository("s3", away, key.keyring)
    follower = following(await create_database(key="erase", build=BUILD), *places)
    sealed = replace(follower.options.copying, recipients=key.recipients)
    capture = replace(follower.capture, copying=sealed)
    follower = replace(follower, options=replace(follower.options, copying=sealed), capture=capture)
    await follower.begin()
    await follower.change("DELETE FROM documents WHERE id = 9")
    away.fails = True
    made = await plan(follower, Predicate("id", "9", ("documents",)))
    await erase(made, places, EraseOptions(sealed), no_progress)
    away.fails = False
    [finished] = await resume(places, EraseOptions(sealed), no_progress)
    assert {one.place for one in finished.revisions} == {"s3"}
    for backup in {one.backup for one in finished.revisions}:
        assert await places[0].stored(backup) == await places[1].stored(backup)
    await sync(places, SyncOptions("read"))
    await require_whole(places)


async def test_nothing_is_erased_from_places_of_different_databases() -> None:
    one, other = Repository("local", MemoryBackend()), Repository("s3", MemoryBackend())
    await one.bind("1", "shop")
    await other.bind("2", "shop")
    with pytest.raises(OtherSource, match="another place"):
        await resume((one, other), EraseOptions(), no_progress)


async def test_what_lies_in_two_places_is_counted_once(create_database: CreateDatabase) -> None:
    places = memory(), Repository("other", MemoryBackend())
    follower = following(await create_database(key="erase", build=BUILD), *places)
    await follower.begin()
    await follower.change("DELETE FROM people WHERE id = 7")
    people, parcels = (await plan(follower, Predicate("id", "7", ("people",)), "null")).tables
    assert (people.rows, people.changes, parcels.unlinked) == ({"full": 1}, 1, 2)
