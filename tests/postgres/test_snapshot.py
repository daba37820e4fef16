"""One moment: locks first, then a snapshot that every session shares, and that nobody can take rows from."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from jobs.concurrency import alongside, task_group
from jobs.postgres.connection import Source
from jobs.postgres.ddl import dump_schema, schema_as_sql
from jobs.postgres.errors import ConnectionLost, Contended, MissingPrivilege, NoSuchTable
from jobs.postgres.snapshot import LockLimits, SnapshotSession, join_snapshot, open_snapshot
from jobs.postgres.tools import find_tools
from tests.conftest import CreateDatabase
from tests.proxy import FaultProxy
from tests.round_trip import selection
from tests.servers import Database
from tests.sessions import end_session, holding, until, waiting_for_a_lock

LIMITS = LockLimits(lock_timeout=0.5, give_way_after=0.3, lost_after=5)
PATIENT = LockLimits(lock_timeout=10)
WAITS_FOR_LONG = f"""
    SELECT FROM pg_locks WHERE NOT granted AND clock_timestamp() - waitstart > interval '{LIMITS.give_way_after} s'
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
TABLES = """
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
    INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 1);
    CREATE TABLE events (day int, n int) PARTITION BY LIST (day);
    CREATE TABLE monday PARTITION OF events FOR VALUES IN (1);
    INSERT INTO events VALUES (1, 1);
    CREATE SCHEMA other; CREATE TABLE other.unrelated (n int);
"""


@pytest.fixture
async def tables(create_database: CreateDatabase) -> Database:
    return await create_database(key="snapshot", build=TABLES)


@asynccontextmanager
async def snapshot(database: Database, *patterns: str, limits: LockLimits = LIMITS) -> AsyncIterator[SnapshotSession]:
    async with open_snapshot(Source(database.dsn), selection(patterns), limits) as session:
        yield session


async def locked(database: Database) -> set[tuple[str, str]]:
    """Which tables our sessions have locked, and how."""
    rows = await database.fetch(
        """
        SELECT DISTINCT relation::regclass::text, mode FROM pg_locks JOIN pg_stat_activity a USING (pid)
        JOIN pg_class c ON c.oid = relation JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE application_name LIKE 'rowvault: %' AND datname = current_database()
          AND c.relkind IN ('r', 'p') AND nspname <> 'pg_catalog'
        """
    )
    return {(table, mode) for table, mode in rows}


async def nothing_locked(database: Database) -> bool:
    return not await locked(database)


async def test_exactly_the_chosen_tables_and_those_above_them_are_locked(tables: Database) -> None:
    async with snapshot(tables, "monday", "child"):
        assert await locked(tables) == {(name, "AccessShareLock") for name in ("monday", "events", "child")}
    await until(lambda: nothing_locked(tables))


async def test_what_commits_before_the_locks_are_had_is_seen(tables: Database) -> None:
    async with holding(tables, "TRUNCATE child, parent; INSERT INTO parent VALUES (7), (8)") as connection:
        opening = asyncio.create_task(rows_seen(tables, "parent"))
        await waiting_for_a_lock(tables)
        await connection.execute("COMMIT; BEGIN")
        assert await opening == [(7,), (8,)]


async def rows_seen(database: Database, table: str) -> list[tuple[int, ...]]:
    async with snapshot(database, limits=PATIENT) as session:
        return [tuple(row) for row in await session.connection.fetch(f"SELECT * FROM public.{table} ORDER BY 1")]


async def test_what_commits_after_it_is_not_seen_by_any_session_that_joins(tables: Database) -> None:
    async with snapshot(tables) as session:
        await tables.execute("INSERT INTO parent VALUES (2); UPDATE child SET id = 9; DELETE FROM monday")
        joined = await join_snapshot(Source(tables.dsn), session.snapshot.id, "test")
        try:
            for connection in (session.connection, joined):
                assert await connection.fetch("SELECT id FROM public.parent") == [(1,)]
                assert await connection.fetch("SELECT id FROM public.child") == [(1,)]
                assert await connection.fetch("SELECT n FROM public.events") == [(1,)]
        finally:
            joined.terminate()


