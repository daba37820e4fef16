"""The tests' own servers: what the fixtures promise."""

import asyncpg
import pytest

from tests.conftest import Bucket, CreateDatabase, Pooled, StartPrometheus
from tests.programs import rowvault
from tests.servers import Database, Server


async def test_each_version_is_the_one_it_says(any_server: Server) -> None:
    version = await any_server.maintenance.value("SELECT current_setting('server_version_num')::int / 10000")
    assert version == any_server.major


async def test_a_clone_does_not_touch_what_it_was_cloned_from(create_database: CreateDatabase) -> None:
    build = "CREATE TABLE t AS SELECT 1 AS n"
    first = await create_database(key="one_row", build=build)
    await first.execute("DELETE FROM t")
    second = await create_database(key="one_row", build=build)
    assert await second.fetch("SELECT n FROM t") == [(1,)]


async def test_a_pool_in_transaction_mode_answers(database: Database, pooled: Pooled) -> None:
    connection = await asyncpg.connect(await pooled(database, "transaction"), statement_cache_size=0)
    try:
        assert await connection.execute("SELECT 1") == "SELECT 1"
    finally:
        await connection.close()


async def test_a_pool_in_session_mode_keeps_settings(database: Database, pooled: Pooled) -> None:
    connection = await asyncpg.connect(await pooled(database, "session"))
    try:
        await connection.execute("SET application_name = 'kept'")
        assert await connection.fetchval("SHOW application_name") == "kept"
    finally:
        await connection.close()


async def test_prometheus_becomes_ready(start_prometheus: StartPrometheus) -> None:
    assert (await start_prometheus("scrape_configs: []")).startswith("http://127.0.0.1:")


@pytest.mark.parametrize("turn", [1, 2])
async def test_every_bucket_is_a_new_one(bucket: Bucket, turn: int) -> None:
    assert bucket.name.startswith("bucket-")


async def test_the_command_line_runs_apart_from_this_process() -> None:
    answer = await rowvault("no-such-command")
    assert answer.returncode != 0
