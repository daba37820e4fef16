"""How work ends before it is done, by a signal or by its time limit: nothing of it is left, nothing is listed."""

import signal
from pathlib import Path

import pytest

from tests.conftest import CreateDatabase
from tests.daemons import environment, listed, processes_about, running_daemon, sessions_of_ours, settings_for, until
from tests.programs import real_rowvault, rowvault
from tests.servers import Database

SCHEMA = """
    CREATE TABLE events AS SELECT n, repeat(md5(n::text), 8) AS payload FROM generate_series(1, 4000) n;
    CREATE TABLE beside (n int);
"""
# A megabyte then takes a minute.
SLOW = {"RATE_LIMIT": "20kB"}


@pytest.fixture
async def database(create_database: CreateDatabase) -> Database:
    """A database of a megabyte."""
    return await create_database(key="events_beside", build=SCHEMA)


@pytest.fixture
def settings(database: Database, tmp_path: Path) -> dict[str, str]:
    return settings_for(database, tmp_path)


async def copying(database: Database) -> None:
    """Wait until a backup is in the middle of copying a table."""

    async def shown() -> bool:
        return any(purpose.startswith("rowvault: copy") for purpose in await sessions_of_ours(database))

    await until(shown)


async def nothing_left(database: Database, settings: dict[str, str]) -> bool:
    """Whether there is no session and no child of ours any more, and no backup."""

    async def no_sessions() -> bool:
        return not await sessions_of_ours(database)

    await until(no_sessions, within=5)
    return not children_for(database) and await listed(settings) == ()


def children_for(database: Database) -> list[str]:
    """The command lines of all processes that were given this database's address."""
    return processes_about(f":{database.server.port}/{database.name}")


async def test_sigterm_stops_an_idle_daemon_within_a_second(settings: dict[str, str]) -> None:
    async with running_daemon(settings, real=True) as daemon:
        await daemon.logged("backup committed")
        await daemon.run_ended()
        code, seconds = await daemon.terminate()
        assert code == 0
        assert seconds < 1
        await daemon.read_out()
        assert daemon.lines[-1]["event"] == "stopped"


async def test_sigterm_lets_a_backup_finish_that_can_in_time(database: Database, settings: dict[str, str]) -> None:
    async with running_daemon(settings | {"RATE_LIMIT": "600kB", "STOP_GRACE_SECONDS": "30"}, real=True) as daemon:
        await copying(database)
        code, seconds = await daemon.terminate()
        assert code == 0
        assert seconds < 20
        await daemon.read_out()
        assert daemon.all_logged("backup committed")
    assert len(await listed(settings)) == 1


async def test_sigterm_ends_a_backup_within_the_grace_and_nothing_of_it_is_left(
    database: Database, settings: dict[str, str]
) -> None:
    async with running_daemon(settings | SLOW | {"STOP_GRACE_SECONDS": "4"}, real=True) as daemon:
        await copying(database)
        code, seconds = await daemon.terminate()
        assert code == 0
        assert seconds < 4
        await daemon.read_out()
        assert (await daemon.logged("stopping"))["running"] == ["daily-full"]
        assert daemon.lines[-1]["event"] == "stopped"
    assert await nothing_left(database, settings)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: str(number.name))
async def test_a_signal_ends_a_backup_by_hand_with_one_line_and_nothing_of_it_is_left(
    database: Database, settings: dict[str, str], number: signal.Signals
) -> None:
    async with real_rowvault("backup", env=environment(settings | SLOW)) as process:
        await copying(database)
        process.send_signal(number)
        _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode().splitlines()[-2:] == [
        "error: stopped before it was done",
        "  to do: what was begun is swept by the next run",
    ]
    assert b"Traceback" not in said
    assert await nothing_left(database, settings)


async def test_a_pg_dump_that_waits_is_ended_too(database: Database, settings: dict[str, str], tmp_path: Path) -> None:
    patient = {"TABLES": "public.events", "LOCK_TIMEOUT": "1m"}
    async with database.connect() as other, other.transaction():
        # pg_dump locks every table of the schema, chosen or not.
        await other.execute("LOCK TABLE beside")
        async with real_rowvault("backup", env=environment(settings | patient)) as process:
            await until(lambda: waits_for_a_lock(database))
            assert children_for(database)
            process.terminate()
            await process.communicate()
        assert process.returncode == 1
        assert not children_for(database)
    assert await nothing_left(database, settings)


async def waits_for_a_lock(database: Database) -> bool:
    return bool(await database.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))


async def test_a_backup_by_hand_over_its_time_limit_is_ended_and_nothing_of_it_is_left(
    database: Database, settings: dict[str, str]
) -> None:
    done = await rowvault("backup", env=environment(settings | SLOW | {"JOB_TIME_LIMIT": "2s"}))
    assert done.returncode == 1
    assert "error: full backup was ended after 2 s, its time limit" in done.stderr
    assert "JOB_TIME_LIMIT" in done.stderr
    assert "Traceback" not in done.stderr
    assert await nothing_left(database, settings)


async def test_a_daemon_s_backup_over_its_time_limit_fails_and_the_daemon_goes_on(
    database: Database, settings: dict[str, str]
) -> None:
    async with running_daemon(settings | SLOW | {"JOB_TIME_LIMIT": "2s"}) as daemon:
        line = await daemon.logged("backup failed")
        assert line["error"] == "daily-full was ended after 2 s, its time limit"
        await daemon.run_ended()
        assert (await daemon.get("/livez"))[0] == 200
        assert await nothing_left(database, settings)