async def test_the_record_of_the_snapshot_says_whom_it_sees(tables: Database) -> None:
    async with holding(tables, "INSERT INTO parent VALUES (5)") as running:
        theirs = int(await running.fetchval("SELECT pg_current_xact_id()::text"))
        await tables.execute("INSERT INTO parent VALUES (6)")
        before = await tables.value("SELECT pg_current_wal_insert_lsn()")
        async with snapshot(tables) as session:
            taken = session.snapshot
            after = await tables.value("SELECT pg_current_wal_insert_lsn()")
            now = await tables.value("SELECT clock_timestamp()")
    assert taken.xmin <= theirs < taken.xmax
    assert theirs in taken.in_progress
    assert await tables.value("SELECT $1::text::pg_lsn BETWEEN $2 AND $3", taken.lsn, before, after)
    assert 0 <= (now - taken.moment).total_seconds() < 5


async def test_definitions_are_those_of_the_snapshot(tables: Database, tmp_path: Path) -> None:
    tools, archive = find_tools(tables.server.major, None), tmp_path / "archive"
    async with snapshot(tables) as session:
        await tables.execute("CREATE TABLE later (); CREATE FUNCTION later() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        dump = dump_schema(tools, Source(tables.dsn), session.snapshot.id, ["public"], [], LIMITS.lock_timeout)
        archive.write_bytes(b"".join([block async for block in dump]))
    definitions = await schema_as_sql(tools, archive)
    assert b"CREATE TABLE public.parent" in definitions
    assert b"later" not in definitions


async def test_sessions_cannot_write(tables: Database) -> None:
    async with snapshot(tables) as session:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await session.connection.execute("DELETE FROM public.child")


async def test_a_lock_that_somebody_holds_is_waited_for_no_longer_than_allowed(tables: Database) -> None:
    async with holding(tables, "LOCK TABLE child IN ACCESS EXCLUSIVE MODE") as connection:
        pid = connection.get_server_pid()
        with pytest.raises(Contended, match=rf"waited 0.5 s to lock public\.child, which server pid {pid} holds"):
            async with asyncio.timeout(3), snapshot(tables):
                pass


async def test_many_contended_tables_are_waited_for_together_no_longer_than_allowed(tables: Database) -> None:
    """Otherwise who waits for the first of them would wait for all of them, one after the other."""
    async with (
        holding(tables, "LOCK TABLE child IN ACCESS EXCLUSIVE MODE") as first,
        holding(tables, "LOCK TABLE parent, monday IN ACCESS EXCLUSIVE MODE"),
    ):
        opening = asyncio.create_task(open_and_close(tables, limits=LIMITS))
        await waiting_for_a_lock(tables)
        started = time.monotonic()
        await asyncio.sleep(LIMITS.lock_timeout * 0.8)
        await first.execute("ROLLBACK")
        with pytest.raises(Contended):
            await opening
        assert time.monotonic() - started < LIMITS.lock_timeout * 1.6


async def test_a_pattern_that_matches_nothing_is_an_error_that_names_it(tables: Database) -> None:
    with pytest.raises(NoSuchTable, match="no_such_table"):
        async with snapshot(tables, "child", "no_such_table"):
            pass


@pytest.mark.parametrize("drop", ["DROP TABLE other.unrelated", "DROP SCHEMA other CASCADE"])
async def test_a_table_that_vanishes_while_it_is_being_locked_is_an_error_that_names_it(
    tables: Database, drop: str
) -> None:
    async with holding(tables, f"LOCK TABLE other.unrelated IN ACCESS EXCLUSIVE MODE; {drop}") as connection:
        opening = asyncio.create_task(open_and_close(tables, "other.*"))
        await waiting_for_a_lock(tables)
        await connection.execute("COMMIT; BEGIN")
        with pytest.raises(Contended, match="other"):
            await opening


async def open_and_close(database: Database, *patterns: str, limits: LockLimits = PATIENT) -> None:
    async with snapshot(database, *patterns, limits=limits):
        pass


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE child RENAME TO infant; CREATE TABLE child ()",
        "ALTER TABLE child RENAME TO infant; ALTER TABLE parent RENAME TO child; ALTER TABLE infant RENAME TO parent",
        "LOCK TABLE child IN ACCESS EXCLUSIVE MODE; CREATE TABLE another ()",
        "LOCK TABLE child IN ACCESS EXCLUSIVE MODE; CREATE TABLE tuesday PARTITION OF events FOR VALUES IN (2)",
    ],
    ids=["replaced", "swapped", "one more", "one more partition"],
)
async def test_tables_that_change_while_they_are_locked_begin_it_again(tables: Database, change: str) -> None:
    async with holding(tables, change) as connection:
        opening = asyncio.create_task(open_and_close(tables))
        await waiting_for_a_lock(tables)
        await connection.execute("COMMIT; BEGIN")
        with pytest.raises(Contended):
            await opening


