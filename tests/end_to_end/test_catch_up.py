"""What was missed while something was away is caught up once, by the daemon itself, judged from the catalogue."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from storage.backends.local import LocalBackend
from storage.repository import Repository
from tests.conftest import Bucket, CreateDatabase
from tests.daemons import environment, listed, running_daemon, settings_for
from tests.manifests import backup_id, made_up
from tests.programs import rowvault
from tests.proxy import FaultProxy
from tests.servers import Database, own_server

SCHEMA = "CREATE TABLE notes AS SELECT n, 'note ' || n AS text FROM generate_series(1, 500) n"
RUNS = "rowvault_job_runs_total job=daily-full outcome="
BACKLOG = "rowvault_offsite_backlog_backups"
CAUGHT_UP = "not ready", "database and storage answer", "a run was missed and is caught up now"


@pytest.fixture
async def notes(create_database: CreateDatabase) -> Database:
    """A database with one table."""
    return await create_database(key="notes", build=SCHEMA)


@pytest.fixture
async def proxy(bucket: Bucket) -> AsyncIterator[FaultProxy]:
    """What stands between the daemon and S3."""
    address = urlsplit(bucket.endpoint_url)
    assert address.hostname
    assert address.port
    async with FaultProxy(address.hostname, address.port) as started:
        yield started


async def test_an_unreachable_database_leaves_it_unready_and_the_missed_full_is_caught_up_when_it_comes(
    tmp_path: Path,
) -> None:
    async with own_server() as server:
        database = await server.create()
        await database.execute(SCHEMA)
        await server.embedded.stop()
        async with running_daemon(settings_for(database, tmp_path)) as daemon:
            [reason] = (await daemon.logged("not ready"))["reasons"]
            assert reason.startswith(f"database: 127.0.0.1:{server.port}/{database.name} cannot be reached")
            assert await daemon.get("/readyz") == (503, {"status": "failing", "reasons": [reason]})
            assert (await daemon.get("/livez"))[0] == 200
            assert (await daemon.metrics())["rowvault_job_running_seconds job=daily-full"] == 0
            await server.embedded.start()
            await daemon.logged("backup committed")
            assert daemon.in_order(*CAUGHT_UP, "backup failed") == list(CAUGHT_UP)
            assert (await daemon.get("/readyz"))[0] == 200


async def test_health_is_lost_once_the_objective_is_missed_and_comes_back_with_a_backup(
    notes: Database, tmp_path: Path
) -> None:
    await made_up(backup_id(1)).commit(Repository("local", LocalBackend(tmp_path)))
    settings = settings_for(notes, tmp_path) | {"OBJECTIVES__RPO": "2h", "TABLES": "public.later"}
    async with running_daemon(settings) as daemon:
        await daemon.logged("backup failed")
        await daemon.run_ended()
        status, document = await daemon.get("/healthz")
        assert (status, document["status"]) == (503, "failing")
        assert document["reasons"][0].endswith("old; the objective allows 2 h 0 min")
        assert (await daemon.metrics())["rowvault_objective_seconds objective=rpo"] == 7200
        assert (await daemon.get("/livez"))[0] == 200
    async with running_daemon(settings | {"TABLES": "public.notes"}) as daemon:
        await daemon.logged("backup committed")
        document = await daemon.status_becomes("/healthz", 200)
        assert document["recovery_point"]["age_seconds"] < 120


async def test_after_a_restart_a_fresh_backup_is_known_and_no_other_is_taken(notes: Database, tmp_path: Path) -> None:
    settings = settings_for(notes, tmp_path)
    assert (await rowvault("backup", env=environment(settings))).returncode == 0
    async with running_daemon(settings | {"OBJECTIVES__RPO": "2s"}) as daemon:
        await daemon.logged("database and storage answer")
        metrics = await daemon.metrics()
        assert metrics["rowvault_job_last_success_timestamp_seconds job=daily-full"] > 1.7e9
        assert metrics["rowvault_table_backup_rows kind=full schema=public table=notes"] == 500
        document = await daemon.status_becomes("/healthz", 503)
        assert document["reasons"][0].endswith("s old; the objective allows 2 s")
        assert (await daemon.metrics())["rowvault_job_running_seconds job=daily-full"] == 0
        assert (await daemon.terminate())[0] == 0
        await daemon.read_out()
        assert not daemon.all_logged("backup begins")


async def test_off_site_away_during_a_backup_is_a_warning_and_made_up_and_verified_when_it_comes_back(
    notes: Database, tmp_path: Path, bucket: Bucket, proxy: FaultProxy
) -> None:
    settings = settings_for(notes, tmp_path, bucket) | {"S3__ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
    await proxy.refuse()
    async with running_daemon(settings) as daemon:
        line = await daemon.logged("backup committed")
        assert (line["level"], line["state"]) == ("warning", "warning")
        assert line["places"]["local"] == "committed"
        await daemon.run_ended()
        metrics = await daemon.metrics()
        assert (metrics[RUNS + "warning"], metrics[BACKLOG]) == (1, 1)
        status, document = await daemon.get("/healthz")
        assert (status, document["offsite_backlog"]) == (200, 1)
        status, document = await daemon.get("/readyz")
        assert status == 503
        assert document["reasons"][0].startswith("s3: ")
        assert str(proxy.port) in document["reasons"][0]
        await proxy.heal()
        made_up_line = await daemon.logged("backup made good")
        assert (made_up_line["backup"], made_up_line["state"]) == (line["backup"], "success")
        await daemon.metric_becomes(BACKLOG, 0)
        assert (await daemon.get("/readyz"))[0] == 200
        [backup] = await listed(settings)
        assert (backup.id, backup.state) == (line["backup"], "success")


async def test_an_unreachable_store_leaves_it_unready_and_the_missed_full_is_caught_up_when_it_comes(
    notes: Database, bucket: Bucket, proxy: FaultProxy
) -> None:
    settings = settings_for(notes, bucket=bucket) | {"S3__ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
    await proxy.refuse()
    async with running_daemon(settings) as daemon:
        [reason] = (await daemon.logged("not ready"))["reasons"]
        assert reason.startswith("s3: ")
        assert (await daemon.get("/readyz"))[0] == 503
        assert (await daemon.get("/livez"))[0] == 200
        assert (await daemon.metrics())["rowvault_job_running_seconds job=daily-full"] == 0
        await proxy.heal()
        assert (await daemon.logged("backup committed"))["places"] == {"s3": "committed"}
        assert daemon.in_order(*CAUGHT_UP, "backup failed") == list(CAUGHT_UP)
