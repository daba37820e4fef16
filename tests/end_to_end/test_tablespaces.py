"""Tablespaces: what lay in one comes back there, and where there is none it comes back all the same, which is told."""

from collections.abc import AsyncIterator

import pytest

from jobs.drill import DrillOptions, drill
from jobs.postgres.connection import Source
from jobs.scope import Scope
from tests.conftest import CreateDatabase
from tests.round_trip import back_up, bring_back, plan_to_bring_back
from tests.servers import Database, Server, Servers

NAME = "fast disk"
SHELVES = f"""
    CREATE TABLE books (id int PRIMARY KEY USING INDEX TABLESPACE "{NAME}", title text) TABLESPACE "{NAME}";
    CREATE TABLE plain (id int PRIMARY KEY);
    CREATE INDEX by_title ON books (title) TABLESPACE "{NAME}";
    INSERT INTO books SELECT n, 'book ' || n FROM generate_series(1, 500) n;
"""
PLACES = """
    SELECT c.relname, coalesce(s.spcname, 'its own')
      FROM pg_class c LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
     WHERE c.relname IN ('books', 'books_pkey', 'by_title', 'plain') ORDER BY 1
"""
AS_BEFORE = [("books", NAME), ("books_pkey", NAME), ("by_title", NAME), ("plain", "its own")]
IN_ITS_OWN = [(name, "its own") for name, _ in AS_BEFORE]
TOLD = f"all goes to the database's own tablespace, for its server lacks {NAME}"


@pytest.fixture
async def tablespace(servers: Servers) -> AsyncIterator[Server]:
    """The one server that has the tablespace."""
    server = await servers.get(16)
    async with server.maintenance.connect() as connection:
        await connection.execute("SET allow_in_place_tablespaces = on")
        await connection.execute(f"CREATE TABLESPACE \"{NAME}\" LOCATION ''")
        yield server
        await connection.execute(f'DROP TABLESPACE "{NAME}"')


@pytest.fixture
async def shelves(tablespace: Server, create_database: CreateDatabase) -> Database:
    """Two tables, one of which lies in the tablespace."""
    database = await create_database(tablespace)
    await database.execute(SHELVES)
    return database


async def test_a_table_that_was_dropped_comes_back_where_it_lay(shelves: Database) -> None:
    taken = await back_up(shelves)
    await shelves.execute("DROP TABLE books")
    await bring_back(taken, shelves, Scope(tables=("books",)))
    assert await shelves.fetch(PLACES) == AS_BEFORE


async def test_an_empty_database_gets_everything_where_it_lay(
    shelves: Database, create_database: CreateDatabase
) -> None:
    target = await create_database(shelves.server)
    await bring_back(await back_up(shelves), target)
    assert await target.fetch(PLACES) == AS_BEFORE


async def test_on_a_server_without_it_everything_comes_back_in_the_database_s_own(
    shelves: Database, database: Database
) -> None:
    taken = await back_up(shelves)
    assert TOLD in (await plan_to_bring_back(taken, database)).warnings
    await bring_back(taken, database)
    assert await database.fetch(PLACES) == IN_ITS_OWN
    await database.execute("DROP TABLE books")
    assert TOLD in (await bring_back(taken, database, Scope(tables=("books",)))).warnings
    assert await database.fetch(PLACES) == IN_ITS_OWN


async def test_a_drill_needs_no_tablespace(shelves: Database, server: Server) -> None:
    taken = await back_up(shelves)
    held = await drill([taken.repository], DrillOptions(given=Source(server.maintenance.dsn)))
    assert held.failures == ()
