"""What a person sees as the list of backups: all places merged, and the truth about those that are silent."""

from collections.abc import AsyncIterator

import pytest

from jobs.errors import NotThere
from jobs.places.catalogue import keep, list_backups, read_backup, release, resolve
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import StoredObject
from storage.errors import Corrupt, NotFound, Unavailable
from storage.names import MANIFESTS
from storage.objects import put
from storage.repository import Repository
from tests.manifests import ID, OTHER_ID, made_up


class Switchable(MemoryBackend):
    """A store that can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        if self.away:
            raise Unavailable("nobody answers there")
        async for found in super().list(prefix):
            yield found


@pytest.fixture
def local() -> Repository:
    return Repository("local", Switchable())


@pytest.fixture
def s3() -> Repository:
    return Repository("s3", Switchable())


@pytest.fixture
def places(local: Repository, s3: Repository) -> list[Repository]:
    return [local, s3]


def turn_off(place: Repository) -> None:
    assert isinstance(place.backend, Switchable)
    place.backend.away = True


async def shown(places: list[Repository]) -> dict[str, tuple[str, list[str]]]:
    """By id the state, and the places' states."""
    listing = await list_backups(places)
    return {backup.id: (backup.state, [place.state for place in backup.places]) for backup in listing.backups}


class TestListing:
    """Places merged, newest first."""

    async def test_no_backups_are_an_empty_list(self, places: list[Repository]) -> None:
        listing = await list_backups(places)
        assert (listing.backups, listing.unreachable, listing.strays) == ((), (), ())

    async def test_a_backup_in_both_places_is_shown_once(
        self, places: list[Repository], local: Repository, s3: Repository
    ) -> None:
        await made_up(ID, label="one").commit(local)
        await made_up(ID, label="one").commit(s3)
        await made_up(OTHER_ID).commit(local)
        await made_up(OTHER_ID).commit(s3)
        newest, oldest = (await list_backups(places)).backups
        assert (newest.id, oldest.id, oldest.label) == (OTHER_ID, ID, "one")
        assert newest.created_at > oldest.created_at == oldest.recoverable_to
        assert await shown(places) == {one: ("success", ["committed", "committed"]) for one in (OTHER_ID, ID)}

    async def test_one_that_a_place_lacks_is_pending_there_whichever_it_is(
        self, places: list[Repository], local: Repository, s3: Repository
    ) -> None:
        await made_up(ID).commit(local)
        await made_up(OTHER_ID).commit(s3)
        assert await shown(places) == {
            OTHER_ID: ("warning", ["pending", "committed"]),
            ID: ("warning", ["committed", "pending"]),
        }

    async def test_objects_without_a_manifest_are_no_backup(self, places: list[Repository], s3: Repository) -> None:
        await made_up().write(s3.backend)
        assert await shown(places) == {}

    async def test_one_that_failed_its_verification_says_so(
        self, places: list[Repository], local: Repository, s3: Repository
    ) -> None:
        for place in places:
            await made_up().commit(place)
        await s3.record_verification(ID, "failed", {})
        await local.record_verification(ID, "success", {})
        assert await shown(places) == {ID: ("failed", ["committed", "failed"])}

    async def test_a_place_that_does_not_answer_is_shown_so_and_hides_nothing(
        self, places: list[Repository], local: Repository, s3: Repository
    ) -> None:
        await made_up().commit(local)
        turn_off(s3)
        assert await shown(places) == {ID: ("warning", ["committed", "unreachable"])}
        (away,) = (await list_backups(places)).unreachable
        assert (away.name, away.state, away.error) == ("s3", "unreachable", "nobody answers there")

    async def test_if_no_place_answers_there_is_no_list(self, places: list[Repository]) -> None:
        for place in places:
            turn_off(place)
        with pytest.raises(Unavailable, match="local: nobody answers there; s3: nobody answers there"):
            await list_backups(places)

    async def test_strays_are_named_with_their_place(self, places: list[Repository], s3: Repository) -> None:
        await put(s3.backend, f"{MANIFESTS}README", b"")
        assert (await list_backups(places)).strays == ("s3: manifests/README",)

    async def test_one_kept_in_either_place_is_kept(
        self, places: list[Repository], local: Repository, s3: Repository
    ) -> None:
        for place in places:
            await made_up().commit(place)
        await s3.keep(ID, "")
        assert [backup.kept for backup in (await list_backups(places)).backups] == [True]


