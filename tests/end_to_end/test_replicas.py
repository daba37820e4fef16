"""Several processes on one database and repository: never two jobs at once, and never a job that nobody does."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.conftest import CreateDatabase
from tests.daemons import RunningDaemon, environment, listed, running_daemon, settings_for
from tests.programs import rowvault
from tests.servers import Database
from tests.sessions import end_session, holding

SCHEMA = "CREATE TABLE events AS SELECT n, repeat(md5(n::text), 8) AS payload FROM generate_series(1, 4000) n"
SLOW = {"RATE_LIMIT": "20kB"}


@pytest.fixture
async def database(create_database: CreateDatabase) -> Database:
    """A database of a megabyte."""
    return await create_database(key="events", build=SCHEMA)


@pytest.fixture
def settings(database: Database, tmp_path: Path) -> dict[str, str]:
    """The database and an empty folder."""
    return settings_for(database, tmp_path)


async def test_two_replicas_started_together_take_one_full(settings: dict[str, str]) -> None:
    async with AsyncExitStack() as stack:
        begun = (stack.enter_async_context(running_daemon(settings)) for _ in range(2))
        replicas: list[RunningDaemon] = await asyncio.gather(*begun)
        for replica in replicas:
            await replica.metric_becomes("rowvault_table_backup_rows kind=full schema=public table=events", 4000)
            await replica.run_ended()
        assert sum(len(replica.all_logged("backup committed")) for replica in replicas) == 1
        assert len(await listed(settings)) == 1


async def test_a_replica_that_was_held_up_takes_no_backup_when_the_other_has_taken_it(
    database: Database, settings: dict[str, str]
) -> None:
    async with running_daemon(settings | {"LOCK_TIMEOUT": "1m"}) as first, AsyncExitStack() as stack:
        async with holding(database, "LOCK TABLE events"):
            await first.logged("backup begins")
            second = await stack.enter_async_context(running_daemon(settings))
            await second.logged("backup has to wait for another process")
        await first.logged("backup committed")
        await second.logged("another replica has taken this backup already")
        await second.run_ended()
        assert second.all_logged("backup begins") == []
        assert len(await listed(settings)) == 1


async def test_a_job_that_loses_its_lock_is_given_up_and_nothing_is_committed(
    database: Database, settings: dict[str, str]
) -> None:
    async with running_daemon(settings | SLOW) as daemon:
        await daemon.logged("backup begins")
        await end_session(database, "daily-full on %")
        line = await daemon.logged("backup failed", "backup committed")
        assert "the session that holds the job lock was lost" in str(line)
        assert await listed(settings) == ()


async def test_a_replica_held_up_says_by_whom_and_takes_over_when_that_one_is_killed(settings: dict[str, str]) -> None:
    async with running_daemon(settings | SLOW) as first:
        await first.logged("backup begins")
        async with running_daemon(settings) as second:
            line = await second.logged("backup has to wait for another process")
            assert line["error"].startswith("another job is running: daily-full on ")
            assert f"pid {first.process.pid}" in line["error"]
            assert await listed(settings) == ()
            first.process.kill()
            await second.logged("backup committed")
            await second.run_ended()
            metrics = await second.metrics()
            assert metrics["rowvault_job_runs_total job=daily-full outcome=refused"] == 1
            assert metrics["rowvault_job_runs_total job=daily-full outcome=success"] == 1
            assert len(await listed(settings)) == 1


async def test_a_backup_by_hand_while_the_daemon_takes_one_is_refused_naming_the_holder(
    settings: dict[str, str],
) -> None:
    async with running_daemon(settings | SLOW) as daemon:
        await daemon.logged("backup begins")
        refused = await rowvault("backup", "--json", env=environment(settings))
        assert refused.returncode == 5
        error = json.loads(refused.stdout)["error"]
        assert error["message"].startswith("another job is running: daily-full on ")
        assert f"pid {daemon.process.pid}" in error["message"]
        assert error["hint"] == "wait until it has ended; two jobs never run at once"
        daemon.process.kill()
