"""Retention carried out: what no policy keeps goes, in every place, and nothing that anybody needs or reads."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from jobs.errors import NotThere
from jobs.places.catalogue import keep
from jobs.places.leasing import leased_for_reading, unless_removed
from jobs.places.sweep import sweep
from jobs.prune import PruneResult, plan_prune, prune
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import Locked, StoredObject
from storage.errors import NotFound, Refused, Unavailable
from storage.leases import Lease
from storage.names import BACKUPS, KEPT, LEASES, MANIFESTS, VERIFICATIONS
from storage.objects import get
from storage.repository import OtherSource, Repository
from storage.retention import Policy
from tests.conftest import Bucket
from tests.manifests import MadeUp, made_up_full, made_up_window
from tests.places import contents, s3_options, s3_place

DAY = 86_400
START = datetime.fromtimestamp(1_700_000_000, UTC)
TWO = Policy(daily=2, weekly=0, monthly=0, incremental_days=0)
FOUR = Policy(daily=4, weekly=0, monthly=0, incremental_days=0)


class Fallible(MemoryBackend):
    """A store that can be away, or refuse to delete; `on_delete` sees names before they go."""

    def __init__(self) -> None:
        super().__init__()
        self.away = self.refuses = self.keeps_versions = False
        self.locked_until: datetime | None = None
        self.deleted: list[tuple[str, ...]] = []

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        if self.away:
            raise Unavailable("nobody answers there")
        async for found in super().list(prefix):
            yield found

    async def delete(self, names: Iterable[str]) -> None:
        wanted = tuple(names)
        if self.refuses and wanted:
            raise Refused("you may not delete")
        self.deleted.append(wanted)
        await super().delete(wanted)

    async def lock_of(self, name: str) -> Locked | None:
        return Locked(name, "1", self.locked_until) if self.locked_until and name.startswith(MANIFESTS) else None

    async def purge(self, names: Iterable[str]) -> tuple[Locked, ...]:
        if self.keeps_versions:
            raise Refused("you may not delete versions")
        wanted = tuple(names)
        locked = [name for name in wanted if self.locked_until and name.startswith(MANIFESTS)]
        await super().purge(name for name in wanted if name not in locked)
        return tuple(Locked(name, "1", self.locked_until) for name in locked)


class Place(Repository):
    """A place whose store can be made to fail."""

    def __init__(self, place: str, policy: Policy) -> None:
        self.store = Fallible()
        super().__init__(place, self.store, policy=policy)


@pytest.fixture
def local() -> Place:
    return Place("local", TWO)


@pytest.fixture
def s3() -> Place:
    return Place("s3", TWO)


def full(day: int) -> MadeUp:
    return made_up_full(day * DAY, since=day * 1000, lsn=day * 1000 + 10)


def fulls(count: int) -> list[MadeUp]:
    return [full(day) for day in range(count)]


def ids(backups: Sequence[MadeUp]) -> set[str]:
    return {one.manifest.id for one in backups}


async def committed(backups: Sequence[MadeUp], *places: Repository) -> None:
    for place in places:
        for one in backups:
            await one.commit(place)
            await place.record_verification(one.manifest.id, "success", {})


def at(day: float) -> datetime:
    return START + timedelta(days=day)


async def left(place: Repository) -> set[str]:
    return {entry.id for entry in (await place.catalogue()).entries}


def actions(result: PruneResult) -> list[tuple[str, str | None]]:
    return [(row.action, row.held_by) for row in result.backups]


async def test_what_no_policy_keeps_is_removed_with_all_that_belonged_to_it(local: Place) -> None:
    backups = fulls(5)
    await committed(backups, local)
    result = await prune([local], at(5))
    assert result.state == "success"
    assert [row.action for row in result.backups] == ["keep", "keep", "removed", "removed", "removed"]
    names = await contents(local.backend)
    kept = ids(backups[3:])
    assert {name.split("/")[1] for name in names if name.startswith(BACKUPS)} == kept
    assert {name.split("/")[1].split("~")[0] for name in names if name.startswith(VERIFICATIONS)} == kept
    assert await left(local) == kept


async def test_a_dry_run_says_what_becomes_of_each_backup_and_removes_nothing(local: Place) -> None:
    await committed(fulls(3), local)
    before = await contents(local.backend)
    newest, second, oldest = (await plan_prune([local], at(3))).backups
    assert (newest.tiers, newest.reasons) == (("daily",), ("daily", "newest good"))
    assert (second.action, second.until) == ("keep", at(3))
    assert (oldest.action, oldest.reasons, oldest.until) == ("remove", (), None)
    assert await contents(local.backend) == before


async def test_pruning_again_finds_nothing_to_remove(local: Place, s3: Place) -> None:
    await committed(fulls(6), local, s3)
    await prune([local, s3], at(6))
    before = [await contents(one.backend) for one in (local, s3)]
    assert not (await prune([local, s3], at(6))).doing("remove", "removed")
    assert [await contents(one.backend) for one in (local, s3)] == before


async def test_the_manifest_goes_first_then_records_then_objects(local: Place) -> None:
    await committed(fulls(3), local)
    local.store.deleted.clear()
    await prune([local], at(3))
    order = [names[0].split("/")[0] for names in local.store.deleted if names and not names[0].startswith(LEASES)]
    assert order == ["manifests", "verifications", "backups"]


async def test_each_place_keeps_what_its_own_policy_says(local: Place) -> None:
    far = Place("s3", FOUR)
    await committed(fulls(6), local, far)
    await prune([local, far], at(6))
    assert (await left(local), await left(far)) == (ids(fulls(6)[4:]), ids(fulls(6)[2:]))


async def test_what_another_place_wants_and_lacks_is_held_back(local: Place) -> None:
    far = Place("s3", FOUR)
    backups = fulls(4)
    await committed(backups, local)
    await committed(backups[1:], far)
    result = await prune([local, far], at(4))
    assert result.state == "warning"
    assert [(row.id, row.held_by) for row in result.doing("hold back")] == [
        (backups[0].manifest.id, "its copy in s3 is pending")
    ]
    await committed(backups[:1], far)
    await prune([local, far], at(4))
    assert await left(local) == ids(backups[2:])


async def test_what_another_place_wants_and_has_damaged_is_held_back(local: Place) -> None:
    far = Place("s3", FOUR)
    backups = fulls(4)
    await committed(backups, local, far)
    await far.record_verification(backups[0].manifest.id, "failed", {})
    held = (await prune([local, far], at(4))).doing("hold back")
    assert [(row.place, row.held_by) for row in held] == [("local", "its copy in s3 is damaged")]


async def test_while_a_place_is_silent_only_what_no_place_wants_is_removed(local: Place) -> None:
    far = Place("s3", FOUR)
    backups = fulls(6)
    await committed(backups, local)
    far.store.away = True
    result = await prune([local, far], at(6))
    assert (result.state, [place.name for place in result.unreachable]) == ("warning", ["s3"])
    assert await left(local) == ids(backups[2:])
    assert {row.held_by for row in result.doing("hold back")} == {"s3 does not answer, and may lack it"}


async def test_places_of_different_databases_are_left_alone(local: Place, s3: Place) -> None:
    """One database's backups would fill the slots of the other's, all of which would go."""
    backups = fulls(4)
    await committed(backups[:2], local)
    await committed(backups[2:], s3)
    await local.bind("1", "shop")
    await s3.bind("2", "shop")
    for pruning in (plan_prune, prune):
        with pytest.raises(OtherSource, match="another place"):
            await pruning([local, s3], at(4))
    assert await left(local) | await left(s3) == ids(backups)


async def test_a_place_that_refuses_does_not_keep_the_other_from_being_pruned(local: Place, s3: Place) -> None:
    backups = fulls(3)
    await committed(backups, local, s3)
    local.store.refuses = True
    result = await prune([local, s3], at(3))
    assert (result.state, [(one.name, one.error) for one in result.failed]) == (
        "failed",
        [("local", "you may not delete")],
    )
    assert (await left(local), await left(s3)) == (ids(backups), ids(backups[1:]))


async def test_a_place_keeps_the_newest_that_it_has_until_a_newer_one_came(local: Place, s3: Place) -> None:
    """A bucket that was away, or takes nothing any more, would be emptied, day by day, of all that it has."""
    backups = fulls(4)
    await committed(backups, local)
    await committed(backups[:2], s3)
    result = await prune([local, s3], at(4))
    held = [(row.id, row.held_by) for row in result.doing("hold back")]
    assert held == [(backups[1].manifest.id, "s3 has no newer one")]
    assert (await left(local), await left(s3)) == (ids(backups[2:]), ids(backups[1:2]))
    await committed(backups[3:], s3)
    assert (await prune([local, s3], at(4))).state == "success"
    assert await left(s3) == ids(backups[3:])


async def test_what_the_store_has_locked_stays_whole_and_listed(local: Place) -> None:
    """Its objects came before its manifest, and their locks may end before."""
    await committed(fulls(3), local)
    before = await contents(local.backend)
    local.store.locked_until = at(9)
    result = await prune([local], at(3))
    assert result.state == "warning"
    assert actions(result)[2] == ("hold back", f"it is locked until {at(9).isoformat()}")
    assert await contents(local.backend) == before
    local.store.locked_until = None
    assert (await prune([local], at(3))).state == "success"
    assert len(await left(local)) == 2


async def test_a_key_that_may_not_remove_versions_prunes_what_is_shown(local: Place) -> None:
    await committed(fulls(3), local)
    local.store.keeps_versions = True
    assert (await prune([local], at(3))).state == "success"
    assert len(await left(local)) == 2


async def test_what_is_being_read_is_held_back(local: Place) -> None:
    backups = fulls(4)
    await committed(backups, local)
    async with leased_for_reading(local, backups[0].manifest.id, "verify"):
        result = await prune([local], at(4))
        assert [row.held_by for row in result.doing("hold back")] == ["it is being read"]
        assert await left(local) == ids([backups[0], *backups[2:]])
    await prune([local], at(4))
    assert await left(local) == ids(backups[2:])


async def test_a_reader_of_a_full_backup_keeps_the_windows_that_go_with_it(local: Place) -> None:
    backups = fulls(4)
    await committed(backups, local)
    windows = [made_up_window(day * DAY + 5, 0, 1, base=backups[day].manifest.id) for day in range(3)]
    for one in windows:
        await local.commit(one)
    async with leased_for_reading(local, backups[2].manifest.id, "as of a moment"):
        await prune([local], at(4))
        assert {one.id for one in windows} & await left(local) == {one.id for one in windows[1:]}
    await prune([local], at(4))
    assert await left(local) == ids(backups[2:]) | {windows[2].id}


class Meeting(Fallible):
    """Lets a reader come at the moment when the manifest has just gone."""

    reader: str = ""

    async def delete(self, names: Iterable[str]) -> None:
        wanted = tuple(names)
        await super().delete(wanted)
        if self.reader and wanted and wanted[0].startswith("manifests/"):
            await Repository("local", self).lease(self.reader, "verify")


async def test_the_objects_of_what_began_to_be_read_meanwhile_are_left_to_the_sweep() -> None:
    store, backups = Meeting(), fulls(3)
    place = Repository("local", store, policy=TWO)
    await committed(backups, place)
    store.reader = backups[0].manifest.id
    await prune([place], at(3))
    assert await left(place) == ids(backups[1:])
    assert {one.name for one in backups[0].manifest.objects()} <= (await contents(store)).keys()
    assert (await sweep(place, datetime.now(UTC) + timedelta(seconds=61))).removed == len(backups[0].objects)


async def test_a_mark_that_was_set_meanwhile_counts(local: Place) -> None:
    """After the catalogue was read, and before the manifests go."""
    backups = fulls(3)
    await committed(backups, local)

    class JustMarked(Repository):
        async def lease(self, backup_id: str, purpose: str) -> Lease:
            await self.keep(backups[0].manifest.id, "now")
            return await super().lease(backup_id, purpose)

    place = JustMarked("local", local.backend, policy=TWO)
    result = await prune([place], at(3))
    assert (result.state, actions(result)[2]) == ("warning", ("hold back", "a keep mark was just set"))
    assert f"{KEPT}{backups[0].manifest.id}.json" in await contents(local.backend)
    assert len(await left(local)) == 3


class Removing(Fallible):
    """Lets a person come at the moment when marks were looked at and manifests are to go."""

    person: Callable[[], Awaitable[None]] | None = None
    coming: asyncio.Task[None] | None = None

    async def purge(self, names: Iterable[str]) -> tuple[Locked, ...]:
        wanted = tuple(names)
        if self.person is not None and wanted and wanted[0].startswith(MANIFESTS):
            self.coming = asyncio.ensure_future(self.person())
            self.person = None
            await asyncio.wait([self.coming], timeout=0.1)
        return await super().purge(wanted)


async def test_a_mark_that_comes_too_late_is_no_success() -> None:
    store, backups = Removing(), fulls(3)
    place = Repository("local", store, policy=TWO)
    await committed(backups, place)
    store.person = lambda: keep([place], backups[0].manifest.id, "the auditors want it")
    await prune([place], at(3))
    assert await left(place) == ids(backups[1:])
    assert store.coming is not None
    with pytest.raises(NotThere, match="was removed in this moment"):
        await store.coming


async def test_a_mark_that_comes_too_late_in_one_place_holds_in_the_other() -> None:
    store, backups = Removing(), fulls(3)
    places = Repository("local", store, policy=TWO), Place("s3", FOUR)
    await committed(backups, *places)
    store.person = lambda: keep(places, backups[0].manifest.id, "the auditors want it")
    await prune(places, at(3))
    assert store.coming is not None
    await store.coming
    assert await places[1].kept(backups[0].manifest.id) == "the auditors want it"


async def test_a_reader_whose_backup_was_pruned_is_told_so(local: Place) -> None:
    backups = fulls(3)
    await committed(backups, local)
    gone = backups[0].manifest

    async def read(wanted: str, name: str) -> None:
        async with unless_removed([local], [wanted]):
            await prune([local], at(3))
            await get(local.backend, name)

    with pytest.raises(NotThere, match=f"backup {gone.id} was removed while it was being read"):
        await read(gone.id, next(iter(gone.objects())).name)
    with pytest.raises(NotFound):
        await read(backups[1].manifest.id, "nothing.json")


async def test_in_s3(local: Place, bucket: Bucket) -> None:
    backups = fulls(4)
    async with s3_place(s3_options(bucket)) as opened:
        far = Repository("s3", opened.backend, policy=TWO)
        await committed(backups, local, far)
        result = await prune([local, far], at(4))
        assert len(result.doing("removed")) == 4
        names = await contents(far.backend)
        assert {name.split("/")[1] for name in names if name.startswith(BACKUPS)} == ids(backups[2:])
        assert await left(far) == await left(local) == ids(backups[2:])
