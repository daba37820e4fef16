"""Restoring into an empty database: what is refused, what comes back, and what a failure leaves behind."""

import asyncio
import re
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from jobs.errors import Difference, UnsafeTarget
from jobs.postgres.connection import Source
from jobs.postgres.errors import ConnectionLost, Held, PostgresError
from jobs.postgres.lock import JobLock
from jobs.progress import Progress, no_progress
from jobs.restore import RestoreOptions, restore
from jobs.restoring.choose_place import choose_whole
from jobs.restoring.empty import FillPlan, fill
from jobs.scope import Scope
from storage.errors import Corrupt, NotFound
from tests import hostile
from tests.compare import differences
from tests.conftest import CreateDatabase
from tests.proxy import FaultProxy
from tests.round_trip import Taken, back_up, bring_back, plan_to_bring_back
from tests.servers import DEFAULT_MAJOR, Database, Servers
from tests.sessions import end_session, sessions, until

SHOP = """
    CREATE SCHEMA shop; CREATE EXTENSION vector;
    CREATE TYPE shop.state AS ENUM ('new', 'paid');
    CREATE TABLE shop.customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL);
    CREATE TABLE shop.orders (
        id serial PRIMARY KEY, customer int REFERENCES shop.customers, state shop.state,
        net int, gross int GENERATED ALWAYS AS (net * 2) STORED
    );
    CREATE TABLE computed (one int GENERATED ALWAYS AS (1) STORED);
    CREATE TABLE nothing ();
    INSERT INTO shop.customers (name) SELECT 'customer ' || n FROM generate_series(1, 500) n;
    INSERT INTO shop.orders (customer, state, net) SELECT 1 + n % 500, 'new', n FROM generate_series(1, 5000) n;
    INSERT INTO computed DEFAULT VALUES; INSERT INTO computed DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
    CREATE INDEX ON shop.orders (state);
    COMMENT ON SCHEMA public IS 'ours'; GRANT CREATE ON SCHEMA public TO PUBLIC;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC;
    ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO PUBLIC;
    SELECT nextval('shop.orders_id_seq');
"""
# Fails anywhere but in the database it was made in.
ONLY_AT_HOME = """
    CREATE FUNCTION at_home(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
        BEGIN
            IF pg_catalog.current_database() <> '{name}' THEN RAISE EXCEPTION 'not at home'; END IF;
            RETURN n;
        END
    $$;
    {trap};
"""
STUCK_ELSEWHERE = ONLY_AT_HOME.replace("RAISE EXCEPTION 'not at home'", "PERFORM pg_catalog.pg_sleep(100)")
TRAPS = {
    "while loading rows": "ALTER TABLE shop.orders ADD CHECK (at_home(net) = net)",
    "while building indexes": "CREATE INDEX ON shop.orders (at_home(net))",
}


@pytest.fixture
async def shop(create_database: CreateDatabase) -> Database:
    return await create_database(key="shop", build=SHOP)


@pytest.fixture(scope="module")
async def whole_shop(servers: Servers) -> Taken:
    """A backup of the shop as it is built, for tests that change neither."""
    server = await servers.get(DEFAULT_MAJOR)
    source = await server.clone("shop", SHOP)
    taken = await back_up(source)
    await server.drop(source)
    return taken


@pytest.fixture
async def target(create_database: CreateDatabase) -> Database:
    return await create_database()


async def is_empty_again(target: Database, create_database: CreateDatabase) -> None:
    assert await differences(await create_database(target.server), target) == []


async def test_rows_definitions_sequences_and_rights_come_back(
    shop: Database, whole_shop: Taken, target: Database
) -> None:
    result = await bring_back(whole_shop, target)
    assert await differences(shop, target, ignore_schemas=["rowvault"]) == []
    assert {(table.schema, table.name): table.rows for table in result.tables} == {
        ("public", "computed"): 2,
        ("public", "nothing"): 1,
        ("shop", "customers"): 500,
        ("shop", "orders"): 5000,
    }


