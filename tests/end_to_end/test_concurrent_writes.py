"""Rows written while a backup is taken: it holds exactly what its snapshot saw, across tables bound by foreign keys."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg

from jobs.copying.table_copy import CopyOptions
from tests.conftest import CreateDatabase
from tests.round_trip import QUICK, Taken, back_up, bring_back
from tests.servers import Database
from tests.sessions import sessions, until

WRITERS = 6
ACCOUNTS = 500
TOTAL = ACCOUNTS * 100
EARLIER = 4000  # so many that the tables are not small, which come first
# Every committed state: the sum of all balances is TOTAL, each balance is what its entries come to, and every transfer
# has its two entries.
LEDGER = f"""
    CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL, note text);
    CREATE TABLE transfers (id uuid PRIMARY KEY, amount int NOT NULL, said text);
    CREATE TABLE entries (
        transfer uuid NOT NULL REFERENCES transfers ON DELETE CASCADE, account int NOT NULL REFERENCES accounts,
        change bigint NOT NULL, PRIMARY KEY (transfer, account)
    );
    INSERT INTO accounts SELECT n, 100, repeat('n', 500) FROM generate_series(1, {ACCOUNTS}) n;
    INSERT INTO transfers SELECT gen_random_uuid(), 0, repeat('s', 100) FROM generate_series(1, {EARLIER});
    INSERT INTO entries SELECT id, account, 0 FROM transfers, generate_series(1, 2) account;
    CREATE TABLE untouched AS SELECT n, repeat('u', 500) AS filler FROM generate_series(1, 20000) n;
"""
BROKEN = f"""
    SELECT 'sum', sum(balance)::text FROM accounts HAVING sum(balance) <> {TOTAL}
    UNION ALL
    SELECT 'balance', a.id::text FROM accounts a LEFT JOIN entries e ON e.account = a.id
     GROUP BY a.id HAVING a.balance <> 100 + coalesce(sum(e.change), 0)
    UNION ALL
    SELECT 'entries', t.id::text FROM transfers t LEFT JOIN entries e ON e.transfer = t.id
     GROUP BY t.id HAVING count(e) <> 2 OR sum(e.change) <> 0
    UNION ALL
    SELECT 'orphan', e.transfer::text FROM entries e LEFT JOIN transfers t ON t.id = e.transfer WHERE t.id IS NULL
"""
CONTENT = """
    SELECT 'accounts', count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM accounts t
    UNION ALL SELECT 'transfers', count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM transfers t
    UNION ALL SELECT 'entries', count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM entries t
     ORDER BY 1
"""


async def transfer_forever(database: Database, number: int) -> None:
    """Move money between accounts, each time in one transaction over three tables; undo some of it again."""
    chance = random.Random(number)
    async with database.connect() as connection:
        while True:
            try:
                await transfer_once(connection, chance)
            except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
                continue


async def transfer_once(connection: asyncpg.Connection, chance: random.Random) -> None:
    giver, taker = chance.sample(range(1, ACCOUNTS + 1), 2)
    amount, said = chance.randint(1, 50), "s" * chance.randint(0, 3000)
    async with connection.transaction():
        made = await connection.fetchval(
            "INSERT INTO transfers VALUES (gen_random_uuid(), $1, $2) RETURNING id", amount, said
        )
        for account, change in ((giver, -amount), (taker, amount)):
            await connection.execute("INSERT INTO entries VALUES ($1, $2, $3)", made, account, change)
            await connection.execute("UPDATE accounts SET balance = balance + $2 WHERE id = $1", account, change)
        if chance.random() < 0.3:
            await connection.execute(
                """
                WITH gone AS (
                    DELETE FROM entries WHERE transfer IN (SELECT id FROM transfers ORDER BY random() LIMIT 1)
                    RETURNING transfer, account, change
                ), undone AS (
                    UPDATE accounts a SET balance = balance - change FROM gone WHERE gone.account = a.id
                )
                DELETE FROM transfers WHERE id IN (SELECT transfer FROM gone)
                """
            )


@asynccontextmanager
async def written_to(database: Database) -> AsyncIterator[None]:
    """Writers at work while the block runs."""
    async with asyncio.TaskGroup() as group:
        writers = [group.create_task(transfer_forever(database, number)) for number in range(WRITERS)]
        await until(lambda: database.value(f"SELECT count(*) > {EARLIER + 100} FROM transfers"))
        yield
        for writer in writers:
            writer.cancel()


async def seen_by_the_same_snapshot(database: Database) -> list[tuple[object, ...]]:
    """What one more session sees that imports the snapshot which the backup exported."""
    await until(lambda: sessions(database, "copy %", "query LIKE 'COPY %'"))
    exported = await database.value("SELECT pg_ls_dir('pg_snapshots')")
    async with database.connect() as connection, connection.transaction(isolation="repeatable_read"):
        await connection.execute(f"SET TRANSACTION SNAPSHOT '{exported}'")
        await asyncio.sleep(0.3)  # the writers go on
        return [tuple(row) for row in await connection.fetch(CONTENT)]


async def test_a_backup_holds_exactly_what_its_snapshot_saw(create_database: CreateDatabase) -> None:
    source, target = await create_database(key="ledger", build=LEDGER), await create_database()
    # Slow enough that most of it is copied long after the snapshot was taken; the tables written to come last.
    copying = CopyOptions(streams=2, pages_per_part=16, rate_limit=6_000_000)
    async with written_to(source):
        taking = asyncio.create_task(back_up(source, options=replace(QUICK, copying=copying)))
        seen = await seen_by_the_same_snapshot(source)
        taken: Taken = await taking
    assert await source.fetch(CONTENT) != seen, "nothing was written meanwhile, so nothing is shown"
    await bring_back(taken, target)
    assert await target.fetch(BROKEN) == []
    assert await target.fetch(CONTENT) == seen


async def test_the_snapshot_in_the_manifest_tells_which_transactions_are_in_the_backup(
    create_database: CreateDatabase,
) -> None:
    """An oracle of its own: a journal in which every writer noted its transaction id, never deleted from."""
    source = await create_database()
    await source.execute("CREATE TABLE journal (id bigserial, xid xid8 DEFAULT pg_current_xact_id(), filler text)")

    async def write_forever() -> None:
        async with source.connect() as connection:
            while True:
                await connection.execute(
                    "INSERT INTO journal (filler) SELECT repeat('f', 200) FROM generate_series(1, 20)"
                )

    async with asyncio.TaskGroup() as group:
        writers = [group.create_task(write_forever()) for _ in range(WRITERS)]
        await until(lambda: source.value("SELECT count(*) > 20000 FROM journal"))
        taken = await back_up(source, copying=CopyOptions(streams=2, pages_per_part=32, rate_limit=6_000_000))
        for writer in writers:
            writer.cancel()
    snapshot = taken.manifest.snapshot
    text = f"{snapshot.xmin}:{snapshot.xmax}:{','.join(map(str, snapshot.in_progress))}"
    visible = await source.value(
        "SELECT count(*) FROM journal WHERE pg_visible_in_snapshot(xid, $1::text::pg_snapshot)", text
    )
    assert 0 < visible < await source.value("SELECT count(*) FROM journal")
    assert taken.rows == {"public.journal": visible}
