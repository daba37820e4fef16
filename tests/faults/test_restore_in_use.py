"""Restoring into a database in use fails in the middle: the database is as it was, and nobody is left waiting."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.errors import UnsafeTarget
from jobs.postgres.connection import Source
from jobs.postgres.errors import ConnectionLost, PostgresError
from jobs.progress import OnProgress, Progress, no_progress
from jobs.restore import RestoreOptions, plan_restore, restore
from jobs.scope import Scope
from tests.compare import differences
from tests.conftest import CreateDatabase
from tests.faults.commands import settings_of, succeed
from tests.programs import running_rowvault
from tests.proxy import FaultProxy
from tests.round_trip import Taken, back_up
from tests.servers import DEFAULT_MAJOR, Database, own_server
from tests.sessions import holding, sessions, until

# `nap` stops a restore in the middle of loading, if the database says so.
SHOP = """
    CREATE FUNCTION nap(n int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        IF n = 900 AND current_setting('application_name') = 'rowvault: restore'
           AND obj_description('public'::regnamespace) = 'slow' THEN PERFORM pg_sleep(100); END IF;
        RETURN true;
    END $$;
    CREATE FUNCTION whole(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
        IF obj_description('public'::regnamespace) = 'broken' THEN RAISE EXCEPTION 'broken'; END IF;
        RETURN n;
    END $$;
    CREATE TABLE customers (id int PRIMARY KEY, name text);
    CREATE TABLE orders (
        id serial PRIMARY KEY, customer int NOT NULL REFERENCES customers DEFERRABLE INITIALLY DEFERRED,
        code text NOT NULL, CHECK (nap(id))
    );
    CREATE TABLE items (orders int REFERENCES orders, what text);
    CREATE INDEX by_whole ON orders (whole(id));
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired'; END $$;
    INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 100) n;
    INSERT INTO orders (customer, code) SELECT 1 + n % 100, 'code ' || n FROM generate_series(1, 2000) n;
    INSERT INTO items SELECT n, 'item' FROM generate_series(1, 500) n;
    CREATE TRIGGER refuse BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION refuse();
    SET CONSTRAINTS ALL IMMEDIATE;
    ALTER TABLE orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE MATERIALIZED VIEW filled AS SELECT count(*) FROM items;
"""
DAMAGE = "DELETE FROM items WHERE orders > 50; DELETE FROM orders WHERE id > 1500; INSERT INTO items VALUES (7, 'new');"
EVERYTHING = Scope(("customers", "orders", "items"))


@pytest.fixture
async def taken(create_database: CreateDatabase) -> Taken:
    return await back_up(await create_database(key="in_use", build=SHOP))


@pytest.fixture
async def target(create_database: CreateDatabase) -> Database:
    return await create_database(key="in_use_damaged", build=SHOP + DAMAGE)


@pytest.fixture
async def before(create_database: CreateDatabase) -> Database:
    """The damaged database, left alone, to compare with."""
    return await create_database(key="in_use_damaged", build=SHOP + DAMAGE)


async def bring_back(
    taken: Taken, target: Database | str, scope: Scope = EVERYTHING, on_progress: OnProgress = no_progress
) -> None:
    options = RestoreOptions(lock_timeout=0.5)
    into = Source(target if isinstance(target, str) else target.dsn)
    plan = await plan_restore([taken.repository], taken.manifest, into, scope, options)
    await restore(plan, [taken.repository], options, on_progress)


async def is_as_before(before: Database, target: Database) -> None:
    """Nothing was changed, no session of ours is left, and nobody but whoever asks holds a lock."""

    async def nobody_left() -> bool:
        return not await sessions(target, "%")

    await until(nobody_left)
    assert await differences(before, target, ignore_schemas=["rowvault"]) == []


async def test_killed_while_loading(before: Database, target: Database, tmp_path: Path) -> None:
    settings = settings_of(target, tmp_path / "backups")
    await succeed("backup", settings=settings)
    for database in (before, target):
        await database.execute("COMMENT ON SCHEMA public IS 'slow'")
    arguments = ("restore", "--yes", "--to", target.dsn, "--table", "orders", "--table", "items")
    async with running_rowvault(*arguments, env=settings) as process:
        await until(lambda: sessions(target, "restore", "wait_event = 'PgSleep'"))
        process.kill()
        await process.wait()
        await is_as_before(before, target)


async def test_cancelled_while_loading(taken: Taken, before: Database, target: Database) -> None:
    for database in (before, target):
        await database.execute("COMMENT ON SCHEMA public IS 'slow'")
    work = asyncio.create_task(bring_back(taken, target))
    await until(lambda: sessions(target, "restore", "wait_event = 'PgSleep'"))
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await is_as_before(before, target)


@pytest.mark.parametrize("phase", ["restoring", "building indexes and constraints", "comparing with the backup"])
async def test_connection_cut(taken: Taken, before: Database, target: Database, phase: str) -> None:
    async with FaultProxy("127.0.0.1", target.server.port) as proxy:
        loop = asyncio.get_running_loop()

        def cut(now: Progress) -> None:
            if now.phase == phase:
                loop.call_soon_threadsafe(proxy.reset)

        dsn = target.dsn.replace(f":{target.server.port}/", f":{proxy.port}/")
        with pytest.raises(ConnectionLost):
            await bring_back(taken, dsn, on_progress=cut)
    await is_as_before(before, target)


async def test_a_parent_outside_that_is_gone(taken: Taken, before: Database, target: Database) -> None:
    for database in (before, target):
        await database.execute(
            "DELETE FROM items; DELETE FROM orders WHERE customer = 3; DELETE FROM customers WHERE id = 3"
        )
    with pytest.raises(UnsafeTarget, match='foreign key constraint "orders_customer_fkey"') as refused:
        await bring_back(taken, target, Scope(("orders", "items")))
    assert refused.value.hint == "restore public.customers along with it (--table)"
    await is_as_before(before, target)


async def test_a_constraint_that_rows_of_the_backup_violate(taken: Taken, before: Database, target: Database) -> None:
    for database in (before, target):
        await database.execute(
            "UPDATE customers SET name = id; ALTER TABLE customers ADD CONSTRAINT short CHECK (length(name) < 5)"
        )
    with pytest.raises(UnsafeTarget, match='check constraint "short"'):
        await bring_back(taken, target)
    await is_as_before(before, target)


async def test_an_index_that_cannot_be_built(taken: Taken, before: Database, target: Database) -> None:
    for database in (before, target):
        await database.execute("DROP TABLE orders CASCADE; COMMENT ON SCHEMA public IS 'broken'")
    with pytest.raises(PostgresError, match="broken"):
        await bring_back(taken, target)
    await is_as_before(before, target)


async def test_whoever_holds_a_lock_is_named_and_nobody_waits_long(
    taken: Taken, before: Database, target: Database
) -> None:
    async with holding(target, "SELECT count(*) FROM orders") as application:
        pid = application.get_server_pid()
        with pytest.raises(UnsafeTarget, match=rf"lock timeout; pid {pid} .*has public\.orders.*nothing was changed"):
            await bring_back(taken, target)
        assert await target.value("SELECT count(*) FROM orders") == 1500
    await is_as_before(before, target)


@contextmanager
def small_disk(folder: Path, owner: int) -> Iterator[None]:
    """A file system of 12 MB for a server's user."""
    folder.mkdir()
    options = f"size=12M,mode=0700,uid={owner}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a file system")
async def test_the_target_s_disk_is_full() -> None:
    async with own_server(DEFAULT_MAJOR) as server:
        disk = server.embedded.folder / "disk"
        with small_disk(disk, server.embedded.folder.stat().st_uid):
            await server.maintenance.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
            target = await server.create()
            await target.execute(f"{SHOP} ALTER TABLE customers SET TABLESPACE small")
            await target.execute(
                "INSERT INTO customers SELECT n, repeat(md5(n::text), 8) FROM generate_series(101, 15000) n"
            )
            taken = await back_up(target)
            await target.execute("DELETE FROM customers WHERE id > 100")
            before = await server.create(template=target.name)
            (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - (1 << 20)))
            with pytest.raises(PostgresError, match="No space left on device"):
                await bring_back(taken, target)
            await is_as_before(before, target)
