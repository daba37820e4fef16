"""Who the source is: the same again each time, and another one for a clone that was given a token of its own."""

from collections.abc import AsyncIterator

import pytest

from jobs.postgres.connection import Source, session
from jobs.postgres.lineage import Lineage, read_lineage
from tests.conftest import CreateDatabase
from tests.servers import Database, Server

ROLE = "lineage_reader"


@pytest.fixture
async def role(server: Server) -> AsyncIterator[str]:
    """A role without any rights, dropped after the databases in which it was given some."""
    async with server.role(ROLE) as name:
        yield name


async def lineage(dsn: str) -> Lineage:
    async with session(Source(dsn), "test") as connection:
        return await read_lineage(connection)


async def test_it_says_which_system_and_database(any_database: Database) -> None:
    found = await lineage(any_database.dsn)
    assert found.system_identifier == str(await any_database.value("SELECT system_identifier FROM pg_control_system()"))
    assert (found.database, found.major, found.encoding, found.timeline) == (
        any_database.name,
        any_database.server.major,
        "UTF8",
        1,
    )


async def test_the_token_is_written_once_and_read_from_then_on(database: Database) -> None:
    first = await lineage(database.dsn)
    assert first.token
    assert await lineage(database.dsn) == first


async def test_two_databases_of_one_server_have_tokens_of_their_own(
    database: Database, create_database: CreateDatabase
) -> None:
    other = await create_database()
    assert (await lineage(database.dsn)).token != (await lineage(other.dsn)).token


async def test_a_role_that_may_not_write_gets_none_and_leaves_nothing(role: str, database: Database) -> None:
    assert (await lineage(database.as_role(role, "secret"))).token is None
    assert await database.value("SELECT to_regnamespace('rowvault')") is None


async def test_a_role_that_may_read_it_gets_the_token_that_is_there(role: str, database: Database) -> None:
    token = (await lineage(database.dsn)).token
    await database.execute(f"GRANT USAGE ON SCHEMA rowvault TO {role}; GRANT SELECT ON rowvault.lineage TO {role}")
    assert (await lineage(database.as_role(role, "secret"))).token == token


async def test_a_role_that_may_not_read_it_gets_none(role: str, database: Database) -> None:
    await lineage(database.dsn)
    assert (await lineage(database.as_role(role, "secret"))).token is None


async def test_a_read_only_database_is_no_trouble(database: Database) -> None:
    await database.execute(f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on')
    assert (await lineage(database.dsn)).token is None


async def test_an_empty_token_table_is_filled(database: Database) -> None:
    await database.execute("CREATE SCHEMA rowvault; CREATE TABLE rowvault.lineage (token text PRIMARY KEY)")
    found = await lineage(database.dsn)
    assert found.token
    assert await lineage(database.dsn) == found
