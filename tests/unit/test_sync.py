"""Reconciling places: what one lacks or has differently is made good from another, and what cannot be is said."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from jobs.places.alone import alone
from jobs.places.survey import Check
from jobs.postgres.errors import Held
from jobs.sync import SyncOptions, SyncResult, sync
from jobs.verify import verify_backup
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import StoredObject
from storage.drill_reports import DrillRecord, keep_report
from storage.erasures import Clean, Erasure, read_erasures, write_erasure
from storage.errors import Unavailable
from storage.leases import list_leases
from storage.manifest import StoredFile
from storage.names import KEPT, MANIFESTS, REPOSITORY
from storage.repository import Identity, OtherSource, Repository
from storage.retention import Policy
from tests.manifests import ID, OTHER_ID, SYSTEM, MadeUp, sound
from tests.places import Planter, contents
from tests.storage.helpers import hash_of

THIRD_ID = "20260104T030405.678Z-full-0a1b2c"
OBJECT = f"backups/{ID}/schema.sql"
REWRITTEN = f"backups/{ID}/r1/schema.sql"
DATA = f"backups/{ID}/data/public/Orders/00000-000.copy.zst"
CHECKS: tuple[Check, ...] = ("size", "checksum", "read")
EARLY = datetime(2026, 1, 1, tzinfo=UTC)

Places = tuple[Repository, Repository]


async def place(name: str, *backups: MadeUp, since: datetime = EARLY) -> Repository:
    repository = Repository(name, MemoryBackend())
    await repository.bind_as(Identity(SYSTEM, "shop", since))
    for one in backups:
        await one.commit(repository)
    return repository


@pytest.fixture
async def places() -> Places:
    """Two places that hold the same two backups."""
    one, other = sound(ID), sound(OTHER_ID)
    return await place("local", one, other), await place("s3", one, other)


async def synced(places: Places, check: Check = "size", *, dry_run: bool = False, fill: bool = True) -> SyncResult:
    return await sync(places, SyncOptions(check, dry_run=dry_run, fill=fill))


async def require_alike(places: Places) -> None:
    """The same backups, marks and reports in both, whole, and no lease is left."""
    held = [await contents(one.backend) for one in places]
    own = [{name: data for name, data in one.items() if not name.startswith("verifications/")} for one in held]
    assert own[0] == own[1]
    for backup_id in (ID, OTHER_ID):
        assert (await verify_backup(places, backup_id)).state == "success"
    assert [await list_leases(one.backend) for one in places] == [[], []]


def found(result: SyncResult) -> list[tuple[str, str, str, str]]:
    return [(row.id, row.place, row.found, row.done) for row in result.lacking]


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


Harm = Callable[[Repository, Planter], Awaitable[None]]


async def lose_the_manifest(place: Repository, planter: Planter) -> None:
    await planter.delete(await place.find(ID))


async def spoil_the_manifest(place: Repository, planter: Planter) -> None:
    await planter.flip(await place.find(ID))


async def shorten_the_manifest(place: Repository, planter: Planter) -> None:
    await planter.truncate(await place.find(ID))


async def lose_an_object(_: Repository, planter: Planter) -> None:
    await planter.delete(OBJECT)


async def shorten_an_object(_: Repository, planter: Planter) -> None:
    await planter.truncate(DATA)


async def spoil_an_object(_: Repository, planter: Planter) -> None:
    await planter.flip(DATA)


async def swap_objects(_: Repository, planter: Planter) -> None:
    await planter.swap(OBJECT, f"backups/{OTHER_ID}/schema.sql")


SEEN_BY_SIZE: dict[str, tuple[Harm, str]] = {
    "manifest lost": (lose_the_manifest, "partial"),
    "manifest shortened": (shorten_the_manifest, "damaged"),
    "object lost": (lose_an_object, "partial"),
    "object shortened": (shorten_an_object, "damaged"),
}
SEEN_INSIDE: dict[str, tuple[Harm, str]] = {
    "manifest spoilt": (spoil_the_manifest, "damaged"),
    "object spoilt": (spoil_an_object, "damaged"),
    "objects swapped": (swap_objects, "damaged"),
}
HARMS = [
    *((name, check) for name in SEEN_BY_SIZE for check in CHECKS),
    *((name, check) for name in SEEN_INSIDE for check in CHECKS[1:]),
]


@pytest.mark.parametrize(("harm", "check"), HARMS)
@pytest.mark.parametrize("number", [0, 1])
async def test_what_is_damaged_in_one_place_is_mended_from_the_other(
    places: Places, harm: str, check: Check, number: int
) -> None:
    plant, word = (SEEN_BY_SIZE | SEEN_INSIDE)[harm]
    await plant(places[number], Planter(places[number].backend))
    planned = await synced(places, check, dry_run=True)
    assert {row.done for row in planned.lacking} == {"to do"}
    result = await synced(places, check)
    assert (result.state, result.damaged) == ("success", ())
    assert (ID, places[number].place, word, "made good") in found(result)
    assert [(row.id, row.place, row.found) for row in planned.lacking] == [one[:3] for one in found(result)]
    await require_alike(places)


@pytest.mark.parametrize("harm", SEEN_INSIDE)
async def test_sizes_alone_show_no_other_bytes_of_the_same_length(places: Places, harm: str) -> None:
    await SEEN_INSIDE[harm][0](places[0], Planter(places[0].backend))
    assert found(await synced(places)) == []


async def test_what_failed_its_verification_is_mended_whatever_is_looked_at(places: Places) -> None:
    await Planter(places[1].backend).flip(DATA)
    assert (await verify_backup(places, ID)).state == "failed"
    result = await synced(places)
    assert found(result) == [(ID, "s3", "damaged", "made good")]
    assert [entry.verified for entry in (await places[1].catalogue()).entries if entry.id == ID] == ["success"]
    assert found(await synced(places)) == []
    await require_alike(places)


async def test_what_failed_its_verification_and_is_whole_after_all_is_verified_again(places: Places) -> None:
    await Planter(places[1].backend).flip(DATA)
    await verify_backup(places, ID)
    await Planter(places[1].backend).flip(DATA)
    result = await synced(places)
    assert (found(result), [one.state for one in result.verified]) == ([], ["success"])
    assert (await synced(places)).verified == ()


@pytest.mark.parametrize("check", CHECKS)
async def test_two_damaged_copies_make_each_other_whole(places: Places, check: Check) -> None:
    await Planter(places[0].backend).delete(OBJECT)
    await Planter(places[1].backend).truncate(DATA)
    await lose_the_manifest(places[1], Planter(places[1].backend))
    result = await synced(places, check)
    assert result.state == "success"
    assert {row.done for row in result.lacking} == {"made good"}
    await require_alike(places)


async def test_damage_that_shows_only_on_the_way_is_mended_too(places: Places) -> None:
    third = await place("third", sound(ID), sound(OTHER_ID))
    await Planter(places[0].backend).flip(DATA)
    await Planter(places[1].backend).delete(DATA)
    result = await sync([*places, third])
    assert found(result) == [(ID, "local", "damaged", "made good"), (ID, "s3", "partial", "made good")]
    assert result.state == "success"
    await require_alike(places)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("dry_run", [False, True])
async def test_what_is_whole_nowhere_is_said_loudly(places: Places, check: Check, *, dry_run: bool) -> None:
    await Planter(places[0].backend).truncate(DATA)
    await Planter(places[1].backend).delete(DATA)
    await Planter(places[1].backend).delete(OBJECT)
    result = await synced(places, check, dry_run=dry_run)
    assert (result.state, result.damaged) == ("failed", (ID,))
    if not dry_run:
        assert all(f"{DATA} is whole in no place" in str(row.error) for row in result.lacking)
        assert await contents(places[1].backend, OBJECT) == await contents(places[0].backend, OBJECT)
    assert DATA not in await contents(places[1].backend)


@pytest.mark.parametrize("check", CHECKS)
async def test_what_every_place_lost_alike_is_said_too(places: Places, check: Check) -> None:
    for one in places:
        await Planter(one.backend).delete(OBJECT)
    assert (await synced(places, check)).damaged == (ID,)


@pytest.mark.parametrize("check", CHECKS)
async def test_a_manifest_that_can_be_read_nowhere_is_said_loudly(places: Places, check: Check) -> None:
    for one in places:
        await Planter(one.backend).truncate(await one.find(ID))
    result = await synced(places, check)
    # Two that are damaged alike are told apart from whole ones only by reading them.
    assert result.damaged == (() if check == "size" else (ID,))


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


def revised(data: bytes = b"all without the subject") -> MadeUp:
    """The first backup after an erasure: one object was written anew."""
    made = sound(ID)
    name = REWRITTEN
    sql = StoredFile(name=name, bytes=len(data), sha256=hash_of(data))
    dump = made.manifest.dump.model_copy(update={"sql": sql})
    manifest = made.manifest.model_copy(update={"revision": 1, "erasures": (ERASURE.id,), "dump": dump})
    return MadeUp(manifest, {key: value for key, value in made.objects.items() if key != OBJECT} | {name: data})


ERASURE = Erasure(
    id="20260105T000000.000Z-erasure-0a1b2c",
    state="done",
    moment=datetime(2026, 1, 5, tzinfo=UTC),
    lsn="0/0",
    system_identifier=SYSTEM,
    children="",
    salt="00",
    subject="",
    tables=(),
    clean=(Clean(id=OTHER_ID, revision=0, sha256=""),),
)


@pytest.mark.parametrize("check", CHECKS)
async def test_an_earlier_revision_gives_way_to_the_newest_with_all_that_it_alone_held(check: Check) -> None:
    old, new = await place("local", sound(ID), sound(OTHER_ID)), await place("s3", revised(), sound(OTHER_ID))
    await write_erasure(new, ERASURE)
    result = await synced((old, new), check)
    assert found(result) == [(ID, "local", "outdated", "made good")]
    assert OBJECT not in await contents(old.backend)
    await require_alike((old, new))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("number", [0, 1])
async def test_what_was_rewritten_apart_is_not_mixed(check: Check, number: int) -> None:
    """As where each place was away from another erasure, or it was sealed twice: each copy is whole by itself."""
    apart = await place("local", revised()), await place("s3", revised(b"one without the subject"))
    assert found(await synced(apart, check)) == []
    damaged = apart[number]
    await damaged.backend.delete([DATA])
    assert found(await synced(apart, check)) == [(ID, damaged.place, "partial", "made good")]
    await damaged.backend.delete([REWRITTEN])
    assert found(await synced(apart, check)) == [(ID, damaged.place, "partial", "failed")]
    assert (await verify_backup([apart[1 - number]], ID)).state == "success"


async def test_a_backup_that_an_erasure_has_still_to_go_through_is_not_spread(places: Places) -> None:
    await write_erasure(places[0], ERASURE)
    empty = Repository("s3", MemoryBackend())
    result = await synced((places[0], empty))
    assert found(result) == [(ID, "s3", "missing", "left"), (OTHER_ID, "s3", "missing", "made good")]
    assert "rowvault erase --resume" in str(result.lacking[0].error)
    assert result.state == "warning"
    assert await read_erasures(empty) == (ERASURE,)


async def test_a_damaged_entry_of_the_ledger_is_mended(places: Places) -> None:
    for one in places:
        await write_erasure(one, ERASURE)
    await Planter(places[0].backend).truncate(f"erasures/{ERASURE.id}.json")
    await synced(places)
    assert await read_erasures(places[0]) == (ERASURE,)


async def test_a_binding_that_cannot_be_read_is_made_good(places: Places) -> None:
    await Planter(places[0].backend).truncate(REPOSITORY)
    await synced(places)
    await require_alike(places)


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
