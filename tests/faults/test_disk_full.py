"""A disk without room: the backup fails, says which folder, and gives back what it took; with more room it succeeds."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.names import REPOSITORY
from tests.conftest import CreateDatabase
from tests.faults.commands import FAILED, document, opened, refuse, settings_of, succeed
from tests.faults.places import accounted_for, files
from tests.keys import new_key
from tests.programs import rowvault
from tests.servers import Database

MIB = 1 << 20
PAGE = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system in memory."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, 4 * MIB)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def mount(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", folder], check=True)


def resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


def used(folder: Path) -> int:
    facts = os.statvfs(folder)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize


async def test_a_full_disk_is_told_and_not_left_full_and_with_more_room_the_next_backup_succeeds(
    bulky: Database, disk: Path
) -> None:
    settings = settings_of(bulky, disk)
    error = await refuse("backup", settings=settings, code=FAILED)
    assert f"in {disk}: No space left on device" in error["message"]
    assert str(disk) in error["hint"]
    assert files(disk) == {REPOSITORY}
    assert used(disk) < MIB
    resize(disk, 64 * MIB)
    assert (await succeed("backup", settings=settings))["state"] == "success"
    async with opened(settings) as app:
        assert files(disk) == await accounted_for(app.repositories[0])


async def test_a_disk_that_has_no_room_left_for_the_manifest_is_not_left_full_either(
    create_database: CreateDatabase, disk: Path
) -> None:
    source = await create_database(build="CREATE TABLE t AS SELECT generate_series(1, 100000) AS n", key="numbers")
    settings = settings_of(source, disk)
    first = await succeed("backup", settings=settings)
    before, kept = used(disk), files(disk)
    async with opened(settings) as app:
        objects = (await app.repositories[0].manifest(first["id"])).objects()
        taken = sum(-(-stored.bytes // PAGE) * PAGE for stored in objects)
    resize(disk, before + taken + PAGE)
    answer = await rowvault("backup", "--json", env=settings)
    assert answer.returncode == FAILED
    error = document(answer)["error"]
    assert f"in {disk}: No space left on device" in error["message"]
    assert "manifests/" in error["message"]
    assert files(disk) == kept
    assert used(disk) <= before + 2 * PAGE  # the trail's entry is there to stay


async def test_exports_of_an_encrypted_archive_need_room_once_and_without_any_the_archive_is_made_all_the_same(
    create_database: CreateDatabase, disk: Path, tmp_path: Path
) -> None:
    build = "CREATE TABLE t AS SELECT gen_random_uuid() AS u, gen_random_uuid() AS v FROM generate_series(1, 60000) n"
    key = new_key()
    (tmp_path / "identity").write_text(key.identity)
    settings = settings_of(
        await create_database(build=build, key="random numbers"),
        tmp_path / "backups",
        ENCRYPTION__RECIPIENTS=key.public,
        ENCRYPTION__IDENTITY_FILE=str(tmp_path / "identity"),
        ARCHIVE__EXPORTS="csv",
    ) | {"TMPDIR": str(disk)}
    await succeed("backup", settings=settings)
    assert (await succeed("backup", "archive", settings=settings))["state"] == "success"
    resize(disk, 1 * MIB)
    told = await succeed("backup", "archive", settings=settings)
    assert told["state"] == "warning"
    assert any("it has no export as csv: cannot write to" in one for one in told["warnings"])
    assert used(disk) == 0


async def test_what_retention_lets_go_of_makes_room_on_a_full_disk(create_database: CreateDatabase, disk: Path) -> None:
    source = await create_database(build="CREATE TABLE t AS SELECT generate_series(1, 100000) AS n", key="numbers")
    settings = settings_of(source, disk, RETENTION__DAILY="1")
    old, new = [(await succeed("backup", settings=settings))["id"] for _ in range(2)]
    resize(disk, used(disk))
    result = await succeed("prune", settings=settings)
    assert {one["id"]: one["action"] for one in result["backups"]} == {old: "removed", new: "keep"}
    assert [one["outcome"] for one in (await succeed("trail", settings=settings))["entries"]] == ["success"] * 3


async def test_a_full_disk_can_still_be_listed_verified_and_restored_from(
    create_database: CreateDatabase, disk: Path
) -> None:
    source = await create_database(build="CREATE TABLE t AS SELECT generate_series(1, 1000) AS n", key="few")
    target = await create_database()
    settings = settings_of(source, disk)
    made = await succeed("backup", settings=settings)
    fill(disk / "filler")
    assert [one["id"] for one in await succeed("list", settings=settings)] == [made["id"]]
    assert (await succeed("verify", "latest", settings=settings))["problems"] == []
    await succeed("restore", "--to", target.dsn, "--yes", settings=settings)
    assert await target.value("SELECT count(*) FROM t") == 1000


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE))
        except OSError:
            return


@pytest.mark.parametrize("rows", [3_000, 60_000], ids=["while a table is written", "while states go to disk"])
async def test_a_moment_that_finds_no_room_is_told_and_leaves_nothing(
    create_database: CreateDatabase, disk: Path, tmp_path: Path, rows: int
) -> None:
    source, target = await create_database(), await create_database()
    await source.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text);"
        "INSERT INTO t SELECT n, sha512(n::text::bytea)::text || sha512((-n)::text::bytea)"
        " FROM generate_series(1, 60000) n"
    )
    settings = settings_of(source, tmp_path / "backups") | {"TMPDIR": str(disk)}
    await succeed("backup", "incremental", settings=settings)
    await source.execute(f"UPDATE t SET v = v || 'x' WHERE id <= {rows}")
    await succeed("backup", "incremental", settings=settings)
    error = await refuse("restore", "--yes", "--to", target.dsn, settings=settings, code=FAILED)
    assert f"no room in {disk}" in error["message"]
    assert "TMPDIR" in error["hint"]
    assert files(disk) == set()
    assert await target.fetch("SELECT FROM pg_class WHERE relname = 't'") == []
    resize(disk, 256 * MIB)
    await succeed("restore", "--yes", "--to", target.dsn, settings=settings)
    assert await target.value("SELECT count(*) FROM t WHERE v LIKE '%x'") >= rows
