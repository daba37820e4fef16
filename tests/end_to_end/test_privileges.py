"""Roles that may not see everything: never a backup of less, always an error that says what is missing."""

from collections.abc import AsyncIterator

import pytest

from jobs.errors import UnsafeTarget
from jobs.postgres.errors import MissingPrivilege, NoSuchTable, PostgresError
from storage.repository import Repository
from tests.compare import differences
from tests.conftest import CreateDatabase
from tests.round_trip import back_up, bring_back, memory, nothing_committed
from tests.servers import Database, Server

TABLES = """
    CREATE TABLE open (id serial PRIMARY KEY, v text);
    CREATE TABLE shut (id int PRIMARY KEY);
    CREATE TABLE filtered (id int, owner name);
    INSERT INTO open (v) VALUES ('a'), ('b'); INSERT INTO shut VALUES (1);
    INSERT INTO filtered VALUES (1, 'x'), (2, 'y');
    CREATE POLICY mine ON filtered USING (id = 1);
    CREATE SCHEMA hidden; CREATE TABLE hidden.away (n int);
"""
ROLE = "privileges_reader"


@pytest.fixture
async def role(server: Server) -> AsyncIterator[str]:
    """A role that is dropped after the databases in which it has rights."""
    async with server.role(ROLE) as name:
        yield name


@pytest.fixture
async def tables(role: str, create_database: CreateDatabase) -> Database:
    """Tables, and a role that may read all of `public`."""
    database = await create_database(key="privileges", build=TABLES)
    await database.execute(
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};"
        f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}"
    )
    return database


@pytest.fixture
def place() -> Repository:
    return memory()


def reader(database: Database) -> str:
    return database.as_role(ROLE, "secret")


async def test_a_role_that_may_only_read_is_enough_and_it_says_what_it_could_not_write(tables: Database) -> None:
    taken = await back_up(reader(tables), [])
    assert taken.rows == {"public.open": 2, "public.shut": 1, "public.filtered": 2}
    assert any("may not write Rowvault's own schema" in warning for warning in taken.result.warnings)


async def test_what_a_reader_took_restores_equal(tables: Database, create_database: CreateDatabase) -> None:
    taken, target = await back_up(reader(tables), []), await create_database()
    await bring_back(taken, target)
    assert await differences(tables, target, ignore_schemas=["hidden"]) == []


async def test_a_role_that_row_security_filters_gets_an_error_that_names_the_table(
    tables: Database, place: Repository
) -> None:
    await tables.execute("ALTER TABLE filtered ENABLE ROW LEVEL SECURITY")
    with pytest.raises(MissingPrivilege, match="filtered") as caught:
        await back_up(reader(tables), [], repository=place)
    assert "BYPASSRLS" in caught.value.hint
    assert await nothing_committed(place)


@pytest.mark.parametrize("force", [False, True])
async def test_an_owner_is_filtered_only_where_row_security_is_forced(tables: Database, force: bool) -> None:
    await tables.execute(f"ALTER TABLE filtered OWNER TO {ROLE}; ALTER TABLE filtered ENABLE ROW LEVEL SECURITY")
    if not force:
        assert (await back_up(reader(tables), [])).rows["public.filtered"] == 2
        return
    await tables.execute("ALTER TABLE filtered FORCE ROW LEVEL SECURITY")
    with pytest.raises(MissingPrivilege, match="filtered"):
        await back_up(reader(tables), [])


async def test_a_role_that_bypasses_row_security_sees_all_rows(tables: Database) -> None:
    await tables.execute(f"ALTER TABLE filtered ENABLE ROW LEVEL SECURITY; ALTER ROLE {ROLE} BYPASSRLS")
    assert (await back_up(reader(tables), [])).rows["public.filtered"] == 2


@pytest.mark.parametrize(
    "revoke",
    [
        f"REVOKE SELECT ON shut FROM {ROLE}",
        f"REVOKE SELECT ON shut FROM {ROLE}; GRANT UPDATE ON shut TO {ROLE}",
        f"ALTER TABLE shut ADD secret int; REVOKE SELECT ON shut FROM {ROLE}; GRANT SELECT (id) ON shut TO {ROLE}",
    ],
    ids=["nothing", "may only write", "some columns"],
)
async def test_a_table_that_may_not_be_read_is_named(tables: Database, place: Repository, revoke: str) -> None:
    await tables.execute(revoke)
    with pytest.raises(MissingPrivilege, match=r"public\.shut") as caught:
        await back_up(reader(tables), [], repository=place)
    assert "GRANT SELECT" in caught.value.hint
    assert await nothing_committed(place)


