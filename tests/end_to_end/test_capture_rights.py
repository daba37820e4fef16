"""What change capture needs of a server and a role; where it is lacking and nothing else will do, an error says so."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import CreateDatabase
from tests.faults.commands import FAILED, refuse, settings_of, succeed
from tests.servers import Database, Server, own_server

ROLE = "capture_role"
ONLY_WAL = {"ROWVAULT_INCREMENTAL__METHOD": "wal"}
TABLES = "CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items VALUES (1)"


@pytest.fixture
async def role(server: Server) -> AsyncIterator[str]:
    """A role that is dropped after the databases in which it has rights."""
    async with server.role(ROLE) as name:
        yield name


@pytest.fixture
async def tables(role: str, create_database: CreateDatabase) -> Database:
    """A table that the role may read."""
    database = await create_database(key="capture_rights", build=TABLES)
    await database.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    return database


def as_role(database: Database, folder: Path) -> dict[str, str]:
    return settings_of(database.as_role(ROLE, "secret"), folder) | ONLY_WAL


async def test_a_server_without_logical_wal_is_an_error_that_says_how_to_have_it(tmp_path: Path) -> None:
    async with own_server(wal_level="replica") as server:
        database = await server.create()
        await database.execute(TABLES)
        settings = settings_of(database, tmp_path) | ONLY_WAL
        error = await refuse("backup", "incremental", settings=settings, code=FAILED)
        assert error["message"] == "wal_level is replica"
        assert "ALTER SYSTEM SET wal_level = logical" in error["hint"]
        assert (await succeed("backup", settings=settings))["state"] == "success"


async def test_a_role_without_replication_is_an_error_that_says_how_to_give_it(
    tables: Database, tmp_path: Path
) -> None:
    error = await refuse("backup", "incremental", settings=as_role(tables, tmp_path), code=FAILED)
    assert error["message"] == f"role {ROLE} has no REPLICATION"
    assert error["hint"] == f'as superuser: ALTER ROLE "{ROLE}" REPLICATION;'


async def test_a_role_that_may_not_create_a_publication_is_an_error_that_says_how_to_let_it(
    tables: Database, tmp_path: Path
) -> None:
    await tables.execute(f"ALTER ROLE {ROLE} REPLICATION")
    error = await refuse("backup", "incremental", settings=as_role(tables, tmp_path), code=FAILED)
    assert error["hint"] == f'as its owner: GRANT CREATE ON DATABASE "{tables.name}" TO "{ROLE}";'


async def test_a_role_that_does_not_own_a_table_may_not_publish_it_and_leaves_nothing_behind(
    tables: Database, tmp_path: Path
) -> None:
    await tables.execute(f"ALTER ROLE {ROLE} REPLICATION; GRANT CREATE ON DATABASE {tables.name} TO {ROLE}")
    error = await refuse("backup", "incremental", settings=as_role(tables, tmp_path), code=FAILED)
    assert "must be owner of table items" in error["message"]
    assert "owner" in error["hint"]
    assert await tables.fetch("SELECT FROM pg_publication") == []
    assert await tables.fetch("SELECT FROM pg_replication_slots WHERE database = current_database()") == []


async def test_an_owner_with_replication_needs_no_superuser(tables: Database, tmp_path: Path) -> None:
    await tables.execute(
        f"ALTER ROLE {ROLE} REPLICATION; GRANT CREATE ON DATABASE {tables.name} TO {ROLE};"
        f"ALTER TABLE items OWNER TO {ROLE}"
    )
    settings = as_role(tables, tmp_path)
    kinds = [(await succeed("backup", "incremental", settings=settings))["kind"] for _ in range(2)]
    assert kinds == ["full", "incremental"]
