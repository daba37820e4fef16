"""Reconciling places: what one lacks is brought from another, where it belongs there and there is room."""

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from jobs.places.alone import alone
from jobs.places.survey import Check
from jobs.postgres.errors import Held
from jobs.sync import SyncOptions, sync
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import StoredObject
from storage.drill_reports import DrillRecord, keep_report
from storage.errors import Unavailable
from storage.leases import list_leases
from storage.names import KEPT, MANIFESTS
from storage.repository import Identity, OtherSource, Repository
from storage.retention import Policy
from tests.manifests import ID, OTHER_ID, SYSTEM, sound
from tests.places import Planter, contents
from tests.reconciling import CHECKS, DATA, EARLY, OBJECT, Places, found, place, require_alike, synced, two_places

THIRD_ID = "20260104T030405.678Z-full-0a1b2c"


@pytest.fixture
async def places() -> Places:
    return await two_places()


@pytest.mark.parametrize("check", CHECKS)
async def test_places_in_step_are_left_as_they_are(places: Places, check: Check) -> None:
    before = [await contents(one.backend) for one in places]
    result = await synced(places, check)
    assert (result.state, found(result), result.verified, result.marks) == ("success", [], (), 0)
    assert {(row.id, row.place) for row in result.backups} == set(itertools.product((ID, OTHER_ID), ("local", "s3")))
    assert [await contents(one.backend) for one in places] == before


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("number", [0, 1])
async def test_a_backup_that_one_place_lacks_is_brought_from_the_other(
    places: Places, check: Check, number: int
) -> None:
    lacking = places[number]
    await lacking.backend.delete(await contents(lacking.backend, f"backups/{ID}/"))
    await lacking.backend.delete([await lacking.find(ID)])
    result = await synced(places, check)
    assert found(result) == [(ID, lacking.place, "missing", "made good")]
    assert (result.state, [one.state for one in result.verified]) == ("success", ["success"])
    await require_alike(places)


@pytest.mark.parametrize("check", CHECKS)
async def test_an_empty_new_place_is_filled_whole(places: Places, check: Check) -> None:
    await places[0].keep(ID, "the auditors want it")
    await keep_report(places[0].backend, DrillRecord(EARLY, ID, "success"), {"scenarios": []})
    empty = Repository("s3", MemoryBackend())
    result = await synced((places[0], empty), check)
    assert (result.state, result.marks) == ("success", 2)
    assert await empty.identity() == await places[0].identity()
    await require_alike((places[0], empty))


async def test_keep_marks_and_reports_come_along_both_ways(places: Places) -> None:
    await places[1].keep(ID, "the auditors want it")
    await keep_report(places[0].backend, DrillRecord(EARLY, ID, "success"), {"scenarios": []})
    assert (await synced(places, dry_run=True)).marks == 2
    assert (await synced(places)).marks == 2
    assert await places[0].kept(ID) == "the auditors want it"
    await require_alike(places)


class Killed(MemoryBackend):
    """A store in which a process comes no further than to a backup's manifest."""

    async def create(self, name: str, data: bytes) -> None:
        await super().create(name, data)
        if name.startswith(MANIFESTS):
            raise RuntimeError("it was killed just now")


async def test_a_backup_is_listed_nowhere_without_its_keep_mark(places: Places) -> None:
    """The place where it was set may be gone by the time when retention looks at the other."""
    await places[0].keep(ID, "the auditors want it")
    empty = Repository("s3", Killed())
    with pytest.raises(RuntimeError, match="it was killed just now"):
        await synced((places[0], empty))
    assert [(one.id, one.kept) for one in (await empty.catalogue()).entries] == [(ID, True)]


class Changing(MemoryBackend):
    """A store from which an object goes as soon as it was listed so many times."""

    going, times = "", 0

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        async for one in super().list(prefix):
            yield one
        if self.going and self.going.startswith(prefix):
            self.times -= 1
            await self.delete([self.going] if not self.times else [])


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("what", ["a backup", "a mark"])
async def test_what_goes_while_it_looks_is_passed_over(what: str, *, dry_run: bool) -> None:
    changing, other = Repository("local", Changing()), await place("s3", sound(OTHER_ID))
    for made in (sound(ID), sound(OTHER_ID)):
        await made.commit(changing)
    await changing.bind_as(Identity(SYSTEM, "shop", EARLY))
    await changing.keep(OTHER_ID, "the auditors want it")
    assert isinstance(changing.backend, Changing)
    mark = f"{KEPT}{OTHER_ID}.json"
    changing.backend.going, changing.backend.times = (await changing.find(ID), 1) if what == "a backup" else (mark, 2)
    result = await synced((changing, other), dry_run=dry_run)
    assert result.state == "success"
    assert result.marks == (1 if what == "a backup" else 0)


