"""`rowvault run` on a real database, with local and S3 storage: its first run, its logs, what it answers."""

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.conftest import CreateDatabase, new_bucket
from tests.daemons import RunningDaemon, environment, listed, running_daemon, settings_for
from tests.programs import free_port, real_rowvault, rowvault
from tests.seaweed import S3Server
from tests.servers import DEFAULT_MAJOR, Servers

SCHEMA = """
    CREATE TABLE people (id int PRIMARY KEY, name text);
    CREATE TABLE "Odd ""name" AS SELECT generate_series(1, 7) AS n;
    INSERT INTO people SELECT n, 'somebody ' || n FROM generate_series(1, 1000) n;
    CREATE SCHEMA elsewhere;
    CREATE TABLE elsewhere.uncovered (n int);
"""
PASSWORD = "Very-Secret-0815"


@pytest.fixture(scope="module")
async def settings(
    servers: Servers, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, str]]:
    """A database, an empty folder and an empty bucket."""
    server = await servers.get(DEFAULT_MAJOR)
    database = await server.create()
    await database.execute(SCHEMA)
    async with new_bucket(s3_server) as bucket:
        yield settings_for(database, tmp_path_factory.mktemp("local"), bucket) | {"LOG_LEVEL": "debug"}
    await server.drop(database)


@pytest.fixture(scope="module")
async def daemon(settings: dict[str, str]) -> AsyncIterator[RunningDaemon]:
    """A daemon that found an empty repository, after its first backup."""
    async with running_daemon(settings) as running:
        await running.logged("backup committed")
        await running.run_ended()
        yield running


async def test_an_empty_repository_is_a_missed_full_and_it_runs_at_once(
    daemon: RunningDaemon, settings: dict[str, str]
) -> None:
    assert (await daemon.logged("a run was missed and is caught up now"))["job"] == "daily-full"
    [backup] = await listed(settings)
    assert backup.kind == "full"
    assert {place.name: place.state for place in backup.places} == {"local": "committed", "s3": "committed"}


async def test_backup_and_drill_are_scheduled_and_the_log_says_what_is_not(daemon: RunningDaemon) -> None:
    assert [line["job"] for line in daemon.all_logged("job is scheduled")] == ["daily-full", "monthly-drill"]
    disabled = daemon.all_logged("job is disabled and not scheduled")
    assert {line["job"] for line in disabled} == {"hourly-incremental", "weekly-archive"}
    _, document = await daemon.get("/healthz")
    assert list(document["jobs"]) == ["daily-full", "monthly-drill"]


async def test_log_lines_of_a_run_carry_its_job_and_the_backup(daemon: RunningDaemon) -> None:
    line = await daemon.logged("backup committed")
    assert line["job"] == "daily-full"
    assert line["level"] == "info"
    assert datetime.fromisoformat(line["timestamp"]).tzinfo
    assert "-full-" in line["backup"]
    assert line["rows"] == 1007
    assert line["places"] == {"local": "committed", "s3": "committed"}


async def test_at_level_debug_each_part_is_logged_with_its_table(daemon: RunningDaemon) -> None:
    copied = [line for line in daemon.lines if line["event"] == "copied"]
    assert {(line["table"], line["part"]) for line in copied} == {('public."Odd ""name"', 0), ("public.people", 0)}
    assert {line["backup"] for line in copied} == {(await daemon.logged("backup committed"))["backup"]}
    assert {line["job"] for line in copied} == {"daily-full"}


async def test_no_log_line_shows_a_secret(daemon: RunningDaemon, settings: dict[str, str]) -> None:
    password = settings["DATABASE_URL"].split("@")[0].rsplit(":")[-1]
    for secret in (password, settings["S3__SECRET_ACCESS_KEY"]):
        assert not [line for line in daemon.lines if secret in str(line)]


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_it_is_live_and_ready(daemon: RunningDaemon, path: str) -> None:
    assert await daemon.get(path) == (200, {"status": "ok", "reasons": []})


async def test_healthz_shows_jobs_recovery_point_and_places(daemon: RunningDaemon) -> None:
    status, document = await daemon.get("/healthz")
    assert (status, document["status"]) == (200, "ok")
    job = document["jobs"]["daily-full"]
    assert job["last_outcome"] == "success"
    assert job["last_failure"] is None
    assert job["next_run"].endswith("T02:00:00Z")
    assert document["recovery_point"]["age_seconds"] < 240
    assert document["recovery_point"]["objective_seconds"] == 25 * 3600
    assert document["offsite_backlog"] == 0
    assert document["uncovered_tables"] == 1
    assert {name: place["reachable"] for name, place in document["places"].items()} == {"local": True, "s3": True}


