"""The recovery drill fails aloud on each fault that is planted."""

import asyncio
import threading

import pytest

from jobs.progress import OnProgress, Progress
from jobs.restore import RestoreOptions
from jobs.restoring.aftercare import Statement
from jobs.results import DrillResult
from storage.drill_reports import newest_record
from tests.drilling import (
    CHECKED,
    LOADED,
    PROVED,
    agency_backup,
    copied,
    failures,
    held_on,
    roles_of_drills,
    scratch_databases,
)
from tests.places import Planter
from tests.round_trip import Taken
from tests.servers import Server, Servers


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


def meddling(server: Server, phase: str, sql: str) -> OnProgress:
    """Run SQL in the scratch database once a drill reaches a phase, past everything that would notice."""

    async def meddle() -> None:
        [name] = await scratch_databases(server)
        await server.database(name).execute(sql)

    def on_progress(now: Progress) -> None:
        if now.phase == phase:
            thread = threading.Thread(target=lambda: asyncio.run(meddle()))
            thread.start()
            thread.join()

    return on_progress


FAULTS = {
    LOADED: "DELETE FROM visits WHERE id = 77; UPDATE agents SET name = name || ' ' WHERE id = 7",
    CHECKED: """
        ALTER TABLE agents DISABLE ROW LEVEL SECURITY;
        SET session_replication_role = replica; DELETE FROM agents WHERE id = 7
    """,
    PROVED: """
        DELETE FROM visits WHERE id = 77;
        SELECT setval('visits_id_seq', 7);
        ALTER TABLE agents DISABLE ROW LEVEL SECURITY;
        ALTER POLICY own ON agents USING (true);
        ALTER POLICY mine ON agents TO "drill owner";
        DROP POLICY ours ON agents;
        CREATE POLICY more ON agents USING (true);
        ALTER TABLE agents DROP CONSTRAINT agents_mood_check;
        ALTER TABLE visits DISABLE TRIGGER stamp;
        ALTER TABLE orders OWNER TO postgres;
        GRANT DELETE ON visits TO PUBLIC;
        CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
        CREATE EVENT TRIGGER rings ON ddl_command_end EXECUTE FUNCTION f();
    """,
}


@pytest.fixture(scope="module")
async def meddled(taken_once: Taken, servers: Servers) -> dict[str, DrillResult]:
    """By phase: a drill in which everything went wrong that is planted then."""
    server = await servers.get(16)
    return {phase: await held_on(server, taken_once, meddling(server, phase, FAULTS[phase])) for phase in FAULTS}


@pytest.mark.parametrize(
    ("phase", "check", "reason"),
    [
        (LOADED, "restore", "public.agents, public.visits did not hold what the backup has"),
        (CHECKED, "row security", "no public.agents"),
        (CHECKED, "foreign keys", 'rows without their parent: "visits_agent_fkey" of public.visits'),
        (CHECKED, "row counts", "public.agents has 49 rows, 50 were backed up"),
        (PROVED, "row counts", "public.visits has 1999 rows, 2000 were backed up"),
        (PROVED, "sequences", "public.visits_id_seq stands at 7, it was 2000"),
        (PROVED, "definitions", "row security public.agents"),
        (PROVED, "definitions", "policy public.agents own"),
        (PROVED, "definitions", "policy public.agents mine"),
        (PROVED, "definitions", "policy public.agents ours"),
        (PROVED, "definitions", "policy public.agents more"),
        (PROVED, "definitions", "table public.agents"),
        (PROVED, "definitions", "trigger public.visits stamp"),
        (PROVED, "definitions", "table public.orders"),
        (PROVED, "definitions", "acl public.TABLE visits"),
        (PROVED, "nothing reaches outside", "event trigger rings"),
    ],
)
def test_a_planted_fault_fails_it_with_its_reason(
    meddled: dict[str, DrillResult], phase: str, check: str, reason: str
) -> None:
    assert meddled[phase].state == "failed"
    assert reason in failures(meddled[phase]).get(check, "")


def test_nothing_else_is_found_wrong(meddled: dict[str, DrillResult]) -> None:
    [definitions] = [message for name, message in failures(meddled[PROVED]).items() if name == "definitions"]
    # Beside the nine that are expected above: a key whose table has another owner, and the function of the trigger.
    assert definitions.count(", ") == 11 - 1, definitions


async def test_a_failed_drill_leaves_its_report_and_nothing_else(
    meddled: dict[str, DrillResult], taken_once: Taken, other: Server
) -> None:
    record = await newest_record(taken_once.repository.backend)
    assert record is not None
    assert record.state == "failed"
    assert await scratch_databases(other) == []
    assert await roles_of_drills(other) == []


async def test_it_fails_on_a_corrupted_object(taken: Taken, other: Server) -> None:
    [visits] = [table for table in taken.manifest.tables if table.name == "visits"]
    await Planter(taken.repository.backend).flip(visits.parts[0].objects[0].name)
    result = await held_on(other, taken)
    assert visits.parts[0].objects[0].name in failures(result)["restore"]


async def test_it_fails_on_an_object_that_is_gone(taken: Taken, other: Server) -> None:
    await taken.repository.backend.delete([taken.manifest.dump.sql.name])
    assert taken.manifest.dump.sql.name in failures(await held_on(other, taken))["restore"]


async def test_it_fails_on_a_check_of_the_application_s(taken: Taken, other: Server) -> None:
    checks = (
        Statement("SELECT count(*) > 3000 AS enough FROM visits"),
        Statement("SELECT count(*) = 2 AS sees_its_own_alone FROM agents", "drill app"),
    )
    result = await held_on(other, taken, restore=RestoreOptions(statements=checks))
    assert failures(result) == {checks[0].sql: '"enough" is false'}


async def test_it_fails_on_time_over_the_objective(taken: Taken, other: Server) -> None:
    result = await held_on(other, taken, objectives={"one_row": 0.001, "one_table": 60, "everything": 0.002})
    assert set(failures(result)) == {"objective of one_row", "objective of everything"}
    assert "may take 0.001 s" in failures(result)["objective of one_row"]
