"""The recovery drill: it passes on a whole backup, leaves nothing, and fails aloud on each fault that is planted."""

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.drill import DrillOptions, drill
from jobs.drilling.scratch import refuse_without_room
from jobs.errors import NotThere, UnsafeTarget
from jobs.places.sweep import sweep
from jobs.postgres.connection import Source
from jobs.postgres.errors import Unreachable
from jobs.progress import OnProgress, Progress, no_progress
from jobs.restore import RestoreOptions
from jobs.restoring.aftercare import Statement
from jobs.results import DrillResult
from storage.drill_reports import newest_record, read_scenarios
from storage.objects import put
from tests import hostile
from tests.conftest import CreateDatabase
from tests.places import Planter, contents
from tests.round_trip import QUICK, Taken, back_up, memory
from tests.servers import Database, Server, Servers

AGENCY = """
    CREATE ROLE "drill owner"; CREATE ROLE "drill app";
    CREATE TABLE agents (id int PRIMARY KEY, name text, mood varchar(9) CHECK (mood IN ('well', 'ill')));
    CREATE TABLE visits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, agent int REFERENCES agents, note text);
    INSERT INTO agents SELECT n, 'agent ' || n, 'well' FROM generate_series(1, 50) n;
    INSERT INTO visits (agent, note) SELECT 1 + n % 50, md5(n::text) FROM generate_series(1, 2000) n;
    ALTER TABLE agents ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON agents TO "drill app" USING (name = current_user AND mood IN ('well', 'ill'));
    CREATE POLICY mine ON agents TO "drill app" USING (id = 1);
    CREATE POLICY ours ON agents USING (id = 2);
    CREATE FUNCTION stamped() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
    CREATE TRIGGER stamp BEFORE INSERT ON visits FOR EACH ROW EXECUTE FUNCTION stamped();
    ALTER TABLE visits OWNER TO "drill owner";
    GRANT SELECT ON agents, visits TO "drill app";
    CREATE TABLE elsewhere (id int PRIMARY KEY);
    CREATE TABLE orders (id int PRIMARY KEY, place int CONSTRAINT leads_out REFERENCES elsewhere);
    INSERT INTO elsewhere VALUES (1); INSERT INTO orders VALUES (1, 1);
    ALTER TABLE orders OWNER TO "drill owner";
"""
ROLES = ("drill owner", "drill app")
TABLES = ("agents", "visits", "orders")


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
    """A backup of such a database on a server of the same version."""
    server = await servers.get(16)
    database = await server.create()
    try:
        await database.execute(AGENCY)
        return await back_up(database, TABLES)
    finally:
        await server.drop(database)
        for role in ROLES:
            await server.maintenance.execute(f'DROP ROLE "{role}"')


@pytest.fixture
async def taken(taken_once: Taken) -> Taken:
    """The backup in a place of its own."""
    place = memory()
    for name, data in (await contents(taken_once.repository.backend)).items():
        await put(place.backend, name, data)
    return replace(taken_once, repository=place)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files; the scratch server must be able to enter it as another user."""
    with tempfile.TemporaryDirectory(prefix="rowvault-test-") as name:
        Path(name).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


async def held_on(
    server: Server, taken: Taken, on_progress: OnProgress = no_progress, **options: object
) -> DrillResult:
    """A drill on a server that was given."""
    how = replace(DrillOptions(given=Source(server.maintenance.dsn)), **options)  # type: ignore[arg-type]
    return await drill([taken.repository], how, on_progress)


async def scratch_databases(server: Server) -> list[str]:
    rows = await server.maintenance.fetch("SELECT datname FROM pg_database WHERE datname LIKE 'rowvault_drill_%'")
    return [name for (name,) in rows]


async def roles_of_drills(server: Server) -> list[str]:
    rows = await server.maintenance.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY ($1)", list(ROLES))
    return [name for (name,) in rows]


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


def nothing_in(folder: Path) -> bool:
    return not list(folder.iterdir())


def failures(result: DrillResult) -> dict[str, str]:
    return {check.name: check.message for check in result.failures}


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


LOADED, CHECKED, PROVED = (
    "building indexes and constraints",
    "checking what was restored",
    "proving the scratch database",
)
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


LIVELY = """
    CREATE SCHEMA auth;
    CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()';
    CREATE TABLE notes (id int PRIMARY KEY, body text);
    INSERT INTO notes SELECT n, 'note ' || n FROM generate_series(1, 100) n;
    CREATE FUNCTION rings() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the outside world was told'; END $$;
    CREATE TRIGGER webhook AFTER INSERT OR UPDATE OR DELETE ON notes FOR EACH ROW EXECUTE FUNCTION rings();
    ALTER TABLE notes ENABLE ALWAYS TRIGGER webhook;
    CREATE FUNCTION mine() RETURNS uuid LANGUAGE plpgsql AS 'BEGIN RETURN auth.uid(); END';
    CREATE FUNCTION loud() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''an event trigger fired''; END';
    CREATE FOREIGN DATA WRAPPER somewhere;
    CREATE SERVER remote FOREIGN DATA WRAPPER somewhere OPTIONS (host 'elsewhere.example');
    CREATE USER MAPPING FOR PUBLIC SERVER remote OPTIONS (password 'hunter2');
    CREATE FOREIGN TABLE far (id int) SERVER remote;
    CREATE PUBLICATION everything FOR ALL TABLES;
    CREATE SUBSCRIPTION calls CONNECTION 'host=elsewhere.example' PUBLICATION x
        WITH (connect = false, slot_name = NONE);
    CREATE EVENT TRIGGER loud ON ddl_command_end EXECUTE FUNCTION loud();
