"""TRUNCATE, VACUUM FULL, rewriting ALTERs, all the while: a backup is whole or fails, and the application goes on."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import asyncpg

from jobs.postgres.errors import Contended
from jobs.postgres.snapshot import LockLimits
from tests.conftest import CreateDatabase
from tests.round_trip import QUICK, Taken, back_up, bring_back
from tests.servers import Database

ROWS = 3000
BACKUPS = 4
LONGEST_WAIT = 4.0
LIMITS = LockLimits(lock_timeout=0.8, give_way_after=0.4)
FILL = f"SELECT n, n % 7, repeat('s', 100) FROM generate_series(1, {ROWS}) n"
# `steady` has ROWS rows in every state that is ever committed, whatever is done to it.
TABLES = f"""
    CREATE TABLE steady (id int PRIMARY KEY, v int, filler text);
    INSERT INTO steady {FILL};
    CREATE TABLE apart (id int PRIMARY KEY, v int);
    INSERT INTO apart SELECT n, 0 FROM generate_series(1, 100) n;
"""
ATTACKS = (
    f"BEGIN; TRUNCATE steady; INSERT INTO steady {FILL}; SELECT pg_sleep(0.1); COMMIT",
    f"BEGIN; DELETE FROM steady; INSERT INTO steady {FILL}; COMMIT",
    "VACUUM FULL steady",
    "CLUSTER steady USING steady_pkey",
    "ALTER TABLE steady ALTER v TYPE bigint; ALTER TABLE steady ALTER v TYPE int",
    "ALTER TABLE steady ADD more float8 DEFAULT random(); ALTER TABLE steady DROP more",
    """
    BEGIN; CREATE TABLE fresh (LIKE steady INCLUDING ALL); INSERT INTO fresh SELECT * FROM steady;
    DROP TABLE steady; ALTER TABLE fresh RENAME TO steady; ALTER INDEX fresh_pkey RENAME TO steady_pkey; COMMIT
    """,
)


WORK = (
    "SELECT count(*) FROM steady",
    "UPDATE steady SET v = v + 1 WHERE id = 5",
    "UPDATE apart SET v = v + 1 WHERE id = 5",
)
# What a statement says whose table is replaced under it: none of our doing.
SWAPPED = (asyncpg.UndefinedTableError, asyncpg.DeadlockDetectedError, asyncpg.InternalServerError)


@dataclass
class Application:
    """What an application does meanwhile, and the longest that one of its statements took."""

    longest: float = 0.0
    statements: int = 0

    async def work(self, database: Database, statement: str) -> None:
        async with database.connect() as connection:
            while True:
                started = time.monotonic()
                with suppress(*SWAPPED):
                    await connection.execute(statement)
                self.longest = max(self.longest, time.monotonic() - started)
                self.statements += 1
                await asyncio.sleep(0.01)


async def attack(database: Database, number: int) -> None:
    chance = random.Random(number)
    async with database.connect() as connection:
        while True:
            for statement in chance.choice(ATTACKS).split(";") if number else [ATTACKS[0]]:
                try:
                    await connection.execute(statement)
                except asyncpg.PostgresError:
                    await connection.execute("ROLLBACK")
                    break
            await asyncio.sleep(chance.uniform(0.1, 0.6))


@asynccontextmanager
async def under_fire(database: Database) -> AsyncIterator[Application]:
    application = Application()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attack(database, number)) for number in range(3)]
        tasks += [group.create_task(application.work(database, statement)) for statement in WORK]
        yield application
        for task in tasks:
            task.cancel()


async def test_schema_changes_never_make_a_backup_less_and_never_stall_the_application(
    create_database: CreateDatabase,
) -> None:
    source, target = await create_database(key="under_fire", build=TABLES), await create_database()
    taken: list[Taken] = []
    given_way = 0
    async with under_fire(source) as application, asyncio.timeout(60):
        while len(taken) < BACKUPS or not given_way:
            try:
                taken.append(await back_up(source, ["steady", "apart"], options=replace(QUICK, locks=LIMITS)))
            except Contended:
                given_way += 1
            assert application.longest < LONGEST_WAIT
    assert application.statements > 100
    for backup in taken:
        assert backup.rows == {"public.steady": ROWS, "public.apart": 100}
    await bring_back(taken[-1], target)
    assert await target.value("SELECT count(*) FROM steady") == ROWS
