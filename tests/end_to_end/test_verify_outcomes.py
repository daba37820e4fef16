"""What verification comes to: records, samples, places that do not answer, and what a restore goes by."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable

import pytest

from jobs.errors import Difference
from jobs.places.catalogue import list_backups, resolve
from jobs.places.sweep import supersede
from jobs.postgres.connection import Source
from jobs.restore import RestoreOptions, plan_restore
from jobs.restoring.choose_place import choose_whole
from jobs.scope import Scope
from jobs.verify import verify_backup
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import StoredObject, Upload
from storage.errors import NotFound, OutOfSpace, Refused, Unavailable
from storage.leases import list_leases
from storage.manifest import Manifest
from storage.names import BACKUPS
from storage.objects import put
from storage.repository import Repository
from tests.end_to_end.conftest import KINDS_OF_OBJECT, Backups
from tests.manifests import ID, made_up, sound
from tests.places import DAMAGES
from tests.servers import Database


class TestRecords:
    """What verification came to is remembered, and decides what is offered."""

    async def test_the_listing_says_what_failed_and_latest_passes_it_by(self, backups: Backups) -> None:
        assert await resolve(backups.places, "latest") == backups.other.id
        for place in backups.places:
            await backups.planter(place).flip(str(backups.other.name()))
            await verify_backup([place], backups.other.id)
        newest, oldest = (await list_backups(backups.places)).backups
        assert [place.state for place in newest.places] == ["failed", "failed"]
        assert (newest.state, newest.whole_somewhere) == ("failed", False)
        assert (oldest.state, oldest.whole_somewhere) == ("success", True)
        assert await resolve(backups.places, "latest") == backups.id

    async def test_once_mended_it_is_whole_again(self, backups: Backups, place: Repository) -> None:
        await backups.planter(place).flip(backups.one("data"))
        assert (await verify_backup([place], backups.id)).state == "failed"
        await backups.planter(place).flip(backups.one("data"))
        assert (await verify_backup([place], backups.id)).state == "success"
        states = {entry.id: entry.verified for entry in (await place.catalogue()).entries}
        assert states == {backups.id: "success", backups.other.id: "success"}

    async def test_no_lease_is_left(self, backups: Backups) -> None:
        await verify_backup(backups.places, backups.id)
        for place in backups.places:
            assert await list_leases(place.backend) == []


class TestSampling:
    """A share of the objects, chosen at random."""

    async def test_it_reads_that_share_and_at_least_one(self, backups: Backups) -> None:
        whole = await verify_backup(backups.places[:1], backups.id)
        half = await verify_backup(backups.places[:1], backups.id, sample=0.5)
        one = await verify_backup(backups.places[:1], backups.id, sample=0.0001)
        assert half.objects < 0.7 * whole.objects
        assert half.bytes < whole.bytes
        assert 1 <= one.objects <= 3

    async def test_it_finds_a_fault_sooner_or_later(self, backups: Backups) -> None:
        await backups.planter(backups.places[0]).flip(backups.one("data"))
        for _ in range(200):
            if (await verify_backup(backups.places[:1], backups.id, sample=0.1)).problems:
                break
        else:
            pytest.fail("200 samples of a tenth did not find it")
        (entry, _) = sorted((await backups.places[0].catalogue()).entries, key=lambda entry: entry.id)
        assert entry.verified == "failed"

    async def test_one_that_finds_nothing_does_not_make_a_failed_backup_whole(self, backups: Backups) -> None:
        place = backups.places[0]
        await place.record_verification(backups.id, "failed", {})
        await verify_backup([place], backups.id, sample=0.5)
        (entry, _) = sorted((await place.catalogue()).entries, key=lambda entry: entry.id)
        assert entry.verified == "failed"


class TestPlacesWithTroubleOfTheirOwn:
    """Places that do not answer, or may not be written."""

    async def test_one_that_does_not_answer_is_unreachable_and_the_other_is_verified(self, backups: Backups) -> None:
        away = Repository("away", Silent(after=0))
        result = await verify_backup([away, backups.places[0]], backups.id)
        assert [place.state for place in result.places] == ["unreachable", "committed"]
        assert (result.state, result.problems) == ("failed", ())
        assert result.objects == len(list(backups.manifest.objects()))

    async def test_what_was_found_before_it_fell_silent_is_not_forgotten(self) -> None:
        backend = Silent(after=1000)
        backup = made_up()
        await backup.commit(Repository("here", backend))
        damaged, *_ = backup.objects
        await put(backend, damaged, b"x")
        backend.after = 4
        result = await verify_backup([Repository("here", backend)], ID)
        assert [place.state for place in result.places] == ["unreachable"]
        assert [problem.object for problem in result.problems] == [damaged]

    @pytest.mark.parametrize("refusal", [Refused("read-only keys"), OutOfSpace("the disk is full")])
    async def test_one_that_may_not_be_written_is_verified_all_the_same(
        self, backups: Backups, refusal: Refused
    ) -> None:
        backend = ReadOnly(refusal)
        for name, data in backups.whole[0].items():
            backend._state.put(name, data)
        result = await verify_backup([Repository("here", backend)], backups.id)
        (place,) = result.places
        assert (place.state, result.state, result.problems) == ("committed", "warning", ())
        assert "could not be recorded" in (place.error or "")
        backend._state.put(backups.one("data"), b"")
        assert [problem.kind for problem in (await verify_backup([Repository("x", backend)], backups.id)).problems] == [
            "size"
        ]


class Silent(MemoryBackend):
    """Answers so many reads, and then no more."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    async def read(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        if self.after == 0:
            raise Unavailable("nobody answers there")
        self.after -= 1
        async for block in super().read(name, offset):
            yield block

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        if self.after == 0:
            raise Unavailable("nobody answers there")
        async for found in super().list(prefix):
            yield found


