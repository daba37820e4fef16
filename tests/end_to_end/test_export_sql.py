"""An export as SQL: psql makes an empty database what was backed up, tables alone with what belongs to them."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from jobs.errors import BadExport
from jobs.exporting.columns import Mask
from jobs.exporting.plan import ExportScope
from tests import hostile
from tests.compare import content, differences
from tests.conftest import CreateDatabase
from tests.end_to_end.test_round_trip import ANCHORS, BELONGS_TO_NO_TABLE, OURS, fill_views
from tests.exporting import exported, psql
from tests.faults.places import files
from tests.round_trip import back_up
from tests.servers import Database, Server

SHOP = """
    CREATE TYPE state AS ENUM ('new', 'paid');
    CREATE TABLE customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                            email text NOT NULL UNIQUE, name text NOT NULL,
                            phone varchar(20) NOT NULL, since date DEFAULT '2026-01-01' NOT NULL);
    CREATE TABLE orders (id serial PRIMARY KEY, customer int REFERENCES customers, state state, email text);
    CREATE TABLE log (what text);
    CREATE VIEW paid AS SELECT * FROM orders WHERE state = 'paid';
    CREATE MATERIALIZED VIEW counted AS SELECT state, count(*) FROM orders GROUP BY state;
    INSERT INTO customers (email, name, phone)
    SELECT n || '@example.org', 'name ' || n, n FROM generate_series(1, 20) n;
    INSERT INTO orders (customer, state, email) SELECT id, 'paid', email FROM customers;
    INSERT INTO log VALUES ('x');
    REFRESH MATERIALIZED VIEW counted;
"""
RELATIONS = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
ALL = ExportScope(("sql",))


async def loaded(database: Database, folder: Path) -> None:
    """psql must load the file without a word."""
    assert await psql(database, "-1", "-o", "/dev/null", "-f", str(folder / "export.sql")) == (0, "")


async def test_the_hard_schema_is_loaded_equal(
    any_server: Server, create_database: CreateDatabase, tmp_path: Path
) -> None:
    source = await create_database(any_server, key="hostile", build=hostile.hard_schema(any_server.major))
    target = await create_database(any_server)
    await source.execute(BELONGS_TO_NO_TABLE)
    result = await exported(await back_up(source), tmp_path, ALL)
    await loaded(target, tmp_path)
    await fill_views(source)
    assert await differences(source, target, ignore_schemas=OURS) == []
    assert [file.file for file in result.files] == ["export.sql"]


@settings(max_examples=3, suppress_health_check=[*HealthCheck])
@given(sql=hostile.databases())
async def test_any_hostile_database_is_loaded_equal_and_exported_as_anything_else(
    server: Server, create_database: CreateDatabase, tmp_path: Path, sql: str
) -> None:
    source, target = await create_database(server), await create_database(server)
    await source.execute(sql + ANCHORS)
    taken, scope = await back_up(source), ExportScope(("sql", "csv", "json", "parquet"))
    await exported(taken, tmp_path, scope, replacing=True)
    await loaded(target, tmp_path)
    assert await differences(source, target, ignore_schemas=OURS) == []
    await server.drop(source)
    await server.drop(target)


async def test_a_table_alone_comes_with_what_belongs_to_it(create_database: CreateDatabase, tmp_path: Path) -> None:
    source, target = await create_database(key="shop_to_export", build=SHOP), await create_database()
    await exported(await back_up(source), tmp_path, ExportScope(("sql",), ("orders",)))
    await loaded(target, tmp_path)
    relations = await target.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    assert [name for (name,) in relations] == ["counted", "orders", "orders_id_seq", "orders_pkey", "paid"]
    assert (await content(target)).rows['"public"."orders"'] == (await content(source)).rows['"public"."orders"']
    assert await target.value("SELECT nextval('orders_id_seq')") == 21
    assert await target.fetch("SELECT state::text, count FROM counted") == [("paid", 20)]


async def test_a_partitioned_table_comes_with_its_partitions(create_database: CreateDatabase, tmp_path: Path) -> None:
    source, target = await create_database(), await create_database()
    await source.execute(
        "CREATE TABLE parts (id int PRIMARY KEY, v text NOT NULL) PARTITION BY RANGE (id);"
        "CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (5);"
        "CREATE TABLE high PARTITION OF parts FOR VALUES FROM (5) TO (10);"
        "INSERT INTO parts SELECT n, n FROM generate_series(0, 9) n"
    )
    scope = ExportScope(("sql",), ("parts",), masks=(("parts.v", Mask("null")),))
    await exported(await back_up(source), tmp_path, scope)
    await loaded(target, tmp_path)
    assert await target.fetch(
        "SELECT tableoid::regclass::text, count(*), count(v) FROM parts GROUP BY 1 ORDER BY 1"
    ) == [
        ("high", 5, 0),
        ("low", 5, 0),
    ]


async def test_without_owners_it_loads_where_the_roles_are_not(create_database: CreateDatabase, tmp_path: Path) -> None:
    source, target = await create_database(), await create_database()
    async with source.server.role("only here") as role:
        await source.execute(f'CREATE TABLE t (id int); ALTER TABLE t OWNER TO "{role}"; GRANT ALL ON t TO "{role}"')
        taken = await back_up(source)
        await source.execute("DROP TABLE t")
    await exported(taken, tmp_path / "with", ALL)
    code, said = await psql(target, "-1", "-o", "/dev/null", "-f", str(tmp_path / "with" / "export.sql"))
    assert (code, 'role "only here" does not exist' in said) == (3, True)
    await exported(taken, tmp_path / "without", ExportScope(("sql",), owners=False))
    await loaded(target, tmp_path / "without")
    assert await target.fetch("SELECT * FROM t") == []


async def test_masked_columns_load_and_rows_still_find_each_other(
    create_database: CreateDatabase, tmp_path: Path
) -> None:
    source, target = await create_database(key="shop_to_export", build=SHOP), await create_database()
    masks = (
        *(("customers.email", Mask("hash")), ("orders.email", Mask("hash"))),
        *(("customers.name", Mask("null")), ("customers.phone", Mask("fixed", "it's\t\\N"))),
    )
    await exported(await back_up(source), tmp_path, ExportScope(("sql",), omit=("customers.since",), masks=masks))
    await loaded(target, tmp_path)
    assert "example.org" not in (tmp_path / "export.sql").read_text()
    joined = "SELECT count(*), min(length(email)) FROM orders JOIN customers USING (email)"
    assert await target.fetch(joined) == [(20, 64)]
    told = "SELECT DISTINCT name, phone, since::text FROM customers"
    assert await target.fetch(told) == [(None, "it's\t\\N", "2026-01-01")]


UNFIT = {
    "a hash of a number": (("orders.customer", Mask("hash")), "a hash is text"),
    "a hash that is too long": (("customers.phone", Mask("hash")), "too short"),
    "a key that is nothing": (("orders.id", Mask("null")), "never be NULL"),
    "a key that is always the same": (("orders.id", Mask("fixed", "1")), "the same"),
    "a number that is none": (("orders.customer", Mask("fixed", "x")), "no number"),
}


@pytest.mark.parametrize("case", UNFIT)
async def test_a_mask_that_the_definitions_do_not_allow_is_refused(
    create_database: CreateDatabase, tmp_path: Path, case: str
) -> None:
    mask, message = UNFIT[case]
    taken = await back_up(await create_database(key="shop_to_export", build=SHOP))
    with pytest.raises(BadExport, match=message):
        await exported(taken, tmp_path, ExportScope(("sql",), masks=(mask,)))
    assert files(tmp_path) == set()