class TestResolving:
    """What `latest` and an id mean."""

    async def test_latest_is_the_newest_that_is_whole_somewhere(
        self, places: list[Repository], local: Repository, s3: Repository
    ) -> None:
        await made_up(ID).commit(local)
        await made_up(OTHER_ID).commit(s3)
        assert await resolve(places, "latest") == OTHER_ID
        await s3.record_verification(OTHER_ID, "failed", {})
        assert await resolve(places, "latest") == ID

    async def test_an_id_is_itself_even_if_it_failed(self, places: list[Repository], local: Repository) -> None:
        await made_up(ID).commit(local)
        await local.record_verification(ID, "failed", {})
        assert await resolve(places, ID) == ID

    @pytest.mark.parametrize("wanted", [OTHER_ID, ID[:-1], "", "no such thing", "../.."])
    async def test_what_is_nowhere_is_not_there(self, places: list[Repository], local: Repository, wanted: str) -> None:
        await made_up(ID).commit(local)
        with pytest.raises(NotThere, match="there is no backup"):
            await resolve(places, wanted)

    async def test_without_a_whole_one_there_is_no_latest(self, places: list[Repository], local: Repository) -> None:
        with pytest.raises(NotThere, match="there is no backup yet"):
            await resolve(places, "latest")
        await made_up(ID).commit(local)
        await local.record_verification(ID, "failed", {})
        with pytest.raises(NotThere, match="no backup is whole in any place"):
            await resolve(places, "latest")

    @pytest.mark.parametrize("wanted", [OTHER_ID, "latest"])
    async def test_what_a_silent_place_may_have_is_not_said_to_be_nowhere(
        self, places: list[Repository], s3: Repository, wanted: str
    ) -> None:
        await made_up(OTHER_ID).commit(s3)
        turn_off(s3)
        with pytest.raises(Unavailable, match="s3 does not answer: nobody answers there"):
            await resolve(places, wanted)

    async def test_a_silent_place_does_not_matter_for_what_the_other_has(
        self, places: list[Repository], local: Repository, s3: Repository
    ) -> None:
        await made_up(ID).commit(local)
        turn_off(s3)
        assert await resolve(places, ID) == await resolve(places, "latest") == ID


class TestKeepMarks:
    """Set and lifted wherever the backup is."""

    async def test_they_are_set_and_lifted_in_every_place_that_has_it(
        self, places: list[Repository], local: Repository, s3: Repository
    ) -> None:
        for place in places:
            await made_up(ID).commit(place)
        await made_up(OTHER_ID).commit(local)
        for backup in (ID, OTHER_ID):
            await keep(places, backup, "audit")
        assert [await place.kept(ID) for place in places] == ["audit", "audit"]
        assert [await place.kept(OTHER_ID) for place in places] == ["audit", None]
        await release(places, ID)
        assert [await place.kept(ID) for place in places] == [None, None]

    async def test_one_that_failed_its_verification_can_be_kept(
        self, places: list[Repository], local: Repository
    ) -> None:
        await made_up(ID).commit(local)
        await local.record_verification(ID, "failed", {})
        await keep(places, ID, "evidence")
        assert await local.kept(ID) == "evidence"

    async def test_all_places_must_answer(self, places: list[Repository], local: Repository, s3: Repository) -> None:
        await made_up(ID).commit(local)
        turn_off(s3)
        for attempt in (keep(places, ID, ""), release(places, ID)):
            with pytest.raises(Unavailable, match="s3 does not answer"):
                await attempt
        assert await local.kept(ID) is None

    async def test_what_is_nowhere_cannot_be_kept(self, places: list[Repository]) -> None:
        with pytest.raises(NotThere, match=f"there is no backup {ID}"):
            await keep(places, ID, "")


class TestReadingAManifest:
    """From the first place that can give it."""

    async def test_the_other_place_serves_if_one_lacks_it_or_has_it_damaged_or_is_away(
        self, places: list[Repository], local: Repository, s3: Repository
    ) -> None:
        backup = made_up()
        await backup.commit(s3)
        assert await read_backup(places, ID) == backup.manifest
        await put(local.backend, str(backup.manifest.name()), b"damaged")
        assert await read_backup(places, ID) == backup.manifest
        turn_off(local)
        assert await read_backup(places, ID) == backup.manifest

    async def test_if_none_can_the_reason_is_said(
        self, places: list[Repository], local: Repository, s3: Repository
    ) -> None:
        with pytest.raises(NotFound):
            await read_backup(places, ID)
        await put(s3.backend, str(made_up().manifest.name()), b"damaged")
        with pytest.raises(Corrupt):
            await read_backup(places, ID)
