"""Restoring tables and rows into a database in use: in one transaction, proven, everything else as before."""

import pytest

from jobs.errors import NotThere, UnsafeTarget
from jobs.postgres.identifiers import BadName
from jobs.restoring.plan import ChangePlan
from jobs.scope import Scope
from tests.compare import differences
from tests.conftest import CreateDatabase
from tests.round_trip import back_up, bring_back, plan_to_bring_back
from tests.servers import Database

SHOP = """
    CREATE SCHEMA shop; CREATE EXTENSION vector;
    CREATE TYPE shop.state AS ENUM ('new', 'paid');
    CREATE TABLE shop.customers (
        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, friend int REFERENCES shop.customers
    );
    CREATE TABLE shop.orders (
        id serial PRIMARY KEY, customer int NOT NULL REFERENCES shop.customers, state shop.state DEFAULT 'new',
        net int, gross int GENERATED ALWAYS AS (net * 2) STORED, updated_at timestamptz DEFAULT now()
    );
    CREATE TABLE shop.notes (body text);
    CREATE TABLE shop.pairs (a int, b text, v numeric(10, 2), PRIMARY KEY (a, b));
    CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.updated_at = '2000-01-01'; RETURN NEW; END $$;
    CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.touch();
    CREATE TRIGGER unused BEFORE UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.touch();
    ALTER TABLE shop.orders DISABLE TRIGGER unused;
    CREATE TRIGGER always AFTER UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.touch();
    ALTER TABLE shop.orders ENABLE ALWAYS TRIGGER always;
    INSERT INTO shop.customers (name) SELECT 'customer ' || n FROM generate_series(1, 100) n;
    UPDATE shop.customers SET friend = 101 - id;
    INSERT INTO shop.orders (customer, net) SELECT 1 + n % 100, n FROM generate_series(1, 2000) n;
    INSERT INTO shop.notes SELECT 'note ' || n FROM generate_series(1, 10) n;
    INSERT INTO shop.pairs SELECT n, E'tab\\there ' || n, n FROM generate_series(1, 50) n;
    CREATE INDEX by_state ON shop.orders (state) WHERE net > 5;
    CREATE VIEW shop.paid AS SELECT id FROM shop.orders WHERE state = 'paid';
    ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON shop.orders USING (customer > 0);
    COMMENT ON TABLE shop.orders IS 'what was sold'; COMMENT ON CONSTRAINT orders_customer_fkey ON shop.orders IS 'who';
    GRANT SELECT (id, net) ON shop.orders TO PUBLIC;
    ALTER TABLE shop.orders REPLICA IDENTITY FULL;
"""


@pytest.fixture
async def shop(create_database: CreateDatabase) -> Database:
    return await create_database(key="busy_shop", build=SHOP)


@pytest.fixture
async def before(shop: Database, create_database: CreateDatabase) -> Database:
    """The same database, left alone, to compare with."""
    return await create_database(key="busy_shop", build=SHOP)


async def is_as(before: Database, after: Database, *but: str) -> None:
    found = await differences(before, after, ignore_schemas=["rowvault"])
    assert [line for line in found if not any(word in line for word in but)] == []


