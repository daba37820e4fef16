"""Verification finds whatever happened to a backup at rest: each test plants a fault, which is mended after it."""

from collections.abc import Callable, Iterable

import pytest

from jobs.results import Problem, ProblemKind
from jobs.verify import verify_backup
from storage.backends.memory import MemoryBackend
from storage.errors import NotFound
from storage.manifest import Part
from storage.manifest_file import dump_manifest
from storage.objects import get
from storage.repository import Repository
from tests.end_to_end.conftest import DUMP_FILES, KINDS_OF_OBJECT, Backups
from tests.manifests import ID
from tests.places import DAMAGES

BYTES_DIFFER: set[ProblemKind] = {"size", "sha256_stored"}


async def problems(place: Repository, backup_id: str) -> list[Problem]:
    """What verifying one place finds; it must say so in its state, too."""
    result = await verify_backup([place], backup_id)
    assert [outcome.state for outcome in result.places] == ["failed" if result.problems else "committed"]
    assert result.state == ("failed" if result.problems else "success")
    return list(result.problems)


def objects_of(found: Iterable[Problem]) -> set[str]:
    return {problem.object for problem in found}


class TestDamage:
    """One object, one fault, one problem that says what, where, and of which table."""

    @pytest.mark.parametrize("damage", DAMAGES)
    @pytest.mark.parametrize("kind", KINDS_OF_OBJECT)
    async def test_each_fault_of_each_kind_of_object_is_found(self, backups: Backups, kind: str, damage: str) -> None:
        place, name = backups.places[0], backups.one(kind)
        plant, expected = DAMAGES[damage]
        await plant(backups.planter(place), name)
        (problem,) = await problems(place, backups.id)
        assert (problem.place, problem.object) == ("local", name)
        assert problem.table == ("public.Line Items" if kind == "data" else None)
        assert problem.kind == expected
        assert problem.expected != problem.found

    @pytest.mark.parametrize("damage", DAMAGES)
    async def test_faults_of_all_objects_at_once_are_all_found(
        self, backups: Backups, place: Repository, damage: str
    ) -> None:
        names = [backups.one(kind) for kind in DUMP_FILES] + backups.data
        plant, expected = DAMAGES[damage]
        for name in names:
            await plant(backups.planter(place), name)
        found = await problems(place, backups.id)
        assert sorted(problem.object for problem in found) == sorted(names)
        assert {problem.kind for problem in found} == {expected}
        assert {problem.place for problem in found} == {place.place}

    async def test_a_table_without_rows_has_an_object_to_lose(self, backups: Backups, place: Repository) -> None:
        (table,) = (table for table in backups.manifest.tables if table.name == "nothing yet")
        (stored,) = table.parts[0].objects
        await backups.planter(place).delete(stored.name)
        (problem,) = await problems(place, backups.id)
        assert (problem.table, problem.kind) == ("public.nothing yet", "missing")

    async def test_two_objects_of_one_table_that_changed_places_are_both_found(
        self, backups: Backups, place: Repository
    ) -> None:
        first, second, *_ = backups.data
        await backups.planter(place).swap(first, second)
        found = await problems(place, backups.id)
        assert objects_of(found) == {first, second}
        assert {problem.kind for problem in found} <= BYTES_DIFFER

    @pytest.mark.parametrize("kind", ["RESTORE.txt", "schema.dump"])
    async def test_an_object_that_changed_places_with_another_backups_is_found_in_both(
        self, backups: Backups, place: Repository, kind: str
    ) -> None:
        mine, other = f"backups/{backups.id}/{kind}", f"backups/{backups.other.id}/{kind}"
        await backups.planter(place).swap(mine, other)
        assert objects_of(await problems(place, backups.id)) == {mine}
        assert objects_of(await problems(place, backups.other.id)) == {other}

    async def test_damage_in_one_place_is_not_reported_of_the_other(self, backups: Backups, place: Repository) -> None:
        await backups.planter(place).flip(backups.one("data"))
        result = await verify_backup(backups.places, backups.id)
        assert {problem.place for problem in result.problems} == {place.place}
        states = {outcome.name: outcome.state for outcome in result.places}
        assert states == {"local": "committed", "s3": "committed", place.place: "failed"}

    async def test_the_other_backup_is_still_whole(self, backups: Backups, place: Repository) -> None:
        await backups.planter(place).flip(backups.one("data"))
        assert await problems(place, backups.other.id) == []


