"""What a repository promises: whole backups or none, listed from names alone, of one database."""

import json
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.errors import AlreadyExists, Corrupt, NotFound
from storage.manifest_file import dump_manifest
from storage.names import KEPT, MANIFESTS, REPOSITORY, VERIFICATIONS, ManifestName
from storage.objects import get, put
from storage.repository import OtherSource, Repository
from tests.manifests import ID, OTHER_ID, SYSTEM, backup_id, made_up
from tests.storage.helpers import names

DATABASE = (SYSTEM, "shop")
OTHER_SYSTEM = (SYSTEM[::-1], "shop")
OTHER_DATABASE = (SYSTEM, "shop2")


@pytest.fixture
def repository() -> Repository:
    return Repository("here", MemoryBackend())


async def listed(repository: Repository) -> list[str]:
    return [entry.id for entry in (await repository.catalogue()).entries]


class TestCommit:
    """A backup exists from its manifest on, and not before."""

    async def test_nothing_is_listed_before_the_commit(self, repository: Repository) -> None:
        backup = made_up()
        await backup.write(repository.backend)
        assert await listed(repository) == []
        assert await repository.begun() == {ID}
        with pytest.raises(NotFound, match=f"no backup {ID} in here"):
            await repository.manifest(ID)
        await repository.commit(backup.manifest)
        assert await listed(repository) == [ID]
        assert await repository.manifest(ID) == backup.manifest

    async def test_each_place_has_its_own(self, repository: Repository, tmp_path: Path) -> None:
        other = Repository("there", LocalBackend(tmp_path))
        await made_up(ID).commit(repository)
        await made_up(OTHER_ID).commit(other)
        assert (await listed(repository), await listed(other)) == ([ID], [OTHER_ID])

    @pytest.mark.parametrize("revisions", [(0, 2, 10), (10, 2, 0), (2, 10, 0)])
    async def test_of_several_revisions_the_newest_counts(
        self, repository: Repository, revisions: tuple[int, ...]
    ) -> None:
        backup = made_up()
        await backup.write(repository.backend)
        made = {one: backup.manifest.model_copy(update={"revision": one}) for one in revisions}
        for one in revisions:
            await repository.commit(made[one])
        catalogue = await repository.catalogue()
        assert [(entry.id, entry.revision) for entry in catalogue.entries] == [(ID, 10)]
        assert set(catalogue.superseded) == {str(made[one].name()) for one in (0, 2)}
        assert await repository.manifest(ID) == made[10]

    @pytest.mark.parametrize("number", range(6))
    async def test_an_object_that_is_missing_prevents_it(self, repository: Repository, number: int) -> None:
        backup = made_up()
        missing = list(backup.objects)[number]
        await backup.write(repository.backend)
        await repository.backend.delete([missing])
        with pytest.raises(Corrupt, match=f"{missing} in here: .* found None"):
            await repository.commit(backup.manifest)
        assert await names(repository.backend, MANIFESTS) == []

    @pytest.mark.parametrize("data", [b"", b"row", b"rows "])
    async def test_an_object_of_another_size_prevents_it(self, repository: Repository, data: bytes) -> None:
        backup = made_up()
        await backup.write(repository.backend)
        await put(repository.backend, list(backup.objects)[-1], data)
        with pytest.raises(Corrupt, match=f"4 bytes were written, found {len(data)}"):
            await repository.commit(backup.manifest)
        assert await listed(repository) == []

    async def test_committing_the_same_again_is_no_error(self, repository: Repository) -> None:
        backup = made_up()
        await backup.commit(repository)
        await repository.commit(backup.manifest)
        assert await listed(repository) == [ID]

    async def test_another_manifest_of_that_name_is_never_replaced(self, repository: Repository) -> None:
        backup = made_up()
        await backup.commit(repository)
        with pytest.raises(AlreadyExists):
            await repository.commit(backup.manifest.model_copy(update={"reason": "another"}))
        assert await repository.manifest(ID) == backup.manifest