class Changing(MemoryBackend):
    """Something happens to what it holds as the first object of a backup is read."""

    change: Callable[[], Awaitable[object]] | None = None

    async def read(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        if self.change is not None and name.startswith(BACKUPS):
            change, self.change = self.change, None
            await change()
        async for block in super().read(name, offset):
            yield block


class TestMeanwhile:
    """What is verified may be rewritten, or go, while it is read."""

    async def test_what_an_erasure_rewrites_is_verified_as_it_is_then(self) -> None:
        backend = Changing()
        place, made = Repository("local", backend), sound()
        await made.commit(place)
        files = {f"backups/{ID}/r1/{name.rpartition('/')[2]}": data for name, data in made.objects.items()}
        renamed = {one.name: one.sha256 for one in made.manifest.objects()}
        assert len(files) == len(renamed)

        async def rewrite() -> None:
            for name, data in files.items():
                await put(backend, name, data)
            text = made.manifest.model_dump_json(by_alias=True)
            for name in renamed:
                text = text.replace(f'"{name}"', f'"backups/{ID}/r1/{name.rpartition("/")[2]}"')
            later = Manifest.model_validate_json(text).model_copy(update={"revision": 1})
            await place.commit(later)
            await supersede(place, ID)

        backend.change = rewrite
        result = await verify_backup([place], ID)
        assert (result.state, result.problems) == ("success", ())
        assert [entry.verified for entry in (await place.catalogue()).entries] == ["success"]

    async def test_what_is_pruned_is_no_longer_there(self) -> None:
        backend = Changing()
        place = Repository("local", backend)
        await sound().commit(place)

        async def go() -> None:
            await backend.delete([await place.find(ID)])
            await backend.delete([one.name async for one in place.objects(ID)])

        backend.change = go
        with pytest.raises(NotFound, match="in any place"):
            await verify_backup([place], ID)


class ReadOnly(MemoryBackend):
    """Takes nothing."""

    def __init__(self, refusal: Refused) -> None:
        super().__init__()
        self._refusal = refusal

    async def begin(self, name: str, *, sha256: str | None = None) -> Upload:
        raise self._refusal

    async def delete(self, names: Iterable[str]) -> None:
        raise self._refusal


class TestChoosingForARestore:
    """A restore takes the first place that is whole, and nothing otherwise."""

    async def test_the_first_place_if_nothing_is_wrong(self, backups: Backups) -> None:
        chosen, manifest = await choose_whole(backups.places, backups.id)
        assert (chosen.place, manifest) == ("local", backups.manifest)

    @pytest.mark.parametrize("kind", [*KINDS_OF_OBJECT, "manifest"])
    @pytest.mark.parametrize("damage", ["byte flipped", "deleted"])
    async def test_the_other_place_if_one_is_damaged(
        self, backups: Backups, place: Repository, kind: str, damage: str
    ) -> None:
        name = str(backups.manifest.name()) if kind == "manifest" else backups.one(kind)
        await DAMAGES[damage][0](backups.planter(place), name)
        chosen, manifest = await choose_whole(backups.places, backups.id)
        assert chosen.place != place.place
        assert manifest == backups.manifest

    @pytest.mark.parametrize("kinds", [("data", "data"), ("schema.dump", "manifest"), ("manifest", "manifest")])
    async def test_no_place_if_both_are_damaged_and_the_target_stays_as_it_was(
        self, backups: Backups, database: Database, kinds: tuple[str, str]
    ) -> None:
        before = await database.fetch("SELECT nspname FROM pg_namespace ORDER BY 1")
        for place, kind in zip(backups.places, kinds, strict=True):
            name = str(backups.manifest.name()) if kind == "manifest" else backups.one(kind)
            await backups.planter(place).flip(name)
        await plan_restore(backups.places, backups.manifest, Source(database.dsn), Scope(), RestoreOptions())
        with pytest.raises(Difference, match=f"backup {backups.id} is not whole in any place") as raised:
            await choose_whole(backups.places, backups.id)
        damaged = {
            (place.place, backups.one(kind))
            for place, kind in zip(backups.places, kinds, strict=True)
            if kind != "manifest"
        }
        assert {(problem.place, problem.object) for problem in raised.value.problems} >= damaged
        assert await database.fetch("SELECT nspname FROM pg_namespace ORDER BY 1") == before
        assert await database.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0

    async def test_one_that_is_nowhere_is_not_found(self, backups: Backups) -> None:
        with pytest.raises(NotFound):
            await choose_whole(backups.places, ID)