async def test_a_restored_database_can_be_backed_up_and_restored_again(
    shop: Database, whole_shop: Taken, target: Database, create_database: CreateDatabase
) -> None:
    again = await create_database()
    await bring_back(whole_shop, target)
    await bring_back(await back_up(target), again)
    assert await differences(shop, again, ignore_schemas=["rowvault"]) == []


async def test_an_older_server_restores_into_itself_by_newer_programs(
    servers: Servers, create_database: CreateDatabase
) -> None:
    oldest = await servers.get(15)
    source, target = await create_database(oldest), await create_database(oldest)
    await source.execute(SHOP.replace("CREATE EXTENSION vector;", 'CREATE EXTENSION "uuid-ossp" SCHEMA shop;'))
    taken = await back_up(source)
    assert int(taken.manifest.dump.tool.split()[1].split(".")[0]) > 15
    await bring_back(taken, target)
    assert await differences(source, target, ignore_schemas=["rowvault"]) == []


async def test_a_newer_server_takes_an_older_ones_backup(servers: Servers, create_database: CreateDatabase) -> None:
    old, new = await servers.get(16), await servers.get(18)
    source = await create_database(old, key="hostile", build=hostile.hard_schema(16))
    target = await create_database(new)
    await new.maintenance.execute(ROLES)
    await bring_back(await back_up(source), target)
    rows = [entry for entry in await differences(source, target, ignore_schemas=["rowvault"]) if "rows of" in entry]
    views = ("filled", "on filled")
    assert [entry for entry in rows if not any(view in entry for view in views)] == []


ROLES = """
    DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'Hostile Reader') THEN
            CREATE ROLE "Hostile Reader"; CREATE ROLE "hostile ""owner"".1";
        END IF;
    END $$;
"""


async def test_an_older_server_is_refused(servers: Servers, create_database: CreateDatabase) -> None:
    target = await create_database(await servers.get(16))
    source = await create_database(await servers.get(18), key="shop", build=SHOP)
    with pytest.raises(UnsafeTarget, match="is PostgreSQL 16, the backup comes from 18"):
        await bring_back(await back_up(source), target)
    await is_empty_again(target, create_database)


@pytest.mark.parametrize(
    "there",
    [
        "CREATE TABLE t ()",
        "CREATE TABLE t (n int) PARTITION BY LIST (n)",
        "CREATE VIEW v AS SELECT 1 AS one",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TYPE e AS ENUM ()",
        "CREATE SEQUENCE s",
        "CREATE SCHEMA shop; CREATE DOMAIN shop.d AS int",
    ],
)
async def test_what_a_target_holds_already_stays_there(
    shop: Database, whole_shop: Taken, target: Database, there: str
) -> None:
    await target.execute(there)
    await bring_back(whole_shop, target)
    await shop.execute(there.removeprefix("CREATE SCHEMA shop; "))
    found = await differences(shop, target, ignore_schemas=["rowvault"])
    # Rights on schemas that exist and on objects to come are the target's own; the rest is shown in another order.
    others = r"SCHEMA public|DEFAULT PRIV|ACL public\.TABLE [tv]:|\n\+\n"
    assert [one for one in found if not re.search(others, one)] == []


async def test_what_lies_in_other_schemas_and_members_of_extensions_are_not_in_the_way(
    shop: Database, whole_shop: Taken, target: Database
) -> None:
    await target.execute("CREATE EXTENSION vector; CREATE SCHEMA other; CREATE TABLE other.t (); CREATE SCHEMA shop")
    await bring_back(whole_shop, target)
    assert await differences(shop, target, ignore_schemas=["rowvault", "other"]) == []


async def test_an_extension_that_the_target_cannot_have_is_named(
    servers: Servers, create_database: CreateDatabase
) -> None:
    source = await create_database(await servers.get(15))
    await source.execute("CREATE EXTENSION citext; CREATE TABLE t (c citext)")
    target = await create_database(await servers.get(18))
    with pytest.raises(UnsafeTarget, match="cannot have extensions of the backup: citext"):
        await bring_back(await back_up(source), target)


