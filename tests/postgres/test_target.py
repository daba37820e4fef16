"""The database a restore goes into: what is in the way there, how it is marked, and how it is emptied again."""

import pytest

from jobs.postgres.connection import Source, session
from jobs.postgres.identifiers import TableName, qualified
from jobs.postgres.target import (
    TargetState,
    empty_again,
    mark_finished,
    mark_unfinished,
    read_target,
    set_sequence,
)
from tests import hostile
from tests.compare import differences
from tests.conftest import CreateDatabase
from tests.servers import Database, Server
from tests.sessions import sessions

# Kinds of objects that the hard schema has none of.
ODD_KINDS = """
    CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int);
    CREATE PROCEDURE do_it(INOUT n int) LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION twin(n int) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION twin(n text) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
    CREATE OPERATOR FAMILY own_family USING btree;
    CREATE OPERATOR CLASS own_class FOR TYPE int USING btree AS OPERATOR 3 =, FUNCTION 1 btint4cmp(int, int);
    CREATE COLLATION own_collation (LOCALE = 'C');
    CREATE CONVERSION own_conversion FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
    CREATE TEXT SEARCH DICTIONARY own_dictionary (TEMPLATE = simple);
    CREATE TEXT SEARCH CONFIGURATION own_configuration (COPY = simple);
    CREATE TYPE shell_only;
    CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
    CREATE FOREIGN TABLE far_away (n int) SERVER nowhere;
"""


async def look(database: Database, *schemas: str) -> TargetState:
    async with session(Source(database.dsn), "test") as connection:
        return await read_target(connection, schemas or ("public",))


async def test_a_new_database_is_empty(any_database: Database) -> None:
    found = await look(any_database)
    assert (found.major, found.objects, found.unfinished) == (any_database.server.major, (), None)
    assert "public" in found.existing_schemas
    assert "plpgsql" in found.existing_extensions
    assert "postgres" in found.roles


@pytest.mark.parametrize("statement", [line.strip() for line in ODD_KINDS.splitlines()[1:-3]])
async def test_any_kind_of_object_is_in_the_way(server: Server, statement: str) -> None:
    async with session(Source(server.maintenance.dsn), "test") as connection:  # whose transaction is never committed
        await connection.execute(f"BEGIN; SET LOCAL search_path = public; {statement}")
        assert (await read_target(connection, ["public"])).objects


async def test_only_the_schemas_asked_for_are_looked_at(database: Database) -> None:
    await database.execute("CREATE SCHEMA other; CREATE TABLE other.t ()")
    assert (await look(database)).objects == ()
    assert (await look(database, "public", "other")).objects == ("table other.t",)


async def test_a_great_many_objects_are_not_all_listed(database: Database) -> None:
    await database.execute("DO $$ BEGIN FOR n IN 1..50 LOOP EXECUTE format('CREATE TABLE t%s ()', n); END LOOP; END $$")
    assert len((await look(database)).objects) == 10


async def test_the_mark_names_the_backup_until_it_is_taken_away(
    database: Database, create_database: CreateDatabase
) -> None:
    async with session(Source(database.dsn), "test") as connection:
        await mark_unfinished(connection, "the-backup")
        assert (await look(database)).unfinished == "the-backup"
        await mark_finished(connection)
    assert (await look(database)).unfinished is None
    assert await differences(await create_database(), database) == []


async def test_taking_the_mark_away_leaves_what_else_is_ours(database: Database) -> None:
    await database.execute("CREATE SCHEMA rowvault; CREATE TABLE rowvault.lineage (token text)")
    async with session(Source(database.dsn), "test") as connection:
        await mark_unfinished(connection, "the-backup")
        await mark_finished(connection)
    assert await database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'rowvault'") == [("lineage",)]


async def test_whatever_was_made_is_dropped_again(database: Database, create_database: CreateDatabase) -> None:
    before = await look(database)
    await database.execute(hostile.hard_schema(database.server.major))
    await database.execute(f"SET search_path = public; {ODD_KINDS}")
    await database.execute("DROP SERVER nowhere CASCADE; DROP FOREIGN DATA WRAPPER nothing")
    schemas = [name for (name,) in await database.fetch("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'")]
    schemas.remove("information_schema")
    async with session(Source(database.dsn), "test") as connection:
        await empty_again(connection, schemas, before)
    found = await differences(await create_database(), database)
    # Rights of objects to come, which a restore touches only once all else has worked.
    assert [entry for entry in found if not entry.startswith(("DEFAULT ACL", "ACL -.SCHEMA public"))] == []


async def test_what_other_schemas_hold_is_left_alone(database: Database, create_database: CreateDatabase) -> None:
    others = "CREATE EXTENSION vector; CREATE SCHEMA other; CREATE TABLE other.t (v vector); CREATE SCHEMA shared"
    await database.execute(others)
    before = await look(database, "public", "shared", "made")
    await database.execute(
        "CREATE SCHEMA made; CREATE TABLE made.t (); CREATE TABLE shared.t (); CREATE TABLE public.t ()"
    )
    async with session(Source(database.dsn), "test") as connection:
        await empty_again(connection, ["public", "shared", "made"], before)
    expected = await create_database()
    await expected.execute(others)
    assert await differences(expected, database) == []


async def test_sessions_that_still_load_are_ended_first(database: Database) -> None:
    before = await look(database)
    await database.execute("CREATE TABLE t (n int)")
    async with session(Source(database.dsn), "load 0") as loading, session(Source(database.dsn), "undo") as connection:
        await loading.execute("BEGIN; INSERT INTO public.t VALUES (1)")
        await empty_again(connection, ["public"], before)
        assert await sessions(database, "load 0") == []
    assert (await look(database)).objects == ()


@pytest.mark.parametrize(
    ("made_as", "value", "called", "following"),
    [
        ("", 1, False, 1),
        ("", 41, True, 42),
        ("INCREMENT -3 MINVALUE -30 MAXVALUE 30 START 30", 24, True, 21),
        ("MAXVALUE 9223372036854775807", 9223372036854775806, True, 9223372036854775807),
        ("AS smallint", 32766, True, 32767),
    ],
)
async def test_sequences_go_on_where_they_stood(
    server: Server, made_as: str, value: int, called: bool, following: int
) -> None:
    name = TableName("public", "se.q \"'uence")
    async with session(Source(server.maintenance.dsn), "test") as connection:  # whose transaction is never committed
        await connection.execute(f"BEGIN; CREATE SEQUENCE {qualified(name)} {made_as}")
        await set_sequence(connection, name, value, called)
        assert await connection.fetchval("SELECT nextval($1::text::regclass)", qualified(name)) == following
