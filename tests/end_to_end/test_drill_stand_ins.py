"""What a drill has stand-ins for, or does without: all that would reach outside, and what its server or role lacks."""

import asyncio
import threading
from dataclasses import replace

import pytest

from jobs.drill import DrillOptions, drill
from jobs.errors import UnsafeTarget
from jobs.postgres.connection import Source
from jobs.progress import Progress
from tests.drilling import (
    failures,
    held_on,
    roles_of_drills,
    scratch_databases,
)
from tests.round_trip import QUICK, Taken, back_up
from tests.servers import Server, Servers


@pytest.fixture
async def other(servers: Servers) -> Server:
    """The server that drills are held on: it has none of the roles."""
    return await servers.get(16)


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