async def test_foreign_keys_that_point_outside_are_left_out_with_a_warning(shop: Database, target: Database) -> None:
    result = await bring_back(await back_up(shop, ["shop.orders"]), target)
    assert any("foreign key orders_customer_fkey of shop.orders is left out" in one for one in result.warnings)
    assert any("shop.customers comes back without rows" in one for one in result.warnings)
    assert await target.fetch("SELECT conname FROM pg_constraint WHERE contype = 'f'") == []
    assert await target.value("SELECT count(*) FROM shop.orders") == 5000


async def test_keys_of_tables_without_rows_that_lead_out_of_the_dump_are_left_out_too(
    shop: Database, target: Database
) -> None:
    await shop.execute(
        """
        CREATE SCHEMA auth; CREATE TABLE auth.users (id int PRIMARY KEY);
        CREATE TABLE shop.carts (id int, owner int REFERENCES auth.users);
        """
    )
    result = await bring_back(await back_up(shop, ["shop.orders", "shop.customers"]), target)
    assert any("foreign key carts_owner_fkey of shop.carts is left out" in one for one in result.warnings)
    assert await target.value("SELECT count(*) FROM shop.carts") == 0


async def test_a_foreign_server_that_the_target_lacks_is_named(shop: Database, target: Database) -> None:
    wrapper = "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing"
    await shop.execute(f"{wrapper}; CREATE FOREIGN TABLE shop.far_away (n int) SERVER nowhere")
    taken = await back_up(shop)
    with pytest.raises(UnsafeTarget, match=r"lacks foreign servers .*: nowhere"):
        await bring_back(taken, target)
    await target.execute(wrapper)
    await bring_back(taken, target)
    assert await differences(shop, target, ignore_schemas=["rowvault"]) == []