"""
OUTWARD = """
    SELECT 'subscription' FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid
     WHERE datname = current_database()
    UNION ALL SELECT 'event trigger' FROM pg_event_trigger UNION ALL SELECT 'publication' FROM pg_publication
    UNION ALL SELECT 'user mapping' FROM pg_user_mappings
    UNION ALL SELECT 'option' FROM pg_foreign_server WHERE srvoptions IS NOT NULL
"""


async def test_nothing_in_it_comes_alive(servers: Servers, other: Server) -> None:
    database = await other.create()
    found: list[tuple[str]] = []

    async def look() -> None:
        [name] = await scratch_databases(other)
        found.extend(await other.database(name).fetch(OUTWARD))

    def on_progress(now: Progress) -> None:
        if now.phase == "recovering one table":
            found.append(("looked",))
            thread = threading.Thread(target=lambda: asyncio.run(look()))
            thread.start()
            thread.join()

    try:
        await database.execute(LIVELY)
        await database.execute("ALTER EVENT TRIGGER loud DISABLE")
        taken = await back_up(database, ("public.notes",))
        result = await held_on(other, taken, on_progress)
    finally:
        await database.execute("DROP SUBSCRIPTION calls")
        await other.drop(database)
    assert failures(result) == {}
    assert found == [("looked",)]
    said = "\n".join(result.not_proved)
    assert "foreign server remote is a stand-in that leads nowhere" in said
    assert "auth.uid(), auth.role(), auth.email() and auth.jwt() are stand-ins that return NULL" in said


async def backup_with_extensions(server: Server, table: str) -> Taken:
    """A backup from a server that has extensions which others lack."""
    database = await server.create()
    try:
        await database.execute(
            'CREATE SCHEMA extensions; CREATE EXTENSION "uuid-ossp" SCHEMA extensions; CREATE EXTENSION dblink;'
            "CREATE EXTENSION hstore;" + table
        )
        return await back_up(database, ("public.things",), options=replace(QUICK, pg_bin=server.binaries))
    finally:
        await server.drop(database)


async def test_a_missing_extension_has_a_stand_in_that_is_named(servers: Servers, other: Server) -> None:
    taken = await backup_with_extensions(
        await servers.get(15),
        "CREATE TABLE things (id uuid PRIMARY KEY DEFAULT extensions.uuid_generate_v4(), n int);"
        "INSERT INTO things (n) SELECT generate_series(1, 100)",
    )
    result = await held_on(other, taken)
    assert failures(result) == {}
    said = "\n".join(result.not_proved)
    assert "extension uuid-ossp is not installed on the scratch server: a stand-in" in said
    assert "extension dblink would reach outside: a stand-in" in said


async def test_definitions_that_need_more_than_a_stand_in_refuse_the_drill(servers: Servers, other: Server) -> None:
    taken = await backup_with_extensions(
        await servers.get(15),
        "CREATE TABLE things (id int PRIMARY KEY, more hstore); INSERT INTO things VALUES (1, '')",
    )
    with pytest.raises(UnsafeTarget, match=r"scratch server lacks \(dblink, hstore, uuid-ossp\): .*hstore"):
        await held_on(other, taken)


PASSWORD = "drill-4711"
OWNED = """
    CREATE ROLE "drill owner"; CREATE SCHEMA shop AUTHORIZATION "drill owner"; SET ROLE "drill owner";
    CREATE TABLE shop.things (id int PRIMARY KEY, n int);
    INSERT INTO shop.things SELECT n, n FROM generate_series(1, 100) n;
"""


async def test_a_role_without_superuser_holds_it_but_for_what_it_may_not_do(servers: Servers, other: Server) -> None:
    source = await other.create()
    await source.execute(OWNED)
    taken = await back_up(source, ("shop.things",))
    await other.drop(source)
    await other.maintenance.execute(
        f"DROP ROLE \"drill owner\"; CREATE ROLE driller LOGIN CREATEDB CREATEROLE PASSWORD '{PASSWORD}'"
    )
    try:
        given = Source(other.maintenance.as_role("driller", PASSWORD))
        result = await drill([taken.repository], DrillOptions(given=given))
        assert failures(result) == {}
        assert "recovering one row: " in "\n".join(result.not_proved)
        assert await scratch_databases(other) == []
        assert await roles_of_drills(other) == []
    finally:
        await other.maintenance.execute("DROP ROLE driller")