async def test_places_of_different_databases_are_refused(places: Places) -> None:
    await places[1].bind_as(Identity(SYSTEM, "another", EARLY))
    await places[1].backend.delete([await places[1].find(ID)])
    with pytest.raises(OtherSource, match="another"):
        await synced(places)


async def test_by_itself_a_first_place_that_began_later_is_not_filled(places: Places) -> None:
    """It may be a volume that is not mounted; a person says otherwise."""
    later = datetime(2026, 1, 3, tzinfo=UTC)
    unmounted = await place("local", sound(THIRD_ID), since=later)
    both = (unmounted, places[1])
    result = await synced(both, fill=False)
    assert found(result) == [
        (ID, "local", "missing", "left"),
        (OTHER_ID, "local", "missing", "made good"),
        (THIRD_ID, "s3", "missing", "made good"),
    ]
    assert result.state == "warning"
    assert "is a volume not mounted?" in str(result.lacking[0].error)
    assert (await synced(both)).state == "success"
    assert found(await synced(both, fill=False)) == []
    assert await unmounted.identity() == await places[1].identity()


async def test_what_the_policy_of_a_place_lets_go_is_neither_brought_there_nor_mended_there(places: Places) -> None:
    briefly = Repository("s3", MemoryBackend(), policy=Policy(daily=1, incremental_days=0))
    result = await synced((places[0], briefly))
    assert found(result) == [(OTHER_ID, "s3", "missing", "made good")]
    assert [entry.id for entry in (await briefly.catalogue()).entries] == [OTHER_ID]
    await sound(ID).commit(briefly)
    await Planter(briefly.backend).truncate(DATA)
    assert [row for row in (await synced((places[0], briefly))).backups if row.done != "nothing"] == []


async def test_what_a_place_keeps_beyond_its_policy_still_makes_another_whole(places: Places) -> None:
    briefly = places[1].through(places[1].backend)
    briefly.policy = Policy(daily=1, incremental_days=0)
    await Planter(places[0].backend).truncate(DATA)
    assert found(await synced((places[0], briefly))) == [(ID, "local", "damaged", "made good")]
    await require_alike(places)


async def test_between_backups_it_gives_way_and_goes_on_later(places: Places) -> None:
    empty = Repository("s3", MemoryBackend())
    answers = iter([False, True])
    result = await sync((places[0], empty), SyncOptions(give_way=lambda: next(answers)))
    assert (result.gave_way, result.state) == (True, "warning")
    assert found(result) == [(ID, "s3", "missing", "made good")]
    assert found(await synced((places[0], empty))) == [(OTHER_ID, "s3", "missing", "made good")]


class Away(MemoryBackend):
    """A store that does not answer."""

    async def stat(self, name: str) -> StoredObject:
        raise Unavailable("nobody answers there")


async def test_a_place_that_does_not_answer_is_said_and_the_others_are_looked_at(places: Places) -> None:
    await Planter(places[0].backend).delete(OBJECT)
    result = await sync([*places, Repository("archive", Away())], SyncOptions("size"))
    assert (result.state, [one.name for one in result.unreachable]) == ("failed", ["archive"])
    assert found(result) == [(ID, "local", "partial", "made good")]
    with pytest.raises(Unavailable, match="no place answers"):
        await sync([Repository("s3", Away())])


class Small(MemoryBackend):
    """A disk with little room."""

    async def free_bytes(self) -> int | None:
        return 50


async def test_what_there_is_no_room_for_is_not_begun(places: Places) -> None:
    small = Repository("local", Small())
    result = await synced((small, places[1]))
    assert {row.done for row in result.lacking} == {"failed"}
    assert "has room for 50 bytes" in str(result.lacking[0].error)
    assert await contents(small.backend, "backups/") == {}


async def test_jobs_that_need_no_source_exclude_each_other_in_any_place(places: Places) -> None:
    async with alone(places[:1], "sync"):
        with pytest.raises(Held, match="sync on"):
            async with alone(places, "archive"):
                pass
        assert await list_leases(places[1].backend) == []
    async with alone(places, "archive"):
        pass
    assert await list_leases(places[0].backend) == []


async def test_the_lease_of_a_killed_job_expires(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.leases.LIFETIME", timedelta(seconds=-1))
    await places[0].lease("jobs", "sync")
    monkeypatch.undo()
    async with alone(places, "sync"):
        pass
