"""`rowvault restore` on the command line: what it refuses and with which exit code, what it shows, what it prints."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import CreateDatabase
from tests.faults.commands import FAILED, NOT_FOUND, REFUSED, USAGE, refuse, settings_of, succeed
from tests.programs import rowvault
from tests.servers import DEFAULT_MAJOR, Database, Servers

SHOP = """
    CREATE TABLE orders (id int PRIMARY KEY, tenant text NOT NULL);
    INSERT INTO orders SELECT n, 'tenant ' || n FROM generate_series(1, 100) AS n;
    CREATE TABLE notes (orders int, line int, text text, PRIMARY KEY (orders, line));
    ALTER TABLE notes ADD FOREIGN KEY (orders) REFERENCES orders;
    INSERT INTO notes VALUES (1, 1, 'one'), (2, 1, NULL);
    CREATE TABLE log (what text);
"""


@pytest.fixture(scope="module")
async def settings(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """Those by which the shop was backed up."""
    server = await servers.get(DEFAULT_MAJOR)
    made = await server.create()
    await made.execute(SHOP)
    given = settings_of(made, tmp_path_factory.mktemp("restored") / "backups")
    await succeed("backup", settings=given)
    yield given
    await server.drop(made)


@pytest.fixture
async def target(create_database: CreateDatabase) -> Database:
    """The shop, damaged."""
    return await create_database(
        key="shop_to_restore",
        build=f"{SHOP} DELETE FROM notes; DELETE FROM orders WHERE id > 90; UPDATE orders SET tenant = ''",
    )


async def is_damaged(target: Database) -> bool:
    return await target.fetch("SELECT count(*), max(tenant) FROM orders") == [(90, "")]


MEANT_OTHERWISE = {
    "a key without a table": (("--key", "id=7"), "--key is of one table alone"),
    "a column named twice": (("--table", "orders", "--key", "id=7", "--key", "id=8"), "id is given twice"),
    "half a key": (("--table", "notes", "--key", "orders=1"), "--key lacks column line"),
    "an unknown mode": (("--mode", "bad"), "bad"),
}


@pytest.mark.parametrize("case", MEANT_OTHERWISE)
async def test_what_cannot_be_meant_is_a_usage_error(settings: dict[str, str], target: Database, case: str) -> None:
    arguments, message = MEANT_OTHERWISE[case]
    error = await refuse("restore", "--yes", "--to", target.dsn, *arguments, settings=settings, code=USAGE)
    assert message in error["message"]
    assert await is_damaged(target)


@pytest.mark.parametrize(
    "arguments", [("--table", "nowhere"), ("--table", "orders", "--key", "id=101")], ids=["table", "row"]
)
async def test_what_the_backup_does_not_have_is_not_found(
    settings: dict[str, str], target: Database, arguments: tuple[str, ...]
) -> None:
    await refuse("restore", "--yes", "--to", target.dsn, *arguments, settings=settings, code=NOT_FOUND)
    assert await is_damaged(target)


async def test_without_a_yes_and_without_a_terminal_nothing_is_changed(
    settings: dict[str, str], target: Database
) -> None:
    arguments = ("restore", "--to", target.dsn, "--table", "orders")
    error = await refuse(*arguments, settings=settings, code=REFUSED, stdin="y\n")
    assert "--yes" in error["hint"]
    assert await is_damaged(target)


async def test_rows_whose_parent_is_gone_are_refused_and_the_way_out_is_said(
    settings: dict[str, str], target: Database
) -> None:
    await target.execute("DELETE FROM orders WHERE id = 1")
    arguments = ("restore", "--yes", "--to", target.dsn, "--table", "notes")
    error = await refuse(*arguments, settings=settings, code=REFUSED)
    assert 'violates foreign key constraint "notes_orders_fkey"' in error["message"]
    assert error["hint"] == "restore public.orders along with it (--table)"


async def test_a_dry_run_shows_a_table_a_line_and_changes_nothing(settings: dict[str, str], target: Database) -> None:
    arguments = ("restore", "--dry-run", "--to", target.dsn, "--table", "orders", "--table", "log")
    document = await succeed(*arguments, settings=settings)
    assert document["dry_run"]
    shown = {one["table"]: (one["how"], one["rows_now"], one["rows"], one["children"]) for one in document["tables"]}
    assert shown == {"public.orders": ("change", 90, 100, ["public.notes"]), "public.log": ("replace", 0, 0, [])}
    assert "\npublic.orders " in (await rowvault(*arguments, env=settings)).stdout
    assert await is_damaged(target)


async def test_a_restore_says_what_it_did_to_each_table(settings: dict[str, str], target: Database) -> None:
    arguments = ("restore", "--yes", "--to", target.dsn, "--table", "orders", "--mode", "upsert")
    document = await succeed(*arguments, settings=settings)
    assert document["touched"] == [
        {"table": "public.orders", "how": "upsert", "inserted": 10, "updated": 90, "deleted": 0}
    ]
    assert {check["state"] for check in document["checks"]} == {"ok"}
    assert await target.value("SELECT count(*) FROM orders WHERE tenant = 'tenant ' || id") == 100


async def test_a_target_that_refuses_the_login_is_named_by_the_option(
    settings: dict[str, str], target: Database
) -> None:
    error = await refuse("restore", "--yes", "--to", target.as_role("nobody", "wrong"), settings=settings, code=FAILED)
    assert error["hint"] == "check user, password and database in --to"
