"""Reconciling damaged places: what one has whole mends the other, and what is whole nowhere is said."""

from collections.abc import Awaitable, Callable

import pytest

from jobs.places.survey import Check
from jobs.sync import sync
from jobs.verify import verify_backup
from storage.names import REPOSITORY
from storage.repository import Repository
from tests.manifests import ID, OTHER_ID, sound
from tests.places import Planter, contents
from tests.reconciling import CHECKS, DATA, OBJECT, Places, found, place, require_alike, synced, two_places


@pytest.fixture
async def places() -> Places:
    return await two_places()


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


async def test_a_binding_that_cannot_be_read_is_made_good(places: Places) -> None:
    await Planter(places[0].backend).truncate(REPOSITORY)
    await synced(places)
    await require_alike(places)
