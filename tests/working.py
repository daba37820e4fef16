"""Random work on a database by several sessions at once, and a barrier that stops commits, and nothing else."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg

from tests.servers import Database

TABLES = ("plain", '"Odd Name"', "parts", "whole")
BUILD = """
    CREATE TABLE plain (x text, id int, k int, big text, gen int GENERATED ALWAYS AS (id * 2) STORED, n numeric,
                        PRIMARY KEY (id, k));
    ALTER TABLE plain ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE "Odd Name" (LIKE plain INCLUDING ALL);
    CREATE TABLE whole (x text, id int, k int, big text, n numeric, PRIMARY KEY (k, id));
    ALTER TABLE whole REPLICA IDENTITY FULL, ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE parts (x text, id int, k int, big text, n numeric, PRIMARY KEY (id, k)) PARTITION BY RANGE (id);
    CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (MINVALUE) TO (20);
    CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (20) TO (MAXVALUE);
"""
TEXTS = ("q\tw", "a\\b\n", None, "é", "\\N", "\\U", "")
LARGE = ("z" * 9000, "y" * 9000, "short", None)
CLASHES = (
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.UniqueViolationError,
    asyncpg.SerializationError,  # a row that is moved to another partition meanwhile
)


class Barrier:
    """Lets many pass, until one wants to be alone."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._passing = 0
        self._alone = False

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Wait until nobody is alone; nobody will be while the block runs."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone)
            self._passing += 1
        try:
            yield
        finally:
            async with self._changed:
                self._passing -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait until nobody passes; nobody will while the block runs."""
        async with self._changed:
            self._alone = True
            await self._changed.wait_for(lambda: self._passing == 0)
        try:
            yield
        finally:
            async with self._changed:
                self._alone = False
                self._changed.notify_all()


class Worker:
    """One session that does something or other, in transactions of all kinds."""

    def __init__(self, database: Database, barrier: Barrier, seed: str) -> None:
        self.committed = 0
        self._database = database
        self._barrier = barrier
        self._random = random.Random(seed)
        self._name = seed

    async def run(self, working: Callable[[], bool]) -> None:
        """Go on as long as `working` says so."""
        async with self._database.connect() as connection:
            await connection.execute("SET lock_timeout = '300ms'")
            while working():
                await connection.execute(f"SET synchronous_commit = {self._random.choice(['on', 'off'])}")
                with suppress(*CLASHES):
                    await self._transaction(connection)
                if connection.is_in_transaction():
                    await connection.execute("ROLLBACK")
                await asyncio.sleep(self._random.random() * 0.01)

    async def _transaction(self, connection: asyncpg.Connection) -> None:
        await connection.execute("BEGIN")
        for _ in range(self._random.choice([1, 1, 2, 5, 30])):
            await self._change(connection)
        if self._random.random() < 0.05:  # open for long, while backups and moments pass by
            await asyncio.sleep(self._random.random() * 2)
        ends: list[Callable[[asyncpg.Connection], Awaitable[None]]] = [self._commit] * 6
        ends += [self._roll_back, self._truncate_and_commit, self._prepare_and_end]
        await self._random.choice(ends)(connection)

    async def _roll_back(self, connection: asyncpg.Connection) -> None:
        await connection.execute("ROLLBACK")

    async def _commit(self, connection: asyncpg.Connection) -> None:
        async with self._barrier.passing():
            await connection.execute("COMMIT")
        self.committed += 1

    async def _truncate_and_commit(self, connection: asyncpg.Connection) -> None:
        async with self._barrier.passing():  # who is alone reads tables, and would wait for this lock
            if self._random.random() < 0.3:
                await connection.execute(f"TRUNCATE {self._random.choice(TABLES)}")
                await self._change(connection)
            await connection.execute("COMMIT")
        self.committed += 1

    async def _prepare_and_end(self, connection: asyncpg.Connection) -> None:
        await connection.execute(f"PREPARE TRANSACTION '{self._name}'")
        await asyncio.sleep(self._random.random() * 0.2)
        async with self._barrier.passing():
            await connection.execute(f"{self._random.choice(['COMMIT', 'ROLLBACK'])} PREPARED '{self._name}'")

    async def _change(self, connection: asyncpg.Connection) -> None:
        table, key = self._random.choice(TABLES), (self._random.randrange(40), self._random.randrange(3))
        changes: list[Callable[..., Awaitable[None]]] = [self._insert] * 6
        changes += [self._update] * 4 + [self._move] * 3 + [self._delete] * 4 + [self._enlarge] * 2
        await self._random.choice(changes)(connection, table, *key)

    async def _insert(self, connection: asyncpg.Connection, table: str, one: int, k: int) -> None:
        await connection.execute(
            f"INSERT INTO {table} (x, id, k, big, n) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            *(self._random.choice(TEXTS), one, k, self._random.choice(LARGE), self._random.randrange(100)),
        )

    async def _update(self, connection: asyncpg.Connection, table: str, one: int, _: int) -> None:
        text = self._random.choice(TEXTS)
        await connection.execute(f"UPDATE {table} SET x = $1, n = n + 1 WHERE id = $2", text, one)

    async def _enlarge(self, connection: asyncpg.Connection, table: str, one: int, _: int) -> None:
        large = self._random.choice(LARGE)
        await connection.execute(f"UPDATE {table} SET big = $1 WHERE id = $2", large, one)

    async def _delete(self, connection: asyncpg.Connection, table: str, one: int, k: int) -> None:
        await connection.execute(f"DELETE FROM {table} WHERE id = $1 AND k = $2", one, k)

    async def _move(self, connection: asyncpg.Connection, table: str, one: int, k: int) -> None:
        """Change a key, in a savepoint that is rolled back now and then."""
        await connection.execute("SAVEPOINT here")
        to = self._random.randrange(40)
        try:
            await connection.execute(f"UPDATE {table} SET id = $1 WHERE id = $2 AND k = $3", to, one, k)
        except asyncpg.UniqueViolationError:
            await connection.execute("ROLLBACK TO here")
        else:
            await connection.execute("ROLLBACK TO here" if self._random.random() < 0.3 else "RELEASE here")