class TestCatalogue:
    """The listing is the catalogue."""

    async def test_it_shows_what_the_names_say_newest_first(self, repository: Repository) -> None:
        await made_up(ID, label="before: the 🦄").commit(repository)
        await made_up(OTHER_ID).commit(repository)
        newest, oldest = (await repository.catalogue()).entries
        assert (newest.id, newest.label) == (OTHER_ID, "")
        assert (oldest.id, oldest.label) == (ID, "before: the 🦄")
        assert (oldest.kind, oldest.base, oldest.rows) == ("full", None, 1)
        assert oldest.created_at == datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)
        assert oldest.bytes_stored == made_up(ID).manifest.bytes_stored
        assert (oldest.kept, oldest.verified) == (False, None)

    @pytest.mark.parametrize(
        "stray",
        ["README", f"{ID}.json", f"{ID}~-~1~2~.json.bak", f"{ID.replace('0102', '0230')}~-~1~2~.json", f"x/{ID}"],
    )
    async def test_a_stray_among_the_manifests_is_reported_and_hides_nothing(
        self, repository: Repository, stray: str
    ) -> None:
        await made_up().commit(repository)
        await put(repository.backend, MANIFESTS + stray, b"stray")
        catalogue = await repository.catalogue()
        assert catalogue.strays == (MANIFESTS + stray,)
        assert [entry.id for entry in catalogue.entries] == [ID]
        assert (await repository.manifest(ID)).id == ID

    async def test_a_manifest_under_a_strays_name_is_no_backup(self, repository: Repository) -> None:
        await put(repository.backend, f"{MANIFESTS}{ID}~-~1~2~.json.bak", dump_manifest(made_up().manifest))
        assert await listed(repository) == []
        with pytest.raises(NotFound):
            await repository.manifest(ID)

    async def test_ten_thousand_backups_are_listed_without_reading_one(self) -> None:
        backend = CountingReads()
        for number in range(10_000):
            backend._state.put(str(ManifestName(backup_id(number), None, number, 2, f"label {number}")), b"")
        assert len(await listed(Repository("here", backend))) == 10_000
        assert backend.reads == Counter()


class CountingReads(MemoryBackend):
    """Counts which objects are read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    async def read(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        self.reads[name] += 1
        async for block in super().read(name, offset):
            yield block


class TestManifest:
    """Reading one backup's description."""

    async def test_one_that_was_altered_is_corrupt(self, repository: Repository) -> None:
        await made_up().commit(repository)
        name = await repository.find(ID)
        data = await get(repository.backend, name)
        await put(repository.backend, name, data.replace(b'"because"', b'"becausE"'))
        with pytest.raises(Corrupt, match="was altered"):
            await repository.manifest(ID)
        assert await listed(repository) == [ID]

    async def test_an_id_is_not_found_by_its_beginning(self, repository: Repository) -> None:
        await made_up().commit(repository)
        with pytest.raises(NotFound):
            await repository.find(ID[:-1])


