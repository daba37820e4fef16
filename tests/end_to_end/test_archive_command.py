"""Archives by command and by the daemon, and the bucket of their own in which they are locked."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage.names import is_of_an_archive
from tests.archiving import archive_shop
from tests.conftest import Bucket, CreateDatabase, new_bucket
from tests.daemons import environment, running_daemon, settings_for
from tests.faults.commands import opened as opened_app
from tests.manifests import DUMP_FILES
from tests.programs import rowvault
from tests.seaweed import S3Server
from tests.servers import Database
from tests.storage.helpers import names


@pytest.fixture
async def shop(create_database: CreateDatabase) -> Database:
    return await archive_shop(create_database)


@pytest.fixture
async def locked_bucket(s3_server: S3Server) -> AsyncIterator[Bucket]:
    """One that keeps versions and may lock them."""
    async with new_bucket(s3_server, ObjectLockEnabledForBucket=True) as made:
        yield made


async def run(*args: str, env: dict[str, str], code: int = 0) -> Any:
    done = await rowvault(*args, "--json", env=env)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


async def test_by_command_it_needs_no_source(shop: Database, tmp_path: Path, create_database: CreateDatabase) -> None:
    env = environment(settings_for(shop, tmp_path))
    await run("backup", env=env)
    env |= {"ROWVAULT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/gone"}
    made = await run("backup", "archive", "--label", "by hand", env=env)
    assert (made["kind"], made["state"], made["problems"]) == ("archive", "success", [])
    listed = await run("list", env=env)
    assert [(one["kind"], one["label"]) for one in listed] == [("full", ""), ("archive", "by hand")]
    assert (await run("show", made["id"], env=env))["archived"] == listed[0]["id"]
    target = await create_database()
    await run("restore", made["id"], "--to", target.dsn, "--yes", env=env)
    assert await target.value("SELECT count(*) FROM orders") == 3000
    entries = (await run("trail", env=env))["entries"]
    assert entries[-2]["details"]["kind"] == "archive"


async def test_one_that_no_policy_keeps_says_how_it_would_stay(shop: Database, tmp_path: Path) -> None:
    env = environment(settings_for(shop, tmp_path))
    await run("backup", env=env)
    filling, said = "~", list[str]()
    while not said:  # of one moment that with the least id fills the slot, and ids are made by chance
        made = await run("backup", "archive", env=env)
        said = [one for one in made["warnings"] if "fills no slot" in one]
        assert bool(said) == (made["id"] > filling)
        filling = min(filling, made["id"])
    assert f"rowvault keep {made['id']}" in said[0]
    kept = await run("backup", "archive", "--keep", env=env)
    assert not [one for one in kept["warnings"] if "fills no slot" in one]


async def test_in_a_bucket_of_its_own_all_of_it_is_locked_and_nothing_else(
    shop: Database, tmp_path: Path, bucket: Bucket, locked_bucket: Bucket
) -> None:
    env = environment(settings_for(shop, tmp_path, bucket))
    env |= {"ROWVAULT_ARCHIVE__BUCKET": locked_bucket.name, "ROWVAULT_ARCHIVE__STORAGE_CLASS": "STANDARD_IA"}
    env |= {"ROWVAULT_ARCHIVE__LOCK_MODE": "compliance", "ROWVAULT_ARCHIVE__LOCK_DAYS": "30"}
    full = await run("backup", env=env)
    assert [place["name"] for place in full["places"]] == ["local", "s3"]
    made = await run("backup", "archive", env=env)
    assert [(one["name"], one["state"]) for one in made["places"]] == [("local", "committed"), ("archive", "committed")]
    kinds = {one["kind"]: [place["name"] for place in one["places"]] for one in await run("list", env=env)}
    assert kinds == {"full": ["local", "s3"], "archive": ["local", "archive"]}
    assert (await run("sync", "--check", "checksum", env=env))["state"] == "success"
    assert (await run("verify", "--all", env=env))[0]["state"] == "success"
    async with opened_app(env) as app:
        apart = app.repositories[2]
        every = await names(apart.backend)
        of_it = [name for name in every if is_of_an_archive(name)]
        held = {one.name: one.until for one in await apart.backend.purge(every)}
        assert sorted(held) == sorted(of_it)
        for until in held.values():
            assert until is not None
            assert timedelta(days=29) < until - datetime.now(UTC) < timedelta(days=31)
        assert len(of_it) == len(made["tables"]) + len(DUMP_FILES) + 1
    await run("backup", "archive", env=env)
    none = {"ROWVAULT_RETENTION__WEEKLY": "0", "ROWVAULT_RETENTION__MONTHLY": "0"}
    for command in (("prune", "--dry-run"), ("prune",)):
        rows = (await run(*command, env=env | none))["backups"]
        [older] = [row for row in rows if row["place"] == "archive" and row["action"] != "keep"]
        assert (older["action"], older["held_by"][:21]) == ("hold back", "it is locked until 20")
    kept = {one["id"]: one["places"] for one in await run("list", env=env)}[older["id"]]
    assert [place["name"] for place in kept if place["state"] == "committed"] == ["archive"]


async def test_the_bucket_of_its_own_may_not_be_the_off_site_place(shop: Database, bucket: Bucket) -> None:
    env = environment(settings_for(shop, bucket=bucket)) | {"ROWVAULT_ARCHIVE__BUCKET": bucket.name}
    document = await run("list", env=env, code=2)
    assert "ROWVAULT_ARCHIVE__BUCKET" in document["error"]["message"]


async def test_what_is_wrong_with_the_bucket_of_its_own_is_told_by_the_settings_of_that(
    shop: Database, tmp_path: Path, bucket: Bucket
) -> None:
    env = environment(settings_for(shop, tmp_path, bucket)) | {"ROWVAULT_ARCHIVE__BUCKET": "there-is-none"}
    findings = (await run("doctor", env=env, code=1))["findings"]
    hints = {one["hint"] for one in findings if one["place"] == "archive" and one["state"] == "problem"}
    assert hints == {"Create it, or correct ROWVAULT_ARCHIVE__BUCKET and ROWVAULT_S3__ENDPOINT_URL."}


async def test_the_daemon_catches_up_a_missed_archive_once(shop: Database, tmp_path: Path) -> None:
    settings = settings_for(shop, tmp_path) | {"SCHEDULE__ARCHIVE": "0 3 * * 0"}
    async with running_daemon(settings) as daemon:
        await daemon.logged("archive begins")
        await daemon.metric_becomes("rowvault_job_runs_total job=weekly-archive outcome=success", 1)
        metrics = await daemon.metrics()
        assert metrics["rowvault_table_backup_rows kind=archive schema=public table=orders"] == 3000
        assert metrics["rowvault_job_last_success_timestamp_seconds job=weekly-archive"] > 1.7e9
    async with running_daemon(settings) as daemon:
        await daemon.logged("database and storage answer")
        assert (await daemon.terminate())[0] == 0
        await daemon.read_out()
        assert not daemon.all_logged("archive begins")
