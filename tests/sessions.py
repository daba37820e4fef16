"""What tests do to the sessions of a database: wait for one, stand in its way, end it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from tests.servers import Database

POLL_SECONDS = 0.02


async def until(condition: Callable[[], Awaitable[object]], within: float = 15) -> None:
    """Ask again and again until the answer is true."""
    deadline = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < deadline, f"still not so after {within:g} s: {condition}"
        await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def holding(database: Database, statement: str) -> AsyncIterator[asyncpg.Connection]:
    """A transaction that did something and does not end."""
    async with database.connect() as connection:
        await connection.execute(f"BEGIN; {statement}")
        yield connection


async def sessions(database: Database, name: str, where: str = "true") -> list[int]:
    """Server process ids of Rowvault's sessions, by the end of their names (LIKE)."""
    rows = await database.fetch(
        "SELECT pid FROM pg_stat_activity a WHERE datname = current_database()"
        f" AND application_name LIKE 'rowvault: ' || $1 AND {where}",
        name,
    )
    return [pid for (pid,) in rows]


async def waiting_for_a_lock(database: Database, name: str = "%") -> None:
    """Wait until one of Rowvault's sessions waits for a lock."""
    waits = "EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND NOT l.granted)"
    await until(lambda: sessions(database, name, waits))


async def locked(database: Database, table: str) -> None:
    """Wait until one of Rowvault's sessions has locked a table."""
    has = f"EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted AND l.relation = '{table}'::regclass)"
    await until(lambda: sessions(database, "%", has))


async def end_session(database: Database, name: str) -> None:
    """Wait until there is such a session of Rowvault's, and have the server end it."""
    await until(lambda: sessions(database, name))
    for pid in await sessions(database, name):
        await database.value("SELECT pg_terminate_backend($1, 5000)", pid)