class TestManifest:
    """The description itself may be what is damaged."""

    @pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage != "deleted"])
    async def test_one_that_was_altered_is_found(self, backups: Backups, place: Repository, damage: str) -> None:
        name = str(backups.manifest.name())
        await DAMAGES[damage][0](backups.planter(place), name)
        (problem,) = await problems(place, backups.id)
        assert (problem.place, problem.object, problem.table) == (place.place, name, None)
        assert problem.kind == "altered"

    async def test_one_that_changed_places_with_another_backups_is_found(
        self, backups: Backups, place: Repository
    ) -> None:
        names = [str(manifest.name()) for manifest in (backups.manifest, backups.other)]
        await backups.planter(place).swap(*names)
        for manifest, name in zip((backups.manifest, backups.other), names, strict=True):
            (problem,) = await problems(place, manifest.id)
            assert (problem.object, problem.kind) == (name, "identity")

    async def test_one_that_was_taken_is_found(self, backups: Backups, place: Repository) -> None:
        await verify_backup(backups.places, backups.id)
        await backups.planter(place).delete(str(backups.manifest.name()))
        result = await verify_backup(backups.places, backups.id)
        assert [(one.place, one.object, one.kind) for one in result.problems] == [
            (place.place, f"manifests/{backups.id}", "missing")
        ]
        states = {outcome.name: outcome.state for outcome in result.places}
        assert states == {"local": "committed", "s3": "committed", place.place: "failed"}

    async def test_a_place_that_never_had_it_is_pending(self, backups: Backups) -> None:
        result = await verify_backup([*backups.places, Repository("new", MemoryBackend())], backups.id)
        assert (result.state, result.problems) == ("warning", ())
        assert [outcome.state for outcome in result.places] == ["committed", "committed", "pending"]

    async def test_one_that_no_place_ever_had_is_not_found(self, backups: Backups) -> None:
        with pytest.raises(NotFound, match=f"no backup {ID} in any place"):
            await verify_backup(backups.places, ID)

    @pytest.mark.parametrize(
        ("field", "change", "kind"),
        [
            ("rows", lambda part: part.rows + 1, "rows"),
            ("sha256", lambda part: part.sha256[::-1], "sha256_raw"),
            ("bytes", lambda part: part.bytes - 1, "sha256_raw"),
        ],
    )
    async def test_one_that_promises_other_rows_than_the_data_hold_is_found(
        self, backups: Backups, place: Repository, field: str, change: Callable[[Part], object], kind: str
    ) -> None:
        table = next(table for table in backups.manifest.tables if table.rows)
        part = next(part for part in table.parts if part.rows)
        forged = part.model_copy(update={field: change(part)})
        await forge(backups, place, part, forged)
        (problem,) = await problems(place, backups.id)
        assert (problem.kind, problem.table) == (kind, f"public.{table.name}")

    async def test_an_object_that_is_what_was_promised_and_no_zstd_data_is_found(
        self, backups: Backups, place: Repository
    ) -> None:
        text = next(stored for stored in backups.manifest.dump.files() if stored.name.endswith("RESTORE.txt"))
        part = next(part for table in backups.manifest.tables for part in table.parts if part.rows)
        await forge(backups, place, part, part.model_copy(update={"objects": (text,)}))
        (problem,) = await problems(place, backups.id)
        assert (problem.kind, problem.object) == ("unreadable", text.name)


async def forge(backups: Backups, place: Repository, part: Part, forged: Part) -> None:
    """Replace a part in the manifest by another, and let the manifest's own hash and name be right."""
    tables = tuple(
        table.model_copy(update={"parts": tuple(forged if one == part else one for one in table.parts)})
        for table in backups.manifest.tables
    )
    manifest = backups.manifest.model_copy(update={"tables": tables})
    await backups.planter(place).delete(str(backups.manifest.name()))
    await backups.planter(place).put(str(manifest.name()), dump_manifest(manifest))


async def test_every_object_of_a_backup_is_in_its_manifest(backups: Backups) -> None:
    for place in backups.places:
        there = {stored.name async for stored in place.objects(backups.id)}
        assert there == {stored.name for stored in backups.manifest.objects()}


async def test_both_places_hold_the_same_bytes(backups: Backups) -> None:
    local, s3 = backups.places
    for stored in backups.manifest.objects():
        assert await get(local.backend, stored.name) == await get(s3.backend, stored.name)