async def test_metrics_show_the_run_and_its_tables(daemon: RunningDaemon) -> None:
    metrics = await daemon.metrics()
    assert metrics["rowvault_job_runs_total job=daily-full outcome=success"] == 1
    assert metrics["rowvault_table_backup_rows kind=full schema=public table=people"] == 1000
    assert metrics['rowvault_table_backup_rows kind=full schema=public table=Odd "name'] == 7
    assert metrics["rowvault_job_duration_seconds_count job=daily-full"] == 1
    assert metrics["rowvault_job_last_success_timestamp_seconds job=daily-full"] > 1.7e9
    assert metrics["rowvault_job_last_failure_timestamp_seconds job=daily-full"] == 0
    assert metrics["rowvault_recovery_point_age_seconds"] < 240
    assert metrics["rowvault_offsite_backlog_backups"] == 0
    assert metrics["rowvault_uncovered_tables"] == 1
    assert metrics["rowvault_storage_free_bytes place=local"] > 0


async def test_a_failed_backup_shows_everywhere_but_in_liveness(
    create_database: CreateDatabase, tmp_path: Path
) -> None:
    database = await create_database()
    settings = settings_for(database, tmp_path) | {"TABLES": "public.nowhere"}
    async with running_daemon(settings) as daemon:
        line = await daemon.logged("backup failed")
        assert line["level"] == "error"
        assert "public.nowhere" in line["error"]
        assert "traceback" not in line
        await daemon.run_ended()
        metrics = await daemon.metrics()
        assert metrics["rowvault_job_runs_total job=daily-full outcome=failed"] == 1
        assert metrics["rowvault_job_last_failure_timestamp_seconds job=daily-full"] > 1.7e9
        _, document = await daemon.get("/healthz")
        assert document["jobs"]["daily-full"]["last_outcome"] == "failed"
        assert (await daemon.get("/livez"))[0] == 200
        assert (await daemon.get("/readyz"))[0] == 200


async def test_a_disabled_full_backup_is_not_caught_up_either(create_database: CreateDatabase, tmp_path: Path) -> None:
    settings = settings_for(await create_database(), tmp_path) | {"SCHEDULE__FULL": "off"}
    async with running_daemon(settings) as daemon:
        await daemon.logged("database and storage answer")
        assert (await daemon.terminate())[0] == 0
        await daemon.read_out()
        disabled = [line["job"] for line in daemon.all_logged("job is disabled and not scheduled")]
        assert disabled == ["daily-full", "hourly-incremental", "weekly-archive"]
        assert not daemon.all_logged("backup begins")


async def test_an_address_in_use_stops_the_start_with_one_line(daemon: RunningDaemon, tmp_path: Path) -> None:
    settings = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x", "LOCAL_PATH": str(tmp_path)}
    done = await rowvault("run", env=environment(settings | {"HTTP__PORT": str(daemon.port)}))
    assert done.returncode == 2
    assert f"cannot serve health and metrics on 127.0.0.1:{daemon.port}" in done.stderr
    assert "Traceback" not in done.stderr


async def test_what_cannot_be_right_stops_the_start(tmp_path: Path) -> None:
    settings = {"DATABASE_URL": f"postgresql://u:{PASSWORD}@127.0.0.1:1/x", "LOCAL_PATH": str(tmp_path)}
    done = await rowvault("run", env=environment(settings | {"TABLES": "a.b.c", "HTTP__PORT": str(free_port())}))
    assert done.returncode == 2
    assert "a.b.c" in done.stderr
    assert PASSWORD not in done.stderr


async def test_interrupted_from_a_terminal_it_stops_as_cleanly(create_database: CreateDatabase, tmp_path: Path) -> None:
    env = environment(settings_for(await create_database(), tmp_path) | {"HTTP__PORT": "0"})
    async with real_rowvault("run", env=env) as process:
        assert process.stderr is not None
        await process.stderr.readuntil(b"serving health and metrics")
        process.send_signal(2)
        _, rest = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in rest