DAMAGE = {
    "rows deleted": "DELETE FROM shop.orders WHERE id % 3 = 0",
    "rows changed": "UPDATE shop.orders SET net = 0 WHERE id < 50",
    "rows added": "INSERT INTO shop.orders (customer, net) SELECT 1, 1 FROM generate_series(1, 10)",
    "truncated": "TRUNCATE shop.orders",
    "dropped": "DROP TABLE shop.orders CASCADE",
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_table_comes_back_with_all_that_belongs_to_it(shop: Database, before: Database, damage: str) -> None:
    taken = await back_up(shop)
    await shop.execute(DAMAGE[damage])
    result = await bring_back(taken, shop, Scope(("shop.orders",)))
    await is_as(before, shop, "orders_id_seq")
    assert result.warnings == ()
    assert await shop.value("SELECT nextval('shop.orders_id_seq') > (SELECT max(id) FROM shop.orders)")


@pytest.mark.parametrize("damage", DAMAGE)
async def test_everything_comes_back_into_a_database_in_use(shop: Database, before: Database, damage: str) -> None:
    taken = await back_up(shop)
    await shop.execute(DAMAGE[damage])
    await shop.execute("DELETE FROM shop.pairs; DROP VIEW IF EXISTS shop.paid; UPDATE shop.customers SET name = -id")
    await bring_back(taken, shop)
    await is_as(before, shop, "orders_id_seq")


async def test_a_table_with_children_outside_is_changed_in_place(shop: Database, before: Database) -> None:
    taken = await back_up(shop)
    await shop.execute(
        """
        UPDATE shop.customers SET name = 'other' WHERE id = 5; UPDATE shop.customers SET friend = NULL WHERE id < 10;
        INSERT INTO shop.customers (name) VALUES ('new'), ('newer');
        """
    )
    result = await bring_back(taken, shop, Scope(("shop.customers",)))
    [customers] = result.touched
    assert (customers.how, customers.inserted, customers.updated, customers.deleted) == ("change", 0, 9, 2)
    await is_as(before, shop, "customers_id_seq")


async def test_a_child_that_would_lose_its_parent_refuses_the_restore(shop: Database, before: Database) -> None:
    taken = await back_up(shop)
    await shop.execute(
        """
        ALTER TABLE shop.orders DROP CONSTRAINT orders_customer_fkey,
            ADD FOREIGN KEY (customer) REFERENCES shop.customers ON DELETE CASCADE;
        INSERT INTO shop.customers (name) VALUES ('new'); INSERT INTO shop.orders (customer) VALUES (101);
        """
    )
    with pytest.raises(UnsafeTarget, match=r"1 rows of shop\.orders refer to rows of shop\.customers"):
        await bring_back(taken, shop, Scope(("shop.customers",)))
    assert await shop.value("SELECT count(*) FROM shop.customers") == 101
    assert await shop.value("SELECT count(*) FROM shop.orders") == 2001


async def test_a_child_outside_is_not_changed_along_with_its_parent(shop: Database) -> None:
    taken = await back_up(shop)
    await shop.execute(
        """
        CREATE TABLE shop.fans (of text REFERENCES shop.customers (name) ON UPDATE CASCADE);
        INSERT INTO shop.fans VALUES ('customer 5'); UPDATE shop.customers SET name = 'renamed' WHERE id = 5;
        """
    )
    for scope in (Scope(("shop.customers",)), Scope(("shop.customers",), mode="upsert")):
        with pytest.raises(UnsafeTarget, match=r"refer to rows of shop\.customers|would change what"):
            await bring_back(taken, shop, scope)
    assert await shop.fetch("SELECT * FROM shop.fans") == [("renamed",)]


async def test_rows_that_swapped_a_unique_value_say_the_way_out_and_it_works(shop: Database, before: Database) -> None:
    taken = await back_up(shop)
    await shop.execute(
        """
        UPDATE shop.customers SET name = 'free' WHERE id = 1;
        UPDATE shop.customers SET name = 'customer 1' WHERE id = 2;
        UPDATE shop.customers SET name = 'customer 2' WHERE id = 1;
        """
    )
    with pytest.raises(UnsafeTarget, match="customers_name_key") as refused:
        await bring_back(taken, shop, Scope(("shop.customers",)))
    assert refused.value.hint == "restore shop.orders along with it (--table): then it is emptied and filled"
    await bring_back(taken, shop, Scope(("shop.customers", "shop.orders")))
    await is_as(before, shop)


async def test_one_row_comes_back_and_no_other_changes(shop: Database, before: Database) -> None:
    taken = await back_up(shop)
    await shop.execute("UPDATE shop.orders SET net = 7 WHERE id IN (7, 8); DELETE FROM shop.orders WHERE id = 9")
    for number in ("7", "08", "9"):
        await bring_back(taken, shop, Scope(("shop.orders",), {"id": number}))
    await is_as(before, shop)


async def test_a_row_of_a_composite_key_with_odd_characters_is_found(shop: Database, before: Database) -> None:
    taken = await back_up(shop)
    await shop.execute("DELETE FROM shop.pairs")
    result = await bring_back(taken, shop, Scope(("shop.pairs",), {"a": "12", "b": "tab\there 12"}))
    assert result.touched[0].inserted == 1
    assert await shop.fetch("SELECT a, v::text FROM shop.pairs") == [(12, "12.00")]


@pytest.mark.parametrize(
    ("table", "key", "message"),
    [
        ("shop.pairs", {"a": "12"}, "lacks column b"),
        ("shop.pairs", {"a": "12", "b": "x", "v": "1"}, "v is not in the primary key"),
        ("shop.notes", {"body": "x"}, "shop.notes has no primary key"),
        ("shop.orders", {"id": "seven"}, "invalid input syntax"),
    ],
)
async def test_a_key_that_cannot_be_meant_is_refused(
    shop: Database, table: str, key: dict[str, str], message: str
) -> None:
    taken = await back_up(shop)
    with pytest.raises(BadName, match=message):
        await bring_back(taken, shop, Scope((table,), key))


async def test_a_row_that_the_backup_does_not_have_is_not_found(shop: Database, before: Database) -> None:
    taken = await back_up(shop)
    with pytest.raises(NotThere, match=r"no row of shop\.orders with that key"):
        await bring_back(taken, shop, Scope(("shop.orders",), {"id": "99999"}))
    await is_as(before, shop)


async def test_a_row_whose_parent_is_gone_is_refused_and_nothing_changes(shop: Database) -> None:
    taken = await back_up(shop)
    await shop.execute("DELETE FROM shop.orders WHERE customer = 5; UPDATE shop.customers SET friend = NULL")
    await shop.execute("DELETE FROM shop.customers WHERE id = 5")
    with pytest.raises(UnsafeTarget, match="orders_customer_fkey") as refused:
        await bring_back(taken, shop, Scope(("shop.orders",), {"id": "4"}))
    assert "restore shop.customers along with it" in refused.value.hint
    assert await shop.value("SELECT count(*) FROM shop.orders WHERE id = 4") == 0


async def test_insert_missing_adds_only_what_is_gone(shop: Database) -> None:
    taken = await back_up(shop)
    await shop.execute("UPDATE shop.orders SET net = -1 WHERE id < 11; DELETE FROM shop.orders WHERE id > 1990")
    result = await bring_back(taken, shop, Scope(("shop.orders",), mode="insert-missing"))
    assert (result.touched[0].inserted, result.touched[0].updated, result.touched[0].deleted) == (10, 0, 0)
    assert await shop.value("SELECT count(*) FROM shop.orders WHERE net = -1") == 10


async def test_upsert_deletes_nothing(shop: Database) -> None:
    taken = await back_up(shop)
    await shop.execute(
        """
        UPDATE shop.orders SET net = -1 WHERE id < 11; DELETE FROM shop.orders WHERE id > 1990;
        INSERT INTO shop.orders (customer, net) VALUES (1, 5);
        """
    )
    result = await bring_back(taken, shop, Scope(("shop.orders",), mode="upsert"))
    assert (result.touched[0].inserted, result.touched[0].updated, result.touched[0].deleted) == (10, 10, 0)
    assert await shop.value("SELECT count(*) FROM shop.orders") == 2001


async def test_tables_can_be_put_beside_the_live_ones(shop: Database, before: Database) -> None:
    taken = await back_up(shop)
    await shop.execute("UPDATE shop.orders SET net = 0 WHERE id = 1")
    await bring_back(taken, shop, Scope(("shop.orders", "shop.notes"), into_schema='lo"ok'))
    lost = 'SELECT o.id FROM shop.orders o JOIN "lo""ok".orders b USING (id) WHERE o.net <> b.net'
    assert await shop.fetch(lost) == [(1,)]
    assert await shop.value('SELECT count(*) FROM "lo""ok".notes') == 10
    with pytest.raises(UnsafeTarget, match="is there already"):
        await bring_back(taken, shop, Scope(("shop.orders",), into_schema='lo"ok'))


async def test_a_plan_says_what_each_table_goes_through(shop: Database) -> None:
    taken = await back_up(shop)
    await shop.execute("DROP TABLE shop.notes; CREATE PUBLICATION watched FOR TABLE shop.orders")
    tables = ("shop.orders", "shop.notes", "shop.pairs")
    plan = await plan_to_bring_back(taken, shop, Scope(tables))
    assert isinstance(plan, ChangePlan)
    assert {str(one.into): (one.how, one.rows_now) for one in plan.changes} == {
        "shop.notes": ("create", 0), "shop.orders": ("replace", 2000), "shop.pairs": ("replace", 50),
    }  # fmt: skip
    assert any("shop.orders are broadcast by publication watched" in one for one in plan.warnings)
    assert "shop.pairs can be neither read nor written until all is restored" in plan.warnings


async def test_a_sequence_of_two_tables_stands_behind_neither(create_database: CreateDatabase) -> None:
    shared = await create_database()
    await shared.execute(
        """
        CREATE SEQUENCE ids;
        CREATE TABLE few (id int DEFAULT nextval('ids')); CREATE TABLE many (LIKE few INCLUDING ALL);
        INSERT INTO many SELECT generate_series(1, 100); INSERT INTO few VALUES (50);
        """
    )
    await bring_back(await back_up(shared), shared)
    assert await shared.value("SELECT nextval('ids')") == 101