async def test_a_schema_that_may_not_be_entered_is_named_with_its_tables(tables: Database, place: Repository) -> None:
    with pytest.raises(MissingPrivilege, match=r"hidden\.away.*permission denied for schema hidden"):
        await back_up(reader(tables), ["*.*"], repository=place)
    assert await nothing_committed(place)


async def test_definitions_need_the_right_to_read_tables_that_are_not_chosen_too(
    tables: Database, place: Repository
) -> None:
    await tables.execute(f"REVOKE SELECT ON shut FROM {ROLE}")
    with pytest.raises(MissingPrivilege, match=r"pg_dump.*shut"):
        await back_up(reader(tables), [], exclude=["shut"], repository=place)
    assert await nothing_committed(place)


async def test_a_sequence_that_may_not_be_read_is_named(tables: Database, place: Repository) -> None:
    await tables.execute(f"REVOKE SELECT ON SEQUENCE open_id_seq FROM {ROLE}")
    with pytest.raises(MissingPrivilege, match="open_id_seq"):
        await back_up(reader(tables), [], repository=place)
    assert await nothing_committed(place)


async def test_a_pattern_that_matches_nothing_is_named(tables: Database, place: Repository) -> None:
    with pytest.raises(NoSuchTable, match="opne"):
        await back_up(tables, ["shut", "opne"], repository=place)
    assert await nothing_committed(place)


async def test_what_is_not_covered_stands_in_the_manifest(tables: Database) -> None:
    await tables.execute(
        """
        CREATE TABLE child (id int REFERENCES shut); SELECT lo_create(0);
        CREATE SCHEMA functions; CREATE FUNCTION functions.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
        CREATE VIEW seen AS SELECT FROM open; CREATE MATERIALIZED VIEW counted AS SELECT 1 AS one;
        """
    )
    taken = await back_up(tables, ["open", "child", "filtered"], exclude=["filtered"])
    missing = taken.manifest.not_covered
    assert missing.schemas == ("functions", "hidden")
    assert missing.tables == ("hidden.away", "public.shut")
    assert missing.excluded_tables == ("public.filtered",)
    assert missing.large_objects == 1
    assert [(key.table, key.references) for key in missing.foreign_keys] == [("child", "public.shut")]
    kinds = {(one.name, one.kind) for one in taken.manifest.schema_only}
    assert kinds >= {("seen", "view"), ("counted", "materialized view"), ("shut", "table"), ("filtered", "table")}
    assert taken.result.uncovered_tables == 2


async def test_what_belongs_to_no_schema_is_warned_of(tables: Database) -> None:
    await tables.execute(
        """
        CREATE TYPE mood AS ENUM ('a'); CREATE CAST (mood AS int) WITH INOUT;
        CREATE PUBLICATION told FOR TABLE open;
        ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
        """
    )
    [warning] = [one for one in (await back_up(tables)).result.warnings if "no schema" in one]
    for what in ("cast (public.mood AS integer)", "publication told", "default acl for role postgres on tables"):
        assert what in warning


async def test_a_target_that_lacks_a_role_is_refused(tables: Database, create_database: CreateDatabase) -> None:
    await tables.execute("CREATE ROLE privileges_gone; GRANT SELECT ON open TO privileges_gone")
    taken = await back_up(tables, ["*.*"])
    await tables.execute("DROP OWNED BY privileges_gone; DROP ROLE privileges_gone")
    target = await create_database()
    with pytest.raises(UnsafeTarget, match=r"lacks roles .*: privileges_gone"):
        await bring_back(taken, target)
    assert await differences(await create_database(), target) == []


async def test_bytes_that_are_no_utf_8_are_an_error_that_says_what_to_do(server: Server, place: Repository) -> None:
    await server.maintenance.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    database = server.database("ascii")
    try:
        await database.execute(r"CREATE TABLE notes AS SELECT convert_from('\xff', 'SQL_ASCII') AS note")
        with pytest.raises(PostgresError, match=r"copying public\.notes .* 0xff") as raised:
            await back_up(database, repository=place)
        assert "ROWVAULT_EXCLUDE_TABLES" in raised.value.hint
        assert await nothing_committed(place)
    finally:
        await server.drop(database)
