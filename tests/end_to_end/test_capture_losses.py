"""Ways in which change capture loses data unless done right: each loss is brought about, then shown to be gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from jobs.as_of import as_of
from jobs.chains.chain import joined
from jobs.chains.points import Through
from jobs.copying.part_reading import read_part
from jobs.places.ledger import Ledger
from jobs.postgres.change_log import advance, read_log_end
from jobs.postgres.connection import Source, session
from jobs.postgres.pgoutput import lsn_text
from storage.increments import Increment
from storage.manifest import Manifest
from tests.conftest import CreateDatabase
from tests.following import Follower, following
from tests.servers import DEFAULT_MAJOR, Database, Server, Servers, own_server
from tests.sessions import holding, until

UNHURRIED = {"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB", "wal_buffers": "64kB"}
"""WAL is written as its buffers are full, and put on disk when somebody waits for a commit."""

HURRIED = 20_000

PEEK = "SELECT count(*) FROM pg_logical_slot_peek_binary_changes($1, $2::text::pg_lsn, NULL, 'proto_version', '1',"
PEEK += " 'publication_names', 'p') WHERE get_byte(data, 0) = ascii('I')"


async def make_slot(database: Database) -> str:
    return str(await database.value("SELECT slot_name FROM pg_create_logical_replication_slot('by_hand', 'pgoutput')"))


async def inserts(connection: asyncpg.Connection, slot: str, end: str | None) -> int:
    """How many inserts the slot shows up to an LSN."""
    return int(await connection.fetchval(PEEK, slot, end))


async def test_what_was_committed_and_is_not_yet_on_disk_is_lost_to_who_trusts_the_written_lsn() -> None:
    async with own_server(DEFAULT_MAJOR, **UNHURRIED) as server:
        database = await server.create()
        await database.execute("CREATE TABLE items (id int PRIMARY KEY, v text); CREATE PUBLICATION p FOR TABLE items")
        slot = await make_slot(database)
        async with database.connect() as application, database.connect() as reader:
            await application.execute("SET synchronous_commit = off")
            for number in range(300):
                await application.execute(f"INSERT INTO items VALUES ({number}, repeat('x', 1000))")
            written, flushed = await reader.fetchrow(
                "SELECT pg_current_wal_lsn()::text, pg_current_wal_flush_lsn() < pg_current_wal_lsn()"
            )
            assert flushed, "what this test is about did not happen"
            found = await inserts(reader, slot, written)
            async with session(Source(database.dsn), "test") as connection:
                right = lsn_text((await read_log_end(connection)).lsn)  # puts everything on disk
            assert await inserts(reader, slot, right) == 300
            await reader.execute("SELECT pg_replication_slot_advance($1, $2::text::pg_lsn)", slot, written)
            assert found + await inserts(reader, slot, None) < 300, "nothing was lost"
        await database.execute("TRUNCATE items")
        await _require_all_while_it_goes_on(database, slot)


async def _require_all_while_it_goes_on(database: Database, slot: str) -> None:
    """Read the log window by window, as long as somebody commits without waiting; every insert must be in one."""
    async with session(Source(database.dsn), "test") as connection:
        await advance(connection, slot, (await read_log_end(connection)).lsn)
        application = asyncio.create_task(_hurry(database))
        found, over = 0, False
        while not over:
            over = application.done()
            end = await read_log_end(connection)
            found += await inserts(connection, slot, lsn_text(end.lsn))
            await advance(connection, slot, end.lsn)
        await application
    assert found == HURRIED


async def _hurry(database: Database) -> None:
    async with database.connect() as connection:
        await connection.execute("SET synchronous_commit = off")
        await connection.execute(
            f"DO $$BEGIN FOR n IN 1..{HURRIED} LOOP INSERT INTO items VALUES (n, repeat('x', 1000)); COMMIT;"
            "END LOOP; END$$"
        )


@asynccontextmanager
async def committing(server: Server, database: Database, statement: str) -> AsyncIterator[None]:
    """A transaction whose commit is in the WAL, and seen by nobody: it waits for a standby that is not there."""
    await server.maintenance.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    await server.maintenance.execute("SELECT pg_reload_conf()")
    waits = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    shown = "SELECT current_setting('synchronous_standby_names') = 'nobody'"
    await until(lambda: database.value(shown))
    application = asyncio.create_task(database.execute(statement))
    await until(lambda: database.fetch(waits))
    try:
        yield
    finally:
        await server.maintenance.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await server.maintenance.execute("SELECT pg_reload_conf()")
        await application


async def test_what_is_in_the_log_and_not_yet_visible_is_lost_to_a_base_that_begins_at_the_end_of_the_log() -> None:
    async with own_server() as server:
        database = await server.create()
        await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
        follower = following(database)
        await follower.begin()
        async with committing(server, database, "INSERT INTO items VALUES (1)"):
            before = await follower.window()
            assert (before.rows, len(before.unseen)) == (1, 1)
            base = await follower.full()
        after = await follower.change("INSERT INTO items VALUES (2)")
        await follower.require_latest()
        assert after.base == base.id
        assert await _items(follower, base, [before, after]) == [b"1", b"2"]
        assert base.capture is not None
        forgetful = base.model_copy(update={"capture": base.capture.model_copy(update={"since": before.end})})
        assert await _items(follower, forgetful, [before, after]) == [b"2"], "nothing was lost"


async def _items(follower: Follower, base: Manifest, windows: list[Increment]) -> list[bytes]:
    """The rows that a base and windows make."""
    chain = joined(base, windows)
    async with as_of(follower.places, chain, Through(windows[-1]), Ledger(())) as made:
        (table,) = made.manifest.tables
        text = [await read_part(made.repositories[0], part, b"".join) for part in table.parts]
        return sorted(b"".join(text).splitlines())


@pytest.mark.parametrize("major", [15, 18])
async def test_what_came_before_a_publication_is_lost_or_blocks_a_slot_that_was_made_first(
    servers: Servers, create_database: CreateDatabase, major: int
) -> None:
    database = await create_database(await servers.get(major))
    await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    slot = await make_slot(database)
    await database.execute("INSERT INTO items VALUES (1)")
    await database.execute("CREATE PUBLICATION p FOR TABLE items")
    await database.execute("INSERT INTO items VALUES (2)")
    async with database.connect() as reader:
        if major == 15:
            with pytest.raises(asyncpg.UndefinedObjectError, match='publication "p" does not exist'):
                await inserts(reader, slot, None)
        else:
            assert await inserts(reader, slot, None) == 1


@pytest.mark.parametrize("major", [15, 18])
async def test_a_publication_made_again_under_the_slot_begins_a_new_chain_before_anything_is_lost(
    servers: Servers, create_database: CreateDatabase, major: int
) -> None:
    database = await create_database(await servers.get(major))
    await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    follower = following(database)
    await follower.begin()
    await database.execute("DROP PUBLICATION rowvault; INSERT INTO items VALUES (1)")
    await database.execute("CREATE PUBLICATION rowvault FOR TABLE items; INSERT INTO items VALUES (2)")
    assert (await follower.take()).kind == "full"
    await follower.change("INSERT INTO items VALUES (3)")
    await follower.require_latest()


async def test_what_was_at_work_as_the_slot_was_made_is_lost_to_who_does_not_wait(database: Database) -> None:
    """So that capture waits for everybody: see test_incremental for how it gives up on one who does not end."""
    await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    follower = following(database)
    async with database.connect() as application:
        await application.execute("BEGIN; INSERT INTO items VALUES (1)")
        beginning = asyncio.create_task(follower.begin())
        waits = "SELECT FROM pg_stat_activity WHERE query LIKE '%create_logical_replication_slot%' AND wait_event = $1"
        await until(lambda: database.fetch(waits, "transactionid"))
        await application.execute("COMMIT")
    base = await beginning
    assert base.rows == 1
    await follower.change("INSERT INTO items VALUES (2)")
    await follower.require_latest()


async def test_nothing_is_lost_of_who_came_to_work_while_the_slot_was_made(database: Database) -> None:
    """The server waits for those at work, and for those who came meanwhile, but not for whoever came after these."""
    await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    follower = following(database)
    async with (
        holding(database, "INSERT INTO items VALUES (1)") as first,
        database.connect() as second,
        database.connect() as third,
    ):
        beginning = asyncio.create_task(follower.begin())
        await _waited_for(database, first)
        await second.execute("BEGIN; INSERT INTO items VALUES (2)")
        await first.execute("COMMIT")
        await _waited_for(database, second)
        await third.execute("BEGIN; INSERT INTO items VALUES (3)")
        await second.execute("COMMIT")
        base = await beginning
        await third.execute("COMMIT")
    assert base.rows == 2
    await follower.change("INSERT INTO items VALUES (4)")
    await follower.require_latest()


async def _waited_for(database: Database, application: asyncpg.Connection) -> None:
    """Wait until the making of a slot waits for the transaction of a session."""
    making = "SELECT FROM pg_stat_activity WHERE query LIKE '%create_logical_replication_slot%'"
    waits = f"{making} AND $1 = ANY (pg_blocking_pids(pid))"
    await until(lambda: database.fetch(waits, application.get_server_pid()))
