"""What `doctor` finds about tables that are compared: which, why, what that misses, and what incremental backups do."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from jobs.checks.findings import Finding
from jobs.incrementals.comparison import Stamps
from jobs.incrementals.taking import CaptureOptions, Method
from tests.examining import found, look, only, reader_of, worse_than_ok
from tests.following import Follower, following
from tests.round_trip import memory
from tests.servers import Database, own_server, quoted

CAPTURE, SLOT = "change capture", "replication slot"
TABLES = """
    CREATE TABLE plain (id int PRIMARY KEY, updated_at timestamptz);
    CREATE TABLE unzoned (id int PRIMARY KEY, updated_at timestamp);
    CREATE TABLE unique_only (id int NOT NULL UNIQUE);
    ALTER TABLE unique_only REPLICA IDENTITY USING INDEX unique_only_id_key;
    CREATE TABLE generated (id int, g int GENERATED ALWAYS AS (id) STORED PRIMARY KEY);
    CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, updated_at timestamptz);
    CREATE UNLOGGED TABLE scratch (id int);
"""
WHOLE = {
    "public.unique_only": ("it has no primary key", 'ALTER TABLE "public"."unique_only" ADD PRIMARY KEY (…);'),
    "public.generated": ("a generated column is part of its primary key", ""),
    "public.scratch": (
        "it has no primary key",
        'ALTER TABLE "public"."scratch" ADD PRIMARY KEY (…);',
    ),
}


@pytest.fixture(scope="module")
async def standby() -> AsyncIterator[Database]:
    """A database of a server that is in recovery, and follows nobody."""
    async with own_server() as server:
        database = await server.create()
        await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
        await server.embedded.stop()
        await asyncio.to_thread((server.embedded.data / "standby.signal").touch)
        await server.embedded.start()
        yield database


async def seen(follower: Follower) -> list[Finding]:
    """What `doctor` finds about capture where backups are taken as the follower takes them."""
    return found(await look(follower.source, memory(), capture=follower.capture), CAPTURE)


def told(findings: list[Finding]) -> dict[str, str]:
    """What is said of single tables."""
    return {finding.table: finding.message for finding in findings if finding.table}


async def methods(follower: Follower) -> dict[str, str]:
    """How an incremental backup follows each table that it compares."""
    await follower.begin()
    result = await follower.take()
    assert result.kind == "incremental", result.warnings
    beside = (await follower.primary.incremental(result.id)).beside
    assert beside is not None
    return {f"{table.schema_name}.{table.name}": table.method for table in beside.tables}


def by(database: Database, method: Method) -> Follower:
    """Follow in one of the ways."""
    return replace(following(database), capture=CaptureOptions(method=method, patience=5))


async def test_where_comparing_is_set_it_says_so_and_which_tables_are_copied_whole(database: Database) -> None:
    await database.execute(TABLES)
    follower = by(database, "xmin")
    able, *warnings = await seen(follower)
    assert (able.state, able.message) == (
        "ok",
        "ROWVAULT_INCREMENTAL__METHOD is xmin: 3 of 6 tables are compared at each incremental backup",
    )
    assert {one.table: (one.message, one.hint) for one in warnings} == {
        table: (f"{table} is copied whole whenever it changed: {reason}", hint)
        for table, (reason, hint) in WHOLE.items()
    }
    followed = await methods(follower)
    assert {table for table, method in followed.items() if method == "whole"} == WHOLE.keys()
    assert len(followed) == 6
    for table in ("public.unique_only", "public.scratch"):
        await database.execute(WHOLE[table][1].replace("…", "id"))
    assert told(await seen(follower)).keys() == {"public.generated"}


async def test_where_a_column_is_believed_it_says_what_that_misses_and_which_tables_have_none(
    database: Database,
) -> None:
    await database.execute(TABLES)
    follower = by(database, "timestamp")
    missed, able, *whole = await seen(follower)
    assert (missed.state, missed.hint) == ("warning", "ROWVAULT_INCREMENTAL__METHOD=auto finds them")
    assert "public.plain, public.unlogged, rows that changed without their column are not" in missed.message
    assert (able.state, able.message) == (
        "ok",
        "compared by xmin, for there is none of the columns updated_at as timestamp with time zone: public.unzoned",
    )
    assert {one.table for one in whole} == WHOLE.keys()
    followed = await methods(follower)
    assert (followed["public.plain"], followed["public.unzoned"]) == ("timestamp", "xmin")


async def test_a_column_that_is_not_there_misses_nothing(database: Database) -> None:
    await database.execute("CREATE TABLE plain (id int PRIMARY KEY, updated_at timestamptz)")
    capture = CaptureOptions(method="timestamp", stamps=Stamps(("changed_at",)))
    assert [one.state for one in await seen(replace(following(database), capture=capture))] == ["ok"]


async def test_beside_the_log_it_says_which_tables_are_compared_and_which_copied_whole(database: Database) -> None:
    await database.execute(TABLES)
    follower = by(database, "auto")
    able, *beside = await seen(follower)
    assert (able.state, able.message) == ("ok", "changes of 3 of 6 tables can be captured from the log")
    compared = await methods(follower)
    assert compared == {"public.generated": "whole", "public.unlogged": "xmin", "public.scratch": "whole"}
    said = told(beside)
    assert {table: "whole" if "whole" in said[table] else "xmin" for table in said} == compared
    assert said["public.unlogged"] == "public.unlogged is compared at each incremental backup: it is unlogged"


async def test_without_the_log_it_says_why_tables_are_compared_and_which_are_copied_whole(database: Database) -> None:
    await database.execute(f"{TABLES} DROP TABLE generated")
    async with reader_of(database) as reader:
        await database.execute(f"""
            GRANT pg_read_all_data TO {quoted(reader.name)};
            GRANT CREATE ON DATABASE {quoted(database.name)} TO {quoted(reader.name)};
        """)
        follower = replace(by(database, "auto"), source=reader.source)
        replication, ownership, *beside = await seen(follower)
        start = "changes cannot be read from the log, so tables are compared: "
        assert replication.message == f"{start}role {reader.name} has no REPLICATION"
        assert ownership.message.startswith(f"{start}role {reader.name} does not own ")
        assert told(beside) == {
            "public.unique_only": "public.unique_only is copied whole whenever it changed: it has no primary key",
            "public.unlogged": "public.unlogged is compared at each incremental backup: it is unlogged",
            "public.scratch": "public.scratch is copied whole whenever it changed: it has no primary key",
        }
        followed = await methods(follower)
        whole = {table for table, method in followed.items() if method == "whole"}
        assert whole == {"public.unique_only", "public.scratch"}
        strictly = await seen(replace(follower, capture=replace(follower.capture, method="wal")))
        assert strictly[0].message.startswith("there can be no incremental backups, only full ones: ")
        assert told(strictly)["public.unlogged"] == "public.unlogged cannot be in the log either: it is unlogged"


async def test_a_slot_that_nobody_reads_where_tables_are_compared_is_a_warning_until_the_next_backup_drops_it(
    database: Database,
) -> None:
    await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    follower = following(database)
    await follower.begin()
    follower = replace(follower, capture=by(database, "xmin").capture)
    (warning,) = worse_than_ok(await look(database, memory(), capture=follower.capture))
    assert warning.check == SLOT
    assert "nobody reads it where tables are compared" in warning.message
    await follower.begin()
    assert worse_than_ok(await look(database, memory(), capture=follower.capture)) == []


async def test_without_a_free_slot_tables_are_compared_until_there_is_one() -> None:
    async with own_server(max_replication_slots="1", max_slot_wal_keep_size="20GB") as server:
        database = await server.create()
        await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
        await database.execute("SELECT pg_create_physical_replication_slot('somebody', true)")
        follower = by(database, "auto")
        (warning,) = await seen(follower)
        assert "so tables are compared: no replication slot is free" in warning.message
        assert (await follower.begin()).compared == "no replication slot is free"
        await follower.compare("INSERT INTO items VALUES (1)")
        await follower.require_latest()


@pytest.mark.parametrize("method", ["auto", "wal", "xmin"])
async def test_of_a_standby_there_are_only_full_backups(standby: Database, method: Method) -> None:
    warning = only(await look(standby, memory(), capture=CaptureOptions(method=method)), CAPTURE)
    assert warning.state == "warning"
    assert warning.message == "there can be no incremental backups, only full ones: the server is a standby"