async def test_default_privileges_of_the_target_widen_no_rights(
    shop: Database, target: Database, create_database: CreateDatabase
) -> None:
    """As in Supabase, where what is made anew would be open to roles that the source had refused."""
    everything = ("TABLES", "SEQUENCES", "TYPES", "SCHEMAS")
    given = [f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO pg_monitor" for kind in everything]
    given.append("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    await shop.execute(
        "CREATE FUNCTION shop.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW v AS SELECT 1 AS x"
    )
    await target.execute("CREATE EXTENSION vector; " + "; ".join(given))
    taken = await back_up(shop)
    await bring_back(taken, target)
    found = await differences(shop, target, ignore_schemas=["rowvault"])
    assert [one for one in found if not one.startswith("DEFAULT ACL ")] == []
    await target.execute("DROP TABLE shop.orders CASCADE")
    await bring_back(taken, target, Scope(("shop.orders",)))
    found = await differences(shop, target, ignore_schemas=["rowvault"])
    assert [one for one in found if not one.startswith("DEFAULT ACL ")] == []


async def test_materialized_views_come_back_filled(shop: Database, target: Database) -> None:
    await shop.execute("CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM shop.orders")
    await bring_back(await back_up(shop), target)
    assert await target.value("SELECT n FROM counted") == 5000


async def test_rows_of_a_hash_partition_by_enum_find_their_new_place(
    create_database: CreateDatabase, target: Database
) -> None:
    """An enum value hashes by its oid, which is another one in every database."""
    source = await create_database()
    await source.execute(
        """
        CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd', 'e', 'f');
        CREATE TABLE moods (m mood, n int) PARTITION BY HASH (m);
        CREATE TABLE moods_0 PARTITION OF moods FOR VALUES WITH (MODULUS 3, REMAINDER 0);
        CREATE TABLE moods_1 PARTITION OF moods FOR VALUES WITH (MODULUS 3, REMAINDER 1) PARTITION BY LIST (n);
        CREATE TABLE moods_1_rest PARTITION OF moods_1 DEFAULT;
        CREATE TABLE moods_2 PARTITION OF moods FOR VALUES WITH (MODULUS 3, REMAINDER 2);
        INSERT INTO moods SELECT m, n FROM unnest(enum_range(NULL::mood)) m, generate_series(1, 100) n;
        """
    )
    await bring_back(await back_up(source), target)
    content = "SELECT m::text, n FROM moods ORDER BY 1, 2"
    assert await target.fetch(content) == await source.fetch(content)


async def test_another_encoding_is_carried_over(create_database: CreateDatabase, target: Database) -> None:
    server = target.server
    await server.maintenance.execute("CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    source = replace(target, name="latin1", dsn=server.embedded.dsn("latin1").get_secret_value())
    try:
        await source.execute(
            """CREATE SCHEMA "é"; CREATE TABLE "é"."ü" ("ñ" text); INSERT INTO "é"."ü" VALUES ('Ä£ÿ')"""
        )
        await bring_back(await back_up(source), target)
        assert await target.fetch("""SELECT "ñ" FROM "é"."ü" """) == [("Ä£ÿ",)]
    finally:
        await server.drop(source)


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS.keys())
async def test_a_restore_that_fails_leaves_the_target_empty(
    shop: Database, target: Database, create_database: CreateDatabase, trap: str
) -> None:
    await shop.execute(ONLY_AT_HOME.format(name=shop.name, trap=trap))
    with pytest.raises(PostgresError, match="not at home"):
        await bring_back(await back_up(shop), target)
    await is_empty_again(target, create_database)


async def test_a_hostile_restore_that_fails_leaves_the_target_empty(
    servers: Servers, create_database: CreateDatabase
) -> None:
    server = await servers.get(18)
    source = await create_database(server, key="hostile", build=hostile.hard_schema(18))
    target = await create_database(server)
    await source.execute(
        ONLY_AT_HOME.format(name=source.name, trap="CREATE INDEX last ON public.tree (public.at_home(id))")
    )
    with pytest.raises(PostgresError, match="not at home"):
        await bring_back(await back_up(source), target)
    await is_empty_again(target, create_database)


async def test_what_the_target_had_before_survives_a_restore_that_fails(
    shop: Database, target: Database, create_database: CreateDatabase
) -> None:
    there = "CREATE EXTENSION vector; CREATE SCHEMA other; CREATE TABLE other.t AS SELECT 1 AS n; CREATE SCHEMA shop"
    before = await create_database()
    for database in (target, before):
        await database.execute(there)
    await shop.execute(ONLY_AT_HOME.format(name=shop.name, trap=TRAPS["while building indexes"]))
    with pytest.raises(PostgresError, match="not at home"):
        await bring_back(await back_up(shop), target)
    assert await differences(before, target) == []


def on_first(phase: str, act: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[Progress], None]:
    """Do something, once, beside the restore when it comes to a phase."""
    begun: list[asyncio.Task[None]] = []

    def hear(progress: Progress) -> None:
        if progress.phase.startswith(phase) and not begun:
            begun.append(asyncio.create_task(act()))

    return hear


@pytest.mark.parametrize(
    ("session", "trap", "busy"),
    [
        ("load _", "while loading rows", "query LIKE 'COPY %'"),
        ("restore lock", "while loading rows", "true"),
        ("schema", "while building indexes", "query LIKE 'CREATE INDEX %'"),
    ],
)
async def test_losing_a_session_of_the_target_leaves_it_empty(
    shop: Database,
    target: Database,
    create_database: CreateDatabase,
    monkeypatch: pytest.MonkeyPatch,
    session: str,
    trap: str,
    busy: str,
) -> None:
    monkeypatch.setattr("jobs.postgres.lock._PING_SECONDS", 0.2)
    await shop.execute(STUCK_ELSEWHERE.format(name=shop.name, trap=TRAPS[trap]))
    restoring = asyncio.create_task(bring_back(await back_up(shop), target))
    await until(lambda: sessions(target, session, busy))
    await end_session(target, session)
    async with asyncio.timeout(20):
        with pytest.raises(PostgresError):
            await restoring
    await is_empty_again(target, create_database)


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS.keys())
async def test_cancelling_leaves_the_target_empty(
    shop: Database, target: Database, create_database: CreateDatabase, trap: str
) -> None:
    await shop.execute(STUCK_ELSEWHERE.format(name=shop.name, trap=trap))
    restoring = asyncio.create_task(bring_back(await back_up(shop), target))
    await until(lambda: sessions(target, "%", "query LIKE 'COPY %' OR query LIKE 'CREATE INDEX %at_home%'"))
    restoring.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await restoring
    await is_empty_again(target, create_database)


