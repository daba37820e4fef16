"""What goes wrong while exporting is told, and nothing half-written stays; a place that has it whole is gone to."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobs.as_of import opened
from jobs.export import export
from jobs.exporting.plan import ExportScope, plan_export
from jobs.full_backup import full_backup
from jobs.postgres.connection import Source
from jobs.progress import Progress
from storage.backends.local import LocalBackend
from storage.manifest import Manifest
from storage.repository import Repository
from tests.exporting import OPTIONS, REPLACING
from tests.faults.commands import DIFFERENCE, FAILED, refuse, settings_of, succeed
from tests.faults.places import files
from tests.faults.test_disk_full import disk, resize, used
from tests.places import DAMAGES, Planter
from tests.round_trip import QUICK, memory, selection
from tests.servers import DEFAULT_MAJOR, Database, Servers

__all__ = ["disk"]  # a fixture

MIB = 1 << 20


@pytest.fixture(scope="module")
async def settings(bulky: Database, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Those by which some 20 MB were backed up."""
    made = settings_of(bulky, tmp_path_factory.mktemp("bulky"))
    await succeed("backup", settings=made)
    return made


@pytest.mark.parametrize("format_", ["csv", "parquet", "sql"])
async def test_a_full_disk_is_told_and_not_left_full(settings: dict[str, str], disk: Path, format_: str) -> None:
    arguments = ("export", "--format", format_, "--out", str(disk / "out"))
    error = await refuse(*arguments, settings=settings, code=FAILED, together=False)
    assert f"cannot write to {disk / 'out'}: No space left on device" in error["message"]
    assert "make room" in error["hint"]
    assert files(disk) == set()
    assert not (disk / "out").exists()
    assert used(disk) < MIB
    resize(disk, 64 * MIB)
    await succeed(*arguments, settings=settings)
    assert (disk / "out" / "export.json").exists()


async def test_what_is_no_folder_is_told(settings: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/below"):
        error = await refuse("export", "--format", "csv", "--out", str(tmp_path / out), settings=settings, code=FAILED)
        assert f"cannot write to {tmp_path / out}" in error["message"]
    assert (tmp_path / "file").read_text() == "mine"


async def test_a_folder_that_may_not_be_written_to_is_told(settings: dict[str, str], disk: Path) -> None:
    remount(disk, "ro")
    try:
        error = await refuse("export", "--format", "csv", "--out", str(disk), settings=settings, code=FAILED)
    finally:
        remount(disk, "rw")
    assert f"cannot write to {disk}" in error["message"]
    assert files(disk) == set()


def inside(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()]


def remount(folder: Path, mode: str) -> None:
    assert os.system(f"mount -o remount,{mode} '{folder}'") == 0


class Two:
    """A backup of a small database in two places."""

    def __init__(self, places: list[Repository], manifest: Manifest) -> None:
        self.places = places
        self.manifest = manifest

    def object_of(self, table: str) -> str:
        (found,) = (one for one in self.manifest.tables if one.name == table)
        return found.parts[0].objects[0].name


@pytest.fixture
async def two(servers: Servers) -> AsyncIterator[Two]:
    server = await servers.get(DEFAULT_MAJOR)
    source = await server.create()
    await source.execute(
        "CREATE TABLE one AS SELECT n FROM generate_series(1, 1000) n;"
        "CREATE TABLE two AS SELECT n FROM generate_series(1, 2000) n;"
    )
    places = [memory(), Repository("other", memory().backend)]
    result = await full_backup(Source(source.dsn), selection(), places, QUICK)
    yield Two(places, await places[0].manifest(result.id))
    await server.drop(source)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_each_table_comes_from_a_place_that_has_it_whole(two: Two, tmp_path: Path, damage: str) -> None:
    plant, _ = DAMAGES[damage]
    await plant(Planter(two.places[0].backend), two.object_of("one"))
    await plant(Planter(two.places[1].backend), two.object_of("two"))
    async with opened(two.places, "latest") as found:
        plan = await plan_export(found.manifest, ExportScope(("csv",)), OPTIONS)
        result = await export(found, plan, tmp_path, OPTIONS)
    assert [file.rows for file in result.files] == [1000, 2000]
    assert (tmp_path / "public" / "one.csv").read_text().count("\n") == 1001
    assert (tmp_path / "public" / "two.csv").read_text().count("\n") == 2001


async def test_a_damaged_part_is_told_with_its_table_and_nothing_is_left(servers: Servers, tmp_path: Path) -> None:
    server = await servers.get(DEFAULT_MAJOR)
    source = await server.create()
    await source.execute("CREATE TABLE one AS SELECT n FROM generate_series(1, 1000) n; CREATE TABLE two (n int)")
    settings = settings_of(source, tmp_path / "backups")
    made = await succeed("backup", settings=settings)
    manifest = await Repository("local", LocalBackend(tmp_path / "backups")).manifest(made["id"])
    part = manifest.tables[0].parts[0].objects[0].name
    await Planter(LocalBackend(tmp_path / "backups")).flip(part)
    for format_ in ("csv", "sql"):
        out = tmp_path / format_
        arguments = ("export", "--format", format_, "--out", str(out))
        error = await refuse(*arguments, settings=settings, code=DIFFERENCE, together=False)
        assert "public.one part 0, in local" in error["message"]
        assert "rowvault verify" in error["hint"]
        assert not out.exists()
    entries = (await succeed("trail", settings=settings))["entries"]
    assert {one["outcome"] for one in entries if one["what"] == "export"} == {"failed"}
    await server.drop(source)


async def test_what_was_replaced_is_there_again_where_a_file_cannot_be_given_its_name(
    settings: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "export.sql").write_text("old")
    (tmp_path / "export.json").mkdir()  # what lists the files is given its name last
    for format_, found in (("sql", {"export.sql"}), ("csv", {"export.sql"})):
        arguments = ("export", "--format", format_, "--out", str(tmp_path), "--yes")
        error = await refuse(*arguments, settings=settings, code=FAILED, together=False)
        assert f"cannot write to {tmp_path}" in error["message"]
        assert files(tmp_path) == found
        assert (tmp_path / "export.sql").read_text() == "old"
        assert sorted(inside(tmp_path)) == ["export.json", "export.sql"]


async def test_who_is_stopped_leaves_nothing_and_what_was_there_before(two: Two, tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "one.csv").write_text("old")
    begun = asyncio.Event()

    def stop(progress: Progress) -> None:
        begun.set()

    async def run() -> None:
        async with opened(two.places, "latest") as found:
            plan = await plan_export(found.manifest, ExportScope(("csv", "json", "parquet")), OPTIONS)
            await export(found, plan, tmp_path, REPLACING, stop)

    task = asyncio.create_task(run())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files(tmp_path) == {"public/one.csv"}
    assert (tmp_path / "public" / "one.csv").read_text() == "old"
    assert inside(tmp_path) == ["public"]
