"""PgBouncer: session mode works, transaction mode is refused with the way out."""

from dataclasses import replace

import pytest

from jobs.postgres.connection import Source, ping
from jobs.postgres.errors import TransactionPooling, Unreachable
from jobs.postgres.lock import JobLock
from jobs.postgres.pooling import refuse_transaction_pooling
from tests.compare import differences
from tests.conftest import CreateDatabase, Pooled
from tests.proxy import FaultProxy
from tests.round_trip import back_up, bring_back, memory, nothing_committed
from tests.servers import Database

TABLES = """
    CREATE TABLE t (id serial PRIMARY KEY, v float8, at timestamptz);
    INSERT INTO t (v, at) SELECT n / 3.0, '2026-01-01Z'::timestamptz + n * interval '1h' FROM generate_series(1, 999) n;
"""


async def test_a_direct_connection_is_none(database: Database) -> None:
    await refuse_transaction_pooling(Source(database.dsn))


async def test_a_backup_through_session_mode_is_whole(create_database: CreateDatabase, pooled: Pooled) -> None:
    source, target = await create_database(key="pooling", build=TABLES), await create_database()
    await bring_back(await back_up(await pooled(source, "session"), []), target)
    assert await differences(source, target, ignore_schemas=["rowvault"]) == []


async def test_settings_of_ours_do_not_stay_with_the_pool(create_database: CreateDatabase, pooled: Pooled) -> None:
    source = await create_database(key="pooling", build=TABLES)
    dsn = await pooled(source, "session")
    await back_up(dsn, [])
    pool = replace(source, dsn=dsn)
    assert await pool.value("SHOW search_path") == '"$user", public'


async def test_transaction_mode_is_refused_before_anything_is_done(
    create_database: CreateDatabase, pooled: Pooled
) -> None:
    source, place = await create_database(key="pooling", build=TABLES), memory()
    with pytest.raises(TransactionPooling, match="pooler in transaction mode") as caught:
        await back_up(await pooled(source, "transaction"), [], repository=place)
    assert "session mode" in caught.value.hint
    assert await nothing_committed(place)
    assert await source.value("SELECT to_regnamespace('rowvault')") is None


async def test_in_transaction_mode_the_applications_sessions_stay_as_they_were(
    create_database: CreateDatabase, pooled: Pooled
) -> None:
    """What we set would stay with a server session that the application gets next."""
    source = await create_database(key="pooling", build=TABLES)
    pool = replace(source, dsn=await pooled(source, "transaction"))
    await ping(Source(pool.dsn))
    with pytest.raises(TransactionPooling):
        await JobLock.take(Source(pool.dsn), "job")
    with pytest.raises(TransactionPooling):
        await back_up(pool, [])
    async with (
        pool.connect(statement_cache_size=0) as one,
        pool.connect(statement_cache_size=0) as other,
        one.transaction(),
        other.transaction(),
    ):
        for connection in (one, other):
            assert await connection.fetchval("SHOW search_path") == '"$user", public'
            assert await connection.fetchval("SHOW row_security") == "on"


async def test_transaction_mode_is_refused_as_a_target(create_database: CreateDatabase, pooled: Pooled) -> None:
    source, target = await create_database(key="pooling", build=TABLES), await create_database()
    taken = await back_up(source, [])
    pool = replace(target, dsn=await pooled(target, "transaction"))
    with pytest.raises(TransactionPooling):
        await bring_back(taken, pool)
    assert await target.fetch("SELECT FROM pg_tables WHERE schemaname IN ('public', 'rowvault')") == []


async def test_an_address_that_answers_and_then_falls_silent_is_unreachable(database: Database) -> None:
    async with FaultProxy("127.0.0.1", database.server.port) as proxy:
        proxy.stall()
        dsn = database.dsn.replace(f":{database.server.port}/", f":{proxy.port}/")
        with pytest.raises(Unreachable, match="did not answer in time"):
            await refuse_transaction_pooling(Source(dsn, connect_timeout=0.5))
