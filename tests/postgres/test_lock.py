"""The job lock: one job at a time in a database, and no job goes on without it."""

import asyncio

import pytest

from jobs.concurrency import alongside
from jobs.postgres.connection import Source
from jobs.postgres.errors import ConnectionLost, Held, TransactionPooling
from jobs.postgres.lock import JobLock
from tests.conftest import CreateDatabase, Pooled
from tests.servers import Database
from tests.sessions import end_session, sessions


async def test_a_second_job_is_refused_and_told_who_has_the_lock(database: Database) -> None:
    lock = await JobLock.take(Source(database.dsn), "daily-full")
    [pid] = await sessions(database, "daily-full lock")
    with pytest.raises(Held, match=rf"daily-full \(server pid {pid}, from 127\.0\.0\.1.*, since 20"):
        await JobLock.take(Source(database.dsn), "other")
    await lock.release()


async def test_who_was_refused_leaves_no_session_behind(database: Database) -> None:
    lock = await JobLock.take(Source(database.dsn), "first")
    with pytest.raises(Held):
        await JobLock.take(Source(database.dsn), "second")
    assert await sessions(database, "second lock") == []
    await lock.release()


async def test_a_released_lock_can_be_taken_at_once(database: Database) -> None:
    for _ in range(3):
        lock = await JobLock.take(Source(database.dsn), "job")
        await lock.release()


async def test_other_databases_have_locks_of_their_own(database: Database, create_database: CreateDatabase) -> None:
    other = await create_database()
    first = await JobLock.take(Source(database.dsn), "job")
    second = await JobLock.take(Source(other.dsn), "job")
    await first.release()
    await second.release()


async def test_losing_its_session_cancels_the_job(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.postgres.lock._PING_SECONDS", 0.2)
    lock = await JobLock.take(Source(database.dsn), "job")
    cancelled = asyncio.Event()

    async def job() -> None:
        async with alongside(lock.watch()):
            try:
                await end_session(database, "job lock")
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    async with asyncio.timeout(10):
        with pytest.raises(ConnectionLost, match="session that holds the job lock was lost"):
            await job()
    assert cancelled.is_set()
    await lock.release()  # does no harm


async def test_the_lock_of_a_lost_session_is_free(database: Database) -> None:
    lost = await JobLock.take(Source(database.dsn), "job")
    await end_session(database, "job lock")
    lock = await JobLock.take(Source(database.dsn), "next")
    await lock.release()
    await lost.release()


async def test_through_a_pool_in_session_mode_it_holds(database: Database, pooled: Pooled) -> None:
    dsn = await pooled(database, "session")
    lock = await JobLock.take(Source(dsn), "job")
    with pytest.raises(Held):
        await JobLock.take(Source(dsn), "other")
    await lock.release()
    await (await JobLock.take(Source(dsn), "again")).release()


async def test_through_a_pool_in_transaction_mode_it_is_refused(database: Database, pooled: Pooled) -> None:
    """There it would stay with a server session that goes to somebody else, and be held for ever."""
    with pytest.raises(TransactionPooling):
        await JobLock.take(Source(await pooled(database, "transaction")), "job")
    await (await JobLock.take(Source(database.dsn), "direct")).release()