class TestBinding:
    """A repository holds backups of one database."""

    async def test_a_new_one_is_nobodys_until_it_is_bound(self, repository: Repository) -> None:
        assert await repository.identity() is None
        bound = await repository.bind(*DATABASE)
        assert await repository.identity() == bound
        assert (bound.system_identifier, bound.database) == DATABASE

    async def test_binding_it_again_changes_nothing(self, repository: Repository) -> None:
        bound = await repository.bind(*DATABASE)
        assert await repository.bind(*DATABASE) == bound
        assert await repository.bind(*DATABASE, adopt=True) == bound

    @pytest.mark.parametrize("other", [OTHER_SYSTEM, OTHER_DATABASE])
    async def test_another_database_is_refused_until_it_is_adopted(
        self, repository: Repository, other: tuple[str, str]
    ) -> None:
        bound = await repository.bind(*DATABASE)
        with pytest.raises(OtherSource, match=r"here holds backups of database 'shop' of system 74.*, not of"):
            await repository.bind(*other)
        assert await repository.identity() == bound
        adopted = await repository.bind(*other, adopt=True)
        assert (adopted.system_identifier, adopted.database) == other
        assert adopted.created_at == bound.created_at
        assert await repository.identity() == adopted

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"system_identifier": 1, "created_at": 2}', b"\xff"])
    async def test_one_that_cannot_be_read_is_refused_until_it_is_adopted(
        self, repository: Repository, data: bytes
    ) -> None:
        await put(repository.backend, REPOSITORY, data)
        with pytest.raises(Corrupt, match=r"repository\.json in here cannot be read") as raised:
            await repository.bind(*DATABASE)
        assert "--adopt" in raised.value.hint
        await repository.bind(*DATABASE, adopt=True)
        bound = await repository.identity()
        assert bound is not None
        assert bound.database == "shop"

    @pytest.mark.parametrize(("rival", "refused"), [(DATABASE, False), (OTHER_DATABASE, True)])
    async def test_of_two_who_bind_it_at_once_the_later_respects_the_first(
        self, rival: tuple[str, str], *, refused: bool
    ) -> None:
        backend = BoundMeanwhile(rival)
        if refused:
            with pytest.raises(OtherSource):
                await Repository("here", backend).bind(*DATABASE)
        else:
            await Repository("here", backend).bind(*DATABASE)
        assert json.loads(await get(backend, REPOSITORY))["database"] == rival[1]


class BoundMeanwhile(MemoryBackend):
    """A repository that a rival binds just when somebody else is about to."""

    def __init__(self, rival: tuple[str, str]) -> None:
        super().__init__()
        self._rival: tuple[str, str] | None = rival

    async def create(self, name: str, data: bytes) -> None:
        rival, self._rival = self._rival, None
        if rival:
            await Repository("here", self).bind(*rival)
        await super().create(name, data)


class TestMarks:
    """What people and verification note beside a backup."""

    async def test_a_keep_mark_is_set_and_lifted(self, repository: Repository) -> None:
        await made_up().commit(repository)
        assert await repository.kept(ID) is None
        await repository.keep(ID, "the auditors want it")
        assert [entry.kept for entry in (await repository.catalogue()).entries] == [True]
        assert await repository.kept(ID) == "the auditors want it"
        await repository.release(ID)
        await repository.release(ID)
        assert [entry.kept for entry in (await repository.catalogue()).entries] == [False]

    async def test_a_keep_mark_that_cannot_be_read_is_one(self, repository: Repository) -> None:
        await made_up().commit(repository)
        await put(repository.backend, f"{KEPT}{ID}.json", b"")
        assert await repository.kept(ID) == ""
        assert [entry.kept for entry in (await repository.catalogue()).entries] == [True]

    async def test_what_is_not_there_cannot_be_kept_or_released(self, repository: Repository) -> None:
        for attempt in (repository.keep(ID, ""), repository.release(ID)):
            with pytest.raises(NotFound):
                await attempt
        assert await names(repository.backend) == []

    async def test_the_newest_verification_counts(self, repository: Repository) -> None:
        await made_up().commit(repository)
        for state in ("success", "failed", "success", "success"):
            await repository.record_verification(ID, state, {"problems": []})
            assert [entry.verified for entry in (await repository.catalogue()).entries] == [state]
            assert await names(repository.backend, VERIFICATIONS) == [f"{VERIFICATIONS}{ID}~{state}.json"]

    async def test_what_was_pruned_while_it_was_verified_gets_no_record(self, repository: Repository) -> None:
        await repository.record_verification(ID, "success", {"problems": []})
        assert await names(repository.backend, VERIFICATIONS) == []

    @pytest.mark.parametrize("states", [("failed", "success"), ("success", "failed")])
    async def test_of_two_records_the_worse_counts(self, repository: Repository, states: tuple[str, str]) -> None:
        await made_up().commit(repository)
        for state in states:
            await put(repository.backend, f"{VERIFICATIONS}{ID}~{state}.json", b"{}")
        assert [entry.verified for entry in (await repository.catalogue()).entries] == ["failed"]