async def test_tables_that_may_not_be_read_are_named_all_of_them(tables: Database) -> None:
    await tables.execute(
        """
        CREATE ROLE snapshot_reader LOGIN PASSWORD 'secret';
        GRANT SELECT ON parent, child, events TO snapshot_reader; GRANT SELECT ON other.unrelated TO snapshot_reader;
        """
    )
    try:
        source = Source(tables.as_role("snapshot_reader", "secret"))
        with pytest.raises(
            MissingPrivilege, match=r"may not read (public\.monday, other\.|other\.unrelated, public\.)"
        ):
            async with open_snapshot(source, selection(["*.*"]), LIMITS):
                pass
    finally:
        await tables.execute("DROP OWNED BY snapshot_reader; DROP ROLE snapshot_reader")


async def test_a_statement_that_waits_too_long_on_our_locks_makes_us_give_way(tables: Database) -> None:
    async with tables.connect() as attacker:
        async with snapshot(tables) as session:
            attack = asyncio.create_task(attacker.execute("TRUNCATE child"))
            said = rf"gave way on public\.child: server pid {attacker.get_server_pid()} waited"
            with pytest.raises(Contended, match=said):
                await session.watch()
        assert await attack == "TRUNCATE TABLE"


async def test_who_waits_on_a_session_of_ours_that_came_later_counts_too(tables: Database) -> None:
    async with (
        tables.connect() as attacker,
        task_group() as others,
        holding(tables, "LOCK TABLE parent IN ACCESS EXCLUSIVE MODE"),
        snapshot(tables, "child") as session,
    ):
        others.create_task(tables.execute("SELECT FROM parent"))
        await until(lambda: tables.fetch(WAITS_FOR_LONG))
        await session.confirm()  # somebody waits, though not on us: it has looked at which sessions are ours
        joined = await join_snapshot(Source(tables.dsn), session.snapshot.id, "test")
        try:
            await joined.execute("LOCK TABLE other.unrelated IN ACCESS SHARE MODE")
            others.create_task(attacker.execute("TRUNCATE other.unrelated"))
            with pytest.raises(Contended, match=r"gave way on other\.unrelated"):
                async with asyncio.timeout(10):
                    await session.watch()
        finally:
            joined.terminate()


async def test_readers_writers_and_those_who_wait_for_others_do_not_make_us_give_way(tables: Database) -> None:
    async with (
        task_group() as others,
        holding(tables, "LOCK TABLE other.unrelated IN ACCESS EXCLUSIVE MODE"),
        snapshot(tables) as session,
        alongside(session.watch()),
    ):
        others.create_task(tables.execute("SELECT FROM other.unrelated"))
        await tables.execute("INSERT INTO parent VALUES (3); CREATE INDEX ON child (parent); ANALYZE child")
        await asyncio.sleep(LIMITS.give_way_after * 4)


async def test_losing_the_session_is_noticed_while_watching(tables: Database) -> None:
    async with snapshot(tables) as session:
        await end_session(tables, "snapshot")
        with pytest.raises(ConnectionLost, match="session that holds the snapshot was lost"):
            await session.watch()


async def test_silence_is_taken_for_loss(tables: Database) -> None:
    async with FaultProxy("127.0.0.1", tables.server.port) as proxy:
        source = Source(tables.dsn.replace(f":{tables.server.port}/", f":{proxy.port}/"))
        limits = LockLimits(lost_after=0.5)
        async with asyncio.timeout(10), open_snapshot(source, selection(), limits) as session:
            proxy.stall()
            with pytest.raises(ConnectionLost, match="no answer"):
                await session.watch()


async def test_losing_the_session_just_before_the_end_is_noticed_too(tables: Database) -> None:
    async with snapshot(tables) as session:
        await session.confirm()
        await end_session(tables, "snapshot")
        with pytest.raises(ConnectionLost):
            await session.confirm()


async def test_nobody_can_join_a_snapshot_whose_session_is_lost(tables: Database) -> None:
    async with snapshot(tables) as session:
        await end_session(tables, "snapshot")
        with pytest.raises(ConnectionLost):
            await join_snapshot(Source(tables.dsn), session.snapshot.id, "test")
