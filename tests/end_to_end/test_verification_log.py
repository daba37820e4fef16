"""The verification log in the source database: a row for each table of each backup, where the role may write it."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.postgres.connection import Source
from jobs.postgres.verification_log import LogRow, write_log
from tests.conftest import CreateDatabase
from tests.daemons import settings_for
from tests.end_to_end.test_trail import Desk, desk
from tests.round_trip import Taken, back_up, bring_back
from tests.servers import Database, Server

SCHEMA = """
    CREATE TABLE people (id int PRIMARY KEY, name text);
    INSERT INTO people SELECT n, 'somebody ' || n FROM generate_series(1, 100) n;
    CREATE TABLE "Line Items" (id int PRIMARY KEY);
"""
ROWS = "SELECT pg_catalog.to_jsonb(l) FROM rowvault.backup_verification_log l ORDER BY id"
ROLE = "log_reader"


@pytest.fixture
async def source(create_database: CreateDatabase) -> Database:
    return await create_database(key="verification-log", build=SCHEMA)


@pytest.fixture
async def role(server: Server) -> AsyncIterator[str]:
    """A role that is dropped after the database in which it has rights."""
    async with server.role(ROLE) as name:
        yield name


@pytest.fixture
async def opened(source: Database, tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(settings_for(source, tmp_path)) as made:
        yield made


async def logged(source: Database) -> list[dict[str, Any]]:
    return [json.loads(row) for (row,) in await source.fetch(ROWS)]


async def test_each_table_of_a_backup_has_a_row(opened: Desk, source: Database) -> None:
    result = await opened.back_up()
    (place,) = opened.app.repositories
    checksums = {table.name: table.checksum for table in (await place.manifest(result.id)).tables}
    rows = {row["table_name"]: row for row in await logged(source)}
    assert set(rows) == {"public.people", 'public."Line Items"'}
    people = rows["public.people"]
    assert (people["verification_status"], people["error_message"]) == ("success", None)
    assert (people["row_count"], people["backup_id"], people["checksum"]) == (100, result.id, checksums["people"])
    assert people["size_bytes"] == next(table.bytes_raw for table in result.tables if table.name == "people")
    assert datetime.fromisoformat(people["backup_date"]) == result.created_at
    assert datetime.fromisoformat(people["verified_at"]) > result.created_at
    assert opened.warnings == []


async def test_it_has_the_columns_that_people_count_on(opened: Desk, source: Database) -> None:
    await opened.back_up()
    columns = await source.fetch(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 'rowvault.backup_verification_log'::regclass AND attnum > 0 ORDER BY attnum"
    )
    assert [tuple(row) for row in columns] == [
        ("id", "bigint"),
        ("backup_date", "timestamp with time zone"),
        ("table_name", "text"),
        ("verification_status", "text"),
        ("row_count", "bigint"),
        ("size_bytes", "bigint"),
        ("checksum", "text"),
        ("verified_at", "timestamp with time zone"),
        ("error_message", "text"),
        ("backup_id", "text"),
    ]


async def test_switched_off_it_is_not_made(source: Database, tmp_path: Path) -> None:
    async with desk(settings_for(source, tmp_path) | {"VERIFICATION_LOG": "off"}) as opened:
        await opened.back_up()
        report = await opened.verify()
    assert await source.fetch("SELECT FROM pg_class WHERE relname = 'backup_verification_log'") == []
    assert (len(report.entries), opened.warnings) == (1, [])
    assert report.warnings == ("the source database was not asked for the heads that it remembers",)


async def test_a_role_that_may_not_write_it_gets_a_warning_and_its_backup(
    role: str, source: Database, tmp_path: Path
) -> None:
    await source.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    async with desk(settings_for(source.as_role(role, "secret"), tmp_path)) as opened:
        assert (await opened.back_up()).state == "success"
        (warning,) = opened.warnings
        assert len((await opened.verify()).entries) == 1
    assert "the verification log could not be written" in warning
    assert "permission denied" in warning
    assert "ROWVAULT_VERIFICATION_LOG=off" in warning


async def test_the_role_that_comes_with_us_may_write_it(role: str, source: Database, tmp_path: Path) -> None:
    await source.execute(
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}; CREATE SCHEMA rowvault AUTHORIZATION {role}"
    )
    async with desk(settings_for(source.as_role(role, "secret"), tmp_path)) as opened:
        await opened.back_up()
        assert opened.warnings == []
    assert len(await logged(source)) == 2


async def test_no_backup_holds_it(source: Database) -> None:
    await write_log(Source(source.dsn), [], (1, "a" * 64))
    taken = await back_up(source)
    assert "rowvault" not in taken.manifest.dump.schemas
    assert not [name for name in taken.rows if name.startswith("rowvault")]


@pytest.mark.parametrize("damage", ["TRUNCATE people", "DROP SCHEMA public CASCADE; CREATE SCHEMA public"])
async def test_a_restore_over_the_source_leaves_log_and_heads_alone(
    opened: Desk, source: Database, damage: str
) -> None:
    result = await opened.back_up()
    (place,) = opened.app.repositories
    before = await logged(source), await source.fetch("SELECT * FROM rowvault.trail_head")
    await source.execute(damage)
    await bring_back(Taken(place, result, await place.manifest(result.id)), source)
    assert await source.fetch("SELECT count(*) FROM people") == [(100,)]
    assert (await logged(source), await source.fetch("SELECT * FROM rowvault.trail_head")) == before
    assert (await opened.verify()).problems == ()


async def test_five_thousand_tables_are_logged_in_one_go(source: Database) -> None:
    now = datetime.now(UTC)
    rows = [LogRow(now, "b", f"public.t{n}", "success", n, n, "c", now) for n in range(5000)]
    await write_log(Source(source.dsn), rows, None)
    ((total,),) = await source.fetch("SELECT sum(row_count)::bigint FROM rowvault.backup_verification_log")
    assert total == sum(range(5000))


async def test_two_that_make_it_at_once_do_not_get_in_each_others_way(source: Database) -> None:

    await asyncio.gather(*(write_log(Source(source.dsn), [], (n, f"{n:064x}")) for n in range(4)))
    assert await source.fetch("SELECT count(*) FROM rowvault.trail_head") == [(4,)]
