"""The job `hourly-incremental`, what looks after slot and publication between its runs, and `rowvault teardown`."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobs.incrementals.capture_watch import watch_capture
from jobs.postgres.connection import Source
from tests.conftest import CreateDatabase
from tests.daemons import environment, running_daemon, settings_for, until
from tests.following import following
from tests.programs import rowvault
from tests.servers import Database, own_server

NEVER = "0 0 29 2 *"
SCHEMA = """
    CREATE TABLE orders (id int PRIMARY KEY, state text);
    INSERT INTO orders SELECT i, 'new' FROM generate_series(1, 100) i;
"""


@pytest.fixture
async def shop(create_database: CreateDatabase) -> AsyncIterator[Database]:
    """A database of one table; a slot that is still there is dropped before it is."""
    database = await create_database(key="hourly", build=SCHEMA)
    yield database
    await database.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
    )


def settings(database: Database, folder: Path, **more: str) -> dict[str, str]:
    return {**settings_for(database, folder), "SCHEDULE__DRILL": "off", "SCHEDULE__INCREMENTAL": NEVER, **more}


async def slots(database: Database) -> int:
    found: int = await database.value(
        "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND slot_name ~ '^rowvault_'"
    )
    return found


async def test_the_first_full_begins_a_chain_that_the_job_continues(shop: Database, tmp_path: Path) -> None:
    async with running_daemon(settings(shop, tmp_path)) as daemon:
        begun: list[str] = []

        async def both_kinds() -> bool:
            begun[:] = [line["backup"] for line in daemon.all_logged("backup committed")]
            return len(begun) == 2

        async def lag_is_shown() -> bool:
            return "rowvault_replication_slot_lag_bytes" in await daemon.exposition()

        await until(both_kinds)
        await until(lag_is_shown)
    assert [backup.split("-")[1] for backup in begun] == ["full", "incremental"]
    assert await slots(shop) == 1


async def test_where_changes_cannot_be_captured_it_says_so_once_and_is_no_longer_scheduled(tmp_path: Path) -> None:
    async with own_server(wal_level="replica") as server:
        database = await server.create()
        await database.execute(SCHEMA)
        async with running_daemon(settings(database, tmp_path, INCREMENTAL__METHOD="wal")) as daemon:
            line = await daemon.logged("incremental backups are off until the next start")
            assert "wal_level is replica" in str(line)

            async def a_full() -> bool:
                return bool(daemon.all_logged("backup committed"))

            await until(a_full)
            _, health = await daemon.get("/healthz")
        assert sorted(health["jobs"]) == ["daily-full"]


async def test_where_changes_cannot_be_captured_tables_are_compared(tmp_path: Path) -> None:
    async with own_server(wal_level="replica") as server:
        database = await server.create()
        await database.execute(SCHEMA)
        async with running_daemon(settings(database, tmp_path)) as daemon:
            line = await daemon.logged("incremental backups will find what changes by comparing")
            assert line["reason"] == "wal_level is replica"

            async def both_kinds() -> bool:
                return len(daemon.all_logged("backup committed")) == 2

            await until(both_kinds)
            kinds = [line["backup"].split("-")[1] for line in daemon.all_logged("backup committed")]
            assert kinds == ["full", "incremental"]
            _, health = await daemon.get("/healthz")
        assert {"daily-full", "hourly-incremental"} <= set(health["jobs"])


async def test_a_slot_past_its_limit_is_dropped_aloud(shop: Database, tmp_path: Path) -> None:
    limited = settings(shop, tmp_path, SCHEDULE__FULL="off", INCREMENTAL__SLOT_LAG_LIMIT="1MB")
    async with running_daemon(limited) as daemon:
        await daemon.logged("backup committed")
        await shop.execute("CREATE TABLE other AS SELECT repeat('x', 1000) FROM generate_series(1, 3000)")
        line = await daemon.logged("changes are captured no longer; the next backup begins a new chain")
        assert "1000000 is the limit" in line["reason"]
        assert await slots(shop) == 0


async def test_a_backup_is_taken_at_once_when_the_slot_has_used_half_of_the_wal_it_may_keep(tmp_path: Path) -> None:
    async with own_server(max_slot_wal_keep_size="64MB") as server:
        database = await server.create()
        await database.execute(SCHEMA)
        async with running_daemon(settings(database, tmp_path, SCHEDULE__FULL="off")) as daemon:
            await daemon.logged("backup committed")
            await database.execute(
                "SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000)) FROM generate_series(1, 48)"
            )

            async def another() -> bool:
                return len(daemon.all_logged("backup committed")) == 2

            await until(another)
            kinds = [line["backup"].split("-")[1] for line in daemon.all_logged("backup committed")]
            assert kinds == ["full", "incremental"]


async def test_a_table_that_lost_its_key_is_taken_out_at_once(shop: Database, tmp_path: Path) -> None:
    async with running_daemon(settings(shop, tmp_path, SCHEDULE__FULL="off")) as daemon:
        await daemon.logged("backup committed")
        await shop.execute("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
        line = await daemon.logged("a table was taken out of the publication")
        assert line["table"] == "public.orders: it has no primary key"
        await shop.execute("UPDATE orders SET state = 'paid'; DELETE FROM orders WHERE id = 1")


async def test_a_publication_whose_slot_somebody_dropped_breaks_no_update_either(shop: Database) -> None:
    await following(shop).begin()
    await shop.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
    )
    await shop.execute("ALTER PUBLICATION rowvault SET (publish = 'insert, update')")
    await shop.execute("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    seen = await watch_capture(Source(shop.dsn), 10**9)
    assert (seen.lag_bytes, seen.withdrawn) == (None, ("public.orders: it has no primary key",))
    await shop.execute("UPDATE orders SET state = 'paid'")


async def test_teardown_shows_what_is_there_and_leaves_nothing(shop: Database, tmp_path: Path) -> None:
    env = environment(settings(shop, tmp_path))
    assert (await rowvault("backup", "incremental", env=env)).returncode == 0
    shown = json.loads((await rowvault("teardown", "--dry-run", "--json", env=env)).stdout)
    assert {"publication rowvault", "schema rowvault", "table rowvault.capture"} <= set(shown["there"])
    assert (await rowvault("teardown", env=env)).returncode == 5
    assert await slots(shop) == 1
    done = await rowvault("teardown", "--yes", "--json", env=env)
    assert (done.returncode, json.loads(done.stdout)["removed"]) == (0, shown["there"])
    assert await slots(shop) == 0
    assert await shop.value("SELECT count(*) FROM pg_publication") == 0
    assert await shop.value("SELECT to_regnamespace('rowvault') IS NULL")
    again = await rowvault("backup", "incremental", "--json", env=env)
    assert json.loads(again.stdout)["kind"] == "full"


async def test_list_shows_how_far_each_chain_reaches(shop: Database, tmp_path: Path) -> None:
    env = environment(settings(shop, tmp_path))
    for _ in range(2):
        assert (await rowvault("backup", "incremental", env=env)).returncode == 0
    newest, full = json.loads((await rowvault("list", "--json", env=env)).stdout)
    assert (newest["kind"], full["kind"]) == ("incremental", "full")
    assert full["created_at"] < full["recoverable_to"] == newest["recoverable_to"] == newest["created_at"]
    of_newest, of_full = (await rowvault("list", env=env)).stdout.splitlines()[-2:]
    moment = newest["created_at"][:19].replace("T", " ")
    assert (moment in of_full, moment in of_newest) == (True, False)
