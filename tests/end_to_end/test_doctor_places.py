"""What `doctor` finds in the places: each fault is planted in a real folder or store, and seen."""

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.full_backup import full_backup
from jobs.postgres.catalogue import Selection
from jobs.postgres.connection import Source
from jobs.preparing import BackupOptions
from storage.backends.factory import open_local, open_s3
from storage.backends.memory import MemoryBackend
from storage.backends.s3 import S3Options
from storage.objects import put
from storage.repository import Repository
from storage.retention import Policy
from tests.conftest import Bucket, CreateDatabase
from tests.examining import look, only, problems, s3_options
from tests.programs import free_port
from tests.servers import Database


@pytest.fixture
async def database(database: Database) -> Database:
    """A database with one table."""
    await database.execute("CREATE TABLE t (id int)")
    return database


@pytest.fixture
def local(tmp_path: Path) -> Repository:
    """A local place that no backup was ever taken into."""
    return Repository("local", open_local(tmp_path / "backups"))


async def test_a_local_path_that_cannot_be_written_is_a_problem(
    database: Database, tmp_path: Path, local: Repository
) -> None:
    (tmp_path / "file").touch()
    report = await look(database, Repository("local", open_local(tmp_path / "file" / "backups")))
    assert only(report, "storage").state == "problem"
    assert only(report, "storage").hint
    assert only(report, "tables").state == "ok"


async def test_an_unreachable_store_is_a_problem_and_the_other_place_is_looked_at_all_the_same(
    database: Database, local: Repository
) -> None:
    options = S3Options(
        "b", endpoint_url=f"http://127.0.0.1:{free_port()}", access_key_id="k", secret_access_key="s3cr3t"
    )
    off_site = Repository("s3", await open_s3(options))
    try:
        report = await look(database, local, off_site)
    finally:
        await off_site.backend.close()
    (problem,) = problems(report)
    assert (problem.check, problem.place) == ("storage", "s3")
    assert "the store cannot be reached" in problem.message
    assert "s3cr3t" not in str(report)


async def test_a_wrong_secret_key_is_a_problem(database: Database, bucket: Bucket) -> None:
    off_site = Repository("s3", await open_s3(replace(s3_options(bucket), secret_access_key="wr0ng-s3cr3t")))
    try:
        report = await look(database, off_site)
    finally:
        await off_site.backend.close()
    assert "ROWVAULT_S3__SECRET_ACCESS_KEY" in only(report, "storage").hint
    assert "wr0ng-s3cr3t" not in str(report)


async def test_a_place_of_another_database_is_a_problem(
    database: Database, create_database: CreateDatabase, local: Repository
) -> None:
    other = await create_database()
    await other.execute("CREATE TABLE t (id int)")
    await full_backup(Source(other.dsn), Selection(), [local], BackupOptions())
    finding = only(await look(database, local), "binding")
    assert finding.state == "problem"
    assert "--adopt" in finding.hint


async def test_an_empty_local_place_beside_a_filled_one_is_a_problem(database: Database, local: Repository) -> None:
    off_site = Repository("s3", MemoryBackend())
    await full_backup(Source(database.dsn), Selection(), [off_site], BackupOptions())
    finding = only(await look(database, local, off_site), "places")
    assert (finding.state, finding.place) == ("problem", "local")
    assert "not mounted" in finding.message


async def test_backups_that_are_not_off_site_are_a_warning(database: Database, local: Repository) -> None:
    await full_backup(Source(database.dsn), Selection(), [local], BackupOptions())
    finding = only(await look(database, local, Repository("s3", MemoryBackend())), "places")
    assert (finding.state, finding.place) == ("warning", "s3")


async def test_a_place_lacks_nothing_that_it_is_not_to_hold(database: Database, local: Repository) -> None:
    """As where archives have a bucket of their own."""
    await full_backup(Source(database.dsn), Selection(), [local], BackupOptions())
    archive = Repository("archive", MemoryBackend(), policy=Policy(kinds=frozenset({"archive"})))
    assert only(await look(database, local, archive), "places").state == "ok"


async def test_what_an_interrupted_run_left_is_a_warning(database: Database, local: Repository) -> None:
    await put(local.backend, "backups/20240102T030405.678Z-full-0a1b2c/data/part", b"left")
    finding = only(await look(database, local), "leftovers")
    assert finding.state == "warning"
    assert "1 uncommitted" in finding.message


async def test_a_manifest_that_somebody_took_is_a_problem(database: Database, local: Repository) -> None:
    backup = await full_backup(Source(database.dsn), Selection(), [local], BackupOptions())
    await local.backend.delete([await local.find(backup.id)])
    first, *_ = [one for one in (await look(database, local)).findings if one.check == "leftovers"]
    assert (first.state, first.place) == ("problem", "local")
    assert backup.id in first.message


async def test_what_a_live_lease_protects_is_not_left_over(database: Database, local: Repository) -> None:
    backup_id = "20240102T030405.678Z-full-0a1b2c"
    await local.lease(backup_id, "a test")
    await put(local.backend, f"backups/{backup_id}/data/part", b"under way")
    assert only(await look(database, local), "leftovers").state == "ok"