async def test_a_target_that_cannot_be_emptied_stays_marked_and_is_refused_from_then_on(
    whole_shop: Taken, target: Database
) -> None:
    async with FaultProxy("127.0.0.1", target.server.port) as proxy:
        dsn = target.dsn.replace(f":{target.server.port}/", f":{proxy.port}/")
        plan = await plan_to_bring_back(whole_shop, Source(dsn, connect_timeout=1))
        with pytest.raises(UnsafeTarget, match="could not be emptied again"):
            await restore(plan, [whole_shop.repository], RestoreOptions(), on_first("loaded", proxy.refuse))
    with pytest.raises(UnsafeTarget, match=f"holds an unfinished restore of {whole_shop.result.id}"):
        await bring_back(whole_shop, target)


async def test_an_object_that_changes_after_it_was_verified_is_not_restored(
    shop: Database, target: Database, create_database: CreateDatabase
) -> None:
    taken = await back_up(shop)
    repository, manifest = taken.repository, taken.manifest
    plan = await plan_to_bring_back(taken, target)
    assert isinstance(plan, FillPlan)
    [orders] = [table for table in manifest.tables if table.name == "orders"]
    [customers] = [table for table in manifest.tables if table.name == "customers"]
    stored = [block async for block in repository.backend.read(customers.parts[0].objects[0].name)]
    upload = await repository.backend.begin(orders.parts[0].objects[0].name)
    await upload.append(b"".join(stored))
    await upload.commit()
    with pytest.raises((Corrupt, PostgresError)):
        await fill(plan, repository, 2, no_progress)
    await is_empty_again(target, create_database)


@pytest.mark.parametrize("damage", ["flipped", "missing"])
async def test_a_damaged_backup_is_refused_before_the_target_is_touched(
    shop: Database, target: Database, create_database: CreateDatabase, damage: str
) -> None:
    taken = await back_up(shop)
    backend, name = taken.repository.backend, taken.manifest.tables[0].parts[0].objects[0].name
    data = bytearray(b"".join([block async for block in backend.read(name)]))
    await backend.delete([name])
    if damage == "flipped":
        data[len(data) // 2] ^= 1
        await backend.create(name, bytes(data))
    with pytest.raises(Difference, match="not whole in any place"):
        await bring_back(taken, target)
    await is_empty_again(target, create_database)


async def test_a_backup_that_is_nowhere_is_not_found(whole_shop: Taken) -> None:
    with pytest.raises(NotFound):
        await choose_whole([whole_shop.repository], "20200101T000000.000Z-full-abcdef")


async def test_two_restores_into_one_database_never_run_at_once(whole_shop: Taken, target: Database) -> None:
    lock = await JobLock.take(Source(target.dsn), "somebody's job")
    try:
        with pytest.raises(Held, match="another job is running: somebody's job "):
            await bring_back(whole_shop, target)
    finally:
        await lock.release()
    await bring_back(whole_shop, target)


async def test_a_stalled_network_ends_a_restore(whole_shop: Taken, target: Database) -> None:
    async with FaultProxy("127.0.0.1", target.server.port) as proxy:

        async def stall() -> None:
            proxy.stall()

        dsn = target.dsn.replace(f":{target.server.port}/", f":{proxy.port}/")
        plan = await plan_to_bring_back(whole_shop, Source(dsn, connect_timeout=1))
        async with asyncio.timeout(60):
            with pytest.raises((ConnectionLost, UnsafeTarget)):
                await restore(plan, [whole_shop.repository], RestoreOptions(), on_first("creating", stall))
