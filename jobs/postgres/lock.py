"""The job lock: an advisory lock of the source database, so that no two jobs run at once, whatever the replica.

Drills have a lock of their own: they touch nothing that other jobs touch, and backups go on meanwhile.
"""

import asyncio
from typing import Literal, NoReturn

from jobs.postgres.connection import Connection, Source
from jobs.postgres.errors import SESSION_FAULTS, ConnectionLost, Held, translated
from jobs.postgres.pooling import connect_unpooled

Among = Literal["jobs", "drills"]

# Advisory locks are per database, so a pair of numbers for each serves: "rowv" and "job1" or "dril" in ASCII.
_KEYS: dict[Among, tuple[int, int]] = {"jobs": (0x726F7776, 0x6A6F6231), "drills": (0x726F7776, 0x6472696C)}
_PING_SECONDS = 5.0

_HOLDER = """
    SELECT a.application_name, a.client_addr::text AS address, a.pid,
           pg_catalog.date_trunc('second', a.backend_start)::text AS since
      FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
     WHERE l.locktype = 'advisory' AND l.granted AND l.classid = $1 AND l.objid = $2
       AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""


class JobLock:
    """Held from `take` until `release`; the session that holds it does nothing else."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    async def take(cls, source: Source, purpose: str, among: Among = "jobs") -> "JobLock":
        """Take the lock that these have, or raise `Held`, naming who has it.

        Raises `TransactionPooling` where a pooler would give our session, and the lock with it, to somebody else.
        """
        connection = await connect_unpooled(source, f"{purpose} lock")
        try:
            with translated("taking the job lock"):
                async with asyncio.timeout(source.connect_timeout):
                    await _try_lock(connection, _KEYS[among])
        except BaseException:
            connection.terminate()
            raise
        return cls(connection)

    async def watch(self) -> NoReturn:
        """Ask the session every few seconds whether it lives; raises `ConnectionLost` once it does not."""
        while True:
            await asyncio.sleep(_PING_SECONDS)
            try:
                await self._connection.fetchval("SELECT 1", timeout=30)
            except SESSION_FAULTS as error:
                raise ConnectionLost(
                    f"the session that holds the job lock was lost: {str(error) or 'no answer'}",
                    "the job was given up, since another could start beside it; run it again",
                ) from error

    async def release(self) -> None:
        """Give the lock up by ending its session."""
        try:
            await self._connection.close(timeout=5)
        except SESSION_FAULTS:
            self._connection.terminate()


async def _try_lock(connection: Connection, key: tuple[int, int]) -> None:
    if not await connection.fetchval("SELECT pg_catalog.pg_try_advisory_lock($1, $2)", *key):
        raise Held(
            f"another job is running: {await _holder(connection, key)}",
            "wait until it has ended; two jobs never run at once",
        )


async def _holder(connection: Connection, key: tuple[int, int]) -> str:
    row = await connection.fetchrow(_HOLDER, *key)
    if row is None:
        return "it ended just now"
    where = row["address"] or "a local socket"
    holder = row["application_name"].removeprefix("rowvault: ").removesuffix(" lock")
    return f"{holder} (server pid {row['pid']}, from {where}, since {row['since']})"
