"""The recovery drill: it passes on a whole backup, leaves nothing, and says what it could not prove."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.drill import DrillOptions, drill
from jobs.drilling.scratch import refuse_without_room
from jobs.errors import NotThere, UnsafeTarget
from jobs.places.sweep import sweep
from jobs.postgres.connection import Source
from jobs.postgres.errors import Unreachable
from jobs.progress import Progress
from storage.drill_reports import newest_record, read_scenarios
from tests import hostile
from tests.conftest import CreateDatabase
from tests.drilling import (
    AGENCY,
    LOADED,
    TABLES,
    agency_backup,
    copied,
    failures,
    held_on,
    roles_of_drills,
    scratch_databases,
)
from tests.round_trip import Taken, back_up, memory
from tests.servers import Database, Server, Servers


@pytest.fixture
async def agency(create_database: CreateDatabase) -> Database:
    """A database whose roles exist on its own server alone."""
    return await create_database(key="agency", build=AGENCY)


@pytest.fixture
async def other(servers: Servers) -> Server:
    """The server that drills are held on: it has none of the roles."""
    return await servers.get(16)


@pytest.fixture(scope="module")
async def taken_once(servers: Servers) -> Taken:
    return await agency_backup(await servers.get(16))


@pytest.fixture
async def taken(taken_once: Taken) -> Taken:
    """The backup in a place of its own."""
    return await copied(taken_once)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files; the scratch server must be able to enter it as another user."""
    with tempfile.TemporaryDirectory(prefix="rowvault-test-") as name:
        Path(name).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


def nothing_in(folder: Path) -> bool:
    return not list(folder.iterdir())


async def test_a_whole_backup_passes_on_a_server_of_its_own_and_nothing_is_left(taken: Taken, temporary: Path) -> None:
    result = await drill([taken.repository], DrillOptions())
    assert failures(result) == {}
    assert (result.state, result.id) == ("success", taken.manifest.id)
    assert result.server == "PostgreSQL 16 beside this process"
    assert {table.name: table.rows for table in result.tables} == {"agents": 50, "visits": 2000, "orders": 1}
    assert [one.name for one in result.scenarios] == ["one_row", "one_table", "everything", "complete_loss"]
    assert all(one.kept for one in result.scenarios)
    assert nothing_in(temporary)


async def test_a_hard_database_passes_too(server: Server, create_database: CreateDatabase) -> None:
    source = await create_database(server, key="hostile", build=hostile.hard_schema(server.major))
    result = await held_on(server, await back_up(source))
    assert failures(result) == {}
    assert len(result.tables) > 100


async def test_what_it_could_not_prove_is_said(taken: Taken, temporary: Path) -> None:
    said = "\n".join((await drill([taken.repository], DrillOptions())).not_proved)
    assert "roles are there by name alone, without attributes and memberships: drill app, drill owner" in said
    assert "foreign key leads_out of public.orders is left out: public.elsewhere is not in this backup" in said
    assert "table public.elsewhere is not in the backup" in said


async def test_on_a_given_server_its_database_and_roles_are_dropped_again(taken: Taken, other: Server) -> None:
    seen: list[str] = []

    def on_progress(now: Progress) -> None:
        if now.phase == "creating tables":
            seen.append(now.phase)

    result = await held_on(other, taken, on_progress)
    assert (result.state, failures(result)) == ("success", {})
    assert seen
    assert await scratch_databases(other) == []
    assert await roles_of_drills(other) == []


async def test_the_report_is_kept_and_never_swept(taken: Taken, other: Server) -> None:
    result = await held_on(other, taken)
    await sweep(taken.repository)
    record = await newest_record(taken.repository.backend)
    assert record is not None
    assert (record.backup, record.state) == (taken.manifest.id, "success")
    scenarios = await read_scenarios(taken.repository.backend, record)
    assert scenarios == [(one.name, one.seconds, one.objective_seconds) for one in result.scenarios]


async def test_without_a_backup_there_is_nothing_to_drill() -> None:
    with pytest.raises(NotThere, match="there is no backup yet"):
        await drill([memory()], DrillOptions())


async def test_a_server_older_than_the_backup_is_refused(agency: Database, other: Server) -> None:
    with pytest.raises(UnsafeTarget, match=r"DRILL__DATABASE_URL: .* is PostgreSQL 16, the backup comes from 18"):
        await held_on(other, await back_up(agency, TABLES))


async def test_a_wrong_address_names_its_setting_and_no_password(taken: Taken) -> None:
    given = Source("postgresql://drill:hunter2@127.0.0.1:1/postgres")
    with pytest.raises(Unreachable) as caught:
        await drill([taken.repository], DrillOptions(given=given))
    assert caught.value.message.startswith("ROWVAULT_DRILL__DATABASE_URL: 127.0.0.1:1/postgres cannot be reached")
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_too_little_room_is_told_beforehand(tmp_path: Path) -> None:
    with pytest.raises(UnsafeTarget, match=r"may take 1000000000\.0 GB, and .* GB left"):
        refuse_without_room(tmp_path, 10**18)


@pytest.mark.parametrize("given", [False, True], ids=["own server", "given server"])
async def test_cancelled_it_leaves_nothing(taken: Taken, other: Server, temporary: Path, *, given: bool) -> None:
    reached = asyncio.Event()

    def on_progress(now: Progress) -> None:
        if now.phase == LOADED:
            reached.set()

    options = DrillOptions(given=Source(other.maintenance.dsn) if given else None)
    running = asyncio.create_task(drill([taken.repository], options, on_progress))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert nothing_in(temporary)
    assert await scratch_databases(other) == []
    assert await roles_of_drills(other) == []


async def test_what_a_killed_drill_left_on_a_given_server_is_swept_by_the_next(taken: Taken, other: Server) -> None:
    left, live = "rowvault_drill_20250101040000_0a1b2c3d", "rowvault_drill_20250101040000_4e5f6071"
    for name in (left, live):
        await other.create(name)
    await other.maintenance.execute(
        f"CREATE ROLE orphan; COMMENT ON ROLE orphan IS 'made by rowvault drill for {left}'"
    )
    async with other.database(live).connect():
        await held_on(other, taken)
        assert await scratch_databases(other) == [live]
    assert not await other.maintenance.value("SELECT 1 FROM pg_roles WHERE rolname = 'orphan'")
    await held_on(other, taken)
    assert await scratch_databases(other) == []
